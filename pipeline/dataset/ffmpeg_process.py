"""Running ffmpeg on an untrusted file: what it may reach, what it reports, and whose fault a failure is.

A damaged file and a failing machine (no space, no memory, an unreadable block, a killed process) both lead to fewer
pictures. The first is a property of the video and is recorded. The second must never be recorded, because the record
would outlive the failure. So ffmpeg's exit status is checked, and a complaint about a file counts only if ffmpeg
repeats it on a second try (`confirmed`).
"""

import errno
import os
import re
import resource
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import ffmpeg
import imageio_ffmpeg

from pipeline.process import children
from pipeline.process.children import MachineFault
from pipeline.safety import FORMATS, LONGEST_GAP_S, MAX_FRAME_PX, PROTOCOLS

T = TypeVar("T")

# "[h264 @ 0x55d0c8]": an address that differs every time, while reasons are part of a shard's bytes
_WHERE = re.compile(r"^(\[[^\]]* @ 0x[0-9a-f]+\] *)+")
_LEVEL = re.compile(r"\[(error|fatal|panic|warning)\] *")
# Warnings about lost data. Most others do not matter ("deprecated pixel format used").
_DAMAGE = re.compile(r"packet corrupt|corrupt (input|decoded)|ended prematurely|\bcontinuity|truncat", re.IGNORECASE)
_OTHER_SIZE = re.compile(r"filter context - w: (\d+) h: (\d+) .*incoming frame - w: (\d+) h: (\d+)")
_LONGEST_LINE = 10_000  # bytes

# ffmpeg ends with 256 - errno. Only what says nothing about the file; EIO may.
_STATUS = {
    256 - number: number
    for number in (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
        *(errno.EMFILE, errno.ENFILE, errno.ESTALE),
    )
}
# Of memory, or of threads. The first it may survive, and go on without what it had no room for.
_SHORTAGES = {256 - errno.ENOMEM: errno.ENOMEM, 256 - errno.EAGAIN: errno.EAGAIN}
_NO_MEMORY = os.strerror(errno.ENOMEM)
_INTERRUPTED = 255  # on SIGTERM and SIGINT it exits normally, with half the output written


# Called a few times a second with the number of frames so far. Raising an exception ends the work.
Watch = Callable[[int], None]
_WATCH_S = 0.25


