"""Where a stage's shards are made: in this process, or as tasks of a Ray cluster. The bytes are the same."""

from typing import Literal

from pipeline.features.shards import Slice, Update
from pipeline.features.work import Work
from pipeline.process.cores import cores as cores_here


def update(work: Work, only: Slice, *, kind: Literal["local", "ray"], address: str | None, cores: int) -> Update:
    """Make the stale shards of the slice: here, or each as a task of its own wherever a cluster has `cores` free.

    kind, address, cores: the section engine of params.yaml; a local run uses all cores. Raises DiskFull, and ValueError
    if `compute` refuses or (ray) naming the videos that cannot be computed.
    """
    if kind == "local":
        return work.update(only, cores=cores_here())
    from pipeline.features import engine_ray

    return engine_ray.update(work, only, address=address, cores=cores)
