"""A stage's work on its shards: what to compute for which videos, and where the rows go."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from pipeline.features import shards
from pipeline.features.shards import Slice, StaleShard, Update, VideoRows


class Compute(Protocol):
    """Yields one VideoRows for each of `items` (what it must know about a video, by id), in order, on so many cores.

    The call itself may refuse the items with a ValueError, before anything is computed. A video's result is a function
    of its item alone. Sent to other machines as a pickle.
    """

    def __call__(self, items: Mapping[str, Any], *, cores: int) -> Iterator[VideoRows]: ...


@dataclass(frozen=True)
class Work:
    """Everything needed to bring a folder of shards, or some of them, up to date, here or on another machine.

    items: the arguments of `compute` for every video of `fingerprints`.
    keeps: what `compute` loads once and keeps for the next shard: nothing, a model, or a model that benefits from a
        GPU.
    """

    title: str
    folder: Path
    schema: pa.Schema
    shards: int
    fingerprints: Mapping[str, str]
    items: Mapping[str, Any]
    compute: Compute
    keeps: Literal["nothing", "model", "gpu model"] = "nothing"

    def plan(self, only: Slice) -> tuple[Update, list[StaleShard]]:
        return shards.plan(
            self.folder, schema=self.schema, shards=self.shards, fingerprints=self.fingerprints, only=only
        )

    def update(self, only: Slice, *, cores: int) -> Update:
        """Run in this process; batches run across shards. Raises what `shards.update` and `compute` raise."""
        return shards.update(
            self.folder,
            schema=self.schema,
            shards=self.shards,
            fingerprints=self.fingerprints,
            compute=lambda video_ids: self.compute_rows(video_ids, cores=cores),
            only=only,
        )

    def compute_rows(self, video_ids: Iterable[str], *, cores: int) -> Iterator[VideoRows]:
        return self.compute({video_id: self.items[video_id] for video_id in video_ids}, cores=cores)

    def only_videos(self, video_ids: Iterable[str]) -> "Work":
        """The same, restricted to these videos."""
        chosen = list(video_ids)
        return replace(
            self,
            fingerprints={video_id: self.fingerprints[video_id] for video_id in chosen},
            items={video_id: self.items[video_id] for video_id in chosen},
        )
