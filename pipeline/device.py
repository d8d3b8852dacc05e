"""Where to compute, and in what."""

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have this process keep what tensors leave free for the tensors after them, where the C library can be told to.

    glibc gives tensors of 32 MiB and more back to the system and takes them anew, page by page: on a virtual machine
    that can take longer than computing what goes into them.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU. ValueError if the one named is not here."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, available in here.items() if available))
    if name not in here:
        raise ValueError(f"params.yaml: device is {name!r}; wanted auto, {', '.join(here)}")
    if not here[name]:
        available = ", ".join(device for device, is_here in here.items() if is_here)
        raise ValueError(f"params.yaml: device is {name}, but this machine has only: {available}; set device: auto")
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the hardware multiplies it, float16 on GPUs that have only that, else float32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    # Elsewhere bf16 is emulated, slower than float32.
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(has.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16")) else torch.float32


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which what is computed takes that precision, as `choose_dtype` chooses it."""
    dtype = choose_dtype(precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
