"""Rows of many videos in a fixed number of Parquet files, kept up to date video by video.

The rule (docs/architecture.md): after any history of additions, removals, edits and kills, the folder holds, byte for
byte, what a clean build writes. This works because a shard's bytes are a function of its videos' rows, reasons and
fingerprints alone: the order is by id, row groups are cut by rows counted since the last cut, and a shard gets its name
only when it is complete. Disks flip bits: a shard contains its own SHA-256, and one that does not match is made again;
readers verify the checksum of each page.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files.aside import beside, put_in_place, remove
from pipeline.imports import file_fingerprint
from pipeline.process.cores import cores

# Whole videos are gathered until a row group has this many rows: otherwise each picture would need a group.
GROUP_ROWS = 256
# A longer video is split, so that copying or reading it does not need hours of pictures in memory.
LONGEST_GROUP_ROWS = 16 * GROUP_ROWS
SEAL = b"sha256 of this file with zeros here: "
UNSEALED = b"0" * 64
AT_ONCE = 1 << 20  # bytes hashed at once


class DiskFull(OSError):
    """No room for a new shard; the old one is untouched."""


@dataclass(frozen=True)
class VideoRows:
    """The result for one video. `table` None or without rows: it was dropped, and `reason` says why.

    `final` False: the next run tries again (a time limit, not a property of the video).
    """

    video_id: str
    table: pa.Table | None
    reason: str | None = None
    final: bool = True


@dataclass(frozen=True)
class Entry:
    """A video in a shard's metadata. Its rows start `offset` rows into row group `group`."""

    fingerprint: str
    rows: int
    group: int
    offset: int
    reason: str | None


@dataclass
class Update:
    """Counts of videos, except `rows`; `reasons` of every video that was dropped (no rows) or cut short."""

    kept: int = 0
    made: int = 0
    removed: int = 0
    dropped: int = 0
    rows: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Every `of`-th shard, from the `part`-th on (counted from 1): the share of one of several machines.

    Every file in a folder belongs to one slice, by the number in its name: slices never touch the same file.
    """

    part: int = 1
    of: int = 1

    @staticmethod
    def parse(text: str) -> "Slice":
        """I/N. ValueError unless 1 <= I <= N."""
        numbers = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
            raise ValueError(f"--shards: found {text!r}, expected I/N with I from 1 to N, such as 3/16")
        return Slice(int(numbers[1]), int(numbers[2]))

    def __contains__(self, number: int) -> bool:
        return number % self.of == self.part - 1


WHOLE = Slice()


@dataclass(frozen=True)
class StaleShard:
    """A shard to be made: its videos, and those whose rows can be copied from the existing shard."""

    number: int
    path: Path
    video_ids: list[str]
    reusable: dict[str, Entry]

    @property
    def todo(self) -> list[str]:
        return [video_id for video_id in self.video_ids if video_id not in self.reusable]


def shard_of(video_id: str, shards: int) -> int:
    """A hash of the id alone, so that adding videos never moves others."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "big") % shards


def update(
    folder: Path,
    *,
    schema: pa.Schema,
    shards: int,
    fingerprints: Mapping[str, str],
    compute: Callable[[list[str]], Iterator[VideoRows]],
    only: Slice = WHOLE,
) -> Update:
    """Make `folder` hold exactly the videos of `fingerprints`, computing only those whose fingerprint changed.

    `compute` gets the ids to compute, by shard and then by id, and yields one VideoRows for each in that order. One
    video's rows are in memory at a time. A finished shard survives a later kill. If the call itself raises (before it
    returns an iterator), nothing is touched. Shards outside `only` are neither read nor touched. Raises DiskFull.
    """
    done, stale = plan(folder, schema=schema, shards=shards, fingerprints=fingerprints, only=only)
    layout = _layout(schema, shards)
    todo = [video_id for one in stale for video_id in one.todo]
    with closing(_checked(compute(todo), todo) if todo else _checked(iter(()), [])) as made:
        tidy(folder, shards, only)  # only after `compute` had its chance to refuse
        for shard in stale:
            with _Writer(shard.path, schema, layout) as writer:
                old = _rows(shard.path, shard.reusable, None)
                for video_id in shard.video_ids:
                    if video_id in shard.reusable:
                        entry = shard.reusable[video_id]
                        writer.add(video_id, next(old)[1] if entry.rows else None, entry.reason, entry.fingerprint)
                    else:
                        one = next(made)
                        writer.add(video_id, one.table, one.reason, fingerprints[video_id] if one.final else "")
            _count(done, writer.videos)
    return done


