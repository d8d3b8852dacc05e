"""The table that says for every video whether it exists here and, if not, why."""

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import verdict
from pipeline.dataset.verdict import Row
from pipeline.files.aside import aside, write_text

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("duration_s", pa.float64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("attempts", pa.int32()),
        ("kind", pa.string()),
        ("damage", pa.string()),
    ]
)
# Characters that a file system or path parser would not treat as part of a name. Names with a leading dot are ours.
_NOT_A_NAME = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|^\.")
_LONGEST_ID_BYTES = 200  # a file's name may have 255 bytes, with one suffix or two


def refusal(video_id: str) -> str | None:
    """Why the id must not become a file name, or None if it may."""
    if not video_id or len(video_id.encode(errors="replace")) > _LONGEST_ID_BYTES:
        return f"an id that cannot be a file's name: its length is not 1 to {_LONGEST_ID_BYTES} bytes"
    if _NOT_A_NAME.search(video_id):
        return "an id that cannot be a file's name: it begins with a dot, or has a slash or a control character in it"
    return None


def write(path: Path, rows: Iterable[Row], *, source: str = "") -> None:
    """By video_id, with the version of what judged them and the source that they came from."""
    ordered = [asdict(row) for row in sorted(rows, key=lambda row: row.video_id)]
    metadata = {"verdict": verdict.version(), "source": source}
    table = pa.Table.from_pylist(ordered, schema=SCHEMA.with_metadata(metadata))
    with aside(path) as written:
        pq.write_table(table, written, write_page_checksum=True)


def read(path: Path) -> dict[str, Row]:
    """Rows by video id. Raises ValueError if the file is of an earlier revision, or not a ledger."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; Arrow's own have no number
            raise
        raise ValueError(f"{path} is damaged, or not a ledger ({error}); {_make_again(path)}") from None
    if table.schema.names != SCHEMA.names:
        found, wanted = (", ".join(names) for names in (table.schema.names, SCHEMA.names))
        raise ValueError(
            f"{path} has the columns {found}, expected {wanted}: another revision wrote it; {_make_again(path)}"
        )
    return {row["video_id"]: Row(**row) for row in table.to_pylist()}


def _make_again(path: Path) -> str:
    return f"make it again with: dvc repro -f download@{path.resolve().parent.name}"


class Journal:
    """What a run finds, kept as it goes: a kill in the 60th hour of a download loses nothing.

    `known`: rows that may be reused, the ledger's of the run before and over them what a killed run had found since.
    What an earlier revision of the code found in a file does not count, nor what was found of another source.
    """

    def __init__(self, ledger: Path, *, source: str) -> None:
        """source: says where the videos come from."""
        self._ledger, self._source, self._lock = ledger, source, threading.Lock()
        self._path = ledger.with_name(".ledger.jsonl")
        head = {"verdict": verdict.version(), "source": source}
        stored, rows = _read_with_head(ledger)
        self._foreign = stored != head
        old = self._path.read_bytes().splitlines() if self._path.exists() else []
        found = [row for line in old[1:] if (row := _row_of(line))]  # a kill may have cut the last line
        known = _still_valid(rows, stored, head) + _still_valid(found, _parsed(old[0]) if old else None, head)
        self.known = {row.video_id: row for row in known}
        write_text(self._path, "".join(f"{json.dumps(one)}\n" for one in (head, *map(asdict, self.known.values()))))
        self._file = self._path.open("a")

    def record(self, row: Row) -> None:
        """Call it before the video gets its name in the videos' folder: a file that is there is the one recorded."""
        with self._lock:
            if self._foreign:  # when it is trusted again, every file there must be one that it knows
                self._ledger.unlink(missing_ok=True)
                self._foreign = False
            self._file.write(json.dumps(asdict(row)) + "\n")
            self._file.flush()

    def kept(self, video_id: str, there: Path) -> Row | None:
        """The row of an earlier run's file: as known if the file is unchanged, else examined. Deletes corrupt files."""
        known = self.known.get(video_id)
        if known and known.status == "ok" and known.bytes == there.stat().st_size:
            return known.found_again()
        row = verdict.examine(video_id, there, attempts=max(1, known.attempts if known else 0))
        if row.status != "ok":
            if row.status == "corrupt":  # not one whose disk fails to read it
                there.unlink()
            return None
        self.record(row)
        return row

    def finish(self, rows: Iterable[Row]) -> None:
        """Write the ledger with these rows and remove the journal."""
        write(self._ledger, rows, source=self._source)
        self._path.unlink()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _read_with_head(ledger: Path) -> tuple[dict[str, str], list[Row]]:
    """The probe and source that a ledger records, and its rows; nothing if there is no ledger."""
    try:
        metadata = pq.read_schema(ledger).metadata or {}
        stored = {key: metadata.get(key.encode(), b"").decode() for key in ("verdict", "source")}
        return stored, list(read(ledger).values())
    except (FileNotFoundError, ValueError):  # none, or of another revision
        return {}, []


def _still_valid(rows: list[Row], stored: Any, head: dict[str, str]) -> list[Row]:
    """Those rows recorded under the head `stored` that are still valid under `head`."""
    if stored == head:
        return rows
    if not isinstance(stored, dict) or stored.get("source") != head["source"]:
        return []
    return [row for row in rows if row.status in ("gone", "unavailable")]  # no file was examined


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
