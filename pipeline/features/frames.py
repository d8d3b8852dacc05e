"""From a video file to JPEG pictures at a fixed rate, by ffmpeg.

Frame i is the picture on screen i / fps seconds after the start: the last source frame whose time is not later.
ffmpeg's `fps` filter gives exactly that with `round=up` (a source frame begins to count at the first tick not
before its time) and `start_time=0` (the first one also stands for what is before it), for any source rate and for
variable rates: tests/features/test_frames.py compares with decoding every frame and choosing by time.
"""

import errno
import hashlib
import mmap
import re
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.dataset import ffmpeg_process, media, probe
from pipeline.dataset.ffmpeg_process import Ended, UnclearFault, Watch
from pipeline.dataset.probe import Look
from pipeline.imports import code_fingerprint, versions
from pipeline.process.children import MachineFault
from pipeline.safety import MAX_PICTURES_BYTES, MAX_VIDEO_S, decoding_limit_s

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

    short_side_px: larger pictures are scaled down to it, as displayed (rotated, with square pixels).
    """

    fps: float
    short_side_px: int
    jpeg_quality: int


@dataclass(frozen=True)
class Source:
    """A video file, or one in a zip (pipeline/dataset/media.py).

    duration_s: as its header claims, None if it does not. is_picture: it has one frame.
    """

    video_id: str
    path: Path
    duration_s: float | None
    is_picture: bool = False


@dataclass(frozen=True)
class Sampled:
    """jpegs: frame 0, 1, ...; reason: why there are none, or fewer than the header promised.

    final False: it took too long, or failed for what may be this machine's fault, and may not another time.
    """

    video_id: str
    jpegs: Sequence[bytes]
    reason: str | None = None
    final: bool = True


def sample(source: Source, sampling: Sampling, watch: Watch | None = None) -> Sampled:
    """The frames of one video; failing to decode is a reason, not an exception. Raises MachineFault.

    It uses one thread: several videos at once use the cores better.
    """
    try:
        with media.local(source.path) as file:
            return _sample_file(replace(source, path=file), sampling, watch)
    except media.BadMember as error:
        return Sampled(source.video_id, [], f"no frame decodes ({error})")
    except UnclearFault as error:
        return Sampled(source.video_id, [], str(error), final=False)
    except MachineFault as error:
        raise MachineFault(error.errno, f"{source.video_id}: {error}; nothing is kept of it: run again") from None


def _sample_file(source: Source, sampling: Sampling, watch: Watch | None) -> Sampled:
    if not source.path.is_file():  # a pipe without a writer would block
        return Sampled(source.video_id, [], "no frame decodes (not a file)")
    if (source.duration_s or 0) > MAX_VIDEO_S:
        return Sampled(source.video_id, [], f"longer than {MAX_VIDEO_S // 3600} hours")
    limit_s = decoding_limit_s(source.duration_s, source.path.stat().st_size)
    deadline = time.monotonic() + limit_s
    found = Look() if source.is_picture else probe.look(source.path)

    def decoded(box: tuple[int, int] | None = None) -> _Decoded:
        return _decode(source, sampling, found, deadline, watch, box)

    try:
        whole = ffmpeg_process.confirmed(decoded, lambda one: one.is_clean, source.path)
        if whole.ended.sizes_differ and whole.jpegs:
            size = _size_of_jpeg(whole.jpegs[0])
            whole = decoded(box=size)
            whole = replace(whole, note=f"its pictures change their shape; all are fitted into {size[0]}x{size[1]}")
        return _sampled(source, sampling, whole)
    except subprocess.TimeoutExpired:
        return Sampled(source.video_id, [], f"decoding took longer than {limit_s:.0f} s", final=False)


def sample_pictures(sources: Sequence[Source], sampling: Sampling) -> list[Sampled]:
    """`sample` of each, by one process: starting ffmpeg takes several times as long as a picture."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = [Path(folder) / f"{number}.jpg" for number in range(len(sources))]
        try:
            local = [replace(source, path=stack.enter_context(media.local(source.path))) for source in sources]
            if not all(one.path.is_file() for one in local):  # a pipe without a writer would block
                return [sample(source, sampling) for source in sources]
            outputs = [
                jpegs_of(pictures_of(_address(source), sampling), sampling, f"file:{file}", **{"frames:v": 1})
                for source, file in zip(local, files, strict=True)
            ]
            if ffmpeg_process.run(ffmpeg.merge_outputs(*outputs), 300).is_clean:
                return [Sampled(one.video_id, [file.read_bytes()]) for one, file in zip(sources, files, strict=True)]
        except (subprocess.TimeoutExpired, UnclearFault, FileNotFoundError, media.BadMember):
            pass
    return [sample(source, sampling) for source in sources]  # one of them is bad: find out which and why


