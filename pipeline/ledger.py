"""The table that says of every video whether it is there and, if not, why; and the probe that finds out."""

import errno
import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import av
import av.logging
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.imports import code_fingerprint
from pipeline.safety import FORMATS, MAX_FRAME_PX, PROTOCOLS

# ok: it opens and its first frame decodes. missing: no file. unavailable: the source does not give it.
# corrupt: a file, not a video. refused: an id that must not become a file name. skipped: the subset is full.
Status = Literal["ok", "missing", "unavailable", "corrupt", "refused", "skipped"]
SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("duration_s", pa.float64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("attempts", pa.int32()),
    ]
)
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

av.logging.set_level(None)  # its complaints end in the ledger, not on the terminal
logging.getLogger("libav").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Row:
    """duration_s: null for pictures. attempts: how often the source was asked."""

    video_id: str
    status: Status
    reason: str | None = None
    duration_s: float | None = None
    bytes: int | None = None
    sha256: str | None = None
    attempts: int = 0


def refusal(video_id: str) -> str | None:
    """Why the id must not become a file name, or None if it may."""
    if _ID.fullmatch(video_id) and ".." not in video_id:
        return None
    return f"id {video_id[:40]!r} is not 1 to 128 of A-Z a-z 0-9 _ - . beginning with a letter, digit or _"


def examine(video_id: str, path: Path, *, attempts: int = 1) -> Row:
    """The row of a file: ok, or corrupt with the reason."""
    status, reason, duration_s = _probe(path)
    return Row(video_id, status, reason, duration_s, path.stat().st_size, sha256_of(path), attempts)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, rows: Iterable[Row]) -> None:
    """By video_id, with the version of the probe that judged them."""
    ordered = [asdict(row) for row in sorted(rows, key=lambda row: row.video_id)]
    table = pa.Table.from_pylist(ordered, schema=SCHEMA.with_metadata({"probe": _probe_version()}))
    aside = path.with_name(path.name + ".aside")
    pq.write_table(table, aside)
    aside.replace(path)


def read(path: Path) -> dict[str, Row]:
    return {row["video_id"]: Row(**row) for row in pq.read_table(path).to_pylist()}


def read_trusted(path: Path) -> dict[str, Row]:
    """What an earlier run found, if today's probe would judge the same: rows to reuse for files that did not change."""
    try:
        version = (pq.read_schema(path).metadata or {}).get(b"probe")
        return read(path) if version == _probe_version().encode() else {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return {}


def with_reason(row: Row, reason: str | None) -> Row:
    """The row with a further reason (segments that were repaired, say)."""
    return replace(row, reason="; ".join(part for part in (row.reason, reason) if part) or None)


def _probe_version() -> str:
    return f"{code_fingerprint(Path(__file__))} av {av.__version__}"


def _probe(path: Path) -> tuple[Status, str | None, float | None]:
    """Status, reason, and the duration in seconds, None for pictures and where the file does not say."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        return "corrupt", "zero bytes", None
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")):
        return "corrupt", "a playlist or other text, not a video", None
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}
    try:
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            video = next((one for one in container.streams.video if not _is_cover(one)), None)
            if video is None:
                return "corrupt", "no video stream", None
            if video.codec_context is None:
                return "corrupt", "pictures in a code that nobody knows", None
            if video.width * video.height > MAX_FRAME_PX:
                return "corrupt", f"frames of {video.width}x{video.height} are too large", None
            video.thread_type = "NONE"  # to open 20,000 videos, threads cost more than they give
            if next(container.decode(video), None) is None:
                return "corrupt", "no frame decodes", None
            is_picture = container.format.name == "image2" or container.format.name.endswith("_pipe")
            duration_s = None if is_picture else _duration_s(container, video)
            return "ok", None, duration_s
    except av.error.FFmpegError as error:
        if error.errno == errno.EINVAL:  # what the whitelist answers
            return "corrupt", "not a container of videos or pictures", None
        return "corrupt", f"does not open or decode ({error.strerror})", None


def _is_cover(stream: av.VideoStream) -> bool:
    """A song's cover art is a video stream too."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _duration_s(container: av.container.InputContainer, video: av.VideoStream) -> float | None:
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    if video.duration and video.duration > 0 and video.time_base:
        return float(video.duration * video.time_base)
    return None
