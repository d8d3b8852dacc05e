"""Variants of one model, each trained with several seeds and scored on the same segments.

Averages of per-segment scores throughout, as in compare.py and never the corpus's pooled BLEU or METEOR: a
difference in the table is then the difference that its interval is about. CIDEr's rare words are counted over all
segments scored, so CIDEr of a group is comparable with CIDEr of all.

Two kinds of chance, kept apart. `mean` and `sd` are over seeds: what another training run would give. An interval is
over segments: every segment's score is first averaged over the variant's seeds, then segments are drawn with
replacement, the same ones for all variants (the paired bootstrap): what other segments would give for these runs.

V variants   M metrics   n segments   R draws   G points of a curve
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.compare import DRAWS, by_segment, groups_of, resampled

METRICS = ("CIDEr", "METEOR", "ROUGE-L", "facts")
Runs = Mapping[str, Sequence[pd.DataFrame]]  # by variant, a table of per-segment scores for each seed


@dataclass(frozen=True)
class Difference:
    """Of a variant's score and another's, over the same segments."""

    mean: float
    low: float  # 95 %
    high: float


@dataclass(frozen=True)
class Result:
    """A variant's score in a group of segments, an average times 100."""

    variant: str
    group: str
    metric: str
    segments: int
    mean: float  # over seeds
    sd: float | None  # over seeds, of the sample (n - 1); None for a single seed
    over: Mapping[str, Difference]  # by the variant that this one is compared with; without itself


@dataclass(frozen=True)
class Curve:
    """A score against the length of a segment."""

    lengths_s: NDArray[np.float64]  # [G]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]  # 95 %, at each length by itself
    high: NDArray[np.float64]


def best(runs: Runs, names: Iterable[str], metric: str = "CIDEr") -> str:
    """Which of the variants `names` has the highest mean over seeds; of equals the first."""
    return max(names, key=lambda name: float(np.mean([run[metric].mean() for run in runs[name]])))


def summarize(runs: Runs, references: Iterable[str], *, draws: int = DRAWS, seed: int = 0) -> list[Result]:
    """Every metric that the scores have, for every group and variant, and its difference to each of `references`.

    Raises ValueError if the runs are not of the same segments with the same references.
    """
    tables = {variant: _aligned(runs, variant) for variant in runs}
    first = next(iter(tables.values()))[0]
    metrics = [metric for metric in METRICS if metric in first and not first[metric].isna().any()]
    rng = np.random.default_rng(seed)
    results = []
    for group, rows in groups_of(first):
        scores = {variant: _scores([run[rows] for run in of_one], metrics) for variant, of_one in tables.items()}
        # Averages over seeds come first: the mean of these averages is also the mean of the runs' means.
        averages = np.stack([of_one.mean(axis=0) for of_one in scores.values()], axis=1)  # [n, V, M]
        resamples = np.tensordot(resampled(len(averages), rng, draws), averages, axes=1)  # [R, V, M]
        at = {variant: i for i, variant in enumerate(scores)}
        for m, metric in enumerate(metrics):
            for variant, of_one in scores.items():
                means = of_one[:, :, m].mean(axis=1)  # one a seed
                over = {}
                for reference in references:
                    if reference == variant:
                        continue
                    here, there = at[variant], at[reference]
                    low, high = np.percentile(resamples[:, here, m] - resamples[:, there, m], [2.5, 97.5])
                    difference = averages[:, here, m].mean() - averages[:, there, m].mean()
                    over[reference] = Difference(float(difference), float(low), float(high))
                sd = float(means.std(ddof=1)) if len(means) > 1 else None
                results.append(Result(variant, group, metric, len(averages), float(means.mean()), sd, over))
    return results


def curve_by_length(
    runs: Sequence[pd.DataFrame], metric: str = "CIDEr", *, points: int = 100, draws: int = 2000, seed: int = 0
) -> Curve:
    """A variant's score against segment length, averaged over its seeds and smoothed.

    At each length the average of all segments, weighted by a Gaussian of how much longer or shorter they are. Its width
    is a tenth of the lengths shown; the shortest and the longest twentieth of the segments are not: a curve's ends
    would hang on a few.
    """
    tables = _aligned({"": runs}, "")
    lengths = (tables[0]["end_s"] - tables[0]["start_s"]).to_numpy(np.float64)  # [n]
    scores = _scores(tables, [metric]).mean(axis=0)[:, 0]  # [n]
    shortest, longest = np.percentile(lengths, [5, 95])
    at = np.linspace(shortest, longest, points)
    width = max((longest - shortest) / 10, 1e-6)  # segments may all be of one length
    near = np.exp(-0.5 * ((lengths[:, None] - at) / width) ** 2)  # [n, G]
    mean = scores @ near / near.sum(axis=0)
    weights = resampled(len(scores), np.random.default_rng(seed), draws)  # [R, n]
    resamples = weights @ (near * scores[:, None]) / (weights @ near)  # [R, G]
    low, high = np.percentile(resamples, [2.5, 97.5], axis=0)
    return Curve(at, mean, low, high)


def _aligned(runs: Runs, variant: str) -> list[pd.DataFrame]:
    """The variant's tables, by segment_id, all in the order of the first variant's first. ValueError if they differ."""
    name, of_first = next(iter(runs.items()))
    tables = []
    for i, run in enumerate(runs[variant]):
        try:
            tables.append(by_segment(of_first[0], run)[1])
        except ValueError as error:
            raise ValueError(f"run 1 of {name} and run {i + 1} of {variant}: {error}") from None
    return tables


def _scores(tables: Sequence[pd.DataFrame], metrics: Sequence[str]) -> NDArray[np.float64]:
    """[seeds, n, M], times 100."""
    scale = [100.0 if metric == "facts" else 1.0 for metric in metrics]  # a truth value of each segment
    return np.stack([table[list(metrics)].to_numpy(np.float64) for table in tables]) * scale