class UnclearFault(OSError):
    """A failure that may be this machine's, or a file's that asks for too much: nothing of it may be kept as the
    file's, and the files after it need not wait."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class Ended:
    """How ffmpeg ended. complaint: its first error, or its first warning about lost data."""

    status: int
    complaint: str | None
    sizes_differ: bool  # of the size of its pictures, after the first
    frames: int  # that it wrote

    @property
    def is_clean(self) -> bool:
        return self.status == 0 and self.complaint is None and not self.sizes_differ


def opened(address: str, stream: str, **options: Any) -> Any:
    """The ffmpeg-python node of a stream at an address ("file:/..."), decoded by one thread."""
    untrusted = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS, "max_pixels": MAX_FRAME_PX}
    # reinit_filter: otherwise filters that count frames would restart where the size changes
    return ffmpeg.input(address, **{**untrusted, "threads": 1, "reinit_filter": 0, **options})[stream]


def run(
    command: Any, limit_s: float, stdout: IO[bytes] | int = subprocess.DEVNULL, watch: Watch | None = None
) -> Ended:
    """Runs an ffmpeg-python command.

    Raises subprocess.TimeoutExpired, MachineFault, UnclearFault, and what `watch` raises.
    """
    ours, its = os.pipe()
    with os.fdopen(ours, "rb", buffering=0) as progress:
        command = command.global_args("-nostdin", "-v", "level+warning", "-filter_threads", "1")
        command = command.global_args("-dts_delta_threshold", str(LONGEST_GAP_S))
        command = command.global_args("-progress", f"pipe:{its}", "-stats_period", str(_WATCH_S if watch else 60))
        arguments = ffmpeg.compile(command, cmd=imageio_ffmpeg.get_ffmpeg_exe())
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.PIPE}
        try:
            process = children.start(arguments, pass_fds=(its,), **pipes)
        finally:
            os.close(its)
        with process:
            try:
                messages = _listen(process, progress, limit_s, watch)
            except BaseException:
                process.kill()
                raise
    _check(process.returncode, messages)
    return Ended(process.returncode, messages.error or messages.warning, messages.sizes_differ, messages.frames)


def confirmed(work: Callable[[], T], is_clean: Callable[[T], bool], path: Path) -> T:
    """The result of `work` on the file. A result that is not clean counts only if a second try gives the same one.

    Between the two the file is read once more. Raises MachineFault.
    """
    found = work()
    if is_clean(found):
        return found
    check_readable(path)
    again = work()
    if is_clean(again) or again == found:
        return again
    raise MachineFault(
        errno.EIO, f"{path}: ffmpeg reports different errors each time; check this machine's disk and memory"
    )


def check_readable(path: Path) -> None:
    """Reads all of it. Raises MachineFault."""
    try:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        raise MachineFault(error.errno, f"{path} cannot be read: {error.strerror}") from None


@dataclass
class _Messages:
    error: str | None = None
    warning: str | None = None
    sizes_differ: bool = False
    frames: int = 0
    no_memory: bool = False

    def add(self, line: str) -> None:
        line = _WHERE.sub("", line)
        level = _LEVEL.match(line)
        text = line[level.end() :].strip() if level else ""
        self.no_memory = self.no_memory or _NO_MEMORY in text
        if sizes := _OTHER_SIZE.search(text):
            self.sizes_differ = self.sizes_differ or sizes[1] != sizes[3] or sizes[2] != sizes[4]
        elif not level or not text:
            pass  # the rest of a message of several lines
        elif level[1] != "warning":
            self.error = self.error or text
        elif _DAMAGE.search(text):
            self.warning = self.warning or text

    def add_progress(self, line: str) -> None:
        name, _, value = line.partition("=")
        if name == "frame" and value.strip().isdigit():
            self.frames = int(value)


def _listen(process: "subprocess.Popen[bytes]", progress: IO[bytes], limit_s: float, watch: Watch | None) -> _Messages:
    """Reads its messages until it ends: megabytes for a broken video, none of which are kept."""
    assert process.stderr
    messages, deadline = _Messages(), time.monotonic() + limit_s
    hear = {process.stderr.fileno(): messages.add, progress.fileno(): messages.add_progress}
    rest = dict.fromkeys(hear, b"")
    with selectors.DefaultSelector() as selector:
        for descriptor in hear:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            if (left_s := deadline - time.monotonic()) <= 0:
                raise subprocess.TimeoutExpired(process.args, limit_s)
            for key, _ in selector.select(min(left_s, _WATCH_S) if watch else left_s):
                read = os.read(key.fd, 1 << 16)
                *lines, last = (rest[key.fd] + read).split(b"\n")
                rest[key.fd] = last[:_LONGEST_LINE]
                for line in lines if read else [last]:
                    hear[key.fd](line[:_LONGEST_LINE].decode(errors="replace"))
                if not read:
                    selector.unregister(key.fd)
            if watch:
                watch(messages.frames)
    process.wait(max(1.0, deadline - time.monotonic()))
    return messages


def _check(status: int, messages: _Messages) -> None:
    """Raises MachineFault or UnclearFault if that is what such an end means."""
    children.check_signal("ffmpeg", status)
    if status in _STATUS:
        number = _STATUS[status]
        where = f" (temporary files are in {tempfile.gettempdir()}; TMPDIR chooses another folder)"
        is_full = number in (errno.ENOSPC, errno.EDQUOT)
        raise MachineFault(number, f"ffmpeg failed: {os.strerror(number)}{where if is_full else ''}")
    if status == _INTERRUPTED:
        raise MachineFault(errno.EINTR, "ffmpeg was stopped early by a signal")
    if status in (126, 127):  # the shell's, and the loader's of shared libraries
        raise MachineFault(errno.ENOEXEC, f"ffmpeg does not start: {messages.error or 'no reason given'}")
    shortage = _SHORTAGES.get(status) or (errno.ENOMEM if messages.no_memory else None)
    if (shortage or status < 0) and _memory_is_limited():
        raise MachineFault(shortage or errno.ENOMEM, "ffmpeg ran out of memory, perhaps because of a limit (ulimit -v)")
    if shortage:
        raise UnclearFault(shortage, f"ffmpeg ran out of memory or threads ({os.strerror(shortage)})")


def _memory_is_limited() -> bool:
    return any(
        resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    )
