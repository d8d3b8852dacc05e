"""Embeddings of many videos on disk, read as they are needed: memory does not grow with the dataset.

A shard is made to be written and read through: whoever wants one picture of it decodes a row group. Training takes the
same frames in another order every epoch, so a run copies them once into a flat file: on one core in 7 s for 2 million
frames of 512 (2 GB). Then 600 frames cost 0.1 ms where the shard costs 2, and a picture microseconds where the shard
costs 0.7 ms. What fits into the system's page cache stays there, for all processes that read the file.

It is read, not mapped: the pages of a mapping count as the process's own and look like the growth that it has not.

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
import pyarrow.parquet as pq

from pipeline import shards

TIMESTAMP = np.dtype(np.float64)
VALUE = np.dtype(np.float16)


@dataclass(frozen=True, slots=True)
class Rows:
    """An array [T, ...] in a file: a slice of it reads those rows and no others."""

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
        # pread, because the file's position belongs to everybody who shares it.
        found = os.pread(self.file.fileno(), size, at)
        if len(found) != size:
            raise OSError(f"{self.file.name}: found {len(found)} bytes at {at}, wanted {size}; delete it and run again")
        return np.frombuffer(found, self.dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class VideoEmbeddings:
    """A video's frames, as arrays or as rows of a file."""

    timestamps: np.ndarray | Rows  # [T] float64, seconds
    embeddings: np.ndarray | Rows  # [T, E] float16


def read_embeddings(folder: Path, video_ids: Iterable[str], copy: Path | None = None) -> dict[str, VideoEmbeddings]:
    """Embeddings of those of the videos that the shards of `folder` have rows of, to be read from a copy of them.

    Args:
        copy: the flat file. One that is there is used as it is (by a run that goes on, or by another process of the
            run), so it must lie where only this run looks. It may be deleted as soon as this returns: what is open
            stays readable. None: one beside `folder` that is gone with the process.

    Raises KeyError if the shards do not know one of the videos.
    """
    if copy is None:
        # The shards' disk has room for them; the usual place for temporary files may be memory.
        with TemporaryDirectory(prefix=".embeddings-", dir=folder.parent) as aside:
            return read_embeddings(folder, video_ids, Path(aside) / "embeddings")
    rows = {video_id: entry.rows for video_id, entry in shards.index(folder).items()}
    wanted = sorted(set(video_ids))
    if unknown := set(wanted) - rows.keys():
        raise KeyError(f"{folder} has no video {min(unknown)!r}")
    width = pq.read_schema(next(folder.glob("shard-*.parquet"))).field("embedding").type.list_size
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.with_name(f"{copy.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of one run start at once; the first writes, the others wait
        if not copy.exists():
            _write(copy, folder, _layout(rows, wanted, width))
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
    """Where in the flat file each video with rows begins: its timestamps, then its embeddings."""
    found, at = {}, 0
    for video_id in video_ids:
        if rows[video_id]:
            found[video_id] = at
            at += rows[video_id] * (TIMESTAMP.itemsize + width * VALUE.itemsize)
    return found


def _write(copy: Path, folder: Path, layout: Mapping[str, int]) -> None:
    aside = copy.with_name(f"{copy.name}.aside")
    with aside.open("wb") as file:
        # In the order of the shards, so that no row group is decoded twice.
        for video_id, table in shards.iterate(folder, list(layout), ["timestamp_s", "embedding"]):
            file.seek(layout[video_id])
            file.write(table["timestamp_s"].to_numpy().astype(TIMESTAMP, copy=False).tobytes())
            file.write(table["embedding"].combine_chunks().flatten().to_numpy().astype(VALUE, copy=False).tobytes())
        file.flush()
        os.fsync(file.fileno())  # a copy that has its name is whole, also after a power cut
    aside.replace(copy)
