"""What captions that saw no picture score: `python -m studies.attend.floors`.

Reads data/videos/segments.parquet, data/videos/embeddings, models/encoder and the sections caption.split and floors of
studies/attend/params.yaml. Scores, as the stage evaluate scores captions, one caption for every segment (`constant`),
and of each segment that has several references the first against the others (`human`: what a person's caption gets).
Writes metrics/attend/floors.json, both floors' scores of the corpus, null where nothing can be scored, and
studies/attend/scores/floors/NAME/: metrics.json, coverage.json, segments.parquet and kinds.csv.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq

import stages
from pipeline.dataset.segments import Segment, expected_segments, from_table
from pipeline.files.aside import aside
from pipeline.params import load_params
from pipeline.scoring.caption_table import captions_table
from pipeline.scoring.evaluation import evaluate_captions
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.table import write_json
from stages.evaluate import EMBEDDINGS, ENCODER, SEGMENTS
from studies.attend.evaluate import SCORES, TABLES
from studies.attend.settings import METRICS, load_attend

FLOORS = SCORES / "floors"
CONSTANT, HUMAN = "constant", "human"


@dataclass(frozen=True)
class Said:
    """A caption that no model said."""

    caption: str
    log_prob: float | None = None


def main() -> None:
    params, own = load_params(), load_attend()
    split, tokenizer = own.caption.split, params.evaluate.tokenizer
    table = pq.read_table(SEGMENTS)
    segments = from_table(table)
    constant = own.floors.constant or usual_caption(segments)
    found: dict[str, Any] = {"caption": constant, CONSTANT: None, HUMAN: None}
    with aside(FLOORS) as folder, Scorer(tokenizer=tokenizer) as scorer:
        folder.mkdir()
        for name, (asked, texts) in {
            CONSTANT: (segments, {one.segment_id: constant for one in segments if one.split == split}),
            HUMAN: first_against_others(segments, split),
        }.items():
            if not texts:
                print(f"{name}: nothing to score in {split}", flush=True)
                continue
            said = {id: Said(text) for id, text in texts.items()}
            scored = evaluate_captions(
                captions_table([one for one in asked if one.segment_id in said], said).to_pandas(),
                asked,
                scorer,
                split=split,
                expected=expected_segments(table, split) if name == CONSTANT else None,
                tokenizer=tokenizer,
                embeddings=EMBEDDINGS,
                encoder=ENCODER,
                device=params.device,
            )
            metrics, coverage, each, kinds = (folder / name / one for one in TABLES)
            scored.tables.write(metrics, each, kinds)
            write_json(coverage, scored.coverage)
            print(f"{name}: {scored.summary()}", flush=True)
            found[name] = json.loads(metrics.read_text())
    write_json(METRICS / "floors.json", found)


def usual_caption(segments: Sequence[Segment]) -> str:
    """The caption of most training segments; of several the first by alphabet. Raises ValueError if there is none."""
    counts = Counter(caption for one in segments if one.split == "train" for caption in set(one.captions))
    if not counts:
        raise ValueError("no training segment has a caption: set floors.constant in studies/attend/params.yaml")
    return min(counts, key=lambda caption: (-counts[caption], caption))


def first_against_others(segments: Sequence[Segment], split: str) -> tuple[list[Segment], dict[str, str]]:
    """The segments, those of the split without their first caption; and that caption, by segment_id.

    Segments of the split with a single caption are in neither.
    """
    several = {one.segment_id: one.captions[0] for one in segments if one.split == split and len(one.captions) > 1}
    left = [
        replace(one, captions=one.captions[1:]) if one.split == split else one
        for one in segments
        if one.split != split or one.segment_id in several
    ]
    return left, several


if __name__ == "__main__":
    stages.run(kept=None)
