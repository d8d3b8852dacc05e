"""What a word of a caption is about: the cells of the things that it names, and the times at which it is true.

Read from the built-in world's scenes.json and boxes.parquet, which say where each thing is, when, and in which colour.
Explanations are scored by it (`pointing`), and attention can learn from it (`grounding`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.dataset.segments import Segment
from pipeline.dataset.shapes.grammar import COLOURS, PLACES, SHAPES, WHITE
from studies.attend.events import Scenes, load_scenes
from studies.attend.examples import Example, middles
from studies.attend.nets import Letterbox

ANNOTATIONS = Path("data/videos/annotations")
SCENES, BOXES = ANNOTATIONS / "scenes.json", ANNOTATIONS / "boxes.parquet"
CLASSES = ("colour", "shape", "place", "verb", "function")
VERBS = frozenset(
    [
        "rests",
        "resting",
        "sits",
        "lies",
        "stands",
        "hold",
        "rest",
        "leaves",
        "goes",
        "away",
        "moves",
        "travels",
        "grows",
        "growing",
        "gets",
        "bigger",
        "smaller",
        "shrinks",
        "shrinking",
        "spins",
        "rotates",
        "rotating",
        "turns",
        "becomes",
        "changes",
        "flashes",
        "blinks",
        "lights",
        "shines",
        "visits",
        "tours",
        "calls",
        "sees",
        "comes",
        "arrives",
        "enters",
        "meet",
        "appears",
        "appearing",
        "shows",
        "back",
        "again",
        "new",
        "newcomer",
    ]
)
NEAR_S = 0.3  # before and after, in which an event, or a colour, still counts


@dataclass(frozen=True)
class Truth:
    """What a video's ground truth says of one segment, at the times and places of its cells."""

    times_s: NDArray[np.float64]  # [T] the middles of the cells
    inside: Mapping[str, NDArray[np.bool_]]  # [T, h, w] by object_id: is the cell's middle in its box?
    scene: Mapping[str, Any]
    segment: Segment


def truth_of(
    segment: Segment,
    scene: Mapping[str, Any],
    boxes: pd.DataFrame,
    times_s: NDArray[np.float64],
    shape: tuple[int, int],
    side: int,
    visible: float,
) -> Truth:
    """boxes: of the video, as boxes.parquet has them. side: of the net's input, in which the cells lie."""
    fit = Letterbox.of(scene["width_px"], scene["height_px"], side)
    h, w = shape
    y, x = (np.arange(h) + 0.5) * side / h, (np.arange(w) + 0.5) * side / w
    inside: dict[str, NDArray[np.bool_]] = {}
    at = np.clip(np.round(times_s * scene["fps"]).astype(int), 0, scene["frames"] - 1)  # boxes are at the source's rate
    seen = boxes[(boxes["visible"] >= visible) & boxes["frame_index"].isin(at)]
    for object_id, frame, x0, y0, x1, y1 in seen[["object_id", "frame_index", "x0", "y0", "x1", "y1"]].itertuples(
        index=False
    ):
        grid = inside.setdefault(object_id, np.zeros((len(times_s), h, w), bool))
        in_x = (x >= x0 * fit.scale + fit.left) & (x <= x1 * fit.scale + fit.left)
        in_y = (y >= y0 * fit.scale + fit.top) & (y <= y1 * fit.scale + fit.top)
        grid[at == frame] |= in_y[:, None] & in_x
    return Truth(times_s, inside, scene, segment)


def class_of(word: str) -> str | None:
    """The class of a caption's word; None of a punctuation mark."""
    if word in COLOURS or word == WHITE:
        return "colour"
    if word in SHAPES:
        return "shape"
    if word in PLACES:
        return "place"
    if word in VERBS:
        return "verb"
    return "function" if word.isalpha() else None


