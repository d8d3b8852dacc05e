"""Child processes (ffmpeg, Java) that end when this process ends, whatever ends it.

A process that dies by SIGKILL cannot clean up, so another process has to notice. Here that is one small shell per
process, the guard, started with the first child. It reads from a pipe that only this process holds open. When the pipe
closes, it kills its process group, in which every child is started. Linux's own way (prctl(PR_SET_PDEATHSIG)) needs
code between fork and exec, which is unsafe with threads; it signals when the *thread* that forked ends; and macOS does
not have it. A list of process ids to kill could miss a new child, or hit an unrelated process with a reused id.

A group of their own also means that Ctrl-C at the terminal reaches only this process, which decides what happens to its
children (`end_all`, or its own end).
"""

import atexit
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

# Errors of system calls that are this machine's fault, whatever the file. (EPERM, EACCES and ENOENT are not among
# them: they may be about the file.)
MACHINE_ERRNOS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),  # no space to write to
        *(errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE),  # no memory, processes, file handles
        *(errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN),  # a failing disk
    }
)
# Signals that a program raises itself, which a file can cause. All others come from outside.
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)


class MachineFault(OSError):
    """This machine failed (no space, no memory, a signal, a disk), not the input: a retry may succeed."""

    def __str__(self) -> str:
        return str(self.strerror)


class _Guard:
    """The guard's shell, and our end of its pipe."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        try:
            # -c: "read" returns when the pipe closes. kill 0: everything in the group, itself included.
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", "read line; kill -KILL 0"],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                process_group=0,
            )
        except OSError:
            os.close(self._write)
            raise
        finally:
            os.close(read)
        self.group = self._shell.pid

    def is_there(self) -> bool:
        return self._shell.poll() is None

    def end(self) -> None:
        os.close(self._write)
        self._shell.wait()

    def forget(self) -> None:
        """After a fork: if the child kept the pipe open, its parent's end would go unnoticed."""
        os.close(self._write)
        self._shell.returncode = 0  # not its own child: nothing to wait for


_guard: _Guard | None = None
_lock = threading.Lock()


def start(arguments: Sequence[str], **popen_options: Any) -> "subprocess.Popen[Any]":
    """`subprocess.Popen` of a child that ends when this process does. Any thread may call it.

    Raises MachineFault if this machine has no room for another process, otherwise what Popen raises.
    """
    global _guard
    try:
        with _lock:
            if _guard is None or not _guard.is_there():
                _guard = _Guard()
            return subprocess.Popen(arguments, process_group=_guard.group, **popen_options)
    except OSError as error:
        if error.errno in MACHINE_ERRNOS:
            raise MachineFault(error.errno, f"cannot start {arguments[0]}: {error.strerror}") from None
        raise


def run(arguments: Sequence[str], *, timeout: float | None, **popen_options: Any) -> "subprocess.CompletedProcess[Any]":
    """`subprocess.run` of such a child. Raises subprocess.TimeoutExpired (the child is killed) and MachineFault."""
    with start(arguments, **popen_options) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    check_signal(arguments[0], process.returncode)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def check_signal(program: str, returncode: int) -> None:
    """Raises MachineFault if the program was killed from outside: by a user, a batch system, or the kernel."""
    if returncode < 0 and -returncode not in _CRASHES:
        name = next((one.name for one in signal.Signals if one == -returncode), f"signal {-returncode}")
        out_of_memory = ", perhaps because memory ran out" if -returncode == signal.SIGKILL else ""
        raise MachineFault(errno.EINTR, f"{program} was killed ({name}{out_of_memory})")


def end_all() -> None:
    """Kill all children now, so that an interrupted run need not wait for them."""
    global _guard
    with _lock:
        guard, _guard = _guard, None
        if guard:
            guard.end()


def _after_fork() -> None:
    global _guard, _lock
    if _guard:
        _guard.forget()
    _guard, _lock = None, threading.Lock()


atexit.register(end_all)
os.register_at_fork(after_in_child=_after_fork)
