"""Is one run better than another? Paired tests over the segments that both have captioned.

    python -m pipeline.compare baseline memory
    python -m pipeline.compare main workspace --json
    python -m pipeline.compare old new --common     # where they captioned different segments

Compares averages of per-segment scores (never the corpus's pooled BLEU or METEOR): each metric over all segments, by
kind, and by thirds of the segments' lengths. The interval and one p are the paired bootstrap's (segments drawn with
replacement; percentiles, and how often a resample strays as far from the mean as the mean is from 0), the other p is
approximate randomisation's (each pair's sides exchanged by a coin). Both are two-sided.

n segments   R draws
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.revision import at_revision

SCORES = Path("metrics/segments.parquet")
METRICS = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CLIPScore", "facts")
SHOWN = frozenset(METRICS) - {"BLEU-2", "BLEU-3"}  # in the table; JSON has all
DRAWS = 10_000
LENGTHS = ("short", "medium", "long")


@dataclass(frozen=True)
class Comparison:
    """Scores are averages over the group's segments, times 100."""

    group: str
    metric: str
    segments: int
    first: float
    second: float
    difference: float  # second - first
    low: float  # of the difference, 95 %
    high: float
    p: float  # of a difference at least this large where there is none: by approximate randomisation
    p_bootstrap: float  # the same, by the bootstrap


def read_scores(revision: str) -> pd.DataFrame:
    """Per-segment scores of a git revision, an experiment, or the `workspace`.

    Raises ValueError if there are none.
    """
    with at_revision(None if revision == "workspace" else revision, SCORES.as_posix()) as root:
        try:
            return pd.read_parquet(root / SCORES)
        except (OSError, ValueError) as error:
            raise ValueError(f"{revision}: no {SCORES} to be had ({error}); run it: dvc repro") from error


def compare(first: pd.DataFrame, second: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0) -> list[Comparison]:
    """Every metric that both tables have, for every group.

    Raises ValueError if the tables are not of the same segments with the same references: averages over different
    segments say nothing about each other.
    """
    one, two = by_segment(first, second)
    rng = np.random.default_rng(seed)
    results = []
    for group, rows in groups_of(one):
        n = int(rows.sum())
        weights, signs = resampled(n, rng, draws), exchanged(n, rng, draws)
        for metric in METRICS:
            if not {metric} <= set(one) & set(two) or one[metric][rows].isna().any():
                continue
            a, b = (table[metric][rows].to_numpy(np.float64) for table in (one, two))
            if metric == "facts":
                a, b = 100 * a, 100 * b
            gain = b - a
            low, high, p_bootstrap = bootstrap(gain, weights)
            p = randomisation_p(gain, signs)
            means = (float(a.mean()), float(b.mean()), float(gain.mean()))
            results.append(Comparison(group, metric, len(a), *means, low, high, p, p_bootstrap))
    return results


