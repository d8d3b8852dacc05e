"""Do explanations point at what a word is about? Scored against the built-in world's boxes and event times.

For each word of a said caption that is true of the segment:

- hit: is the map's largest value inside the box of a thing that the word is about, at that time? (The pointing game,
  Zhang et al. 2016.) A cell counts as inside if its middle is. Ties are drawn by a fixed seed.
- lift: the share of the map's energy inside those boxes, over the share of the cells.
- in time: is the time of the map's largest value one at which the word is true: the thing has that colour, is at that
  place, or does what the verb says? Only of words whose time is at most half of the segment.

Controls, scored the same way: `chance`, which is the boxes' share of all cells (of `in time`, the share of times);
`centre`, the picture's middle at a random time; `shuffled`, the map of another word of the same caption, of another
class; and `random weights`, a captioner that has learned nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.dataset.segments import Segment
from pipeline.dataset.shapes.grammar import COLOURS, PLACES, SHAPES, WHITE
from pipeline.scoring.paired import interval, videos_of
from studies.attend.nets import Letterbox

EVERY = "all words about things"
RANDOM = ", random weights"  # behind the name of a method: its maps of a captioner that has learned nothing
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
DRAWS = 2000  # of the bootstrap
MOST = 0.5  # of a segment that a word may be true of, where its time is asked for


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
class Pointed:
    """One word's scores; those of a control have the control's name as method."""

    video_id: str
    method: str
    word: str
    kind: str
    hit: float
    lift: float
    in_time: float  # nan where the word has no time


def score(
    maps: Mapping[str, NDArray[np.float32]], words: Sequence[str], truth: Truth, draw: np.random.Generator
) -> list[Pointed]:
    """Every word's scores by every method, and by the controls that need no other model.

    maps: [words (and more), T, h, w] by method.
    """
    found = []
    kinds = [class_of(word) for word in words]
    for place, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        if kind is None or (truths := about(word, truth)) is None:
            continue
        cells, when = truths
        if when is not None and when.mean() > MOST:
            when = None
        share = float(cells.mean())
        in_time_chance = float(when.mean()) if when is not None else np.nan

        def add(name: str, hit: float, lift: float, in_time: float, word: str = word, kind: str = kind) -> None:
            found.append(Pointed(truth.segment.video_id, name, word, kind, hit, lift, in_time))

        add("chance", share, 1.0, in_time_chance)
        _, h, w = cells.shape
        add("centre", float(cells[:, h // 2, w // 2].mean()), np.nan, in_time_chance)
        others = [i for i, other in enumerate(kinds) if other not in (None, kind)]
        for method, own in maps.items():
            add(method, *_pointed(own[place], cells, when, share, draw))
            if others and not method.endswith(RANDOM):
                add(f"{method}, shuffled", *_pointed(own[int(draw.choice(others))], cells, when, share, draw))
    return found


def _pointed(
    map: NDArray[np.float32], cells: NDArray[np.bool_], when: NDArray[np.bool_] | None, share: float, draw: Any
) -> tuple[float, float, float]:
    """(hit, lift, in time). A map of zeros points anywhere."""
    best = np.flatnonzero(map.ravel() == map.max())
    chosen = int(draw.choice(best))
    energy = float(map.sum())
    lift = float(map[cells].sum()) / energy / share if energy > 0 else 1.0
    time = np.unravel_index(chosen, map.shape)[0]
    return float(cells.ravel()[chosen]), lift, float(when[time]) if when is not None else np.nan


def summary(rows: Sequence[Pointed]) -> pd.DataFrame:
    """Means by method and class of word, with 95 % intervals over videos: method, kind, words, hit, hit_low, ..."""
    table = pd.DataFrame([vars(one) for one in rows])
    every = pd.concat([table.assign(kind=EVERY)[table["kind"].isin(CLASSES[:4])], table])
    found = []
    for (method, kind), own in every.groupby(["method", "kind"], sort=False):
        row: dict[str, Any] = {"method": method, "kind": kind, "words": len(own)}
        for name in ("hit", "lift", "in_time"):
            there = own.dropna(subset=[name])
            if len(there) == 0:
                row |= {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
                continue
            low, high = interval(there[name].to_numpy(float), videos_of(there), np.random.default_rng(0), DRAWS)
            row |= {name: float(there[name].mean()), f"{name}_low": low, f"{name}_high": high}
        found.append(row)
    return pd.DataFrame(found)
