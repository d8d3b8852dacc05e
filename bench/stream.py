"""A long video through the streaming memory: frames per second and how much the process grows.

    python -m bench.stream [--hours 3] [--models models]

Uses the mapper in models/finetuned (which must have a memory) on random embeddings and recalls a segment a minute. A
memory that is bounded makes the process grow until it is full, and no further: both are told. Prints a table and, as
its last line, JSON.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from tqdm import tqdm

from pipeline.captioner import load_captioner
from pipeline.mapper import TransformerMapper
from pipeline.streaming import Stream

FPS = 5
PIECE = 25  # frames that arrive together: five seconds of video
SEGMENT = 60 * FPS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stream")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--models", type=Path, default=Path("models"))
    asked = parser.parse_args()
    captioner, _ = load_captioner(asked.models / "finetuned", asked.models / "decoder")
    mapper = captioner.mapper
    assert isinstance(mapper, TransformerMapper)
    stream = Stream(mapper)
    frames = int(asked.hours * 3600 * FPS)
    generator = torch.Generator().manual_seed(0)
    before, started = peak_mib(), time.perf_counter()
    when_full = before
    for at in tqdm(range(0, frames, PIECE), unit="piece"):
        embeddings = torch.randn(1, PIECE, mapper.config.embedding_width, generator=generator)
        if at % SEGMENT == 0 and at:
            stream.recall(embeddings[:, :1], torch.tensor([[at - SEGMENT]]))
        stream.remember(embeddings)
        if at <= 2 * stream.capacity:
            when_full = peak_mib()
    seconds = time.perf_counter() - started
    figures = {
        "frames": frames,
        "frames_kept": stream.capacity,
        "frames_per_s": round(frames / seconds),
        "growth_until_full_mib": round(when_full - before),
        "growth_after_mib": round(peak_mib() - when_full),
    }
    for name, value in figures.items():
        print(f"{name:<24}{value:>10,}")
    print(json.dumps(figures))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
