"""Tabulate the ablation: every variant's scores, and the intervals of what it gains over two others.

Reads studies/ablation/params.yaml and studies/ablation/out/. Writes studies/ablation/results.csv (all figures),
metrics/ablation/{variant}.json (for `dvc metrics diff`), docs/cider_by_length.png and, in docs/results.md, the part
between two markers: the prose around them is kept.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from pipeline.files.aside import aside, write_text
from pipeline.scoring.markdown import insert, table
from pipeline.scoring.paired import LENGTHS
from pipeline.scoring.plot import draw
from pipeline.scoring.registry import MAIN, SCORES, headlines, in_tables
from pipeline.scoring.variants import Difference, Result, Runs, best, curve_by_length, summarize
from stages import run
from studies.ablation.settings import CHOICE, OUT, SEEDS, Ablation, load_ablation
from studies.ablation.variant import COST

RESULTS = Path("studies/ablation/results.csv")
METRICS = Path("metrics/ablation")
REPORT = Path("docs/results.md")
PLOT = Path("docs/cider_by_length.png")
TITLE = "# What each setting of the memory does\n\n"  # of a report that is not there yet
BEGIN, END = "<!-- studies/ablation/table.py writes from here -->", "<!-- to here -->"
DECIMALS = 4
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {  # column: its key in cost.json, and how it is shown
    "weights": ("parameters", lambda n: f"{n / 1e6:.2f} M"),
    "GFLOP": ("gflop", lambda n: f"{n:.3f}"),
    "CPU ms": ("cpu_s", lambda s: f"{1000 * s:.0f}"),
    "held": ("remembered_bytes", lambda n: f"{n / 1024:.1f} KiB"),
    "training, CPU s": ("training_cpu_s", lambda s: f"{s:.0f}"),
}


def main() -> None:
    ablation = load_ablation()
    runs = {variant: read_runs(ablation, variant) for variant in ablation.variants}
    # On other videos than those of the tables: the luckiest of several baselines there would look better than it is.
    baseline = best({name: read_runs(ablation, name, CHOICE) for name in ablation.baselines}, ablation.baselines)
    results = summarize(runs, [baseline, ablation.default])
    write_text(RESULTS, pd.DataFrame(map(row, results)).round(DECIMALS).to_csv(index=False, lineterminator="\n"))
    with aside(METRICS) as written:  # a folder of its own, so that a variant that was removed goes, too
        written.mkdir()
        for variant in runs:
            values = metrics([result for result in results if result.variant == variant])
            (written / f"{variant}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    shown = dict.fromkeys([ablation.default, baseline])
    draw(
        {variant: curve_by_length(runs[variant]) for variant in shown},
        PLOT,
        title=f"{MAIN} by length of the segment, with 95 % bands",
        x_label="seconds",
    )
    if not REPORT.exists():
        write_text(REPORT, f"{TITLE}{BEGIN}\n{END}\n")
    insert(REPORT, report(ablation, runs, results, baseline), BEGIN, END)
    count = sum(map(len, runs.values()))
    print(f"table: {len(runs)} variants, {count} runs; the best baseline is {baseline}; see {REPORT}")


def read_runs(ablation: Ablation, variant: str, folder: str = ".") -> list[pd.DataFrame]:
    """Each seed's table of per-segment scores, out of that folder of the run. ValueError names one that is missing."""
    paths = [OUT / variant / f"seed-{seed}" / folder / "segments.parquet" for seed in ablation.seeds_of(variant)]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"no {path}: make ablation")
    return [pd.read_parquet(path) for path in paths]


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
        values[f"over_{reference}_p"] = difference.p
        values[f"over_{reference}_p_holm"] = difference.p_holm
    return values


def metrics(results: Sequence[Result]) -> dict[str, float]:
    """A variant's scores, means over seeds, under the names of metrics/captions.json.

    As everywhere in the ablation they are averages over segments: "mean.CIDEr", "mean.CIDEr.now", "facts", "facts.now".
    """
    values: dict[str, float] = {}
    for result in results:
        if result.group not in LENGTHS:
            name = result.metric if SCORES[result.metric].of_segments else f"mean.{result.metric}"
            group = "" if result.group == "all" else f".{result.group}"
            values[name + group] = round(result.mean, DECIMALS)
    return values


