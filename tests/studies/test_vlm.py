"""The study of a vision-language model: what is asked, what is kept, and a server that lies."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from ruamel.yaml import YAML

from pipeline.dataset.segments import Segment, to_table
from pipeline.features import frames, shards
from studies.vlm.settings import FILE

ROOT = Path.cwd()
VIDEOS = {"a": "train", "b": "test", "c": "test", "d": "test"}
FRAMES, FPS = 10, 5


def settings(folder: Path, changes: dict[str, Any]) -> None:
    """The study's params file with some values changed, in `folder`."""
    values = YAML(typ="safe").load((ROOT / FILE).read_text())
    for section, own in changes.items():
        values[section] = values[section] | own if isinstance(own, dict) else own
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w") as file:
        YAML().dump(values, file)


def make_inputs(folder: Path) -> None:
    """Videos of 2 s, each with two segments; every frame has a colour of its own."""
    random = np.random.default_rng(0)

    def made(ids):
        for id in ids:
            jpegs = []
            for colour in random.integers(256, size=(FRAMES, 3)):
                jpeg = BytesIO()
                Image.new("RGB", (32, 24), tuple(map(int, colour))).save(jpeg, "JPEG")
                jpegs.append(jpeg.getvalue())
            yield shards.VideoRows(id, frames.to_table(frames.Sampled(id, jpegs), fps=FPS))

    shards.update(
        folder / "data/videos/frames",
        schema=frames.SCHEMA,
        shards=1,
        fingerprints=dict.fromkeys(VIDEOS, "1"),
        compute=made,
    )
    segments = [
        Segment(f"{id}#{i}", id, split, float(i), float(i + 1), ("a red star rests",), "now")
        for id, split in VIDEOS.items()
        for i in (0, 1)
    ]
    pq.write_table(
        to_table(segments, expected={"train": 2, "val": 0, "test": 6}), folder / "data/videos/segments.parquet"
    )
    for name in ("caption.txt", "answer.txt"):
        (folder / "studies/vlm").mkdir(parents=True, exist_ok=True)
        (folder / "studies/vlm" / name).write_bytes((ROOT / "studies/vlm" / name).read_bytes())
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
