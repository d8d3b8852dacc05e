"""The registry of all scores: files, tables, plots, the report and docs/scores.md follow from this list.

There are two kinds of scores. Those of pycocoevalcap (pipeline/scoring/scorer.py) have a value for the corpus, which is
not the mean of the segments' own (BLEU and METEOR pool counts), and also that mean. All others are functions of one
segment, here `of_segments`; their value for a set of segments is the mean.

To add a score, `register` it. `evaluate` computes it from then on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.dataset.segments import Segment
from pipeline.dataset.shapes.grammar import facts_right
from pipeline.features.text_tower import NoTextTower
from pipeline.scoring.clipscore import clip_scores


@dataclass(frozen=True)
class Captions:
    """The inputs of a score of segments."""

    texts: Mapping[str, str]  # by segment_id
    segments: Mapping[str, Segment]  # at least those with texts
    embeddings: Path  # of the frames, by the encoder, as shards
    encoder: Path  # the encoder's folder
    device: str  # auto | cpu | cuda | mps


class NotScored(ValueError):
    """A score cannot be computed here and is left out. The message says why."""


@dataclass(frozen=True)
class Score:
    name: str  # its key in metrics/captions.json and its column in metrics/segments.parquet
    meaning: str  # in a few words
    # headline: in all tables, with tables and plots of its own; table: in all tables; json: only in JSON files.
    shown: Literal["headline", "table", "json"] = "table"
    # The value of each segment that has one. None: a score of pycocoevalcap. Raises NotScored.
    of_segments: Callable[[Captions], Mapping[str, float | bool]] | None = None
    scale: float = 1.0  # reported figures are the column of segments.parquet times this
    boolean: bool = False  # each segment is right or wrong
    higher_is_better: bool = True

    def values(self, scores: pd.DataFrame) -> NDArray[np.float64]:
        """The segments' own values [n] as reported; NaN if a segment has none, or the table lacks the column."""
        if self.name not in scores:
            return np.full(len(scores), np.nan)
        return self.scale * scores[self.name].to_numpy(np.float64, na_value=np.nan)


SCORES: dict[str, Score] = {}
MAIN = "CIDEr"  # segments are sorted by it, plots show it, and the best baseline is chosen by it


def register(score: Score) -> None:
    """Raises ValueError if there is a score of that name."""
    if score.name in SCORES:
        raise ValueError(f"a score named {score.name} already exists")
    SCORES[score.name] = score


def of_corpus() -> list[str]:
    """Names of the scores of pycocoevalcap, in its order."""
    return [score.name for score in SCORES.values() if score.of_segments is None]


def in_tables() -> list[Score]:
    """The scores that tables show, those with tables of their own first."""
    return sorted((one for one in SCORES.values() if one.shown != "json"), key=lambda one: one.shown != "headline")


def headlines() -> list[Score]:
    return [one for one in SCORES.values() if one.shown == "headline"]


def score_segments(captions: Captions) -> tuple[dict[str, Mapping[str, float | bool]], list[str]]:
    """Every score of segments for the captions, by name; and a line for each score that is left out."""
    values, remarks = {}, []
    for score in SCORES.values():
        if score.of_segments:
            try:
                values[score.name] = score.of_segments(captions)
            except NotScored as error:
                remarks.append(f"no {score.name}: {error}")
    return values, remarks


def markdown() -> str:
    """The table of docs/scores.md."""
    rows = [("score", "what it is", "over many segments", "shown in")]
    rows += [("---",) * 4]
    for one in SCORES.values():
        direction = "" if one.higher_is_better else "; lower is better"
        average = "of the corpus; mean" if one.of_segments is None else "mean"
        rows.append((f"`{one.name}`", one.meaning + direction, average, _SHOWN[one.shown]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_SHOWN = {"headline": "all tables, and by kind", "table": "all tables", "json": "JSON"}


def _facts(captions: Captions) -> dict[str, bool]:
    right = {id: facts_right(text, list(captions.segments[id].captions)) for id, text in captions.texts.items()}
    return {id: value for id, value in right.items() if value is not None}


def _clip_score(captions: Captions) -> dict[str, float]:
    try:
        return clip_scores(captions.texts, captions.segments, captions.embeddings, captions.encoder, captions.device)
    except NoTextTower as error:
        raise NotScored(str(error)) from error


for _score in (
    Score("BLEU-1", "words that also occur in a reference"),
    Score("BLEU-2", "the same for one and two words in a row", "json"),
    Score("BLEU-3", "for one to three words", "json"),
    Score("BLEU-4", "for one to four words"),
    Score("METEOR", "words aligned with a reference's: the same word, stem, synonym or paraphrase"),
    Score("ROUGE-L", "longest common subsequence of words with a reference"),
    Score("CIDEr", "n-grams shared with the references, rare ones weighing more", "headline"),
    Score("facts", "captions that state the right facts, in any paraphrase", "headline", _facts, 100.0, boolean=True),
    Score("CLIPScore", "similarity of caption and frames under the encoder; needs no reference", "table", _clip_score),
):
    register(_score)
