"""The pictures of the main pipeline with their captions."""

from functools import cache

from pipeline.backbones import training_data
from pipeline.backbones.small_clip import Picture
from studies.gap.settings import PICTURES, SEGMENTS


@cache
def read_pictures(split: str) -> list[Picture]:
    """Those of a split that could be read. ValueError if there are none."""
    if found := training_data.read_pictures(SEGMENTS["pictures"], PICTURES, split):
        return found
    raise ValueError(f"{SEGMENTS['pictures']} has no pictures of split {split!r}; make them with: dvc repro")
