"""Caption the segments of one split.

Reads data/videos/segments.parquet, data/videos/embeddings/, models/decoder/, models/finetuned/ and the
sections caption and seed of params.yaml. Writes data/captions.parquet, data/captions.csv, data/captions.json (COCO
results), and data/retrieved.parquet (the frames that the memory retrieved for each).
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from pipeline.captioner.generation import caption_examples
from pipeline.captioner.model import Captioner, load_captioner
from pipeline.captioner.sequences import Example, make_examples
from pipeline.dataset.segments import Segment, from_table
from pipeline.device import autocast, choose_device, choose_dtype, keep_freed_memory
from pipeline.features.embeddings import read_embeddings
from pipeline.language.decoder import refuse_too_long
from pipeline.params import Params, load_params
from pipeline.process import progress
from pipeline.scoring.caption_table import write_captions, write_retrieved
from stages import run

SEGMENTS = Path("data/videos/segments.parquet")
EMBEDDINGS = Path("data/videos/embeddings")
DECODER = Path("models/decoder")
FINETUNED = Path("models/finetuned")
OUT = Path("data/captions.parquet")


def main() -> None:
    keep_freed_memory()
    print(caption(load_params(), FINETUNED, OUT))


def caption(params: Params, finetuned: Path, out: Path, sparse: int | None = None) -> str:
    """Caption with the captioner in the folder `finetuned`; returns the stage's closing line.

    Args:
        sparse: of how many frames it was trained to look at only (`make_examples`); None: of all.
    """
    captioner, tokenizer, segments, examples = prepare(params, finetuned, sparse)
    options, device = params.caption, next(captioner.parameters()).device
    captions = {}
    generation = options.model_dump(exclude={"split", "precision"})
    with autocast(options.precision, device), progress.bar(total=len(segments), desc="caption", unit="segment") as bar:
        for made in caption_examples(captioner, tokenizer, examples, **generation):
            captions.update(made)
            bar.update(len(made))
    write_captions(out, segments, captions)
    # Always, even without rows: DVC expects the file for every variant.
    retrieved = {id: one.retrieved for id, one in captions.items()}
    write_retrieved(out.with_name("retrieved.parquet"), segments, retrieved)
    return (
        f"caption: {len(captions)} of {len(segments)} segments of split {options.split} captioned by {options.method}"
    )


def prepare(
    params: Params, finetuned: Path, sparse: int | None = None
) -> tuple[Captioner, Any, list[Segment], list[Example]]:
    """Captioner and tokenizer, the split's segments, and the examples of those that have embeddings. Seeds torch."""
    options = params.caption
    segments = [segment for segment in from_table(pq.read_table(SEGMENTS)) if segment.split == options.split]
    if not segments:
        raise ValueError(f"{SEGMENTS} has no segments of split {options.split!r}; see caption.split in params.yaml")
    refuse_too_long(DECODER, *params.longest_row())
    videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments))
    device = choose_device(params.device)
    captioner, tokenizer = load_captioner(finetuned, DECODER, dtype=choose_dtype(options.precision, device))
    examples = make_examples(segments, videos, scope=captioner.config.scope, sparse=sparse)

    torch.manual_seed(params.seed)
    return captioner.to(device), tokenizer, segments, examples


if __name__ == "__main__":
    run(kept=None)
