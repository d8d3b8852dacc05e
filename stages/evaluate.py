"""Score the captions.

Reads data/captions.parquet, data/videos/segments.parquet, data/videos/embeddings, models/encoder and
caption.split of params.yaml. Writes metrics/captions.json (flat: the corpus's scores, "CIDEr.now" being CIDEr of kind
`now`, "mean.CIDEr" the average of the segments' own), metrics/coverage.json (which segments, scored by which programs),
metrics/segments.parquet (each segment's own scores) and, for DVC to plot, in metrics/plots/: kinds.csv (the corpus's
scores again, as rows), cider_by_length.csv (smoothed, with its interval) and lengths.csv (of the segments).
"""

from pathlib import Path

import pyarrow.parquet as pq

from pipeline.dataset.segments import expected_segments, from_table
from pipeline.params import Params, load_params
from pipeline.scoring.caption_table import read_captions
from pipeline.scoring.evaluation import evaluate_captions
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.table import write_json
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
        found = evaluate_captions(
            captions,
            from_table(table),
            scorer,
            split=split,
            expected=expected_segments(table, split),
            tokenizer=tokenizer,
            embeddings=EMBEDDINGS,
            encoder=ENCODER,
            device=params.device,
        )
    found.tables.write(corpus_path, each_path, plot_path)
    write_json(coverage_path, found.coverage)
    return f"evaluate: {found.summary()}"


if __name__ == "__main__":
    run(kept=None)
