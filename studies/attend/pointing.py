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

from pipeline.scoring.paired import interval, videos_of
from studies.attend.truth import CLASSES, Truth, about, class_of

EVERY = "all words about things"
RANDOM = ", random weights"  # behind the name of a method: its maps of a captioner that has learned nothing
DRAWS = 2000  # of the bootstrap
MOST = 0.5  # of a segment that a word may be true of, where its time is asked for


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
