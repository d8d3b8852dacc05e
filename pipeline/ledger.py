"""The table that says of every video whether it is there and, if not, why; and the probe that finds out."""

import errno
import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import av
import av.logging
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import media
from pipeline.imports import code_fingerprint
from pipeline.safety import FORMATS, MAX_FRAME_PX, PROTOCOLS

# ok: it opens and its first frame decodes. missing: no file. gone: the source will not give it. unavailable: it did not
# give it, and may another time. corrupt: a file, not a video. refused: an id that must not become a file name, a member
# of an archive that is no plain file. skipped: the subset is full.
Status = Literal["ok", "missing", "gone", "unavailable", "corrupt", "refused", "skipped"]
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
    """The row of a file, or of a member of a zip (pipeline/media.py): ok, or corrupt with the reason."""
    try:
        with media.local(path) as file:
            status, reason, duration_s = probe(file)
            return Row(video_id, status, reason, duration_s, file.stat().st_size, sha256_of(file), attempts)
    except media.BadMember as error:
        return Row(video_id, "corrupt", str(error), attempts=attempts)


def sha256_of(path: Path) -> str:
    """Of a file, or of a member of a zip (pipeline/media.py)."""
    with media.local(path) as local, local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, rows: Iterable[Row], *, source: str = "") -> None:
    """By video_id, with the version of the probe that judged them and the source that they came from."""
    ordered = [asdict(row) for row in sorted(rows, key=lambda row: row.video_id)]
    metadata = {"probe": _probe_version(), "source": source}
    table = pa.Table.from_pylist(ordered, schema=SCHEMA.with_metadata(metadata))
    aside = path.with_name(path.name + ".aside")
    pq.write_table(table, aside)
    aside.replace(path)


def read(path: Path) -> dict[str, Row]:
    return {row["video_id"]: Row(**row) for row in pq.read_table(path).to_pylist()}


class Journal:
    """What a run finds, kept as it goes: a kill in the 60th hour of a download forgets nothing.

    `known`: rows that may be reused, the ledger's of the run before and over them what a killed run had found since.
    What another probe said of a file does not count, nor what was found of another source.
    """

    def __init__(self, ledger: Path, *, source: str) -> None:
        """source: says where the videos come from."""
        self._ledger, self._source, self._lock = ledger, source, threading.Lock()
        self._path = ledger.with_name(".ledger.jsonl")
        head = {"probe": _probe_version(), "source": source}
        said, rows = _read_with_head(ledger)
        self._foreign = said != head
        old = self._path.read_bytes().splitlines() if self._path.exists() else []
        found = [row for line in old[1:] if (row := _row_of(line))]  # a kill may have cut the last line
        known = _that_count(rows, said, head) + _that_count(found, _parsed(old[0]) if old else None, head)
        self.known = {row.video_id: row for row in known}
        aside = self._path.with_name(self._path.name + ".aside")
        aside.write_text("".join(f"{json.dumps(one)}\n" for one in (head, *map(asdict, self.known.values()))))
        aside.replace(self._path)
        self._file = self._path.open("a")

    def record(self, row: Row) -> None:
        """Call it before the video gets its name in the videos' folder: a file that is there is the one recorded."""
        with self._lock:
            if self._foreign:  # whoever trusts it again must not find files there that it does not know
                self._ledger.unlink(missing_ok=True)
                self._foreign = False
            self._file.write(json.dumps(asdict(row)) + "\n")
            self._file.flush()

    def kept(self, video_id: str, there: Path) -> Row | None:
        """The row of an earlier run's file: as known, if it is that file, else examined. Deleted if it is not ok."""
        known = self.known.get(video_id)
        if known and known.status == "ok" and known.bytes == there.stat().st_size:
            return replace(known, reason=None)
        row = examine(video_id, there, attempts=max(1, known.attempts if known else 0))
        if row.status != "ok":
            there.unlink()
            return None
        self.record(row)
        return row

    def finish(self, rows: Iterable[Row]) -> None:
        """The ledger is these rows; the journal goes."""
        write(self._ledger, rows, source=self._source)
        self._path.unlink()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _read_with_head(ledger: Path) -> tuple[dict[str, str], list[Row]]:
    """What a ledger says of its probe and its source, and its rows; none if there is no ledger."""
    try:
        metadata = pq.read_schema(ledger).metadata or {}
        said = {key: metadata.get(key.encode(), b"").decode() for key in ("probe", "source")}
        return said, list(read(ledger).values())
    except (FileNotFoundError, pa.ArrowInvalid):
        return {}, []


def _that_count(rows: list[Row], said: Any, head: dict[str, str]) -> list[Row]:
    """Of rows found under `said`, those that count under `head`."""
    if said == head:
        return rows
    if not isinstance(said, dict) or said.get("source") != head["source"]:
        return []
    return [row for row in rows if row.status in ("gone", "unavailable")]  # no probe has seen them


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _row_of(line: bytes) -> Row | None:
    found = _parsed(line)
    return Row(**found) if isinstance(found, dict) and found.keys() == set(SCHEMA.names) else None


def with_reason(row: Row, reason: str | None) -> Row:
    """The row with a further reason (segments that were repaired, say)."""
    return replace(row, reason="; ".join(part for part in (row.reason, reason) if part) or None)


def _probe_version() -> str:
    return f"{code_fingerprint(Path(__file__))} av {av.__version__}"


def probe(path: Path) -> tuple[Status, str | None, float | None]:
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
