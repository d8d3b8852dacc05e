"""One table of all captioners: what each scores, and what a caption of it costs.

A cost that nobody recorded is None, and an empty cell: never an estimate.

n segments   C videos
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.scoring.paired import DRAWS, interval, videos_of
from pipeline.scoring.registry import SCORES

SHOWN = ("CIDEr", "METEOR", "facts")
BY_KIND = "facts"
# Keys of a file of costs, each of one caption but for `parameters`; None where nothing is known.
COSTS = ("parameters", "cpu_s", "seconds", "remembered_bytes", "tokens_in", "tokens_out", "cost")


@dataclass(frozen=True)
class Figure:
    """An average over segments, times 100; the interval is of 95 %, over videos (None for a single one)."""

    mean: float
    low: float | None
    high: float | None
    segments: int


@dataclass(frozen=True)
class Line:
    """A captioner. costs: of one caption, averaged over trainings, by `COSTS`; currency: of `cost`."""

    name: str
    trainings: int
    segments: int
    minutes: float | None  # of video, of all of these segments; None: the table has no times
    figures: Mapping[str, Figure]  # "CIDEr", "facts", "facts.now", ...
    costs: Mapping[str, float | None]
    currency: str | None

    @property
    def per_minute_s(self) -> float | None:
        """Seconds of computing per minute of captioned video: CPU seconds here, or a server's by the clock."""
        seconds = self.costs["cpu_s"] if self.costs["cpu_s"] is not None else self.costs["seconds"]
        return None if seconds is None or not self.minutes else seconds * self.segments / self.minutes


def line(name: str, runs: Sequence[pd.DataFrame], costs: Sequence[Mapping[str, Any]], *, draws: int = DRAWS) -> Line:
    """Of a captioner's trainings.

    Args:
        runs: each training's scores by segment.
        costs: each training's, or none.

    Raises ValueError if trainings have different segments.
    """
    tables = [run.sort_values("segment_id").reset_index(drop=True) for run in runs]
    first = tables[0]
    if any(list(table["segment_id"]) != list(first["segment_id"]) for table in tables[1:]):
        raise ValueError(f"{name}: its trainings have scores of different segments")
    figures = {}
    for score in SHOWN:
        values = np.mean([SCORES[score].values(table) for table in tables], axis=0)
        groups = {score: np.ones(len(first), dtype=bool)}
        if score == BY_KIND and "kind" in first:
            groups |= {f"{score}.{kind}": (first["kind"] == kind).to_numpy() for kind in kinds(first)}
        for group, rows in groups.items():
            if rows.any() and np.isfinite(values[rows]).all():
                figures[group] = _figure(values[rows], first[rows], draws)
    has_times = {"start_s", "end_s"} <= set(first)
    return Line(
        name,
        len(runs),
        len(first),
        float((first["end_s"] - first["start_s"]).sum() / 60) if has_times else None,
        figures,
        {key: _mean([one.get(key) for one in costs]) for key in COSTS},
        next((one["currency"] for one in costs if one.get("currency")), None),
    )


def _figure(values: NDArray[np.float64], rows: pd.DataFrame, draws: int) -> Figure:
    low, high = interval(values, videos_of(rows), np.random.default_rng(0), draws)
    return Figure(float(values.mean()), low, high, len(values))


def _mean(values: Sequence[Any]) -> float | None:
    """None where one is not known."""
    if not values or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    return float(np.mean(values))


def kinds(table: pd.DataFrame) -> list[str]:
    return sorted(table["kind"].dropna().unique())


def read_costs(path: Path) -> dict[str, Any]:
    """Of one training. Raises ValueError if the file is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a file of costs ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a file of costs: expected an object with some of {', '.join(COSTS)}")
    return found


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """captioners: every figure; table: the same to read, heads first; note: what a reader has to know."""
    captioners = [{**asdict(one), "seconds_per_minute": one.per_minute_s} for one in lines]
    return {"captioners": captioners, "table": cells(lines), "note": NOTE}


def cells(lines: Sequence[Line]) -> list[list[str]]:
    """The table's heads and rows, as text. What is not known is empty."""
    by_kind = sorted({name for one in lines for name in one.figures if name.startswith(f"{BY_KIND}.")})
    scores = [*SHOWN, *by_kind]
    head = ["captioner", "trainings", "segments", *(name.replace(".", " ") for name in scores)]
    head += ["s per minute", "parameters", "bytes remembered", "tokens", "cost of 1000"]
    rows = []
    for one in lines:
        tokens = [one.costs["tokens_in"], one.costs["tokens_out"]]
        cost = one.costs["cost"]
        rows.append(
            [
                one.name,
                str(one.trainings),
                str(one.segments),
                *(_shown(one.figures.get(name)) for name in scores),
                "" if one.per_minute_s is None else f"{one.per_minute_s:.3g}",
                _counted(one.costs["parameters"]),
                _counted(one.costs["remembered_bytes"]),
                "" if None in tokens else " + ".join(f"{count:.0f}" for count in tokens if count is not None),
                "" if cost is None else f"{1000 * cost:.4g} {one.currency or ''}".strip(),
            ]
        )
    return [head, *rows]


NOTE = (
    "Averages of the segments' own scores, times 100, of all trainings, and 95 % intervals over videos. facts: "
    "captions that state the right facts. Seconds are of CPU on the machine that captioned, of a server's replies by "
    "the clock, and per minute of captioned video, from stored features on (frame captions and a vision-language "
    "model: from frames). Bytes: held when a segment ends. Tokens: read + written for a caption. An empty cell: not "
    "recorded. Fewer segments: the others have no usable caption, and count nowhere."
)


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    between = "" if figure.low is None else f" ({figure.low:.1f} to {figure.high:.1f})"
    return f"{figure.mean:.1f}{between}"


def _counted(value: float | None) -> str:
    """1234567 as 1.23 M."""
    if value is None:
        return ""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"
