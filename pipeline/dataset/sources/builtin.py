"""The built-in dataset, rendered where a user's own folder would be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.dataset.annotations import SPLITS
from pipeline.dataset.shapes import dataset as shapes
from pipeline.process.cores import cores

MEDIA = "media"
_FILES: dict[str, dict[str, str]] = {
    "coco": {str(split): f"captions_{split}.json" for split in SPLITS},
    "activitynet": {"train": "train.json", "val": "val_1.json", "test": "val_2.json"},
}


def render(
    folder: Path,
    file_format: str,
    *,
    seed: int,
    counts: Mapping[str, int],
    size_px: int,
    fps: float,
    captions_per_picture: int,
    captions_per_segment: Mapping[str, int],
) -> dict[str, list[Path]]:
    """Pictures (coco) or videos (activitynet) in `folder`/media, annotations and ground truth in `folder`/annotations.

    Returns the annotation files of every split that has any.
    """
    media, annotations = folder / MEDIA, folder / "annotations"
    for each in (media, annotations):
        each.mkdir(parents=True)
    common: dict[str, Any] = {"seed": seed, "counts": dict(counts), "size_px": size_px, "workers": cores()}
    if file_format == "coco":
        shapes.write_pictures(media, annotations, captions_per_picture=captions_per_picture, **common)
    else:
        shapes.write_videos(media, annotations, fps=fps, captions_per_segment=dict(captions_per_segment), **common)
    return {split: [annotations / name] for split, name in _FILES[file_format].items() if counts.get(split)}
