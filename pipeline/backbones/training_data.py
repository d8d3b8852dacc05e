"""What the built-in models learn from: pictures with captions, and captions alone."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.features import shards


@dataclass(frozen=True)
class Picture:
    jpeg: bytes
    captions: tuple[str, ...]


def read_pictures(segments: Path, frames: Path, split: str) -> list[Picture]:
    """The first frame of every video of the split that has one, with all its captions.

    Args:
        segments: the table of segments.
        frames: the folder of shards with the frames of the same videos.
    """
    table = pq.read_table(segments, filters=[("split", "=", split)], columns=["video_id", "captions"])
    captions: dict[str, list[str]] = {}
    for row in table.to_pylist():
        captions.setdefault(row["video_id"], []).extend(row["captions"])
    with_frames = [
        video_id for video_id, entry in shards.index(frames).items() if entry.rows and captions.get(video_id)
    ]
    return [
        Picture(rows["jpeg"][0].as_py(), tuple(captions[video_id]))
        for video_id, rows in shards.iterate(frames, with_frames, columns=["jpeg"])
    ]


def read_captions(tables: Iterable[Path], split: str) -> list[tuple[str, ...]]:
    """The captions of every segment of the split that has any, from several tables of segments."""
    return [
        tuple(row["captions"])
        for path in tables
        for row in pq.read_table(path, filters=[("split", "=", split)], columns=["captions"]).to_pylist()
        if row["captions"]
    ]


def digest_of_pictures(pictures: Mapping[str, Sequence[Picture]]) -> str:
    """SHA-256 (hex) of the pictures and captions of all splits."""
    seen = hashlib.sha256()
    for split in pictures:
        for picture in pictures[split]:
            seen.update(hashlib.sha256(picture.jpeg).digest() + json.dumps(picture.captions).encode())
    return seen.hexdigest()


def digest_of_captions(captions: Mapping[str, Sequence[tuple[str, ...]]]) -> str:
    """SHA-256 (hex) of the captions of all splits."""
    return hashlib.sha256(json.dumps(captions).encode()).hexdigest()
