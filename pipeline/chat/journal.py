"""Replies, kept as they arrive: what was paid for once is not asked again, whatever happens to the run.

A line of JSON for each, written and synced before anything else is done with it. The journal outlives runs and
settings; its key is everything that a reply depends on.
"""

import fcntl
import json
import os
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType


@dataclass(frozen=True)
class Row:
    """What came of a request.

    text: the reply, None if it cannot be used; error says why. seconds: of the attempt that was answered, or of the
    last one. frames: numbers in the video of those shown. final False: another time it may be answered; it is not kept.
    """

    key: str
    id: str
    model: str
    text: str | None
    error: str | None
    finish_reason: str | None
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    attempts: int
    frames: tuple[int, ...]
    final: bool = True


class Journal:
    """One process at a time. Threads may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{path} is in use: another run of this study asks the same; let it end") from None
        self._file.seek(0)
        content = self._file.read()
        self._rows: dict[str, Row] = {}
        for line in content.splitlines():
            if (row := _row(line)) is not None:
                self._rows[row.key] = row
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")  # a kill came in the middle of a line, which is lost; the next begins anew
        self._lock = threading.Lock()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def get(self, key: str) -> Row | None:
        return self._rows.get(key)

    def add(self, row: Row) -> None:
        """On the disk when this returns."""
        line = json.dumps({name: value for name, value in asdict(row).items() if name != "final"}) + "\n"
        with self._lock:
            self._rows[row.key] = row
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())


def _row(line: bytes) -> Row | None:
    try:
        values = json.loads(line)
        row = Row(**values)
        return replace(row, frames=tuple(row.frames))
    except (ValueError, TypeError):
        return None