def report(ablation: Ablation, runs: Runs, results: Sequence[Result], baseline: str) -> str:
    """The Markdown between the markers."""
    found = {(result.variant, result.group, result.metric): result for result in results}
    groups = {result.group: result.segments for result in results if result.group not in LENGTHS}
    metrics = [score.name for score in in_tables() if (baseline, "all", score.name) in found]
    judged = [score.name for score in headlines() if score.name in metrics]
    changed = [name for name in ablation.variants if name != ablation.default and name not in ablation.baselines]
    by_kind = ["variant", *(f"{group} ({count})" for group, count in groups.items())]
    segments = runs[baseline][0]

    few = [f"`{name}` {len(runs[name])}" for name in runs if len(runs[name]) < len(ablation.seeds)]
    fewer = f" (fewer, the first so many: {', '.join(few)}; differences are of the seeds that both have)" if few else ""
    rows = [
        [name, changes(ablation, name), *(spread(found[name, "all", metric]) for metric in metrics)] for name in runs
    ]
    parts = [
        f"`make ablation`: {len(segments)} segments of {segments['video_id'].nunique()} videos, training seeds "
        f"{', '.join(map(str, ablation.seeds))}{fewer}. Averages of the segments' own scores, times 100, and their "
        "standard deviation over the seeds. Intervals are of 95 %, paired and over videos: each segment's score is "
        "averaged over the seeds, then whole videos are drawn with replacement, the same for all variants. They tell "
        "what other videos would give, the standard deviations what other seeds would. One interval in twenty misses "
        "what it is of; so a star marks a difference whose p (approximate randomisation, over videos) is below 0.05 "
        "also when corrected for all variants and groups compared with the same one by the same score (Holm). "
        f"All figures: `{RESULTS}`.",
        f"All segments. The best baseline is `{baseline}`: by {MAIN}, over the seeds, on the {CHOICE} split.",
        table(["variant", "changes", *metrics], rows),
    ]
    if costs := read_costs(ablation):
        parts.append(
            "What that costs: weights of mapper and decoder; of a caption, from stored embeddings on, its arithmetic "
            "(a multiplication and an addition are two), the CPU seconds of one thread, and what a stream has to hold "
            "when the segment ends; and the training. Means over the seeds."
        )
        parts.append(table(["variant", *COSTS], [[name, *costs[name]] for name in runs if name in costs]))
    for metric in judged:
        rows = [[name, *(beside(found[name, group, metric], baseline) for group in groups)] for name in runs]
        parts.append(f"{metric} by kind of segment, and the interval of the difference to `{baseline}`:")
        parts.append(table(by_kind, rows))
    for metric in judged if changed else ():
        rows = [[name, *(gain(found[name, group, metric], ablation.default) for group in groups)] for name in changed]
        parts.append(f"{metric}, what one change makes of `{ablation.default}`: the difference and its interval:")
        parts.append(table(by_kind, rows))
    parts.append(f"![{MAIN} of `{ablation.default}` and `{baseline}` by length of the segment]({PLOT.name})")
    return "\n\n".join(parts)


def read_costs(ablation: Ablation) -> dict[str, list[str]]:
    """The cells of COSTS of every variant whose runs have measured them."""
    found = {}
    for variant in ablation.variants:
        paths = [OUT / variant / f"seed-{seed}" / COST for seed in ablation.seeds_of(variant)]
        if all(path.is_file() for path in paths):
            runs = pd.DataFrame([json.loads(path.read_text()) for path in paths]).mean()
            found[variant] = [show(runs[key]) for key, show in COSTS.values()]
    return found


def changes(ablation: Ablation, variant: str) -> str:
    own = {key: json.dumps(value) for key, value in ablation.variants[variant].items() if key != SEEDS}
    return ", ".join("`{}: {}`".format(key, value.strip('"')) for key, value in own.items())


def spread(result: Result) -> str:
    return f"{result.mean:.1f}" if result.sd is None else f"{result.mean:.1f} ± {result.sd:.1f}"


def beside(result: Result, reference: str) -> str:
    """The score, and the interval of its difference to another variant's."""
    other = result.over.get(reference)
    return f"{spread(result)} {interval(other)}" if other else spread(result)


def gain(result: Result, reference: str) -> str:
    other = result.over[reference]
    return f"{other.mean:+.1f} {interval(other)}"


def interval(difference: Difference) -> str:
    """With a star if the difference holds when corrected; of a single video there is none."""
    if difference.low is None:
        return "(-)"
    star = "*" if difference.p_holm is not None and difference.p_holm < 0.05 else ""
    return f"({difference.low:+.1f} to {difference.high:+.1f}){star}"


if __name__ == "__main__":
    run(kept=None)
