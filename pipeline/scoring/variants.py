"""Variants of one model, each trained with several seeds and scored on the same segments.

All figures are averages of per-segment scores, as in paired.py, never the corpus's pooled BLEU or METEOR: so an
interval belongs to exactly the difference in the table. CIDEr's word rarity is counted over all segments scored, so
CIDEr of a group is comparable with CIDEr of all.

Two sources of chance are kept apart. `mean` and `sd` are over seeds: what another training run would give. An interval
is over videos: every segment's score is first averaged over the variant's seeds, then videos are drawn with
replacement, the same ones for all variants (the paired bootstrap): what other videos would give for these runs. Two
variants are compared over the seeds that both have.

n segments   C videos   R draws   G points of a curve
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.scoring.paired import DRAWS, chances, groups_of, holm, resampled, sums, videos_of
from pipeline.scoring.registry import MAIN, SCORES
from pipeline.scoring.segment_scores import by_segment

# By variant, a table of per-segment scores for each seed. All begin with the same seeds; some may have fewer.
Runs = Mapping[str, Sequence[pd.DataFrame]]


@dataclass(frozen=True)
class Difference:
    """The difference of a variant's score to another's, over the same segments."""

    mean: float
    # None for a single video, which does not show how videos differ.
    low: float | None  # 95 %
    high: float | None
    p: float | None  # p of a difference at least this large if there is none: by approximate randomisation
    p_holm: float | None  # p, corrected for all variants and groups compared with the same one


@dataclass(frozen=True)
class Result:
    """A variant's score in a group of segments, an average times 100."""

    variant: str
    group: str
    metric: str
    segments: int
    mean: float  # over seeds
    sd: float | None  # over seeds, of the sample (n - 1); None for a single seed
    over: Mapping[str, Difference]  # by the variant that this one is compared with, without itself


@dataclass(frozen=True)
class Curve:
    """A score against the length of a segment."""

    lengths_s: NDArray[np.float64]  # [G]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]  # 95 %, at each length by itself
    high: NDArray[np.float64]


def best(runs: Runs, names: Iterable[str], metric: str = MAIN) -> str:
    """The variant of `names` with the best mean over seeds; the first among equals."""
    sign = 1 if SCORES[metric].higher_is_better else -1
    return max(names, key=lambda name: sign * float(np.mean([SCORES[metric].values(run).mean() for run in runs[name]])))


def summarize(runs: Runs, references: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> list[Result]:
    """Every score that all runs have, for every group and variant, and its difference to each of `references`.

    Raises ValueError if the runs do not have the same segments with the same references.
    """
    tables = {variant: _aligned(runs, variant) for variant in runs}
    first = next(iter(tables.values()))[0]
    every = [run for of_one in tables.values() for run in of_one]
    metrics = [name for name, score in SCORES.items() if all(np.isfinite(score.values(run)).all() for run in every)]
    rng = np.random.default_rng(seed)
    results = []
    for group, rows in groups_of(first):
        scores = {variant: _scores([run[rows] for run in of_one], metrics) for variant, of_one in tables.items()}
        videos = videos_of(first[rows])
        for m, metric in enumerate(metrics):
            of_metric = {variant: of_one[:, :, m] for variant, of_one in scores.items()}  # [seeds, n] each
            over = _differences(of_metric, references, videos, rng, draws)
            for variant, of_one in of_metric.items():
                of_seeds = of_one.mean(axis=1)
                sd = float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None
                results.append(
                    Result(variant, group, metric, of_one.shape[1], float(of_seeds.mean()), sd, over[variant])
                )
    return _corrected(results)


def _differences(
    scores: Mapping[str, NDArray[np.float64]],
    references: Sequence[str],
    videos: NDArray[np.intp],
    rng: np.random.Generator,
    draws: int,
) -> dict[str, dict[str, Difference]]:
    """Differences of each variant's scores [seeds, n] to each reference's, by variant and reference."""
    pairs = [(variant, reference) for variant in scores for reference in references if variant != reference]
    gains = []
    for variant, reference in pairs:
        both = min(len(scores[variant]), len(scores[reference]))
        # Average over seeds first: the mean of these averages is also the mean of the runs' means.
        gains.append(scores[variant][:both].mean(axis=0) - scores[reference][:both].mean(axis=0))
    found: dict[str, dict[str, Difference]] = {variant: {} for variant in scores}
    if not pairs:
        return found
    for (variant, reference), gain, chance in zip(pairs, gains, chances(gains, videos, rng, draws), strict=True):
        found[variant][reference] = Difference(float(gain.mean()), chance.low, chance.high, chance.p, p_holm=None)
    return found


def _corrected(results: Sequence[Result]) -> list[Result]:
    """The results with `p_holm`, per score and reference, over all variants and groups."""
    families: dict[tuple[str, str], list[int]] = {}
    for i, result in enumerate(results):
        for reference in result.over:
            families.setdefault((result.metric, reference), []).append(i)
    over = [dict(result.over) for result in results]
    for (_, reference), members in families.items():
        for i, p in zip(members, holm([over[i][reference].p for i in members]), strict=True):
            over[i][reference] = replace(over[i][reference], p_holm=p)
    return [replace(result, over=of_one) for result, of_one in zip(results, over, strict=True)]


def curve_by_length(
    runs: Sequence[pd.DataFrame], metric: str = MAIN, *, points: int = 100, draws: int = 2000, seed: int = 0
) -> Curve:
    """A variant's score against segment length, averaged over its seeds and smoothed.

    At each length, the average of all segments weighted by a Gaussian of their difference in length. Its width is a
    tenth of the range shown. The shortest and the longest twentieth of the segments are outside of it, because the
    ends of the curve would depend on a few.
    """
    tables = _aligned({"": runs}, "")
    lengths = (tables[0]["end_s"] - tables[0]["start_s"]).to_numpy(np.float64)  # [n]
    scores = _scores(tables, [metric]).mean(axis=0)[:, 0]  # [n]
    shortest, longest = np.percentile(lengths, [5, 95])
    at = np.linspace(shortest, longest, points)
    width = max((longest - shortest) / 10, 1e-6)  # all segments may have the same length
    near = np.exp(-0.5 * ((lengths[:, None] - at) / width) ** 2)  # [n, G]
    mean = scores @ near / near.sum(axis=0)
    videos = videos_of(tables[0])
    weights = resampled(np.bincount(videos), np.random.default_rng(seed), draws)
    above, below = (  # [C, G]
        np.stack([sums(column, videos) for column in of_one.T], axis=1) for of_one in (near * scores[:, None], near)
    )
    resamples = np.concatenate([block @ above / (block @ below) for block in weights])  # [R, G]
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
    return np.stack([np.stack([SCORES[name].values(table) for name in metrics], axis=1) for table in tables])
