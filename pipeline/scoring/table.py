"""The tables that `evaluate` writes, made of captions and their scores."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.files.aside import aside, write_text
from pipeline.scoring.registry import SCORES, in_tables
from pipeline.scoring.scorer import Scores
from pipeline.scoring.variants import curve_by_length

DECIMALS = 4  # decimals of a score in percent
CURVE_POINTS = 60


@dataclass(frozen=True)
class Tables:
    segments: pd.DataFrame  # a row for each segment scored: its caption and its own scores
    corpus: dict[str, Any]  # flat: "CIDEr" of all segments, "CIDEr.now" of those of kind `now`, "mean.CIDEr"
    kinds: pd.DataFrame  # kind (all: every segment), metric (those in tables), score
    by_length: pd.DataFrame  # length_s; mean, low and high of CIDEr at that length
    lengths: pd.DataFrame  # length_s of each segment; segments: 1, for a histogram to add up

    def write(self, corpus: Path, segments: Path, kinds: Path) -> None:
        """Write them to these files; cider_by_length.csv and lengths.csv go beside `kinds`."""
        write_json(corpus, self.corpus)
        with aside(segments) as written:
            self.segments.to_parquet(written, index=False)
        for path, table in {
            kinds: self.kinds,
            kinds.with_name("cider_by_length.csv"): self.by_length,
            kinds.with_name("lengths.csv"): self.lengths,
        }.items():
            write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def tables(
    captions: pd.DataFrame,
    kinds: Mapping[str, str | None],
    scores: Scores,
    of_segments: Mapping[str, Mapping[str, float | bool]],
    diversity: Mapping[str, float],
    *,
    asked: int,
    tokenizer: str,
) -> Tables:
    """Everything that is known about the captions that were scored.

    Args:
        captions: the table of `read_captions`.
        kinds: by segment.
        scores: of the corpus, its kinds and each segment.
        of_segments: the registry's other scores, by name and segment. One that no segment has is left out.
        diversity: of all captions.
        asked: segments that the split would have if no video had failed.
        tokenizer: the scorer's, which pipeline.compare reads from the table of segments.
    """
    segments = captions.drop(columns="split").merge(scores.segments, on="segment_id", validate="1:1")
    segments.insert(2, "kind", segments["segment_id"].map(kinds).astype("str"))
    for name, values in of_segments.items():
        if any(id in values for id in segments["segment_id"]):
            dtype = "boolean" if SCORES[name].boolean else "float64"
            own = [values.get(id) for id in segments["segment_id"]]
            segments[name] = pd.Series(own, segments.index, dtype)

    rows = [
        (kind, name, value)
        for kind, corpus in {"": scores.corpus, **scores.groups}.items()
        for name, value in _of_group(corpus, segments[segments["kind"] == kind] if kind else segments)
    ]
    corpus: dict[str, Any] = {f"{name}.{kind}".rstrip("."): round(value, DECIMALS) for kind, name, value in rows}
    corpus |= {f"mean.{name}": round(value, DECIMALS) for name, value in scores.mean.items()}
    corpus |= {"segments.asked": asked, "segments.sha256": scores.coverage.split_sha256}
    corpus |= {f"diversity.{name}": round(value, DECIMALS) for name, value in diversity.items()}
    names = {score.name for score in in_tables()}
    plotted = [(kind or "all", name, round(value, DECIMALS)) for kind, name, value in rows if name in names]

    segments.attrs["tokenizer"] = tokenizer
    curve = curve_by_length([segments], points=CURVE_POINTS)
    by_length = {"length_s": curve.lengths_s, "mean": curve.mean, "low": curve.low, "high": curve.high}
    lengths = {"length_s": segments["end_s"] - segments["start_s"], "segments": 1}
    return Tables(
        segments,
        corpus,
        pd.DataFrame(plotted, columns=["kind", "metric", "score"]),
        pd.DataFrame(by_length).round(DECIMALS),
        pd.DataFrame(lengths).round(DECIMALS),
    )


def _of_group(corpus: Mapping[str, float], segments: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """(name, value) of every score of a group: the corpus's scores, and means of the others."""
    yield from corpus.items()
    for score in SCORES.values():
        if score.of_segments and not np.isnan(values := score.values(segments)).all():
            yield score.name, float(np.nanmean(values))
    yield "segments", len(segments)