def plan(
    folder: Path, *, schema: pa.Schema, shards: int, fingerprints: Mapping[str, str], only: Slice = WHOLE
) -> tuple[Update, list[StaleShard]]:
    """What `update` would do, touching nothing: its counts (rows, dropped and reasons only for shards that are up to
    date), and the stale shards."""
    done, stale = Update(), []
    surplus = [path for path in _surplus(folder, shards, only) if path.suffix == ".parquet"]
    done.removed = sum(len(_footer(path).videos) for path in surplus)
    wanted: dict[int, list[str]] = {number: [] for number in range(shards) if number in only}
    for video_id in sorted(fingerprints):
        if (number := shard_of(video_id, shards)) in wanted:
            wanted[number].append(video_id)
    layout = _layout(schema, shards)
    with ThreadPoolExecutor(cores()) as pool:
        intact = dict(zip(wanted, pool.map(lambda number: is_intact(folder / _name(number)), wanted), strict=True))
    for number, video_ids in wanted.items():
        path = folder / _name(number)
        footer = _footer(path) if intact[number] else _Footer({})
        usable = footer.videos if footer.schema is not None and footer.schema.equals(schema) else {}
        reusable = {i: usable[i] for i in video_ids if i in usable and usable[i].fingerprint == fingerprints[i]}
        done.removed += len(footer.videos.keys() - set(video_ids))
        done.kept += len(reusable)
        if footer.layout == layout and list(footer.videos) == video_ids == list(reusable):
            _count(done, reusable)
        else:
            stale.append(StaleShard(number, path, video_ids, reusable))
            done.made += len(video_ids) - len(reusable)
    return done, stale


def tidy(folder: Path, shards: int, only: Slice = WHOLE) -> None:
    """Remove what does not belong to this number of shards: those of a larger count, and files of killed runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _surplus(folder, shards, only):
        remove(path)


def _surplus(folder: Path, shards: int, only: Slice) -> list[Path]:
    names = {_name(number) for number in range(shards)}
    here = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in here if path.name not in names and _number(path) in only]


def _name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


def _number(path: Path) -> int:
    """The number of the shard in a file's name, also of one being written; any other file counts as the first."""
    found = re.match(r"shard-(\d+)\.parquet", path.name)
    return int(found[1]) if found else 0


def count(folder: Path) -> int:
    """How many shards there are. ValueError if none."""
    return len(_shards(folder))


def index(folder: Path, only: Slice = WHOLE) -> dict[str, Entry]:
    """Every video of the folder's shards, those without rows included, by id."""
    found: dict[str, Entry] = {}
    for path in _shards(folder):
        if _number(path) not in only:
            continue
        found.update(_whole_footer(path).videos)
    return dict(sorted(found.items()))


