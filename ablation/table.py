"""Tabulate the ablation: every variant's scores, and the intervals of what it gains over two others.

Reads ablation/params.yaml and ablation/out/. Writes ablation/results.csv (all figures), docs/cider_by_length.png and,
in docs/results.md, what stands between two markers: the prose around them is kept.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ablation.plot import draw
from ablation.settings import OUT, Ablation, load_ablation
from pipeline.compare import LENGTHS
from pipeline.variants import METRICS, Result, Runs, best, curve_by_length, summarize
from stages import run

RESULTS = Path("ablation/results.csv")
REPORT = Path("docs/results.md")
PLOT = Path("docs/cider_by_length.png")
TITLE = "# What each setting of the memory does\n\n"  # of a report that is not there yet
BEGIN, END = "<!-- ablation/table.py writes from here -->", "<!-- to here -->"
DECIMALS = 4


def main() -> None:
    ablation = load_ablation()
    runs = {
        variant: [pd.read_parquet(OUT / variant / f"seed-{seed}" / "segments.parquet") for seed in ablation.seeds]
        for variant in ablation.variants
    }
    baseline = best(runs, ablation.baselines)
    results = summarize(runs, [baseline, ablation.default])
    pd.DataFrame(map(row, results)).round(DECIMALS).to_csv(RESULTS, index=False, lineterminator="\n")
    shown = dict.fromkeys([ablation.default, baseline])
    draw(
        {variant: curve_by_length(runs[variant]) for variant in shown},
        PLOT,
        title="CIDEr by length of the segment, with 95 % bands",
        x_label="seconds",
    )
    if not REPORT.exists():
        REPORT.write_text(f"{TITLE}{BEGIN}\n{END}\n")
    insert(REPORT, report(ablation, runs, results, baseline), BEGIN, END)
    print(
        f"table: {len(runs)} variants, {len(ablation.seeds)} seeds each; the best baseline is {baseline}; see {REPORT}"
    )


def row(result: Result) -> dict[str, object]:
    """A line of results.csv."""
    values: dict[str, object] = {
        "variant": result.variant,
        "group": result.group,
        "metric": result.metric,
        "segments": result.segments,
        "mean": result.mean,
        "sd": result.sd,
    }
    for reference, difference in result.over.items():
        values[f"over_{reference}"] = difference.mean
        values[f"over_{reference}_low"] = difference.low
        values[f"over_{reference}_high"] = difference.high
    return values


def report(ablation: Ablation, runs: Runs, results: Sequence[Result], baseline: str) -> str:
    """The Markdown between the markers."""
    found = {(result.variant, result.group, result.metric): result for result in results}
    groups = {result.group: result.segments for result in results if result.group not in LENGTHS}
    metrics = [metric for metric in METRICS if (baseline, "all", metric) in found]
    judged = [metric for metric in ("CIDEr", "facts") if metric in metrics]
    changed = [name for name in ablation.variants if name != ablation.default and name not in ablation.baselines]
    by_kind = ["variant", *(f"{group} ({count})" for group, count in groups.items())]
    segments = runs[baseline][0]

    rows = [
        [name, changes(ablation, name), *(spread(found[name, "all", metric]) for metric in metrics)] for name in runs
    ]
    parts = [
        f"`make ablation`: {len(segments)} segments of {segments['video_id'].nunique()} videos, training seeds "
        f"{', '.join(map(str, ablation.seeds))}. Averages of the segments' own scores, times 100, and their standard "
        "deviation over the seeds. Intervals are of 95 %, paired over segments: each segment's score is averaged over "
        "the seeds, then segments are drawn with replacement, the same for all variants. They tell what other segments "
        "would give, the standard deviations what other seeds would; one interval in twenty misses what it is of. "
        f"All figures: `{RESULTS}`.",
        f"All segments. The best baseline by CIDEr is `{baseline}`.",
        table(["variant", "changes", *metrics], rows),
    ]
    for metric in judged:
        rows = [[name, *(beside(found[name, group, metric], baseline) for group in groups)] for name in runs]
        parts.append(f"{metric} by kind of segment, and the interval of the difference to `{baseline}`:")
        parts.append(table(by_kind, rows))
    for metric in judged if changed else ():
        rows = [[name, *(gain(found[name, group, metric], ablation.default) for group in groups)] for name in changed]
        parts.append(f"{metric}, what one change makes of `{ablation.default}`: the difference and its interval:")
        parts.append(table(by_kind, rows))
    parts.append(f"![CIDEr of `{ablation.default}` and `{baseline}` by length of the segment]({PLOT.name})")
    return "\n\n".join(parts)


def changes(ablation: Ablation, variant: str) -> str:
    return ", ".join(f"`{key}: {str(value).lower()}`" for key, value in ablation.variants[variant].items())


def spread(result: Result) -> str:
    return f"{result.mean:.1f}" if result.sd is None else f"{result.mean:.1f} ± {result.sd:.1f}"


def beside(result: Result, reference: str) -> str:
    """The score, and the interval of its difference to another variant's."""
    other = result.over.get(reference)
    return spread(result) + (f" ({other.low:+.1f} to {other.high:+.1f})" if other else "")


def gain(result: Result, reference: str) -> str:
    other = result.over[reference]
    return f"{other.mean:+.1f} ({other.low:+.1f} to {other.high:+.1f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([f"`{name}`", *cells] for name, *cells in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def insert(path: Path, text: str, begin: str, end: str) -> None:
    """Put `text` between the two markers of the file. ValueError unless both are there once, and in order."""
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed) or begin in rest or end in before + after:
        raise ValueError(f"{path}: wanted one line {begin!r} and one {end!r} below it; the tables go between them")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    run()
