"""Caption the segments of one split.

Reads data/activitynet/segments.parquet, data/activitynet/embeddings/, models/decoder/, models/finetuned/ and the
sections caption and seed of params.yaml. Writes data/captions.parquet, data/captions.csv and data/captions.json
(COCO results).
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from pipeline.annotations import from_table
from pipeline.captioner import caption_batch, generation_options, load_captioner
from pipeline.captions import write_captions
from pipeline.device import choose_device, choose_dtype
from pipeline.embeddings import read_embeddings
from pipeline.params import load_params
from pipeline.sequences import collate, make_examples, plan_batches
from stages import run

SEGMENTS = Path("data/activitynet/segments.parquet")
EMBEDDINGS = Path("data/activitynet/embeddings")
DECODER = Path("models/decoder")
FINETUNED = Path("models/finetuned")
UNFINISHED = Path("models/unfinished")
OUT = Path("data/captions.parquet")


def main() -> None:
    params = load_params()
    options = params.caption
    segments = [segment for segment in from_table(pq.read_table(SEGMENTS)) if segment.split == options.split]
    if not segments:
        raise ValueError(f"{SEGMENTS} has no segments of split {options.split!r}; see caption.split in params.yaml")
    UNFINISHED.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=UNFINISHED) as folder:  # where there is room; the usual place may be memory
        videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments), Path(folder) / "embeddings")
    captioner, tokenizer = load_captioner(FINETUNED, DECODER)
    examples = make_examples(
        segments, videos, scope=captioner.config.scope, baseline_frame=captioner.config.baseline_frame
    )

    generation = generation_options(**options.model_dump(exclude={"split", "batch_size", "precision"}))
    device = choose_device(params.device)
    captioner.to(device)
    torch.manual_seed(params.seed)
    captions = {}
    batches = plan_batches(examples, options.batch_size, seed=None)
    dtype = choose_dtype(options.precision, device)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with autocast, tqdm(total=len(segments), desc="caption", unit="segment") as bar:
        for batch in batches:
            made = caption_batch(captioner, tokenizer, collate([examples[i] for i in batch]).to(device), **generation)
            captions.update(made)
            bar.update(len(made))
    write_captions(OUT, segments, captions)
    print(
        f"caption: {len(captions)} of {len(segments)} segments of split {options.split} captioned by {options.method}"
    )


if __name__ == "__main__":
    run(main)
