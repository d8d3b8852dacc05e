"""Embeddings of many videos on disk, read as they are needed: memory does not grow with the dataset.

Shards are made for sequential access: reading one picture means decoding a row group. Training reads the same frames in
another order every epoch, so a run first copies them into a flat file: on one core 7 s for 2 million frames of width
512 (2 GB). Then 600 frames take 0.1 ms (2 ms from the shard), and a picture takes microseconds (0.7 ms from the shard).
What fits into the system's page cache stays there, for all processes that read the file.

The file is read, not mapped: the pages of a mapping count as the process's own memory and look like growth.

T frames of a video   E embedding width
"""

import fcntl
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.features import shards
from pipeline.files.aside import aside, sweep

TIMESTAMP = np.dtype(np.float64)
VALUE = np.dtype(np.float16)


def vectors(table: pa.Table, column: str = "embedding") -> NDArray[np.float16]:
    """[rows, E] of a shard's column."""
    return table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each row [E] of length 1; one of zeros stays."""
    wide = np.ascontiguousarray(rows, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True, slots=True)
class Rows:
    """An array [T, ...] in a file; a slice reads only those rows."""

    file: BinaryIO
    at: int  # byte
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: slice) -> np.ndarray:
        start, stop, step = wanted.indices(len(self))
        assert step == 1, f"rows are read in one stretch, not {wanted}"
        shape = (max(0, stop - start), *self.shape[1:])
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        size, at = shape[0] * row, self.at + start * row
        # pread, because the file's position is shared.
        found = os.pread(self.file.fileno(), size, at)
        if len(found) != size:
            raise OSError(
                f"{self.file.name}: found {len(found)} bytes at {at}, expected {size}; delete it and run again"
            )
        return np.frombuffer(found, self.dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class VideoEmbeddings:
    """A video's frames, as arrays or as rows of a file."""

    timestamps: np.ndarray | Rows  # [T] float64, seconds
    embeddings: np.ndarray | Rows  # [T, E] float16


def read_embeddings(
    folder: Path, video_ids: Iterable[str], copy: Path | None = None, *, column: str = "embedding"
) -> dict[str, VideoEmbeddings]:
    """Embeddings of those of the videos that the shards of `folder` have rows of, to be read from a copy of them.

    Args:
        copy: the flat file. One that is there is used as it is (by a run that goes on, or by another process of the
            run), so it must lie where only this run looks. It may be deleted as soon as this returns: what is open
            stays readable. None: one beside `folder` that is gone with the process.
        column: the vectors' name in the shards; a study may keep others than embeddings.

    Raises KeyError if the shards lack one of the videos.
    """
    if copy is None:
        # The shards' disk has room; the default folder for temporary files may be in memory.
        with TemporaryDirectory(prefix=".embeddings-", dir=folder.parent) as temporary:
            return read_embeddings(folder, video_ids, Path(temporary) / "embeddings", column=column)
    rows = {video_id: entry.rows for video_id, entry in shards.index(folder).items()}
    wanted = sorted(set(video_ids))
    if unknown := set(wanted) - rows.keys():
        raise KeyError(f"{folder} has no video {min(unknown)!r}")
    width = pq.read_schema(next(folder.glob("shard-*.parquet"))).field(column).type.list_size
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.with_name(f"{copy.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of one run start together; the first writes, the others wait
        if not copy.exists():
            sweep(copy)
            _write(copy, folder, _layout(rows, wanted, width), column)
    file = copy.open("rb")
    return {
        video_id: VideoEmbeddings(
            Rows(file, at, (rows[video_id],), TIMESTAMP),
            Rows(file, at + rows[video_id] * TIMESTAMP.itemsize, (rows[video_id], width), VALUE),
        )
        for video_id, at in _layout(rows, wanted, width).items()
    }


def embedding_width(videos: Mapping[str, VideoEmbeddings]) -> int:
    for video in videos.values():
        return video.embeddings.shape[1]
    raise ValueError("no video has embeddings; see the ledger in data/*/ledger.parquet")


def _layout(rows: Mapping[str, int], video_ids: Iterable[str], width: int) -> dict[str, int]:
    """The offset of each video with rows in the flat file: its timestamps, then its embeddings."""
    found, at = {}, 0
    for video_id in video_ids:
        if rows[video_id]:
            found[video_id] = at
            at += rows[video_id] * (TIMESTAMP.itemsize + width * VALUE.itemsize)
    return found


def _write(copy: Path, folder: Path, layout: Mapping[str, int], column: str) -> None:
    with aside(copy) as written, written.open("wb") as file:
        # In the shards' order, so that no row group is decoded twice.
        for video_id, table in shards.iterate(folder, list(layout), ["timestamp_s", column]):
            file.seek(layout[video_id])
            file.write(table["timestamp_s"].to_numpy().astype(TIMESTAMP, copy=False).tobytes())
            file.write(vectors(table, column).astype(VALUE, copy=False).tobytes())
