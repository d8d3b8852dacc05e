"""Score the captions.

Reads data/captions.parquet, data/activitynet/segments.parquet, data/activitynet/embeddings, models/encoder and
caption.split of params.yaml. Writes metrics/captions.json (flat: the corpus's scores, "CIDEr.now" being CIDEr of kind
`now`, "mean.CIDEr" the average of the segments' own), metrics/coverage.json (which segments, scored by what),
metrics/segments.parquet (each segment's own scores) and, for DVC to plot, in metrics/plots/: kinds.csv (the corpus's
again, a row each), cider_by_length.csv (smoothed, with its interval) and lengths.csv (of the segments).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from pipeline.annotations import asked_for, from_table
from pipeline.captions import read_captions
from pipeline.clipscore import NoTextTower, clip_scores
from pipeline.diversity import diversity
from pipeline.java import evaluator
from pipeline.params import Params, load_params
from pipeline.scores import Scorer
from pipeline.shapes.grammar import facts_right
from pipeline.variants import curve_by_length
from stages import run

CAPTIONS = Path("data/captions.parquet")
SEGMENTS = Path("data/activitynet/segments.parquet")
EMBEDDINGS = Path("data/activitynet/embeddings")
ENCODER = Path("models/encoder")
METRICS = Path("metrics/captions.json")
COVERAGE = Path("metrics/coverage.json")
EACH = Path("metrics/segments.parquet")
PLOT = Path("metrics/plots/kinds.csv")
DECIMALS = 4  # of a score in percent
CURVE_POINTS = 60


def main() -> None:
    print(evaluate(load_params(), CAPTIONS, METRICS, COVERAGE, EACH, PLOT))


def evaluate(
    params: Params, captions_path: Path, metrics_path: Path, coverage_path: Path, each_path: Path, plot_path: Path
) -> str:
    """Score the captions of a file and write the tables of scores; returns the stage's closing line."""
    split = params.caption.split
    with Scorer() as scorer:  # first: Java starts while we read
        captions = read_captions(captions_path).to_pandas()
        others = sorted(set(captions["split"]) - {split})
        if others:
            raise ValueError(
                f"{captions_path} has captions of split {others[0]!r}, caption.split is {split!r}: run `dvc repro`"
            )
        table = pq.read_table(SEGMENTS)
        segments = from_table(table)
        asked = {row.segment_id: row for row in segments if row.split == split}
        wanted = max(len(asked), asked_for(table, split) or 0)  # also those whose video could not be had
        references = {id: list(segment.captions) for id, segment in asked.items()}
        kinds = {id: segment.kind for id, segment in asked.items()}
        said = dict(zip(captions["segment_id"], captions["caption"], strict=True))
        fits, remark = {}, ""
        try:
            known = {id: caption for id, caption in said.items() if id in asked}
            fits = clip_scores(known, asked, EMBEDDINGS, ENCODER, params.device)
        except NoTextTower as error:
            remark = f"; no CLIPScore: {error}"
        scores = scorer.score(said, references, kinds)

    each = captions.drop(columns="split").merge(scores.segments, on="segment_id", validate="1:1")
    each.insert(2, "kind", each["segment_id"].map(kinds).astype("str"))
    right = [facts_right(row.caption, references[row.segment_id]) for row in each.itertuples()]
    each["facts"] = pd.array(right, dtype="boolean")
    if fits:
        each["CLIPScore"] = each["segment_id"].map(fits)

    rows = []  # kind (none: all segments), metric, score
    for kind, row in {"": scores.corpus, **scores.groups}.items():
        own = each if not kind else each[each["kind"] == kind]
        rows += [(kind, name, score) for name, score in row.items()]
        if own["facts"].notna().any():  # the built-in dataset's references say what the facts are, no other's
            rows.append((kind, "facts", 100 * float(own["facts"].mean())))
        if fits and own["CLIPScore"].notna().any():
            rows.append((kind, "CLIPScore", float(own["CLIPScore"].mean())))
        rows.append((kind, "segments", len(own)))
    metrics: dict[str, float | str] = {
        f"{name}.{kind}".rstrip("."): round(value, DECIMALS) for kind, name, value in rows
    }
    metrics["segments.asked"] = wanted
    metrics["segments.sha256"] = scores.coverage.split_sha256
    metrics |= {f"mean.{name}": round(value, DECIMALS) for name, value in scores.mean.items()}
    training = [caption for segment in segments if segment.split == "train" for caption in segment.captions]
    metrics |= {f"diversity.{name}": round(value, DECIMALS) for name, value in diversity(said, training).items()}

    plot_path.parent.mkdir(parents=True, exist_ok=True)
    write_json(metrics_path, metrics)
    write_json(coverage_path, {"split": split, **asdict(scores.coverage), "asked": wanted, **evaluator()})
    each.to_parquet(each_path, index=False)
    plot = [(kind or "all", name, round(value, DECIMALS)) for kind, name, value in rows if name != "segments"]
    pd.DataFrame(plot, columns=["kind", "metric", "score"]).to_csv(plot_path, index=False, lineterminator="\n")

    curve = curve_by_length([each], points=CURVE_POINTS)
    by_length = {"length_s": curve.lengths_s, "mean": curve.mean, "low": curve.low, "high": curve.high}
    lengths = {"length_s": each["end_s"] - each["start_s"], "segments": 1}
    for name, columns in {"cider_by_length": by_length, "lengths": lengths}.items():
        pd.DataFrame(columns).round(DECIMALS).to_csv(
            plot_path.with_name(f"{name}.csv"), index=False, lineterminator="\n"
        )

    headline = [name for name in ("CIDEr", "METEOR", "ROUGE-L", "BLEU-4", "facts") if name in metrics]
    shown = ", ".join(f"{name} {metrics[name]:.2f}" for name in headline)
    return f"evaluate: {len(each)} of {wanted} segments of split {split} scored: {shown}{remark}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run()
