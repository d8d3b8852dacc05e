"""Captioning a long video: frames per second, how much the process grows; and whether streaming changes captions.

    python -m bench.stream [--hours 3]      # after `make demo`

Captions a video of random embeddings with the model in models/finetuned (which must have a memory), a segment a minute,
as the stage `caption` would: what the memory cannot hold whole is streamed. Then captions the segments of the test
split streamed and whole and counts the captions that are the same. Prints a table and, as its last line, JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench.usage import peak_bytes
from pipeline.captioner import generation as captioning
from pipeline.captioner.generation import caption_batch
from pipeline.captioner.model import load_captioner
from pipeline.captioner.sequences import Example, Target, collate, make_examples
from pipeline.dataset.segments import Segment, from_table
from pipeline.features.embeddings import read_embeddings

FPS = 5
SEGMENT = 60 * FPS
GENERATION = {"method": "beam", "beams": 4, "temperature": 1.0, "top_p": 1.0, "max_tokens": 40, "length_penalty": 1.0}
SEGMENTS = Path("data/videos/segments.parquet")
EMBEDDINGS = Path("data/videos/embeddings")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stream")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--models", type=Path, default=Path("models"))
    options = parser.parse_args()
    captioner, tokenizer = load_captioner(options.models / "finetuned", options.models / "decoder")
    if captioner.config.memory is None:
        sys.exit(f"{options.models}/finetuned has no memory; run: dvc exp run -S memory.enabled=true")

    frames = int(options.hours * 3600 * FPS)
    width = captioner.mapper.config.embedding_width
    embeddings = np.random.default_rng(0).standard_normal((frames, width), dtype=np.float32).astype(np.float16)
    targets = []
    for start in range(0, frames - SEGMENT + 1, SEGMENT):
        segment = Segment(f"v_long#{start}", "v_long", "test", start / FPS, (start + SEGMENT) / FPS, (), None)
        targets.append(Target(segment, start, start + SEGMENT - 1))
    batch = collate([Example(embeddings, range(frames), tuple(targets))])
    before, started = peak_bytes(), time.perf_counter()
    captions = caption_batch(captioner, tokenizer, batch, **GENERATION)
    seconds = time.perf_counter() - started
    figures = {
        "frames": frames,
        "frames_kept": captioner.config.memory.capacity(captioner.mapper.config.tokens),
        "captions": len(captions),
        "frames_per_s": round(frames / seconds),
        "growth_mib": (peak_bytes() - before) // 2**20,
    }

    segments = [segment for segment in from_table(pq.read_table(SEGMENTS)) if segment.split == "test"]
    videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments))
    examples = make_examples(segments, videos, scope=captioner.config.scope)
    same = 0
    for example in examples:
        batch = collate([example])
        whole = caption_batch(captioner, tokenizer, batch, **GENERATION)
        held, captioning.holds = captioning.holds, lambda *_: False
        streamed = caption_batch(captioner, tokenizer, batch, **GENERATION)
        captioning.holds = held
        same += sum(streamed[segment].caption == whole[segment].caption for segment in whole)
    figures |= {"test_segments": sum(len(example.targets) for example in examples), "same_captions": same}
    for name, value in figures.items():
        print(f"{name:<24}{value:>10,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
