"""Every score of a table of captions, with what the scores cover."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.dataset.segments import Segment
from pipeline.scoring.diversity import WORDS, diversity
from pipeline.scoring.java import evaluator
from pipeline.scoring.registry import Captions, in_tables, score_segments
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.table import Tables, tables


@dataclass(frozen=True)
class Evaluation:
    tables: Tables
    coverage: dict[str, Any]  # which segments, scored by which programs
    remarks: list[str]  # the main scores in a line, what could not be scored and why

    def summary(self) -> str:
        count, expected, split = len(self.tables.segments), self.coverage["asked"], self.coverage["split"]
        return f"{count} of {expected} segments of split {split} scored: {'; '.join(self.remarks)}"


def evaluate_captions(
    captions: pd.DataFrame,
    segments: Sequence[Segment],
    scorer: Scorer,
    *,
    split: str,
    expected: int | None,
    tokenizer: str,
    embeddings: Path,
    encoder: Path,
    device: str,
) -> Evaluation:
    """Score captions of one split. Raises ValueError if they do not fit its segments.

    Args:
        captions: the table of `read_captions`.
        segments: of all splits; the training captions are what `diversity` compares with.
        expected: segments that the split would have if no video had failed; None: it is not known.
        tokenizer: the scorer's.
        embeddings, encoder, device: for the scores that look at frames; as in `registry.Captions`.
    """
    of_split = {row.segment_id: row for row in segments if row.split == split}
    asked = max(len(of_split), expected or 0)
    references = {id: list(segment.captions) for id, segment in of_split.items()}
    kinds = {id: segment.kind for id, segment in of_split.items()}
    texts = dict(zip(captions["segment_id"], captions["caption"], strict=True))
    known = {id: text for id, text in texts.items() if id in of_split}
    of_segments, remarks = score_segments(Captions(known, of_split, embeddings, encoder, device))
    scores = scorer.score(texts, references, kinds)

    training = [caption for segment in segments if segment.split == "train" for caption in segment.captions]
    varied = diversity(texts, training, WORDS[tokenizer])
    found = tables(captions, kinds, scores, of_segments, varied, asked=asked, tokenizer=tokenizer)
    coverage = {"split": split, **asdict(scores.coverage), "asked": asked, **evaluator(), "tokenizer": tokenizer}
    shown = ", ".join(f"{one.name} {found.corpus[one.name]:.2f}" for one in in_tables() if one.name in found.corpus)
    return Evaluation(found, coverage, [shown, *remarks, *scores.notes])