def about(word: str, truth: Truth) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None] | None:
    """The cells that a word is about, [T, h, w], and the times at which it is true, [T]; None if it is not true at all.

    The times are None where a word is no more true at one time than at another.
    """
    kind, times = class_of(word), truth.times_s
    things = {thing["id"]: thing for thing in truth.scene["objects"] if thing["id"] in truth.inside}
    if kind == "shape":
        chosen = {id for id, thing in things.items() if thing["shape"] == word}
        return (_cells(truth, chosen), None) if chosen else None
    if kind == "colour":
        when = {id: np.array([_hue(thing, time_s) == word for time_s in times]) for id, thing in things.items()}
        coloured = np.zeros_like(_cells(truth, set()))
        for id, own in when.items():
            coloured = coloured | (truth.inside[id] & own[:, None, None])
        return (coloured, np.asarray(coloured.any((1, 2)))) if coloured.any() else None
    cells = _cells(truth, set(things))
    if not cells.any():
        return None
    if kind == "place":
        at_place = cells & _near_place(word, truth)
        return (at_place, np.asarray(at_place.any((1, 2)))) if at_place.any() else None
    if kind == "verb":
        events = [event for one in truth.scene["segments"] for event in one["events"] if _in(event, truth.segment)]
        happens = np.zeros(len(times), bool)
        for event in events:
            happens |= (times >= event["start_s"] - NEAR_S) & (times <= event["end_s"] + NEAR_S)
        return cells, happens if happens.any() else None
    return cells, None


def _cells(truth: Truth, object_ids: set[str]) -> NDArray[np.bool_]:
    found = np.zeros_like(next(iter(truth.inside.values()))) if truth.inside else np.zeros((1, 1, 1), bool)
    for id in object_ids:
        found = found | truth.inside[id]
    return found


def _hue(thing: Mapping[str, Any], time_s: float) -> str | None:
    for shown in thing["shown"]:
        if shown["from_s"] - NEAR_S <= time_s <= shown["to_s"] + NEAR_S:
            return next((name for from_s, name in reversed(shown["colours"]) if from_s <= time_s), None)
    return None


def _near_place(place: str, truth: Truth) -> NDArray[np.bool_]:
    """[T, h, w]: those cells of that third of the picture."""
    t, h, w = next(iter(truth.inside.values())).shape
    y, x = (np.arange(h)[:, None] + 0.5) / h, (np.arange(w) + 0.5) / w
    found = {
        "left": (x < 0.42) & (y > -1),
        "right": (x > 0.58) & (y > -1),
        "top": (y < 0.42) & (x > -1),
        "bottom": (y > 0.58) & (x > -1),
        "centre": (abs(x - 0.5) < 0.2) & (abs(y - 0.5) < 0.2),
    }[place]
    return np.broadcast_to(found, (t, h, w))


def _in(event: Mapping[str, Any], segment: Segment) -> bool:
    return bool(event["start_s"] >= segment.start_s - 1 and event["end_s"] <= segment.end_s + 1)


@dataclass(frozen=True)
class World:
    """The ground truth of all videos."""

    scenes: Scenes
    boxes: Mapping[str, pd.DataFrame]  # by video_id, as boxes.parquet has them

    def of(self, example: Example, shape: tuple[int, int], side: int, visible: float) -> Truth | None:
        """The segment's, as `truth_of` gives it; None where nothing is known of it, or no thing is to be seen in it."""
        video_id = example.segment.video_id
        if video_id not in self.scenes or video_id not in self.boxes:
            return None
        scene, boxes = self.scenes[video_id], self.boxes[video_id]
        truth = truth_of(example.segment, scene, boxes, middles(example), shape, side, visible)
        return truth if truth.inside else None


def read_world() -> World | None:
    """None of a dataset that does not say where things are: only the built-in one does."""
    if not (BOXES.is_file() and SCENES.is_file()):
        return None
    return World(load_scenes(SCENES), {str(id): own for id, own in pd.read_parquet(BOXES).groupby("video_id")})
