"""Frames of a growing file, of a stream, or of standard input, as they arrive.

The content of a file is passed on to ffmpeg's standard input as it grows, so any container works that can be read from
start to end. An MP4 can only if its index (`moov`) comes first, as in fragmented and "faststart" files. A plain MP4
gets its index at the end of a recording, and is read then.
"""

import os
import re
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg

from pipeline.features.frames import Jpegs, Sampling, jpegs_of, pictures_of
from pipeline.process import children
from pipeline.process.terminal import printable
from pipeline.safety import FORMATS

# An address that the user typed may be fetched, and a live playlist there read, but it may not reach files.
STREAM_PROTOCOLS = "http,https,tcp,tls,crypto"
STREAM_FORMATS = f"{FORMATS},hls"
LOOK_AGAIN_S = 0.2  # how often a file is checked for growth
CHUNK_BYTES = 1 << 20
MESSAGES_BYTES = 100_000  # bytes read from ffmpeg at once
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide")  # suffixes of MP4 and QuickTime


def arriving_frames(
    source: str, sampling: Sampling, *, idle_s: float, tell: Callable[[str], None] = lambda line: None
) -> Iterator[bytes]:
    """JPEG frames at the sampling's rate, each as soon as it is available.

    Args:
        source: a file, an http(s) address, or - for standard input.
        idle_s: stop when nothing has arrived for so many seconds; a growing file has no other end.
        tell: called with a line on what it waits for, and at the end with a line on damage.

    Raises ValueError if no frame arrived at all, MachineFault if ffmpeg was killed.
    """
    if source == "-":
        yield from _frames(source, pictures_of("pipe:0", sampling), sampling, None, idle_s, tell)
    elif is_address(source):
        stream: dict[str, Any] = {"protocol_whitelist": STREAM_PROTOCOLS, "format_whitelist": STREAM_FORMATS}
        yield from _frames(source, pictures_of(source, sampling, **stream), sampling, subprocess.DEVNULL, idle_s, tell)
    else:
        with Path(source).open("rb") as file:
            if _must_be_whole(file, source, idle_s, tell):
                whole = pictures_of(f"file:{Path(source).absolute()}", sampling)
                yield from _frames(source, whole, sampling, subprocess.DEVNULL, None, tell)
            else:
                growing = pictures_of("pipe:0", sampling)
                yield from _frames(source, growing, sampling, subprocess.PIPE, None, tell, _Feeder(file, idle_s))


def is_address(source: str) -> bool:
    return source.startswith(("http://", "https://")) and not os.path.exists(source)  # noqa: PTH110 (no error if too long)


class _Feeder:
    """Pass on a file's content and what is added to it, until nothing was added for `idle_s`."""

    def __init__(self, file: IO[bytes], idle_s: float) -> None:
        self.file, self.idle_s, self.ended = file, idle_s, threading.Event()

    def feed(self, pipe: IO[bytes]) -> None:
        grew = time.monotonic()
        with suppress(BrokenPipeError, ValueError), pipe:  # ffmpeg has read enough
            while not self.ended.is_set() and time.monotonic() < grew + self.idle_s:
                if chunk := self.file.read(CHUNK_BYTES):
                    pipe.write(chunk)
                    pipe.flush()
                    grew = time.monotonic()
                else:
                    self.ended.wait(LOOK_AGAIN_S)


def _frames(
    source: str,
    pictures: Any,
    sampling: Sampling,
    stdin: int | None,
    idle_s: float | None,
    tell: Callable[[str], None],
    feeder: _Feeder | None = None,
) -> Iterator[bytes]:
    """What ffmpeg writes. idle_s: stop when it has written nothing for so long; None: when it ends."""
    command = jpegs_of(pictures, sampling, "pipe:1", flush_packets=1)
    command = command.global_args("-v", "error", *(() if stdin != subprocess.DEVNULL else ("-nostdin",)))
    arguments = ffmpeg.compile(command, cmd=imageio_ffmpeg.get_ffmpeg_exe())
    with (
        tempfile.TemporaryFile() as messages,  # a full pipe would block ffmpeg
        children.start(arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=messages) as process,
    ):
        assert process.stdout
        thread = None
        if feeder:
            thread = threading.Thread(target=feeder.feed, args=(process.stdin,), daemon=True)
            thread.start()
        try:
            buffer, count = b"", 0
            while idle_s is None or select.select([process.stdout], [], [], idle_s)[0]:
                if not (read := os.read(process.stdout.fileno(), CHUNK_BYTES)):
                    children.check_signal("ffmpeg", process.wait())
                    break
                buffer += read
                for jpeg in (jpegs := Jpegs(buffer)):
                    count += 1
                    yield jpeg
                buffer = buffer[jpegs.size :]
            complaints = _complaints(messages)
            if not count:
                raise ValueError(f"{source}: no frame arrived ({complaints[-1] if complaints else f'in {idle_s:g} s'})")
            if complaints:
                tell(f"{source}: warning: damaged ({complaints[0]})")
        finally:
            process.kill()
            if feeder and thread:
                feeder.ended.set()
                thread.join()


def _complaints(messages: IO[bytes]) -> list[str]:
    """ffmpeg's messages so far, without memory addresses such as "[h264 @ 0x55d0c8]"."""
    messages.seek(0)
    lines = messages.read(MESSAGES_BYTES).decode(errors="replace").splitlines()
    return [printable(text) for line in lines if (text := re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\] *", "", line).strip())]


def _must_be_whole(file: IO[bytes], source: str, idle_s: float, tell: Callable[[str], None]) -> bool:
    """Whether ffmpeg must be given the file itself. Waits until an MP4 without an index at its start is complete.

    Raises ValueError if it stops growing before that.
    """
    size, grew, warned = -1, time.monotonic(), False
    while True:
        if (now := os.fstat(file.fileno()).st_size) != size:
            size, grew = now, time.monotonic()
        boxes, whole = _boxes(file, size)
        idle = time.monotonic() >= grew + idle_s
        if size >= 8 and (not boxes or boxes[0] not in _FIRST_BOXES):
            return False  # another container
        in_front = b"moov" in boxes and (b"mdat" not in boxes or boxes.index(b"moov") < boxes.index(b"mdat"))
        fragmented = b"moof" in boxes
        if whole and b"moov" in boxes and b"mdat" in boxes and not fragmented:
            return True
        if in_front:
            return False
        if idle and whole and b"moov" in boxes:
            return True
        if idle:
            why = "an MP4 whose index is written at its end; this one has none yet" if boxes else f"it has {size} bytes"
            raise ValueError(f"{source}: no frame arrived: {why}, and nothing was added in {idle_s:g} s")
        if b"mdat" in boxes and not warned:
            tell(f"{source}: an MP4 whose index comes at its end; waiting until it is complete")
            warned = True
        time.sleep(LOOK_AGAIN_S)


def _boxes(file: IO[bytes], size: int) -> tuple[list[bytes], bool]:
    """The types of an MP4's outermost boxes so far (ISO/IEC 14496-12, 4.2), and whether the last one is complete."""
    kinds: list[bytes] = []
    at = 0
    while at + 8 <= size and len(kinds) < 1000:
        head = os.pread(file.fileno(), 16, at)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        kinds.append(kind)
        if length < 8:  # 0: up to the end of the file, which is not known yet
            return kinds, False
        at += length
    return kinds, at == size
