"""The pictures of the main pipeline with their captions."""

from functools import cache

import pyarrow.parquet as pq

from pipeline.backbones.small_clip import Picture
from pipeline.features import shards
from studies.gap.settings import PICTURES, SEGMENTS


@cache
def read_pictures(split: str) -> list[Picture]:
    """Those of a split that could be read. ValueError if there are none."""
    table = pq.read_table(SEGMENTS["pictures"], filters=[("split", "=", split)])
    captions = dict(zip(table["video_id"].to_pylist(), table["captions"].to_pylist(), strict=True))
    there = [id for id, entry in shards.index(PICTURES).items() if entry.rows and id in captions]
    found = [
        Picture(rows["jpeg"][0].as_py(), tuple(captions[id])) for id, rows in shards.iterate(PICTURES, there, ["jpeg"])
    ]
    if not found:
        raise ValueError(f"{SEGMENTS['pictures']} has no pictures of split {split!r}; make them with: dvc repro")
    return found
