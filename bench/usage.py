"""What work takes of the machine: CPU seconds, memory."""

import resource
import sys
from collections import defaultdict
from pathlib import Path


def cpu_s() -> float:
    """User and system seconds so far, of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_bytes() -> int:
    """The largest this process has been so far, with Python and its libraries, as the system counts it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def own_bytes(process: int | str = "self") -> int | None:
    """What of a process's memory is its own, and no file's; None where Linux does not tell, or it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


def family(process: int) -> list[int]:
    """The process and all below it, as Linux tells."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before the bracket may hold anything; behind it are the state and the parent.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children[parent].append(int(stat.parent.name))
    found = [process]
    for one in found:
        found += children[one]
    return found
