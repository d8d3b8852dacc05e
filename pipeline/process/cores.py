"""How many processor cores to use."""

import os


def cores() -> int:
    """How many cores this process may use: a container or batch system may grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
