"""From a video file to JPEG pictures at a fixed rate, by ffmpeg.

Frame i is the picture on screen i / fps seconds after the start: the last source frame whose time is not later.
ffmpeg's `fps` filter gives exactly that with `round=up` (a source frame begins to count at the first tick not
before its time) and `start_time=0` (the first one also stands for what is before it), for any source rate and for
variable rates: tests/test_frames.py compares with decoding every frame and choosing by time.

ffmpeg need not decode all it reads (pipeline/packets.py): where that is certain beforehand, the same command gets a
filter in front of its decoder. The pictures are the same, byte for byte, so nothing that is kept says which it was.
"""

import hashlib
import mmap
import re
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pyarrow as pa

from pipeline import media, packets
from pipeline.imports import code_fingerprint
from pipeline.safety import FORMATS, MAX_FRAME_PX, MAX_PICTURES_BYTES, MAX_VIDEO_S, PROTOCOLS, decoding_limit_s

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),
        ("timestamp_s", pa.float64()),
        ("jpeg", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Sampling:
    """How frames are taken. jpeg_quality: ffmpeg's -q:v, 2 (best) to 31.

    short_side_px: larger pictures are scaled down to it, as seen on screen (rotated, with square pixels).
    """

    fps: float
    short_side_px: int
    jpeg_quality: int


@dataclass(frozen=True)
class Source:
    """A video file, or one in a zip (pipeline/media.py); `duration_s` as its header claims, None for pictures."""

    video_id: str
    path: Path
    duration_s: float | None


@dataclass(frozen=True)
class Sampled:
    """jpegs: frame 0, 1, ...; reason: why there are none, or fewer than the header promised.

    final False: it took too long, and may not another time.
    """

    video_id: str
    jpegs: Sequence[bytes]
    reason: str | None = None
    final: bool = True


def sample(source: Source, sampling: Sampling) -> Sampled:
    """The frames of one video; one that cannot be decoded is a reason, not an exception.

    It gets one thread: several videos at once use the cores better.
    """
    try:
        with media.local(source.path) as file:
            return _sample_file(replace(source, path=file), sampling)
    except media.BadMember as error:
        return Sampled(source.video_id, [], f"no frame decodes ({error})")


def _sample_file(source: Source, sampling: Sampling) -> Sampled:
    if not source.path.is_file():  # a pipe that nobody writes to would be waited for
        return Sampled(source.video_id, [], "no frame decodes (not a file)")
    if (source.duration_s or 0) > MAX_VIDEO_S:
        return Sampled(source.video_id, [], f"longer than {MAX_VIDEO_S // 3600} hours")
    limit_s = decoding_limit_s(source.duration_s, source.path.stat().st_size)
    deadline = time.monotonic() + limit_s
    try:
        if source.duration_s is not None:
            found = _sample_thinned(source, sampling, deadline)
            if found:
                return found
        return _sample(source, sampling, deadline)[0]
    except subprocess.TimeoutExpired:
        return Sampled(source.video_id, [], f"decoding took longer than {limit_s:.0f} s", final=False)


def sample_pictures(sources: Sequence[Source], sampling: Sampling) -> list[Sampled]:
    """`sample` of each, by one process: starting ffmpeg takes several times as long as a picture."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = [Path(folder) / f"{number}.jpg" for number in range(len(sources))]
        try:
            local = [replace(source, path=stack.enter_context(media.local(source.path))) for source in sources]
            if not all(one.path.is_file() for one in local):  # a pipe that nobody writes to would be waited for
                return [sample(source, sampling) for source in sources]
            outputs = [
                jpegs_of(pictures_of(_address(source), sampling), sampling, f"file:{file}", **{"frames:v": 1})
                for source, file in zip(local, files, strict=True)
            ]
            done = _run(ffmpeg.merge_outputs(*outputs), 300)
            if done.returncode == 0 and not done.stderr:
                return [Sampled(one.video_id, [file.read_bytes()]) for one, file in zip(sources, files, strict=True)]
        except (subprocess.TimeoutExpired, FileNotFoundError, media.BadMember):
            pass
    return [sample(source, sampling) for source in sources]  # one of them is bad: find out which, and why


def sample_all(sources: Iterable[Source], sampling: Sampling, *, workers: int) -> Iterator[Sampled]:
    """`sample` of each, in order, `workers` at a time; no more than twice as many are done ahead of the reader."""
    waiting: deque[Future[list[Sampled]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in _batches(sources):
                if len(waiting) >= 2 * workers:
                    yield from waiting.popleft().result()
                if len(batch) == 1:
                    waiting.append(pool.submit(lambda one: [sample(one, sampling)], batch[0]))
                else:
                    waiting.append(pool.submit(sample_pictures, batch, sampling))
            while waiting:
                yield from waiting.popleft().result()
        finally:  # a reader that stops early must not wait for the rest
            pool.shutdown(wait=False, cancel_futures=True)


def to_table(sampled: Sampled, *, fps: float) -> pa.Table:
    count, step_s = len(sampled.jpegs), 1 / _rate(fps)
    jpegs = sampled.jpegs
    return pa.table(
        [
            pa.array([sampled.video_id] * count, pa.string()),
            pa.array(range(count), pa.int32()),
            pa.array([float(i * step_s) for i in range(count)], pa.float64()),
            jpegs.column() if isinstance(jpegs, Jpegs) else pa.array(jpegs, pa.binary()),
        ],
        schema=SCHEMA,
    )


def fingerprints(sha256: Mapping[str, str], sampling: Sampling) -> dict[str, str]:
    """By video id; changes with everything its frames depend on: its bytes, the sampling, this code, ffmpeg."""
    common = f"{sampling} {code_fingerprint(Path(__file__))} {ffmpeg_version()}"
    return {video_id: hashlib.sha256(f"{own} {common}".encode()).hexdigest() for video_id, own in sha256.items()}


def ffmpeg_version() -> str:
    return str(imageio_ffmpeg.get_ffmpeg_version())


_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Ends the coded picture data: a marker that is neither a stuffed 0xFF (00), nor a restart, nor fill (FF).
_MARKER_AFTER_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Jpegs(Sequence[bytes]):
    """The JPEG files of a concatenation of them; an incomplete last one is left out.

    Those of a video of hours are many: they stay in ffmpeg's output, which is a mapped file and takes no memory.
    """

    def __init__(self, stream: bytes | mmap.mmap) -> None:
        self._stream = stream
        self._ends = [0]
        while (end := _end_of_jpeg(stream, self._ends[-1])) is not None:
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def size(self) -> int:
        """Bytes of them all."""
        return self._ends[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return self._stream[self._ends[i] : self._ends[i + 1]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(bytes.__eq__, self, other))

    def column(self) -> pa.ChunkedArray:
        """binary, without a copy."""
        data, parts = pa.py_buffer(self._stream), []
        for first in range(0, len(self), _CHUNK_ROWS):
            ends = np.array(self._ends[first : first + _CHUNK_ROWS + 1])
            offsets = pa.py_buffer((ends - ends[0]).astype(np.int32))
            buffers = [None, offsets, data.slice(int(ends[0]), int(ends[-1] - ends[0]))]
            parts.append(pa.Array.from_buffers(pa.binary(), len(ends) - 1, buffers))
        return pa.chunked_array(parts, pa.binary())


_CHUNK_ROWS = 4096  # Arrow counts the bytes of a chunk in 32 bits


def _end_of_jpeg(stream: bytes | mmap.mmap, start: int) -> int | None:
    """Walks the markers (ITU-T T.81, annex B): the bytes of an end marker may also occur inside a segment."""
    if start == len(stream):
        return None
    assert stream[start : start + 2] in (b"\xff\xd8", b"\xff"), f"no JPEG at byte {start} of ffmpeg's output"
    at = start + 2
    while at + 2 <= len(stream):
        assert stream[at] == 0xFF, f"no JPEG marker at byte {at} of ffmpeg's output"
        marker = stream[at + 1]
        if marker == _EOI:
            return at + 2
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == _SOS:
            found = _MARKER_AFTER_DATA.search(stream, at)
            if found is None:
                return None
            at = found.start()
    return None


_PICTURES_AT_ONCE = 32


def _batches(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Videos alone, neighbouring pictures together."""
    for is_picture, group in groupby(sources, key=lambda source: source.duration_s is None):
        size = _PICTURES_AT_ONCE if is_picture else 1
        while batch := list(islice(group, size)):
            yield batch


def _sample_thinned(source: Source, sampling: Sampling, deadline: float) -> Sampled | None:
    """`_sample` without decoding what need not be; None where that cannot be told, or went wrong in any way."""
    unneeded = packets.unneeded(source.path, _rate(sampling.fps), deadline=deadline)
    if not any(unneeded):
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(packets.drop_filter(unneeded))  # too long for a command line
        file.flush()
        found, is_clean = _sample(source, sampling, deadline, **{"/bsf:V:0": file.name})
    return found if is_clean else None


def _sample(source: Source, sampling: Sampling, deadline: float, **input_options: str) -> tuple[Sampled, bool]:
    """The frames, and whether ffmpeg had no complaint. subprocess.TimeoutExpired at the deadline (time.monotonic)."""
    most = int(MAX_VIDEO_S * sampling.fps)
    limits: dict[str, Any] = {"frames:v": most + 1, "fs": MAX_PICTURES_BYTES}
    command = jpegs_of(pictures_of(_address(source), sampling, **input_options), sampling, "pipe:", **limits)
    with tempfile.TemporaryFile() as pictures:
        done = _run(command, deadline - time.monotonic(), stdout=pictures)
        size = pictures.seek(0, 2)
        jpegs = Jpegs(mmap.mmap(pictures.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    if len(jpegs) > most:
        return Sampled(source.video_id, [], f"longer than {MAX_VIDEO_S // 3600} hours"), False
    if size >= MAX_PICTURES_BYTES:
        return Sampled(source.video_id, [], f"pictures of more than {MAX_PICTURES_BYTES >> 30} GiB"), False
    reason = _reason(source, len(jpegs) / sampling.fps, done.stderr)
    return Sampled(source.video_id, jpegs, reason), done.returncode == 0 and not done.stderr


def jpegs_of(picture_stream: Any, sampling: Sampling, target: str, **options: Any) -> Any:
    """The ffmpeg-python node that writes pictures to `target`, one JPEG after the other."""
    return picture_stream.output(
        target,
        format="image2pipe",
        vcodec="mjpeg",
        qscale=sampling.jpeg_quality,
        pix_fmt="yuvj420p",
        fps_mode="passthrough",
        threads=1,
        **options,
    )


def pictures_of(address: str, sampling: Sampling, **input_options: Any) -> Any:
    """The ffmpeg-python stream of the frames, scaled, of what ffmpeg finds at an address ("file:/...")."""
    untrusted = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS, "max_pixels": MAX_FRAME_PX}
    # reinit_filter: where the size changes in the middle, `fps` would begin again
    options = {**untrusted, "threads": 1, "reinit_filter": 0, **input_options}
    return (
        ffmpeg.input(address, **options)["V:0"]  # capital V: the first video stream that is not a song's cover
        .filter("fps", fps=_rate(sampling.fps), round="up", start_time=0)
        .filter("scale", w=_side("iw", "sar", sampling), h=_side("ih", "1/sar", sampling), flags="bicubic")
        .filter("setsar", 1)
    )


def _address(source: Source) -> str:
    return f"file:{source.path.resolve()}"


def _run(
    command: Any, limit_s: float, stdout: IO[bytes] | int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[bytes]":
    command = command.global_args("-nostdin", "-v", "error", "-filter_threads", "1")
    arguments = ffmpeg.compile(command, cmd=imageio_ffmpeg.get_ffmpeg_exe())
    with tempfile.TemporaryFile() as said:  # of a broken video, megabytes
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=said, timeout=limit_s, check=False
        )
        said.seek(0)
        done.stderr = said.read(_READ_BYTES)
    return done


_READ_BYTES = 10_000  # of ffmpeg's messages; the first line is shown


def _rate(fps: float) -> Fraction:
    """29.97 stays 2997/100; only for display does it differ from 30000/1001."""
    return Fraction(fps).limit_denominator(100_000)


def _side(side: str, stretch: str, sampling: Sampling) -> str:
    """ffmpeg expression for a side of the output: square pixels without enlarging either side, then scaled down."""
    short_side = "min(iw*min(1,sar),ih*min(1,1/sar))"
    return f"max(1,round({side}*min(1,{stretch})*min(1,{sampling.short_side_px}/{short_side})))"


def _reason(source: Source, sampled_s: float, stderr: bytes) -> str | None:
    """What to tell of a video, if anything."""
    # "[h264 @ 0x55d0c8]": where in memory, other every time, and reasons are part of a shard's bytes
    lines = [re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\] *", "", line) for line in stderr.decode(errors="replace").splitlines()]
    said = next((line.replace(str(source.path.resolve()), source.path.name)[:120] for line in lines if line), None)
    if sampled_s == 0:
        return f"no frame decodes ({said or 'ffmpeg gives no reason'})"
    short_s = (source.duration_s or 0) - sampled_s
    cut = f"pictures for {sampled_s:.1f} of {source.duration_s:.1f} s" if short_s > 1 else None
    return "; ".join(part for part in (cut, said and f"damaged ({said})") if part) or None