def sample_all(sources: Iterable[Source], sampling: Sampling, *, workers: int) -> Iterator[Sampled]:
    """`sample` of each, in order, `workers` at a time; at most twice as many are ahead of the reader."""
    waiting: deque[Future[list[Sampled]]] = deque()
    stopped = threading.Event()

    def watch(_: int) -> None:
        if stopped.is_set():
            raise MachineFault(errno.EINTR, "no longer needed")

    def work(batch: list[Source]) -> list[Sampled]:
        return sample_pictures(batch, sampling) if len(batch) > 1 else [sample(batch[0], sampling, watch)]

    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in _batches(sources):
                if len(waiting) >= 2 * workers:
                    yield from waiting.popleft().result()
                waiting.append(pool.submit(work, batch))
            while waiting:
                yield from waiting.popleft().result()
        finally:  # a reader that stops early must not wait for the rest, and ffmpeg must stop
            stopped.set()
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


def fingerprints(files: Mapping[str, tuple[str, float | None, bool]], sampling: Sampling) -> dict[str, str]:
    """By video id; changes with everything its frames depend on: its file, the sampling, this code, ffmpeg, PyAV.

    files: the SHA-256 of each, and what a `Source` says of it: its duration, and whether it is a picture.
    """
    common = f"{sampling} {code_fingerprint(Path(__file__))} {ffmpeg_version()} {versions('av')}"
    return {video_id: hashlib.sha256(f"{own} {common}".encode()).hexdigest() for video_id, own in files.items()}


def ffmpeg_version() -> str:
    return str(imageio_ffmpeg.get_ffmpeg_version())


