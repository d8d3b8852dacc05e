"""Find moments in all videos that were embedded: by a text, by a picture, or one text after the other.

    python -m pipeline.find "a ring flashes red"
    python -m pipeline.find --picture holiday.jpg --count 3
    python -m pipeline.find                             # reads a text a line, until the input ends

Prints each moment's similarity (cosine of the encoder's embeddings), video and time, the most similar first, and at
most one moment of a video in --apart seconds. A frame knows nothing of what was before it: "a star turns blue" finds
blue stars. Run it where `dvc repro embed` ran; every frame is compared, or with more than a million the likeliest.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.features.search import Moment, clock, embed_picture, open_search
from pipeline.params import Params, load_params
from pipeline.process.command import guarded, parser
from pipeline.process.terminal import printable

ENCODER = Path("models/encoder")
DATA = Path("data")
MAX_MOMENTS = 1000  # moments


def main() -> None:
    options = _options()
    with guarded("find", kept=None):
        folder = DATA / options.dataset / "embeddings"
        params = load_params()
        search = open_search(folder, ENCODER, params)
        for name, query in _queries(options, params):
            print(listed(name, search.moments(query, options.count, options.apart)), flush=True)


def _options() -> argparse.Namespace:
    options = parser("pipeline.find", __doc__)
    asked = options.add_mutually_exclusive_group()
    asked.add_argument("text", nargs="?", help="what is to be seen")
    asked.add_argument("--picture", type=Path, metavar="FILE", help="a picture file, instead of a text")
    options.add_argument("--count", type=_count, default=10, help=f"moments, up to {MAX_MOMENTS} (10)")
    options.add_argument(
        "--apart", type=_seconds, default=5.0, metavar="SECONDS", help="between moments of a video (5)"
    )
    options.add_argument("--dataset", choices=["videos", "pictures"], default="videos", help="what is searched")
    return options.parse_args()


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= MAX_MOMENTS):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 1 to {MAX_MOMENTS}")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds, 0 or more")
    return value


def _queries(options: argparse.Namespace, params: Params) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(what it is called, embedding [E] of length 1)."""
    if options.picture:
        yield printable(str(options.picture)), of_picture(options.picture, params)
        return
    from pipeline.features.text_tower import TextTower

    if options.text is not None and not options.text.strip():
        raise ValueError("found an empty text, expected some words")
    tower = TextTower(ENCODER, params.device)
    for text in [options.text] if options.text is not None else sys.stdin:
        if text.strip():
            yield printable(text.strip()), tower.embed([text.strip()])[0]


def of_picture(path: Path, params: Params) -> NDArray[np.float32]:
    """The embedding [E] of a picture file, of length 1. ValueError if it is none."""
    from pipeline.device import choose_device, choose_dtype
    from pipeline.features.encoder import load_encoder

    device = choose_device(params.device)
    encoder = load_encoder(ENCODER, device=device, dtype=choose_dtype(params.embed.precision, device))
    try:
        return embed_picture(encoder, path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def listed(name: str, moments: list[Moment]) -> str:
    lines = [
        f"{moment.similarity:>8.3f}  {clock(moment.time_s):>9}  {printable(moment.video_id)}" for moment in moments
    ]
    return "\n".join([name, f"{'cosine':>8}  {'time':>9}  video", *lines])


if __name__ == "__main__":
    main()
