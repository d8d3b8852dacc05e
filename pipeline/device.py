"""Where to compute, and in what."""

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # constants of glibc's malloc.h


def keep_freed_memory() -> None:
    """Make this process keep freed memory for later tensors, if the C library supports that.

    glibc returns tensors of 32 MiB and more to the system and requests them again, page by page. On a virtual machine
    that can take longer than computing their content.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU. Raises ValueError if the named one is not available."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, available in here.items() if available))
    if name not in here:
        raise ValueError(f"params.yaml: device is {name!r}; expected auto, {', '.join(here)}")
    if not here[name]:
        available = ", ".join(device for device, is_here in here.items() if is_here)
        raise ValueError(f"params.yaml: device is {name}, but this machine has only: {available}; set device: auto")
    return torch.device(name)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16. Otherwise it is emulated; on a CPU that is much slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # What the CPU supports, and whether oneDNN may use it, which an environment variable can forbid.
        has = torch.cpu.get_capabilities()
        here = any(has.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16"))
        return here and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the hardware multiplies it, float16 on GPUs that have only that, else float32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if multiplies_bf16(device) else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context that computes in this precision, as `choose_dtype` chooses it."""
    dtype = choose_dtype(precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
