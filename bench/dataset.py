"""What training costs in memory: as the dataset grows, and as one segment grows.

    python -m bench.dataset [dataset|segment|both] [--frames 2000000] [--lengths 750 1500 3000]

`dataset` (2 minutes and 4.5 GB of disk, removed afterwards): writes embeddings of so many frames and of a tenth of them
into shards, trains one epoch on each with a tiny captioner with memory, and tells how much the process grew. `segment`
(8 minutes; fewer lengths, less): one training step on one segment of so many frames at the prior report's
setting (profiles/activitynet.yaml, GPT-2 of random weights). Every row is a process of its own. Growth is of memory
that is the process's own, not files in the page cache, sampled while it runs. Prints tables and, as the last line,
JSON.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bench.table import show
from bench.usage import own_bytes, peak_bytes
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.memory import MemoryConfig, Moments
from pipeline.captioner.model import Captioner, CaptionerConfig, build_captioner
from pipeline.captioner.sequences import make_examples
from pipeline.captioner.training import set_trainable, train_captioner
from pipeline.dataset.segments import Segment
from pipeline.device import keep_freed_memory
from pipeline.features import shards
from pipeline.features.embeddings import read_embeddings
from pipeline.features.encoder import schema_of, to_table
from pipeline.features.shards import VideoRows
from pipeline.params import load_params
from pipeline.training.loop import Optimization

PROFILE = Path("profiles/activitynet.yaml")
WIDTH = 512  # of ViT-B/32's embeddings
FPS = 5
VIDEO_FRAMES = 600  # ActivityNet's videos last two minutes
SEGMENTS = 3  # of each


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.dataset")
    parser.add_argument("what", nargs="?", choices=["dataset", "segment", "both"], default="both")
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--lengths", type=int, nargs="+", default=[750, 1500, 3000])
    parser.add_argument("--folder", type=Path, default=Path("models/unfinished"), help="a disk with room")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one measurement, in a process of its own
    options = parser.parse_args()
    if options.measure:
        kind, *arguments = json.loads(options.measure)
        keep_freed_memory()  # as the stages that train do
        print(json.dumps(train_on_dataset(*arguments) if kind == "dataset" else train_on_segment(*arguments)))
        return
    figures: dict[str, list[dict[str, Any]]] = {}
    if options.what != "segment":
        options.folder.mkdir(parents=True, exist_ok=True)
        sizes = (options.frames // 10, options.frames)
        figures["dataset"] = [measure("dataset", frames, str(options.folder)) for frames in sizes]
        show(figures["dataset"])
    if options.what != "dataset":
        figures["segment"] = [
            measure("segment", frames, gradient) for gradient in ("detached", "through") for frames in options.lengths
        ]
        show(figures["segment"])
    print(json.dumps(figures))


def measure(*arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.dataset", "--measure", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def train_on_dataset(frames: int, folder: str) -> dict[str, Any]:
    videos = [f"v{number:06d}" for number in range(frames // VIDEO_FRAMES)]
    with TemporaryDirectory(dir=folder) as temporary:
        # In a process of its own: what writing takes is not what training takes.
        writer = get_context("fork").Process(target=write, args=(temporary, len(videos)))
        writer.start()
        writer.join()
        assert writer.exitcode == 0
        captioner = build_captioner(
            CaptionerConfig(
                MapperConfig("transformer", 2, 2, 32, 1, 1, embedding_width=WIDTH, decoder_width=32),
                MemoryConfig(
                    (1,), 8, 64000, "joint", "age", "video", "through", 0, -0.5, 30.0, 6.0, None, None, False, 5.0
                ),
                None,
            ),
            GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)),
        )
        set_trainable(captioner, "frozen")
        with Peak() as peak:
            segments = [segment for video_id in videos for segment in segments_of(video_id)]
            copy = Path(temporary) / "work/embeddings"
            embeddings = read_embeddings(Path(temporary) / "embeddings", videos, copy)
            examples = make_examples(segments, embeddings, scope="video")
            captions = {caption for segment in segments for caption in segment.captions}
            started = time.perf_counter()
            train_captioner(
                captioner,
                examples,
                {caption: [ord(letter) % 64 for letter in caption] for caption in captions},
                Optimization(1, 64, "adamw", 1e-3, 0.01, 1.0, 10, 1, "32-true", 1, "cpu", 0),
                captions_drawn=None,
                age_rate_factor=0.1,
                name="bench",
                work=Path(temporary) / "work",
            )
            seconds = time.perf_counter() - started
    return {
        "frames": len(videos) * VIDEO_FRAMES,
        "segments": len(segments),
        "embeddings_mib": len(videos) * VIDEO_FRAMES * WIDTH * 2 // 2**20,
        "growth_mib": peak.growth(),
        "epoch_s": round(seconds),
    }


def write(folder: str, videos: int) -> None:
    """Shards of random embeddings, some of which are made only once: they are there to be read, not looked at."""
    schema = schema_of(WIDTH)
    random = np.random.default_rng(0).standard_normal((VIDEO_FRAMES, WIDTH), dtype=np.float32).astype(np.float16)

    def compute(video_ids: list[str]) -> Iterator[VideoRows]:
        for video_id in video_ids:
            table = pa.table(
                {
                    "video_id": [video_id] * VIDEO_FRAMES,
                    "frame_index": pa.array(range(VIDEO_FRAMES), pa.int32()),
                    "timestamp_s": np.arange(VIDEO_FRAMES) / FPS,
                }
            )
            yield VideoRows(video_id, to_table(table, random, schema))

    fingerprints = {f"v{number:06d}": "made up" for number in range(videos)}
    shards.update(Path(folder) / "embeddings", schema=schema, shards=8, fingerprints=fingerprints, compute=compute)


def segments_of(video_id: str) -> list[Segment]:
    split = "val" if video_id.endswith("00") else "train"
    length_s = VIDEO_FRAMES / FPS / SEGMENTS
    return [
        Segment(f"{video_id}#{n}", video_id, split, n * length_s, (n + 1) * length_s, (f"caption {n}",), None)
        for n in range(SEGMENTS)
    ]


def train_on_segment(frames: int, gradient: str) -> dict[str, Any]:
    params = load_params(PROFILE)
    of_model = params.memory.model_dump(include={field.name for field in fields(MemoryConfig)})
    memory = MemoryConfig(**{**of_model, "gradient": gradient})
    torch.manual_seed(0)
    decoder = GPT2LMHeadModel(GPT2Config())
    width = decoder.config.n_embd
    config = MapperConfig(**params.mapper.model_dump(), embedding_width=WIDTH, decoder_width=width)
    captioner = build_captioner(CaptionerConfig(config, memory, None), decoder)
    set_trainable(captioner, "frozen")
    started = time.perf_counter()
    with Peak() as peak:
        step(captioner, frames, params.finetune.max_caption_tokens)
    return {
        "frames": frames,
        "gradient": gradient,
        "growth_mib": peak.growth(),
        "peak_mib": peak.all_of_it(),
        "step_s": round(time.perf_counter() - started),
    }


def step(captioner: Captioner, frames: int, caption_tokens: int) -> None:
    optimizer = torch.optim.AdamW(captioner.mapper.parameters())
    moments = Moments(torch.tensor([[frames - 1]]), torch.tensor([[0]]))
    prefix = captioner.prefixes(torch.randn(1, frames, WIDTH), moments, torch.ones(1, 1, dtype=torch.bool))
    tokens = torch.zeros(1, caption_tokens, dtype=torch.int64)
    captioner.token_log_probs(prefix, tokens, torch.tensor([caption_tokens])).sum().neg().backward()
    optimizer.step()


class Peak:
    """The most memory the process has of its own while in the `with` block, sampled every 5 ms.

    Linux tells what of it is not files; elsewhere the whole peak stands for it.
    """

    def __enter__(self) -> "Peak":
        self._before = self._most = _taken()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def growth(self) -> int:
        return (self._most - self._before) // 2**20

    def all_of_it(self) -> int:
        """With Python and its libraries, as the system counts it."""
        return peak_bytes() // 2**20

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, _taken())


def _taken() -> int:
    own = own_bytes()
    return peak_bytes() if own is None else own


if __name__ == "__main__":
    main()
