"""Write the figures of README.md, between its two markers: nobody types them.

    python -m docs.figures

Reads studies/ablation/results.csv (make ablation) and metrics/captions.json (dvc repro).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from pipeline.process import command
from pipeline.scoring.markdown import insert, table
from studies.ablation.settings import Ablation, load_ablation
from studies.ablation.table import RESULTS

README = Path("README.md")
CORPUS = Path("metrics/captions.json")
BEGIN, END = "<!-- docs/figures.py writes from here -->", "<!-- to here -->"
KINDS = ("now", "earlier", "order", "before")
BESIDE = ("last", "mean", "own-8", "both-16")  # what the table shows beside the best baseline; docs/results.md has all


def main() -> None:
    text = figures(pd.read_csv(RESULTS), json.loads(CORPUS.read_text()), load_ablation())
    insert(README, text, BEGIN, END)
    print(f"figures: from {RESULTS} and {CORPUS}; see {README}")


def figures(results: pd.DataFrame, corpus: Mapping[str, float], ablation: Ablation) -> str:
    """The Markdown between the markers."""
    found = results.set_index(["variant", "group", "metric"])
    # That which the ablation's table has chosen.
    best = next(name for name in ablation.baselines if f"over_{name}" in results)
    shown = list(dict.fromkeys([*(name for name in BESIDE if name in ablation.variants), best, ablation.default]))

    def cell(variant: str, group: str, metric: str) -> str:
        row = found.loc[variant, group, metric]
        return f"{row['mean']:.1f}" + ("" if pd.isna(row["sd"]) else f" ± {row['sd']:.1f}")

    def gain(metric: str) -> str:
        row = found.loc[ablation.default, "all", metric]
        of = row[[f"over_{best}", f"over_{best}_low", f"over_{best}_high"]]
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(*of)

    counts = sorted({len(ablation.seeds_of(name)) for name in shown})
    seeds = "one training each" if counts == [1] else f"{' or '.join(map(str, counts))} trainings each"
    parts = [
        f"{found.loc[best, 'all', 'CIDEr']['segments']:.0f} test segments, {seeds} (`make ablation`). Averages of the "
        "segments' own scores, times 100, ± their standard deviation over the trainings:",
        table(
            ["variant", "facts", *(f"`{kind}`" for kind in KINDS), "CIDEr"],
            [
                [name, *(cell(name, group, "facts") for group in ("all", *KINDS)), cell(name, "all", "CIDEr")]
                for name in shown
            ],
        ),
        f"Over the best baseline, `{best}`, `{ablation.default}` gains {gain('facts')} facts and {gain('CIDEr')} CIDEr "
        "(95 % intervals, paired over videos).",
        "One run of the default variant, as `dvc repro` leaves it, with scores pooled over the corpus as papers report "
        f"them (`{CORPUS}`): "
        + ", ".join(
            f"{name} {corpus[name]:.1f}" for name in ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "facts")
        )
        + ".",
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    command.run("docs.figures", __doc__, main)
