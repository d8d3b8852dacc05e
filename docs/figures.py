"""Write the figures of README.md, between its two markers: nobody types them.

    python -m docs.figures

Reads ablation/results.csv (make ablation) and metrics/captions.json (dvc repro).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ablation.settings import Ablation, load_ablation
from ablation.table import RESULTS, insert, table

README = Path("README.md")
CORPUS = Path("metrics/captions.json")
BEGIN, END = "<!-- docs/figures.py writes from here -->", "<!-- to here -->"
KINDS = ("now", "earlier", "order", "before")


def main() -> None:
    text = figures(pd.read_csv(RESULTS), json.loads(CORPUS.read_text()), load_ablation())
    insert(README, text, BEGIN, END)
    print(f"figures: from {RESULTS} and {CORPUS}; see {README}")


def figures(results: pd.DataFrame, corpus: Mapping[str, float], ablation: Ablation) -> str:
    """The Markdown between the markers."""
    found = results.set_index(["variant", "group", "metric"])
    best = found.loc[ablation.baselines].xs(("all", "CIDEr"), level=("group", "metric"))["mean"].idxmax()
    shown = [*ablation.baselines, ablation.default]
    metrics = [metric for metric in ("CIDEr", "METEOR", "ROUGE-L", "facts") if (best, "all", metric) in found.index]

    def cell(variant: str, group: str, metric: str) -> str:
        row = found.loc[variant, group, metric]
        return f"{row['mean']:.1f}" + ("" if pd.isna(row["sd"]) else f" ± {row['sd']:.1f}")

    def gain(group: str) -> str:
        row = found.loc[ablation.default, group, "CIDEr"]
        of = row[[f"over_{best}", f"over_{best}_low", f"over_{best}_high"]]
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(*of)

    seeds = f"{len(ablation.seeds)} trainings each" if len(ablation.seeds) > 1 else "one training each"
    parts = [
        f"The built-in dataset's {found.loc[best, 'all', 'CIDEr']['segments']:.0f} test segments, {seeds} "
        "(`make ablation`): averages of the segments' own scores, times 100, ± their standard deviation over the "
        "trainings. `facts` is the share of captions that state the right facts.",
        table(
            ["variant", *metrics],
            [[name, *(cell(name, "all", metric) for metric in metrics)] for name in shown],
        ),
        "`facts` by what a caption needs (the kinds are explained below):",
        table(
            ["variant", *(f"`{kind}`" for kind in KINDS)],
            [[name, *(cell(name, kind, "facts") for kind in KINDS)] for name in shown],
        ),
        f"Over the best baseline, `{best}`, `{ablation.default}` gains {gain('all')} CIDEr (95 % interval, paired over "
        f"segments): {', '.join(f'{gain(kind)} on `{kind}`' for kind in KINDS)}.",
        "One run of the default variant, as `dvc repro` leaves it, with scores pooled over the corpus as papers report "
        f"them (`{CORPUS}`): "
        + ", ".join(
            f"{name} {corpus[name]:.1f}" for name in ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "facts")
        )
        + ".",
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
