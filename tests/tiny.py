"""The pipeline at a size of a minute or two: `python tests/tiny.py PARAMS` makes a params file say so."""

import sys
from pathlib import Path

from ruamel.yaml import YAML

TINY = {
    "download.pictures.limit": {"train": 40, "val": 8, "test": 0},
    "download.videos.limit": {"train": 6, "val": 2, "test": 2},
    "frames.fps": 2,
    "frames.shards": 2,
    "backbones.builtin.encoder_steps": 4,
    "backbones.builtin.encoder_batch": 16,
    "backbones.builtin.decoder_steps": 4,
    "pretrain.epochs": 1,
    "finetune.epochs": 1,
    "caption.max_tokens": 8,
}


def write_params(path: Path, original: Path, values: dict[str, object]) -> None:
    """Write the params file `original` with some values changed ({"frames.fps": 2, ...}); `...` takes a key out."""
    yaml = YAML()
    params = yaml.load(original.read_text())
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = params
        for section in sections:
            inner = inner[section]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    with path.open("w") as file:
        yaml.dump(params, file)


if __name__ == "__main__":
    write_params(Path(sys.argv[1]), Path(sys.argv[1]), TINY)
