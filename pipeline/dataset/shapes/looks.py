"""What is ever seen in the built-in videos, by the ground truth that the dataset writes beside them (scenes.json).

A look is a colour and a shape. A thing that turns or flashes has several.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.shapes.grammar import COLOURS, SHAPES, WHITE
from pipeline.files import strict_json

Look = tuple[str, str]
Truth = Mapping[str, Any]  # of a video, as scenes.json has it
NAMED = re.compile(rf"the ({'|'.join((*COLOURS, WHITE))}) ({'|'.join(SHAPES)})\b")


def read_scenes(path: Path) -> dict[str, Truth]:
    """By video. ValueError if there is none: what is seen in other videos, nobody has written down."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; only the built-in videos (download.videos.source: shapes) have it")
    found: dict[str, Truth] = strict_json.load(path)
    return found


def looks_of(thing: Truth, until_s: float = math.inf) -> set[Look]:
    """Those that one of a video's objects has before `until_s`."""
    return {
        (colour, thing["shape"])
        for shown in thing["shown"]
        for from_s, colour in shown["colours"]
        if max(from_s, shown["from_s"]) < until_s
    }


def looks_in(truth: Truth) -> set[Look]:
    """All in a video, however briefly."""
    return {look for thing in truth["objects"] for look in looks_of(thing)}


def asked_about(question: str, truth: Truth, until_s: float = math.inf) -> set[Look]:
    """All looks before `until_s` of the thing that a question names; none if it names none."""
    if not (named := NAMED.search(question)):
        return set()
    look = named[1], named[2]
    return {look}.union(*(own for thing in truth["objects"] if look in (own := looks_of(thing, until_s))))


def empty(truth: Truth, times_s: Sequence[float], margin_s: float) -> NDArray[np.bool_]:
    """Whether nothing is seen at these times, nor within `margin_s` of them."""
    shown = [(one["from_s"] - margin_s, one["to_s"] + margin_s) for of in truth["objects"] for one in of["shown"]]
    return np.array([not any(from_s <= time_s <= to_s for from_s, to_s in shown) for time_s in times_s], dtype=bool)


def stage_set_s(truth: Truth, segment: Truth) -> float:
    """When what a segment begins with begins to appear, just before it; or else its start: then nothing is seen."""
    shown = [one for thing in truth["objects"] for one in thing["shown"]]
    return min(
        [segment["start_s"], *(one["from_s"] for one in shown if one["from_s"] < segment["start_s"] < one["to_s"])]
    )