def read(folder: Path, video_id: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The video's rows, none if it was dropped. Raises KeyError if the folder lacks it."""
    paths = _shards(folder)
    path = paths[shard_of(video_id, len(paths))]
    footer = _whole_footer(path)
    if video_id not in footer.videos:
        raise KeyError(f"{folder} has no video {video_id!r}")
    for _, table in _rows(path, {video_id: footer.videos[video_id]}, columns):
        return table
    assert footer.schema is not None
    empty = footer.schema.empty_table()
    return empty if columns is None else empty.select(list(columns))


def iterate(
    folder: Path,
    video_ids: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    whole: bool = True,
) -> Iterator[tuple[str, pa.Table]]:
    """(video_id, rows) of every video that has rows, or of the given ones: by shard, then by id.

    One row group is in memory at a time, or one video if it is longer; with `whole` False a long video comes in
    consecutive parts. Only the shards of the given videos are opened. Raises KeyError if one is unknown.
    """
    paths, rows = _shards(folder), _rows if whole else _parts
    if video_ids is None:
        for path in paths:
            yield from rows(path, _whole_footer(path).videos, columns)
        return
    chosen: dict[int, set[str]] = {}
    for video_id in video_ids:
        chosen.setdefault(shard_of(video_id, len(paths)), set()).add(video_id)
    for number in sorted(chosen):
        videos = _whole_footer(paths[number]).videos
        if unknown := chosen[number] - videos.keys():
            raise KeyError(f"{folder} has no video {min(unknown)!r}")
        yield from rows(paths[number], {i: videos[i] for i in videos if i in chosen[number]}, columns)


@dataclass(frozen=True)
class _Footer:
    """The videos of a shard; none if it is missing or cannot be read."""

    videos: dict[str, Entry]
    layout: str | None = None
    schema: pa.Schema | None = None
    metadata: Any = None


class _Writer:
    """Writes a shard aside; after the `with` block, without an exception, it is complete, on disk, and has its name."""

    def __init__(self, path: Path, schema: pa.Schema, layout: str) -> None:
        self.videos: dict[str, Entry] = {}
        self._path, self._schema, self._layout = path, schema, layout
        # A unique name: a process that its cluster considers dead may still be writing when another takes over.
        self._aside = beside(path)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._groups = 0

    def __enter__(self) -> "_Writer":
        plain = [f.name for f in self._schema if not pa.types.is_nested(f.type) and not pa.types.is_binary(f.type)]
        try:
            self._file = _open(self._aside)
            # Pictures and embeddings do not compress; ids do, with a dictionary.
            self._parquet = pq.ParquetWriter(
                self._file,
                self._schema,
                compression="none",
                use_dictionary=["video_id"],
                write_statistics=plain,
                write_page_checksum=True,
            )
        except OSError as error:
            raise self._explained(error) from error
        return self

    def add(self, video_id: str, table: pa.Table | None, reason: str | None, fingerprint: str) -> None:
        rows = 0 if table is None else table.num_rows
        assert rows or reason, f"{video_id} has no rows and no reason"
        where = (self._groups, self._waiting_rows) if rows else (0, 0)
        self.videos[video_id] = Entry(fingerprint, rows, *where, reason)
        if table is not None and rows:
            assert table.schema.equals(self._schema), f"{table.schema} is not {self._schema}"
            self._waiting.append(table)
            self._waiting_rows += rows
        if self._waiting_rows >= GROUP_ROWS:
            self._cut()

    def _cut(self) -> None:
        waiting = pa.concat_tables(self._waiting)
        try:
            for start in range(0, waiting.num_rows, LONGEST_GROUP_ROWS):
                # One chunk, because page boundaries depend on the chunks, and chunks on the history.
                group = waiting.slice(start, LONGEST_GROUP_ROWS).combine_chunks()
                self._parquet.write_table(group, row_group_size=LONGEST_GROUP_ROWS)
                self._groups += 1
        except OSError as error:
            raise self._explained(error) from error
        self._waiting, self._waiting_rows = [], 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                if self._waiting:
                    self._cut()
                videos = json.dumps({video_id: asdict(entry) for video_id, entry in self.videos.items()})
                seal = (SEAL + UNSEALED).decode()
                self._parquet.add_key_value_metadata({"videos": videos, "layout": self._layout, "seal": seal})
                self._parquet.close()
                self._file.close()
                _seal(self._aside)
                put_in_place(self._aside, self._path)
        except OSError as error:
            raise self._explained(error) from error
        finally:
            with suppress(OSError):  # the disk may still be full
                self._parquet.close()
            with suppress(OSError):
                self._file.close()
            remove(self._aside)

    def _explained(self, error: OSError) -> OSError:
        if error.errno != errno.ENOSPC or isinstance(error, DiskFull):
            return error
        return DiskFull(
            errno.ENOSPC,
            f"no space left on the disk for {self._path} (its earlier version is intact, and so are the shards "
            "finished so far); free some space and run the stage again, it continues from there",
        )


def _open(aside: Path) -> Any:
    return aside.open("wb")


def is_intact(shard: Path) -> bool:
    """Whether all of a shard's bytes are those that were written."""
    try:
        _, wanted, found = _seal_of(shard)
    except (FileNotFoundError, ValueError):
        return False
    return found == wanted


def _seal(shard: Path) -> None:
    """Write into a shard the SHA-256 of its bytes, computed with zeros in its own place."""
    at, wanted, _ = _seal_of(shard)
    with shard.open("r+b") as file:
        file.seek(at)
        file.write(wanted)


def _seal_of(shard: Path) -> tuple[int, bytes, bytes]:
    """Where a shard's seal is, what it should be, and what it is. Raises ValueError if it has none."""
    with shard.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))  # a Parquet file ends with its footer, the footer's length, and "PAR1"
        start = size - 8 - int.from_bytes(file.read(4), "little")
        if not 0 < start < size:
            raise ValueError(f"{shard} has no footer")
        file.seek(start)
        footer = file.read()
        seal = footer.rfind(SEAL) + len(SEAL)
        if seal < len(SEAL):
            raise ValueError(f"{shard} has no seal")
        digest = hashlib.sha256()
        file.seek(0)
        for at in range(0, start, AT_ONCE):
            digest.update(file.read(min(AT_ONCE, start - at)))
        digest.update(footer[:seal] + UNSEALED + footer[seal + len(UNSEALED) :])
        return start + seal, digest.hexdigest().encode(), footer[seal : seal + len(UNSEALED)]


