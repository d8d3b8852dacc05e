"""Caption the segments of one split.

Reads data/activitynet/segments.parquet, data/activitynet/embeddings/, models/decoder/, models/finetuned/ and the
sections caption and seed of params.yaml. Writes data/captions.parquet, data/captions.csv, data/captions.json (COCO
results), and data/retrieved.parquet (which frames the memory gave for each).
"""

from pathlib import Path

import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from pipeline.annotations import from_table
from pipeline.captioner import load_captioner
from pipeline.captioning import caption_examples
from pipeline.captions import write_captions
from pipeline.device import autocast, choose_device, keep_freed_memory
from pipeline.embeddings import read_embeddings
from pipeline.params import Params, load_params
from pipeline.sequences import make_examples
from stages import run

SEGMENTS = Path("data/activitynet/segments.parquet")
EMBEDDINGS = Path("data/activitynet/embeddings")
DECODER = Path("models/decoder")
FINETUNED = Path("models/finetuned")
OUT = Path("data/captions.parquet")


def main() -> None:
    keep_freed_memory()
    print(caption(load_params(), FINETUNED, OUT))


def caption(params: Params, finetuned: Path, out: Path) -> str:
    """Caption with the captioner of the folder `finetuned`, as `params` say; returns the stage's closing line."""
    options = params.caption
    segments = [segment for segment in from_table(pq.read_table(SEGMENTS)) if segment.split == options.split]
    if not segments:
        raise ValueError(f"{SEGMENTS} has no segments of split {options.split!r}; see caption.split in params.yaml")
    videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments))
    captioner, tokenizer = load_captioner(finetuned, DECODER)
    examples = make_examples(
        segments, videos, scope=captioner.config.scope, baseline_frame=captioner.config.baseline_frame
    )

    device = choose_device(params.device)
    captioner.to(device)
    torch.manual_seed(params.seed)
    captions = {}
    how = options.model_dump(exclude={"split", "precision"})
    with autocast(options.precision, device), tqdm(total=len(segments), desc="caption", unit="segment") as bar:
        for made in caption_examples(captioner, tokenizer, examples, **how):
            captions.update(made)
            bar.update(len(made))
    write_captions(out, segments, captions)
    return (
        f"caption: {len(captions)} of {len(segments)} segments of split {options.split} captioned by {options.method}"
    )


if __name__ == "__main__":
    run()
