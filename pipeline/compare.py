"""Is one run better than another? Paired tests over the segments that both captioned.

    python -m pipeline.compare baseline memory
    python -m pipeline.compare main workspace --json
    python -m pipeline.compare old new --common     # if they captioned different segments
    python -m pipeline.compare memory theirs.parquet    # what `python -m pipeline.score ... --per-segment` wrote

Compares averages of per-segment scores (never the corpus's pooled BLEU or METEOR): each score over all segments, by
kind, and by thirds of the segments' lengths. The interval and one p are the paired bootstrap's (whole videos drawn with
replacement; percentiles, and how often a resample is as far from the mean as the mean is from 0), the other p is
approximate randomisation's (the two runs swapped at random in each video). Both are two-sided. The last p is corrected
for all comparisons of the run (Holm).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from pipeline.process.terminal import message, printable
from pipeline.scoring.markdown import aligned
from pipeline.scoring.paired import Comparison, compare
from pipeline.scoring.registry import in_tables
from pipeline.scoring.segment_scores import common, incomplete, read_scores


def table(results: Sequence[Comparison], names: tuple[str, str]) -> str:
    rows = [
        (
            printable(result.group, 40),
            result.metric,
            f"{result.segments}",
            "-" if result.videos is None else f"{result.videos}",
            f"{result.first:.1f}",
            f"{result.second:.1f}",
            f"{result.difference:+.1f}",
            "-" if result.low is None else f"{result.low:+.1f} .. {result.high:+.1f}",
            *("-" if p is None else f"{p:.4f}" for p in (result.p_bootstrap, result.p, result.p_holm)),
        )
        for result in _in_order(results)
    ]
    figures = ("difference", "95 % interval", "p bootstrap", "p exchange", "p Holm")
    head = ("group", "score", "segments", "videos", *names, *figures)
    return aligned([head, *rows], names=2)


def _in_order(results: Sequence[Comparison]) -> list[Comparison]:
    """The results that tables show: each group's scores in the registry's order for tables."""
    order = [score.name for score in in_tables()]
    groups = list(dict.fromkeys(result.group for result in results))
    shown = [result for result in results if result.metric in order]
    return sorted(shown, key=lambda result: (groups.index(result.group), order.index(result.metric)))


def notes(results: Sequence[Comparison]) -> list[str]:
    """What a reader of the table has to know."""
    tested = sum(result.p is not None for result in results)
    lines = [
        "Averages of per-segment scores, times 100. Intervals and p values are paired and over videos: the segments of",
        "one video are drawn, and exchanged, together. p Holm: p exchange, corrected for all of the "
        f"{tested} comparisons",
        "made (some of them only --json shows).",
    ]
    if any(result.videos is None for result in results):
        lines.append("Neither run has video ids: each segment counts as a video of its own.")
    if any(result.p is None for result in results):
        lines.append("A single video has no interval and no p (-): it does not show how videos differ.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description="Paired tests of two runs.")
    parser.add_argument("first", help="a git revision, an experiment's name, `workspace`, or a file.parquet")
    parser.add_argument("second")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--common", action="store_true", help="only the segments that both runs have, scored again")
    options = parser.parse_args()
    try:
        first, second = read_scores(options.first), read_scores(options.second)
        one, two = common(first, second) if options.common else (first, second)
        results = compare(one, two)
        for line in incomplete({options.first: one, options.second: two}):
            print(f"compare: {printable(line)}", file=sys.stderr)
    except (ValueError, OSError) as error:
        sys.exit(f"compare: {message(error)}")
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    if len(one) < max(len(first), len(second)):
        print(
            f"Only the {len(one)} common segments, of {len(first)} in {options.first}, "
            f"{len(second)} in {options.second}."
        )
    print(*notes(results), sep="\n")
    print(table(results, (options.first, options.second)))


if __name__ == "__main__":
    main()
