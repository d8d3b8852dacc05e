"""Embedding frames: beside the bare encoder, in several precisions, and from videos beside clip-video-encode.

    python -m bench.embed [--encoder ViT-B-32] [--frames 512] [--batch 64] [--rounds 3]
                          [--clip-video-encode PYTHON [--seconds 60]]

Random weights and pictures. Every round measures each way once, one right after the other; a ratio is the median over
rounds of the two in the same round. Rates are per second of wall clock and per second of processor: where others use
the machine too, only the second means anything.

    fp32, bf16, autocast     the tower's forward on pixels in memory; bf16: weights cast once, autocast: at each step.
                             As many threads as cores, each with a batch of its own.
    embed fp32, embed bf16   pipeline.features.encoder: from JPEGs in memory to embeddings, as the stage `embed` does

With `--clip-video-encode`, the python of an environment that has it (docs/benchmarks.md says how to make one): the same
videos (bench.frames makes them, 25 frames a second), sampled 5 times a second and embedded, model loading included.

Prints a table and, as its last line, JSON.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from bench.frames import make
from bench.usage import cpu_s
from pipeline.features import frames
from pipeline.features.encoder import Encoder, load_encoder, save_encoder
from pipeline.features.frames import Sampling, Source
from pipeline.process.cores import cores

CPU = torch.device("cpu")
PIXELS = (398, 224)  # what a video of 640x360 becomes at a short side of 224
SAMPLING = Sampling(fps=5, short_side_px=224, jpeg_quality=3)
SOURCE_FPS = 25
# Calls what its command line calls; prints how long that took and how many embeddings there are.
CLIP_VIDEO_ENCODE = """
import json, sys, time
from pathlib import Path
import numpy as np
from clip_video_encode import clip_video_encode
videos, out, every, model, weights, workers = json.loads(sys.argv[1])
started = time.perf_counter()
clip_video_encode(videos, out, take_every_nth=every, frame_workers=workers, oc_model_name=model, pretrained=weights)
took = time.perf_counter() - started
print(json.dumps([took, sum(len(np.load(path)) for path in Path(out).glob("*.npy"))]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.embed")
    parser.add_argument("--encoder", default="ViT-B-32", help="an open_clip model")
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clip-video-encode", metavar="PYTHON")
    parser.add_argument("--seconds", type=float, default=60, help="length of each of four videos")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = write_encoder(folder, options.encoder)
        figures = beside_the_bare_encoder(folder, options)
        if options.clip_video_encode:
            figures["clip_video_encode"] = beside_clip_video_encode(folder, weights, options)
    print(json.dumps(figures))


def write_encoder(folder: Path, name: str) -> Path:
    """A random one, in the pipeline's format; returns the path of the same weights as torch saves them."""
    import open_clip

    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    if config is None:
        sys.exit(f"bench.embed: open_clip has no model {name}")
    model = open_clip.create_model(name)
    save_encoder(folder, config, model)
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def beside_the_bare_encoder(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    fp32, bf16 = (load_encoder(folder, device=CPU, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    jpegs = [jpeg(seed) for seed in range(options.frames)]
    pixels = torch.stack([fp32.preprocess.pixels(one) for one in jpegs])
    inputs = fp32.preprocess.normalised(pixels)  # [frames, 3, S, S]
    halves = inputs.bfloat16()
    found: dict[str, Any] = {}

    def remember(name: str, embeddings: Any) -> None:
        found[name] = torch.as_tensor(embeddings).float()

    ways: dict[str, Callable[[], None]] = {
        "fp32": lambda: remember("fp32", forward(fp32, inputs, options.batch)),
        "bf16": lambda: remember("bf16", forward(bf16, halves, options.batch)),
        "autocast": lambda: remember("autocast", forward(fp32, inputs, options.batch, autocast=True)),
        "embed fp32": lambda: remember("embed fp32", fp32.embed(jpegs, batch_size=options.batch)),
        "embed bf16": lambda: remember("embed bf16", bf16.embed(jpegs, batch_size=options.batch)),
    }
    for way in ways.values():
        way()
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            started, before = time.perf_counter(), cpu_s()
            way()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(cpu_s() - before)

    def ratio(times: dict[str, list[float]], slower: str, faster: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[slower], times[faster], strict=True)), 3)

    rows = {
        name: {
            "frames_per_s": round(options.frames / statistics.median(wall[name]), 1),
            "frames_per_cpu_s": round(options.frames / statistics.median(cpu[name]), 1),
            "of_the_bare_wall": ratio(wall, name.split()[-1], name),
            "of_the_bare_cpu": ratio(cpu, name.split()[-1], name),
            "times_fp32_cpu": ratio(cpu, "fp32", name),
            "cosine": round(float(torch.cosine_similarity(found[name], found["fp32"]).mean()), 5),
        }
        for name in ways
    }
    print(f"{'':<12}{'frames/s':>10}{'per CPU s':>11}{'x fp32':>8}{'of the bare, wall':>19}{'CPU':>7}{'cosine':>10}")
    for name, row in rows.items():
        print(
            f"{name:<12}{row['frames_per_s']:>10}{row['frames_per_cpu_s']:>11}{row['times_fp32_cpu']:>8}"
            f"{row['of_the_bare_wall']:>19}{row['of_the_bare_cpu']:>7}{row['cosine']:>10}"
        )
    return {
        "encoder": options.encoder,
        "frames": options.frames,
        "batch": options.batch,
        "cores": cores(),
        "rows": rows,
    }


@torch.inference_mode()
def forward(encoder: Encoder, inputs: torch.Tensor, batch: int, *, autocast: bool = False) -> torch.Tensor:
    """Embeddings [n, E] of pixels [n, 3, S, S] that are there already."""

    def one(part: torch.Tensor) -> torch.Tensor:
        precision = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
        with torch.inference_mode(), precision:
            return encoder.visual(part.contiguous(memory_format=torch.channels_last))

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(one, inputs.split(batch))))
    finally:
        torch.set_num_threads(before)


def jpeg(seed: int) -> bytes:
    """Smooth, as pictures are."""
    small = np.random.default_rng(seed).integers(0, 256, (14, 25, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(small).resize(PIXELS, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def beside_clip_video_encode(folder: Path, weights: Path, options: argparse.Namespace) -> dict[str, Any]:
    paths = make(folder, options.seconds, None, rate=SOURCE_FPS)
    per_s: dict[str, list[float]] = {"clip-video-encode": [], "ours fp32": [], "ours bf16": []}
    for turn in range(options.rounds):
        out = folder / f"out-{turn}"
        out.mkdir()
        every = SOURCE_FPS // round(SAMPLING.fps)
        arguments = [[str(path) for path in paths], str(out), every, options.encoder, str(weights), cores()]
        command = [options.clip_video_encode, "-c", CLIP_VIDEO_ENCODE, json.dumps(arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, count = json.loads(done.stdout.splitlines()[-1])
        per_s["clip-video-encode"].append(count / seconds)
        for name, dtype in (("ours fp32", torch.float32), ("ours bf16", torch.bfloat16)):
            started = time.perf_counter()
            count = ours(paths, folder, dtype, options)
            per_s[name].append(count / (time.perf_counter() - started))
    print(f"\n{'':<20}{'frames/s':>10}{'x clip-video-encode':>21}")
    figures = {}
    for name, rates in per_s.items():
        each = [own / peer for own, peer in zip(rates, per_s["clip-video-encode"], strict=True)]
        figures[name] = {"per_s": round(statistics.median(rates), 2), "times": round(statistics.median(each), 2)}
        print(f"{name:<20}{figures[name]['per_s']:>10}{figures[name]['times']:>21}")
    return figures


def ours(paths: list[Path], folder: Path, dtype: torch.dtype, options: argparse.Namespace) -> int:
    """Sample, write, load, read, embed; returns the number of frames."""
    sources = [Source(path.stem, path, options.seconds) for path in paths]
    for one in frames.sample_all(sources, SAMPLING, workers=cores()):
        pq.write_table(frames.to_table(one, fps=SAMPLING.fps), folder / f"{one.video_id}.parquet", compression="none")
    encoder = load_encoder(folder, device=CPU, dtype=dtype)
    tables = ((path.stem, pq.read_table(path.with_suffix(".parquet"))["jpeg"]) for path in paths)
    embedded = encoder.embed_videos(tables, batch_size=options.batch, workers=cores())
    return sum(len(embeddings) for _, embeddings in embedded)


if __name__ == "__main__":
    main()