_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# The end of coded picture data: a marker that is neither a stuffed 0xFF (00), nor a restart, nor fill (FF).
_MARKER_AFTER_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Jpegs(Sequence[bytes]):
    """The JPEG files in a concatenation; an incomplete last one is left out.

    Those of hours of video are many: they stay in ffmpeg's output, a mapped file that takes no memory.
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
    """Walk the markers (ITU-T T.81, annex B): the bytes of an end marker may also occur inside a segment."""
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
    """Groups of sources: each video alone, neighbouring pictures together."""
    for is_picture, group in groupby(sources, key=lambda source: source.is_picture):
        size = _PICTURES_AT_ONCE if is_picture else 1
        while batch := list(islice(group, size)):
            yield batch


@dataclass(frozen=True)
class _Decoded:
    """size: bytes that ffmpeg wrote. note: any remark."""

    jpegs: Jpegs
    size: int
    ended: Ended
    note: str | None = None

    @property
    def is_clean(self) -> bool:
        return self.ended.is_clean


def _decode(
    source: Source,
    sampling: Sampling,
    found: Look,
    deadline: float,
    watch: Watch | None,
    box: tuple[int, int] | None = None,
) -> _Decoded:
    """subprocess.TimeoutExpired at the deadline (time.monotonic)."""
    most = 1 if source.is_picture else _most_frames(sampling) + 1
    limits: dict[str, Any] = {"frames:v": most, "fs": MAX_PICTURES_BYTES}
    command = jpegs_of(pictures_of(_address(source), sampling, found, box), sampling, "pipe:", **limits)
    with tempfile.TemporaryFile() as pictures:
        ended = ffmpeg_process.run(command, deadline - time.monotonic(), stdout=pictures, watch=watch)
        size = pictures.seek(0, 2)
        jpegs = Jpegs(mmap.mmap(pictures.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    return _Decoded(jpegs, size, ended)


def _sampled(source: Source, sampling: Sampling, found: _Decoded) -> Sampled:
    if len(found.jpegs) > _most_frames(sampling):
        return Sampled(source.video_id, [], f"longer than {MAX_VIDEO_S // 3600} hours")
    if found.size >= MAX_PICTURES_BYTES:
        return Sampled(source.video_id, [], f"pictures of more than {MAX_PICTURES_BYTES >> 30} GiB")
    complaint = found.ended.complaint
    if not found.jpegs:
        heard = probe.quoted(complaint, source.path) or "ffmpeg gives no reason"
        crashed = found.ended.status < 0  # it may be the machine's fault after all
        return Sampled(source.video_id, [], f"no frame decodes ({heard})", final=not crashed)
    reason = probe.shortfall(source.duration_s, len(found.jpegs) / sampling.fps, complaint, source.path)
    parts = [part for part in (reason, found.note) if part]
    return Sampled(source.video_id, found.jpegs, "; ".join(parts) or None, final=found.ended.status >= 0)


def _most_frames(sampling: Sampling) -> int:
    return int(MAX_VIDEO_S * sampling.fps)


def _size_of_jpeg(jpeg: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(jpeg)) as picture:
        return picture.size


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


def pictures_of(
    address: str,
    sampling: Sampling,
    found: Look = probe.UNSEEN,
    box: tuple[int, int] | None = None,
    /,
    **input_options: Any,
) -> Any:
    """The ffmpeg-python stream of the scaled frames of a video at an address ("file:/...").

    In JPEG's colours (BT.601, full range), whatever the video's are.

    Args:
        found: the file's properties, if it could be probed.
        box: width and height that all pictures are fitted into, with bars.
    """
    pictures = ffmpeg_process.opened(address, found.stream, **input_options)
    pictures = probe.on_screen(pictures, found, _rate(sampling.fps))
    scale = {"w": _side("iw", "sar", sampling), "h": _side("ih", "1/sar", sampling), "flags": "bicubic"}
    if box:
        fit = f"min({box[0]}/(iw*sar),{box[1]}/ih)"
        scale |= {"w": f"max(1,round(iw*sar*{fit}))", "h": f"max(1,round(ih*{fit}))", "eval": "frame"}
    if found.matrix:
        # Another matrix needs two conversions, via RGB, and their fast rounding errors add up.
        scale |= {"in_color_matrix": found.matrix, "flags": "bicubic+accurate_rnd"}
    if found.hdr:
        pictures = pictures.filter("scale", **scale, out_color_matrix="bt2020")
        for name, values in _tone_mapped(found.hdr):
            pictures = pictures.filter(name, **values)
    else:
        pictures = pictures.filter("scale", **scale, out_color_matrix="bt601", out_range="full")
        if found.wide:
            for name, values in _NARROWED:
                pictures = pictures.filter(name, **values)
    if box:
        pictures = pictures.filter("format", pix_fmts="yuv444p")  # whose sides may be odd
        pictures = pictures.filter("pad", w=box[0], h=box[1], x="(ow-iw)/2", y="(oh-ih)/2", eval="frame")
    return pictures.filter("setsar", 1)


# ffmpeg's filters from BT.2020's red, green and blue to a screen's, by way of linear light; JPEG's matrix stays.
_NARROWED: list[tuple[str, dict[str, Any]]] = [
    ("format", {"pix_fmts": "yuv444p10le"}),  # whose sides may be odd
    (
        "zscale",
        {
            **{"primariesin": "2020", "transferin": "709", "matrixin": "170m", "rangein": "full"},
            **{"primaries": "709", "transfer": "709", "matrix": "170m", "range": "full"},
        },
    ),
    ("format", {"pix_fmts": "yuv444p"}),
]


def _tone_mapped(transfer: str) -> list[tuple[str, dict[str, Any]]]:
    """ffmpeg's filters from HDR to the range of screens and JPEG: dark parts stay as they are, bright ones are
    compressed.

    HDR's reference white (203 nits, ITU-R BT.2408) becomes 234 of 255; above it are lamps and the sky.
    """
    of_hdr = {"primariesin": "2020", "matrixin": "2020_ncl", "transferin": transfer}
    return [
        ("format", {"pix_fmts": "yuv444p10le"}),  # whose sides may be odd
        ("zscale", {"transfer": "linear", "npl": 100, **of_hdr}),
        ("format", {"pix_fmts": "gbrpf32le"}),
        ("zscale", {"primaries": "709"}),
        ("tonemap", {"tonemap": "mobius", "desat": 0}),
        ("zscale", {"transfer": "iec61966-2-1", "matrix": "170m", "range": "full"}),
        ("format", {"pix_fmts": "yuv444p"}),
    ]


def _address(source: Source) -> str:
    return f"file:{source.path.resolve()}"


def _rate(fps: float) -> Fraction:
    """29.97 stays 2997/100; it differs from 30000/1001 only in display."""
    return Fraction(fps).limit_denominator(100_000)


def _side(side: str, stretch: str, sampling: Sampling) -> str:
    """ffmpeg expression for a side of the output: square pixels without enlarging either side, then scaled down."""
    short_side = "min(iw*min(1,sar),ih*min(1,1/sar))"
    return f"max(1,round({side}*min(1,{stretch})*min(1,{sampling.short_side_px}/{short_side})))"
