"""Paired statistics of two runs: would other videos have given the same result?

Segments of one video are not independent: they show the same scene, and a memory carries information from one to the
next. So whole videos are drawn and exchanged, never single segments. Without video ids, each segment is its own video.

n segments   C videos   R draws
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.scoring.registry import SCORES
from pipeline.scoring.segment_scores import by_segment

DRAWS = 10_000
BLOCK = 2**20  # size of a block of draws: all draws of 17,505 videos at once take 3.6 GB
LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class Comparison:
    """Scores are averages over the group's segments, times 100."""

    group: str
    metric: str
    segments: int
    videos: int | None  # None: no video ids, so each segment counts as one
    first: float
    second: float
    difference: float  # second - first
    # None for a single video, which does not show how videos differ.
    low: float | None  # of the difference, 95 %
    high: float | None
    p: float | None  # p of a difference at least this large if there is none: by approximate randomisation
    p_bootstrap: float | None  # the same, by the bootstrap
    p_holm: float | None  # p, corrected for all comparisons made together (`holm`)


def compare(first: pd.DataFrame, second: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> list[Comparison]:
    """Compare every score that both tables have for all segments, for every group.

    Raises ValueError if the tables are empty, or do not have the same segments with the same references: averages over
    different segments cannot be compared.
    """
    one, two = by_segment(first, second)
    described = one if "kind" in one else two
    identified = one if "video_id" in one else two
    rng = np.random.default_rng(seed)
    results = []
    for group, rows in groups_of(described):
        pairs = {}
        for score in SCORES.values():
            a, b = (score.values(table[rows]) for table in (one, two))
            if np.isfinite([a, b]).all():
                pairs[score.name] = (a, b, b - a)
        if not pairs:
            continue
        videos = videos_of(identified[rows])
        found = chances([gain for _, _, gain in pairs.values()], videos, rng, draws)
        for (metric, (a, b, gain)), chance in zip(pairs.items(), found, strict=True):
            results.append(
                Comparison(
                    group,
                    metric,
                    len(gain),
                    len(np.unique(videos)) if "video_id" in identified else None,
                    float(a.mean()),
                    float(b.mean()),
                    float(gain.mean()),
                    chance.low,
                    chance.high,
                    chance.p,
                    chance.p_bootstrap,
                    p_holm=None,
                )
            )
    corrected = holm([result.p for result in results])
    return [replace(result, p_holm=p) for result, p in zip(results, corrected, strict=True)]


@dataclass(frozen=True)
class Chance:
    """The uncertainty from the choice of videos. All None for a single video."""

    low: float | None  # of the mean, 95 %
    high: float | None
    p: float | None  # by approximate randomisation
    p_bootstrap: float | None


def chances(
    gains: Sequence[NDArray[np.float64]], videos: NDArray[np.intp], rng: np.random.Generator, draws: int
) -> list[Chance]:
    """Chances of the mean of each row of paired differences [n], with the same draws for all.

    videos: the video of each segment, as numbered by `videos_of` [n].
    """
    counts, columns = np.bincount(videos), [sums(gain, videos) for gain in gains]
    resamples, exchanges = means(columns, resampled(counts, rng, draws)), means(columns, exchanged(counts, rng, draws))
    if len(counts) == 1:
        return [Chance(None, None, None, None)] * len(gains)
    found = []
    for gain, of_resamples, of_exchanges in zip(gains, resamples.T, exchanges.T, strict=True):
        low, high, p_bootstrap = bootstrap(of_resamples, gain.mean())
        found.append(Chance(low, high, randomisation_p(of_exchanges, gain.mean()), p_bootstrap))
    return found


def bootstrap(resamples: NDArray[np.float64], mean: float) -> tuple[float, float, float]:
    """95 % interval (low, high) of the mean of paired differences, and the two-sided p of a mean of 0.

    Args:
        resamples: their means in resamples (`resampled`) [R].
        mean: the observed one.

    p is the share of resamples whose mean is at least as far from the observed mean as that is from 0 (Efron and
    Tibshirani 1993: the resamples' distribution, shifted to the null hypothesis).
    """
    low, high = np.percentile(resamples, [2.5, 97.5])
    return float(low), float(high), _share(resamples - mean, mean)


def interval(
    values: NDArray[np.float64], videos: NDArray[np.intp], rng: np.random.Generator, draws: int
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean of values [n], whole videos drawn with replacement; of a single video there is none.

    videos: as `chances`'s.
    """
    counts = np.bincount(videos)
    if len(counts) < 2:
        return None, None
    low, high = np.percentile(means([sums(values, videos)], resampled(counts, rng, draws)), [2.5, 97.5])
    return float(low), float(high)


def randomisation_p(exchanges: NDArray[np.float64], mean: float) -> float:
    """Two-sided p of the mean of paired differences under the hypothesis that the sides are interchangeable.

    exchanges: means with some sides exchanged (`exchanged`) [R].
    """
    return _share(exchanges, mean)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Each p corrected for all that are tested together (Holm 1979); None stays None.

    Below 0.05 are those that Holm's procedure rejects, with a chance of at most 5 % of any false rejection.
    """
    tested = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = highest
    return corrected


def videos_of(scores: pd.DataFrame) -> NDArray[np.intp]:
    """The number of each segment's video [n], in order of appearance; a segment without one is its own video."""
    if "video_id" not in scores:
        return np.arange(len(scores))
    numbers, names = pd.factorize(scores["video_id"])
    unknown = numbers < 0
    numbers[unknown] = len(names) + np.arange(unknown.sum())
    return numbers


def sums(values: NDArray[np.float64], videos: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums per video [C] of values of segments [n]."""
    return np.bincount(videos, values).astype(np.float64)


def means(columns: Sequence[NDArray[np.float64]], blocks: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Weighted means of columns (given as `sums` per video [C]) for the weights of all blocks [r, C]: [R, columns]."""
    found = [np.reshape([weights @ column for column in columns], (len(columns), len(weights))) for weights in blocks]
    return np.concatenate(found, axis=1).T


def resampled(counts: NDArray[np.intp], rng: np.random.Generator, draws: int) -> Iterator[NDArray[np.float64]]:
    """Weights of the videos' sums in the means of resamples, block by block [r, C], `draws` rows in all.

    counts: segments of each video [C]. Each resample draws as many videos as there are and averages their segments.
    """
    videos = len(counts)
    for rows in _blocks(videos, draws):
        drawn = rng.multinomial(videos, np.full(videos, 1 / videos), size=rows)
        yield drawn / (drawn @ counts)[:, None]


def exchanged(counts: NDArray[np.intp], rng: np.random.Generator, draws: int) -> Iterator[NDArray[np.float64]]:
    """Weights, like `resampled`, of means with each video's sides exchanged at random: negative if they were."""
    for rows in _blocks(len(counts), draws):
        signs = np.where(rng.integers(0, 2, size=(rows, len(counts)), dtype=np.int8), 1.0, -1.0)
        yield signs / counts.sum()


def _blocks(n: int, draws: int) -> Iterator[int]:
    """Rows of each block. Multiples of 4: numpy makes four coin flips from one random word and would drop the rest."""
    rows = max(4, BLOCK // n // 4 * 4)
    for start in range(0, draws, rows):
        yield min(rows, draws - start)


def _share(means: NDArray[np.float64], mean: float) -> float:
    """p: the share of the draws' means [R] that are as far from 0 as the observed one."""
    as_far = np.abs(means) >= abs(mean) - 1e-9  # sums may differ in their last digit
    # The observed one counts too (Phipson and Smyth 2010).
    return float((1 + as_far.sum()) / (len(means) + 1))


def groups_of(scores: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """(name, mask) of all segments, of each kind, and of each third by length; without kinds and times, only all."""
    yield "all", pd.Series(True, index=scores.index)
    if not {"kind", "start_s", "end_s"} <= set(scores):
        return
    for kind in sorted(set(scores["kind"].dropna())):
        yield kind, scores["kind"] == kind
    length = (scores["end_s"] - scores["start_s"]).rank(method="first")
    if len(scores) >= 3 * 10:  # thirds of fewer are meaningless
        third = pd.qcut(length, 3, labels=LENGTHS)
        for name in LENGTHS:
            yield name, third == name
