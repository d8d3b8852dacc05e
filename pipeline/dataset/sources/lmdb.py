"""Videos in an LMDB (data.mdb), as ClipBERT packs them: a file's bytes under its name without an ending.

`python -m pipeline.pack` writes one. Values are read through the store's memory map, by as many threads as there are.
"""

import contextlib
import hashlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.dataset import media, verdict
from pipeline.dataset.annotations import Annotation
from pipeline.dataset.ledger import Journal
from pipeline.dataset.verdict import Row
from pipeline.process.cores import cores
from pipeline.process.terminal import printable

FILE = "data.mdb"
CHUNK_BYTES = 1 << 24
MAP_BYTES = 1 << 40  # address space, not disk: what a store can grow to
MAX_KEY_BYTES = 511  # of LMDB
# Endings by a file's first bytes, where a key has none.
MAGIC = (
    (0, b"\x1a\x45\xdf\xa3", ".mkv"),
    (4, b"ftyp", ".mp4"),
    (8, b"AVI ", ".avi"),
    (0, b"GIF8", ".gif"),
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\x89PNG", ".png"),
)


def is_lmdb(folder: Path) -> bool:
    return (folder / FILE).is_file()


def opened(folder: Path, *, write: bool = False) -> Any:
    """The store. Raises ValueError if it is damaged, or the package is missing."""
    try:
        import lmdb
    except ImportError:
        raise ValueError(f"{folder} is an LMDB: pip install -r requirements-lmdb.txt") from None
    try:
        if write:
            return lmdb.open(str(folder), map_size=MAP_BYTES)
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise ValueError(f"{folder}: not an LMDB that can be opened ({printable(str(error), 120)})") from None


class Lmdb:
    """A store of videos for every split."""

    identity = "lmdb"

    def __init__(self, videos: Path, unfinished: Path, folders: Mapping[str, Path]) -> None:
        """videos: the folder for the files. unfinished: for those that have not been examined."""
        self.workers = cores()
        self._videos, self._unfinished, self._folders = videos, unfinished, folders
        # A store may be open once in a process; when this object is gone, it is closed.
        self._stores = {folder: opened(folder) for folder in set(folders.values())}
        self._keys = {folder: keys_by_stem(store) for folder, store in self._stores.items()}

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        folder = self._folders[split]
        keys = self._keys[folder]
        names = [video_id, video_id.removeprefix("v_")]
        if annotation.file_name is not None:
            names.insert(0, PurePosixPath(annotation.file_name).stem)
        found = next((keys[name] for name in names if name in keys), [])
        if len(found) != 1:
            shown = printable(", ".join(map(repr, found)), 120)
            reason = f"{shown} in {folder}: which of them it is is not clear" if found else f"no such key in {folder}"
            return Row(video_id, "missing", reason, attempts=1), None
        with self._stores[folder].begin(buffers=True) as transaction:
            return self._fetch(journal, video_id, found[0], transaction.get(found[0].encode()))

    def _fetch(self, journal: Journal, video_id: str, key: str, value: memoryview) -> tuple[Row, Path | None]:
        target = self._videos / media.name_for(video_id, ending(key, value))
        known = journal.known.get(video_id)
        if known and known.sha256 == hashlib.sha256(value).hexdigest():
            if known.status != "ok":
                return known, None
            if target.is_file() and verdict.sha256_of(target) == known.sha256:
                return known.found_again(), target
        file = self._unfinished / video_id / target.name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as written:
            for at in range(0, len(value), CHUNK_BYTES):
                written.write(value[at : at + CHUNK_BYTES])
        row = verdict.examine(video_id, file)
        journal.record(row)
        if row.status == "ok":
            file.replace(target)
        shutil.rmtree(file.parent)
        return row, target if row.status == "ok" else None

    def close(self) -> None: ...


def keys_by_stem(store: Any) -> dict[str, list[str]]:
    """Keys by the name that their last part has without its ending, if it is one of a file's."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    with store.begin() as transaction:
        for raw in transaction.cursor().iternext(keys=True, values=False):
            with contextlib.suppress(UnicodeDecodeError):  # no file's name
                key = raw.decode()
                found[PurePosixPath(key).name].append(key)
                if (stem := PurePosixPath(key).stem) != PurePosixPath(key).name:
                    found[stem].append(key)
    return dict(found)


def ending(key: str, value: memoryview) -> str:
    """By the first bytes, else that of the key, else none."""
    for at, magic, suffix in MAGIC:
        if bytes(value[at : at + len(magic)]) == magic:
            return suffix
    return PurePosixPath(key).suffix.lower()


def keys_for(files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """What each file is stored under: its path below `folder`, without its ending, so that no two share a key.

    Raises ValueError where two files differ in their endings alone, and for a path that is too long.
    """
    found: dict[str, Path] = {}
    for file in files:
        key = file.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise ValueError(f"{found[key]} and {file} would have the same key; leave one of them out")
        if len(key.encode()) > MAX_KEY_BYTES:
            raise ValueError(f"{file}: its path below {folder} is longer than the {MAX_KEY_BYTES} bytes of a key")
        found[key] = file
    return found


def pack(
    files: Mapping[str, Path], folder: Path, *, force: bool = False, watch: Callable[[int], object] = lambda count: None
) -> tuple[int, int]:
    """Add files to the LMDB in `folder`, which may exist; returns how many were written and how many were there.

    A file is written whole or not at all: a killed run goes on. Raises ValueError where the store has another file
    under a key (force: it is replaced).
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = opened(folder, write=True)
    written = kept = 0
    with contextlib.closing(store):
        for key, file in files.items():
            content = file.read_bytes()
            with store.begin(write=True, buffers=True) as transaction:
                there = transaction.get(key.encode())
                if there is not None and there == content:
                    kept += 1
                elif there is not None and not force:
                    raise ValueError(f"{folder} has another file than {file} under {key!r}; to replace it: --force")
                else:
                    transaction.put(key.encode(), content)
                    written += 1
            watch(1)
    return written, kept


def videos_in(folder: Path) -> Iterator[Path]:
    """The files below a folder that may be videos or pictures, by path."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in (*media.NOT_VIDEOS, ".mdb"):
            yield path