def _layout(schema: pa.Schema, shards: int) -> str:
    """Changes with all else that a shard's bytes depend on: this file, the Parquet writer, the schema, the count."""
    parts = f"{file_fingerprint(Path(__file__))} {pa.__version__} {schema} {shards}"
    return hashlib.sha256(parts.encode()).hexdigest()


def _shards(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("shard-*.parquet"), key=_number)  # by name, 100000 would come before 99999
    if not paths:
        raise ValueError(f"{folder} holds no shards; make them with: dvc repro")
    return paths


def _whole_footer(path: Path) -> _Footer:
    """ValueError if it cannot be read."""
    if (footer := _footer(path)).schema is None:
        raise ValueError(f"{path} is damaged, or not one of this project's shards; make it again with: dvc repro")
    return footer


def _footer(path: Path) -> _Footer:
    try:
        status = path.stat()
    except FileNotFoundError:
        return _Footer({})
    return _footer_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _footer_of(path: Path, *_: int) -> _Footer:
    """Parsed once per version of the file, because readers request one video after another."""
    try:
        with pq.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow.remove_metadata()
        stored = {key.decode(): value for key, value in (metadata.metadata or {}).items()}
        videos = {video_id: Entry(**entry) for video_id, entry in json.loads(stored["videos"]).items()}
        return _Footer(videos, stored["layout"].decode(), schema, metadata)
    except (KeyError, ValueError, TypeError):  # not a shard, or a damaged one: make it again
        return _Footer({})
    except OSError as error:
        if error.errno is not None:  # an error of the disk; Arrow's own, for a damaged footer, have no errno
            raise
        return _Footer({})


def _rows(path: Path, videos: Mapping[str, Entry], columns: Sequence[str] | None) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each of `videos` that has any; they must be in the file's order."""
    for video_id, parts in groupby(_parts(path, videos, columns), key=itemgetter(0)):
        yield video_id, pa.concat_tables([part for _, part in parts])


def _parts(path: Path, videos: Mapping[str, Entry], columns: Sequence[str] | None) -> Iterator[tuple[str, pa.Table]]:
    """The same, a row group at a time."""
    if not any(entry.rows for entry in videos.values()):
        return
    chosen = None if columns is None else list(columns)
    with pq.ParquetFile(path, metadata=_footer(path).metadata, page_checksum_verification=True) as file:
        held, at = None, -1
        for video_id, entry in videos.items():
            group, offset, missing = entry.group, entry.offset, entry.rows
            while missing:
                if group != at:
                    try:
                        held, at = file.read_row_group(group, columns=chosen), group
                    except OSError as error:
                        if error.errno is not None:  # the disk's
                            raise
                        raise ValueError(f"{path} is damaged ({error}); make it again with: dvc repro") from None
                assert held is not None
                part = held.slice(offset, missing).replace_schema_metadata(None)
                missing -= part.num_rows
                group, offset = group + 1, 0
                yield video_id, part


def _checked(made: Iterator[VideoRows], todo: list[str]) -> Generator[VideoRows, None, None]:
    """`made`, checked to give one result per id in order; closing this closes `made`."""
    try:
        for video_id in todo:
            one = next(made, None)
            assert one is not None and one.video_id == video_id, f"expected {video_id}, compute yielded {one}"
            yield one
    finally:
        if hasattr(made, "close"):
            made.close()


def _count(done: Update, videos: Mapping[str, Entry]) -> None:
    for video_id, entry in videos.items():
        done.rows += entry.rows
        done.dropped += entry.rows == 0
        if entry.reason:
            done.reasons[video_id] = entry.reason
