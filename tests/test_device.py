import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from pipeline.device import keep_freed_memory

def step():
    a = torch.ones(2**24)
    b = a + 1
    return (b + a * b).sum()

if sys.argv[1] == "keeps":
    keep_freed_memory()
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_steps_take_the_memory_that_earlier_ones_left():
    keeps, gives_back = (
        int(subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("keeps", "gives back")
    )
    assert keeps < 0.25 * gives_back  # pages


CHOICES = """
import torch
from pipeline.device import choose_dtype
from pipeline.training.muon import Muon

weight = torch.nn.Parameter(torch.eye(4))
weight.grad = torch.randn(4, 4)
seen = set()
class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            seen.update(str(part.dtype) for part in arguments)
        return function(*arguments, **(options or {}))
with Watch():
    Muon([weight], lr=1.0, weight_decay=0.0).step()
print(choose_dtype("auto", torch.device("cpu")), *seen)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs have no AVX2 to be held to")
def test_on_a_cpu_with_avx2_alone_float32_is_chosen_and_the_optimizer_multiplies_in_it():
    only_avx2 = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", CHOICES], capture_output=True, text=True, check=True, env=only_avx2)
    assert done.stdout.split() == ["torch.float32", "torch.float32"]


@pytest.mark.parametrize("package", ["pipeline", "stages", "bench"])
def test_threads_wait_asleep_whatever_is_started(package):
    say = f"import os, {package}; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "PASSIVE\n"
