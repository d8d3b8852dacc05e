"""Where a stage's shards are made: in this process, or as tasks of a Ray cluster. The bytes are the same."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from pipeline import shards
from pipeline.cores import cores as cores_here
from pipeline.shards import Made, Slice, Stale, Update


class Compute(Protocol):
    """Gives one Made for each of `items` (what it must know of a video, by id), in order, on so many cores.

    The call itself may refuse the items by ValueError, before anything is computed. What comes of a video is a function
    of its item alone. Travels to other machines by pickle.
    """

    def __call__(self, items: Mapping[str, Any], *, cores: int) -> Iterator[Made]: ...


@dataclass(frozen=True)
class Work:
    """All that it takes to bring a folder of shards up to date, or some of its shards, here or on another machine.

    items: what `compute` is given, for every video of `fingerprints`.
    keeps: what `compute` loads once and keeps for the next shard: nothing, a model, a model that a GPU makes faster.
    """

    title: str
    folder: Path
    schema: pa.Schema
    shards: int
    fingerprints: Mapping[str, str]
    items: Mapping[str, Any]
    compute: Compute
    keeps: Literal["nothing", "model", "gpu model"] = "nothing"

    def plan(self, only: Slice) -> tuple[Update, list[Stale]]:
        return shards.plan(
            self.folder, schema=self.schema, shards=self.shards, fingerprints=self.fingerprints, only=only
        )

    def update(self, only: Slice, *, cores: int) -> Update:
        """In this process; batches run across shards. Raises what `shards.update` and `compute` raise."""
        return shards.update(
            self.folder,
            schema=self.schema,
            shards=self.shards,
            fingerprints=self.fingerprints,
            compute=lambda video_ids: self.made(video_ids, cores=cores),
            only=only,
        )

    def made(self, video_ids: Iterable[str], *, cores: int) -> Iterator[Made]:
        return self.compute({video_id: self.items[video_id] for video_id in video_ids}, cores=cores)

    def about(self, video_ids: Iterable[str]) -> "Work":
        """The same, as much of it as concerns these videos."""
        chosen = list(video_ids)
        return replace(
            self,
            fingerprints={video_id: self.fingerprints[video_id] for video_id in chosen},
            items={video_id: self.items[video_id] for video_id in chosen},
        )


def update(work: Work, only: Slice, *, kind: Literal["local", "ray"], address: str | None, cores: int) -> Update:
    """Makes the stale shards of the slice: here, or each as a task of its own wherever a cluster has `cores` free.

    kind, address, cores are params.yaml's `engine`; a local run uses all cores there are. Raises DiskFull, and
    ValueError where `compute` refuses or (ray) naming the videos that cannot be computed.
    """
    if kind == "local":
        return work.update(only, cores=cores_here())
    from pipeline import engine_ray

    return engine_ray.update(work, only, address=address, cores=cores)