def by_segment(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with the same segments in the same order. ValueError as `compare` says."""
    one, two = (table.set_index("segment_id").sort_index() for table in (first, second))
    if lone := one.index.symmetric_difference(two.index).tolist():
        raise ValueError(
            f"{len(one)} and {len(two)} segments, {len(lone)} of them in one run only ({', '.join(lone[:3])}, ...): "
            "not comparable; --common compares the segments that both have"
        )
    if (one["references"].map(list) != two["references"].map(list)).any():
        raise ValueError("the references differ between the runs: not comparable")
    return one, two


def common(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables restricted to the segments that both have, in the first's order.

    A segment's CIDEr depends on the other segments scored with it: it is computed anew, over the common ones.
    Raises ValueError if there are none, or of other references.
    """
    both = set(first["segment_id"]) & set(second["segment_id"])
    if not both:
        raise ValueError("the runs have no segment in common")
    if len(both) == len(first) == len(second):
        return first, second
    one, two = (table[table["segment_id"].isin(both)].reset_index(drop=True) for table in (first, second))
    by_segment(one, two)
    return rescored(one), rescored(two)


def rescored(scores: pd.DataFrame) -> pd.DataFrame:
    """The table with the scores of its captions and references, scored together."""
    from pipeline.scores import METRICS, Scorer  # who compares whole runs should not have to start Java

    with Scorer() as scorer:
        candidates = dict(zip(scores["segment_id"], scores["caption"], strict=True))
        references = {id: list(texts) for id, texts in zip(scores["segment_id"], scores["references"], strict=True)}
        each = scorer.score(candidates, references).segments
    assert list(each["segment_id"]) == list(scores["segment_id"])
    return scores.assign(**{name: each[name].to_numpy() for name in METRICS})


def bootstrap(differences: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float, float]:
    """95 % interval (low, high) of the mean of paired differences [n], and the two-sided p of a mean of 0.

    p is the share of resamples (`resampled`) whose mean strays from the mean as far as that is from 0 (Efron and
    Tibshirani 1993: the resamples' distribution, moved to where nothing differs).
    """
    means = weights @ differences  # [R]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high), _share(means - differences.mean(), differences.mean())


def resampled(n: int, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Weights of the segments in the means of resamples, [R, n]: how often each is drawn is all that a mean needs."""
    return rng.multinomial(n, np.full(n, 1 / n), size=draws) / n


def randomisation_p(differences: NDArray[np.float64], signs: NDArray[np.float64]) -> float:
    """Two-sided p of the mean of paired differences [n] under the hypothesis that the sides are interchangeable."""
    return _share(signs @ differences / len(differences), differences.mean())


def exchanged(n: int, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Whose pairs' sides are exchanged, [R, n]: -1 where they are, 1 where not."""
    return np.where(rng.integers(0, 2, size=(draws, n), dtype=np.int8), 1.0, -1.0)


def _share(means: NDArray[np.float64], mean: float) -> float:
    """p: how many of the draws' means [R] are as far from 0 as the one that we were dealt."""
    as_far = np.abs(means) >= abs(mean) - 1e-9  # sums differ in their last digit
    # The one that we were dealt is one of those that count (Phipson and Smyth 2010).
    return float((1 + as_far.sum()) / (len(means) + 1))


def groups_of(scores: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """(name, mask) of all segments, of each kind, and of each third by length."""
    yield "all", pd.Series(True, index=scores.index)
    for kind in sorted(set(scores["kind"].dropna())):
        yield kind, scores["kind"] == kind
    length = (scores["end_s"] - scores["start_s"]).rank(method="first")
    if len(scores) >= 3 * 10:  # thirds of less say nothing
        third = pd.qcut(length, 3, labels=LENGTHS)
        for name in LENGTHS:
            yield name, third == name


def table(results: list[Comparison], names: tuple[str, str]) -> str:
    rows = [
        (
            result.group,
            result.metric,
            f"{result.segments}",
            f"{result.first:.1f}",
            f"{result.second:.1f}",
            f"{result.difference:+.1f}",
            f"{result.low:+.1f} .. {result.high:+.1f}",
            f"{result.p_bootstrap:.4f}",
            f"{result.p:.4f}",
        )
        for result in results
        if result.metric in SHOWN
    ]
    head = ("group", "metric", "segments", *names, "difference", "95 % interval", "p bootstrap", "p exchange")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(cells)

    return "\n".join([line(head), *map(line, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description="Paired tests of two runs.")
    parser.add_argument("first", help="a git revision, an experiment's name, or `workspace`")
    parser.add_argument("second")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--common", action="store_true", help="only the segments that both runs have, scored anew")
    asked = parser.parse_args()
    try:
        first, second = read_scores(asked.first), read_scores(asked.second)
        one, two = common(first, second) if asked.common else (first, second)
        results = compare(one, two)
    except (ValueError, OSError) as error:
        sys.exit(f"compare: {error}")
    if asked.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    if len(one) < max(len(first), len(second)):
        print(
            f"Only the {len(one)} common segments, of {len(first)} in {asked.first}, {len(second)} in {asked.second}."
        )
    print("Averages of per-segment scores, times 100; the interval and both p are paired over segments.")
    print(table(results, (asked.first, asked.second)))


if __name__ == "__main__":
    main()
