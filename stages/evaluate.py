"""Score the captions.

Reads data/captions.parquet, data/videos/segments.parquet, data/videos/embeddings, models/encoder and
caption.split of params.yaml. Writes metrics/captions.json (flat: the corpus's scores, "CIDEr.now" being CIDEr of kind
`now`, "mean.CIDEr" the average of the segments' own), metrics/coverage.json (which segments, scored by which programs),
metrics/segments.parquet (each segment's own scores) and, for DVC to plot, in metrics/plots/: kinds.csv (the corpus's
scores again, as rows), cider_by_length.csv (smoothed, with its interval) and lengths.csv (of the segments).
"""

from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.dataset.segments import expected_segments, from_table
from pipeline.params import Params, load_params
from pipeline.scoring.caption_table import read_captions
from pipeline.scoring.diversity import WORDS, diversity
from pipeline.scoring.java import evaluator
from pipeline.scoring.registry import Captions, in_tables, score_segments
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.table import tables, write_json
from stages import run

CAPTIONS = Path("data/captions.parquet")
SEGMENTS = Path("data/videos/segments.parquet")
EMBEDDINGS = Path("data/videos/embeddings")
ENCODER = Path("models/encoder")
CORPUS = Path("metrics/captions.json")
COVERAGE = Path("metrics/coverage.json")
EACH = Path("metrics/segments.parquet")
PLOT = Path("metrics/plots/kinds.csv")


def main() -> None:
    print(evaluate(load_params(), CAPTIONS, CORPUS, COVERAGE, EACH, PLOT))


def evaluate(
    params: Params, captions_path: Path, corpus_path: Path, coverage_path: Path, each_path: Path, plot_path: Path
) -> str:
    """Score the captions of a file and write the tables of scores; returns the stage's closing line."""
    split, tokenizer = params.caption.split, params.evaluate.tokenizer
    with Scorer(tokenizer=tokenizer) as scorer:  # first: Java starts while we read
        captions = read_captions(captions_path, split).to_pandas()
        table = pq.read_table(SEGMENTS)
        segments = from_table(table)
        expected = {row.segment_id: row for row in segments if row.split == split}
        asked = max(len(expected), expected_segments(table, split) or 0)  # also those whose video was not found
        references = {id: list(segment.captions) for id, segment in expected.items()}
        kinds = {id: segment.kind for id, segment in expected.items()}
        texts = dict(zip(captions["segment_id"], captions["caption"], strict=True))
        known = {id: text for id, text in texts.items() if id in expected}
        of_segments, remarks = score_segments(Captions(known, expected, EMBEDDINGS, ENCODER, params.device))
        scores = scorer.score(texts, references, kinds)

    training = [caption for segment in segments if segment.split == "train" for caption in segment.captions]
    varied = diversity(texts, training, WORDS[tokenizer])
    found = tables(captions, kinds, scores, of_segments, varied, asked=asked, tokenizer=tokenizer)
    found.write(corpus_path, each_path, plot_path)
    coverage = {"split": split, **asdict(scores.coverage), "asked": asked, **evaluator(), "tokenizer": tokenizer}
    write_json(coverage_path, coverage)

    shown = ", ".join(f"{one.name} {found.corpus[one.name]:.2f}" for one in in_tables() if one.name in found.corpus)
    remarks = [shown, *remarks, *scores.notes]
    return f"evaluate: {len(found.segments)} of {asked} segments of split {split} scored: {'; '.join(remarks)}"


if __name__ == "__main__":
    run(kept=None)
