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
        int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keeps", "gives back")
    )
    assert keeps < 0.25 * gives_back  # pages
