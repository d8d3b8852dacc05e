"""Questions about videos: computed once for all of a video's, beside once for each; and what glimpses and steps cost.

    python -m bench.questions [--videos 6] [--questions 7] [--glimpses 8] [--rounds 3]

Renders built-in videos; encoder and reader have the built-in sizes and random weights. One thread. Every round measures
each way once, one right after the other; a ratio is the median over rounds of the two in the same round. CPU seconds,
those of ffmpeg included.

    answers        from the mp4 to the answers: decode, embed and remember once for all questions about a video, beside
                   the same for each question; both of a memory of every frame. And glimpses per question as ClipBERT
                   answers: seek in the mp4, embed these frames, answer.
    glimpses       to pixels, 8 glimpses of 2 frames for each question. For each question anew: JPEGs out of the shards,
                   beside seeks in the mp4, and in an mp4 out of an LMDB (if lmdb is installed). And each frame once for
                   all questions about a video: JPEGs out of the shards, beside the mp4 decoded
    steps          seconds of a training step of the reader against frames of it, from stored embeddings

Memory's answers must be the same both ways, or the exit status is 1. Prints a table and, as its last line, JSON.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from bench.usage import cpu_s
from pipeline.answerer import glimpses as grids
from pipeline.answerer.answering import answer
from pipeline.answerer.examples import Example, Text, collate, make_examples
from pipeline.answerer.reader import Reader, ReaderConfig
from pipeline.answerer.training import answer_loss
from pipeline.answerer.watching import Watching, fused, sampler, watch
from pipeline.dataset.questions.question import Question
from pipeline.dataset.shapes.dataset import write_videos
from pipeline.features import frames
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.encoder import Encoder, load_encoder
from pipeline.features.frames import Sampling, Source
from tests.random_clip import write_random_clip

SAMPLING = Sampling(fps=5, short_side_px=128, jpeg_quality=3)
WIDTH, WORDS, STATES, ANSWERS = 128, 9, 192, 30
VISION = {"layers": [1, 1, 1, 1], "width": 24, "head_width": 32, "image_size": 64}
STEP = 2  # frames between those of a glimpse
MEMORY = Watching("memory", "mean", 2, STEP, 0.99)
JOINT = Watching("sparse", "joint", 2, STEP)
BATCH, OF_EACH = 8, 10  # videos of a training step, and questions about each
Pixels = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.questions")
    for name, value in {"videos": 6, "questions": 7, "glimpses": 8, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_random_clip(folder / "encoder", WIDTH, vision=VISION)
        encoder = load_encoder(folder / "encoder", device=torch.device("cpu"), dtype=torch.float32)
        paths = rendered(folder, options.videos)
        tables = {path: sampled(path) for path in paths}
        for path, table in tables.items():
            pq.write_table(table, path.with_suffix(".parquet"), compression="none", row_group_size=512)
        figures: dict[str, Any] = {"videos": len(paths), "questions_per_video": options.questions}
        figures["frames_per_video"] = statistics.mean(len(table) for table in tables.values())
        figures["answers"] = answers(paths, encoder, options)
        figures["glimpses"] = of_glimpses(folder, paths, tables, options)
        figures["steps"] = steps(round(figures["frames_per_video"]), options)
    print(json.dumps(figures))
    if not figures["answers"]["same"]:
        sys.exit("bench.questions: a memory answers otherwise when it is computed once for all questions")


def rendered(folder: Path, count: int) -> list[Path]:
    counts = {"train": count, "val": 0, "test": 0}
    for name in ("media", "annotations"):
        (folder / name).mkdir()
    write_videos(
        folder / "media",
        folder / "annotations",
        seed=0,
        counts=counts,
        size_px=128,
        workers=1,
        fps=10,
        captions_per_segment={"train": 1, "val": 1, "test": 1},
    )
    return sorted((folder / "media").iterdir())


def sampled(path: Path) -> pa.Table:
    own = frames.sample(Source(path.stem, path, 60.0), SAMPLING)
    return pa.table({"jpeg": pa.array(list(own.jpegs), pa.binary())})


def rounds(ways: dict[str, Callable[[], None]], count: int) -> dict[str, list[float]]:
    """CPU seconds of each way in each round."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        for name, way in ways.items():
            before = cpu_s()
            way()
            spent[name].append(cpu_s() - before)
    return spent


def ratios(spent: dict[str, list[float]], of: str) -> dict[str, float]:
    """How often a way's cost is that of `of`."""
    pairs = {name: zip(own, spent[of], strict=True) for name, own in spent.items()}
    return {name: round(statistics.median(a / b for a, b in pair), 2) for name, pair in pairs.items()}


def reader_of(watching: Watching) -> Reader:
    torch.manual_seed(0)
    config = ReaderConfig(
        WIDTH, STATES, 96, 4, 3, 1, 32 if watching.way == "memory" else None, watching.timed, 40.0, ANSWERS
    )
    return Reader(config).eval()


def example(path: str, embeddings: Pixels, ends: Sequence[float]) -> Example:
    asked = [Question(f"{path}#{end}", path, f"what is {end}", ("0",), (1.0,), end_s=end) for end in ends]
    random = torch.Generator().manual_seed(0)
    states, looks = torch.randn(WORDS, STATES, generator=random), torch.randn(WORDS, WIDTH, generator=random)
    texts = {one.question: Text(torch.arange(WORDS) + round(10 * (one.end_s or 0)), states, looks) for one in asked}
    video = VideoEmbeddings(np.arange(len(embeddings)) / SAMPLING.fps, embeddings)
    [made] = make_examples(asked, {path: video}, texts, [str(label) for label in range(ANSWERS)])
    return made


def ends_of(count: int, questions: int) -> list[float]:
    """Questions are asked all along the video."""
    return [round((number + 1) * count / questions) / SAMPLING.fps for number in range(questions)]


def answers(paths: Sequence[Path], encoder: Encoder, options: argparse.Namespace) -> dict[str, Any]:
    readers = {watching.way: reader_of(watching) for watching in (MEMORY, JOINT)}
    names = [str(label) for label in range(ANSWERS)]
    found: dict[str, list[Any]] = {}

    def answered(made: Example, watching: Watching) -> list[Any]:
        settings: dict[str, Any] = {"counts": [options.glimpses], "grid": "ends", "batch_size": 1, "encoder_gflop": 0.0}
        return [row.first for row in answer(readers[watching.way], watching, [made], names, **settings)]

    def embedded(jpegs: Sequence[bytes]) -> Pixels:
        return encoder.embed(jpegs, batch_size=64)

    def once() -> None:
        found["once"] = []
        for path in paths:
            jpegs = sampled(path)["jpeg"].to_pylist()
            made = example(path.stem, embedded(jpegs), ends_of(len(jpegs), options.questions))
            found["once"] += answered(made, MEMORY)

    def each() -> None:
        found["each"] = []
        for path in paths:
            for number in range(options.questions):
                jpegs = sampled(path)["jpeg"].to_pylist()
                end = ends_of(len(jpegs), options.questions)[number]
                found["each"] += answered(example(path.stem, embedded(jpegs), [end]), MEMORY)

    def glimpsed() -> None:
        for path in paths:
            count = lengths[path]
            for end in ends_of(count, options.questions):
                index = wanted(round(end * SAMPLING.fps), options.glimpses)
                pixels = seeks(path, index)
                jpegs = [encoded(one) for one in pixels]
                answered(example(path.stem, embedded(jpegs), [len(jpegs) / SAMPLING.fps]), JOINT)

    lengths = {path: len(sampled(path)) for path in paths}
    spent = rounds(
        {"memory, once a video": once, "memory, per question": each, "glimpses, per question": glimpsed}, options.rounds
    )
    of = ratios(spent, "memory, once a video")
    asked = len(paths) * options.questions
    print(f"{'from mp4 to answer':<28}{'questions/CPU s':>17}{'times the cost':>16}")
    for name, seconds in spent.items():
        print(f"{name:<28}{asked / statistics.median(seconds):>17.1f}{of[name]:>16}")
    return {
        "questions_per_cpu_s": {name: round(asked / statistics.median(own), 1) for name, own in spent.items()},
        "times_once": of,
        "same": found["once"] == found["each"],
    }


def wanted(length: int, n: int) -> list[int]:
    """Frames of n glimpses of the first `length`."""
    return sorted(set(grids.uniform(max(1, length), n, 2, STEP, "ends").flatten().tolist()))


def encoded(pixels: Pixels) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "BMP")  # nearly free
    return file.getvalue()


def seeks(file: Path | BytesIO, index: Sequence[int]) -> list[Pixels]:
    """The frames at these fifths of a second: to each a seek, unless it is the next."""
    found = []
    opened: Any = av.open(file if isinstance(file, BytesIO) else str(file))
    with opened as container:
        stream = container.streams.video[0]
        at = -1.0
        for number in index:
            time_s = number / SAMPLING.fps
            if not 0 <= time_s - at < 1:
                container.seek(int(time_s / stream.time_base), stream=stream)
            last = None
            for frame in container.decode(stream):
                last, at = frame, float(frame.time or 0)
                if at >= time_s - 1e-3:
                    break
            if last is None:  # behind the last frame
                container.seek(0, stream=stream)
                last = list(container.decode(stream))[-1]
            found.append(last.to_ndarray(format="rgb24"))
    return found


def of_glimpses(
    folder: Path, paths: Sequence[Path], tables: dict[Path, pa.Table], options: argparse.Namespace
) -> dict[str, Any]:
    asked = {
        path: [wanted(round(end * SAMPLING.fps), options.glimpses) for end in ends_of(len(table), options.questions)]
        for path, table in tables.items()
    }

    def jpegs_of(path: Path) -> pa.ChunkedArray:
        return pq.read_table(path.with_suffix(".parquet"), columns=["jpeg"])["jpeg"]

    def pixels_of(jpeg: bytes) -> Pixels:
        return np.asarray(Image.open(BytesIO(jpeg)))  # RGB, as the stage frames writes them

    def from_shards() -> None:
        for path, of in asked.items():
            jpegs = jpegs_of(path)
            for index in of:
                for number in index:
                    pixels_of(jpegs[number].as_py())

    def from_shards_once() -> None:
        for path, of in asked.items():
            jpegs = jpegs_of(path)
            for number in sorted(set().union(*of)):
                pixels_of(jpegs[number].as_py())

    def from_mp4() -> None:
        for path, of in asked.items():
            for index in of:
                seeks(path, index)

    def decoded_once() -> None:
        for path, of in asked.items():
            needed = sorted(set().union(*of))
            seeks(path, needed)  # next to each other, so mostly without a seek

    ways: dict[str, Callable[[], None]] = {
        "shards": from_shards,
        "mp4, seeks": from_mp4,
        "shards, once": from_shards_once,
        "mp4, once": decoded_once,
    }
    try:
        import lmdb
    except ImportError:
        store = None
    else:
        store = lmdb.open(str(folder / "lmdb"), map_size=1 << 32)
        with store.begin(write=True) as transaction:
            for path in paths:
                transaction.put(path.stem.encode(), path.read_bytes())

        def from_lmdb() -> None:
            for path, of in asked.items():
                for index in of:
                    with store.begin() as transaction:
                        video = transaction.get(path.stem.encode())
                    assert video is not None
                    seeks(BytesIO(video), index)

        ways["LMDB, seeks"] = from_lmdb
    spent = rounds(ways, options.rounds)
    if store is not None:
        store.close()
    # Each beside the shards read in the same way.
    of = ratios(spent, "shards") | {
        name: ratio for name, ratio in ratios(spent, "shards, once").items() if name.endswith("once")
    }
    count = sum(len(index) for each in asked.values() for index in each)
    print(f"\n{'glimpses to pixels':<28}{'frames/CPU s':>17}{'times the cost':>16}")
    for name, seconds in spent.items():
        print(f"{name:<28}{count / statistics.median(seconds):>17.1f}{of[name]:>16}")
    return {
        "frames": count,
        "frames_per_cpu_s": {name: round(count / statistics.median(own), 1) for name, own in spent.items()},
        "times_shards": of,
    }


def steps(length: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    examples = [
        example(f"v{number}", random.normal(size=(length, WIDTH)).astype(np.float16), ends_of(length, OF_EACH))
        for number in range(BATCH)
    ]
    batch = collate(examples)
    found = []
    print(f"\n{'training step':<28}{'frames':>17}{'seconds':>16}")
    for name, watching, n in [*(("joint", JOINT, n) for n in (1, 2, 4, 8, 16)), ("memory", MEMORY, 1)]:
        reader = reader_of(watching).train()
        optimizer = torch.optim.AdamW(reader.parameters())
        seconds = []
        for turn in range(options.rounds + 1):
            began = time.perf_counter()
            seen = watch(reader, batch, watching, sampler(watching, n, torch.Generator().manual_seed(turn)))
            scores = fused(reader.list_head(seen.features), batch.lengths.shape[1], watching)
            losses = [
                answer_loss(scores[v, q], target.scores)
                for v, targets in enumerate(batch.targets)
                for q, target in enumerate(targets)
            ]
            torch.stack(losses).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if turn:  # the first warms up
                seconds.append(time.perf_counter() - began)
        looked_at = int(seen.allowed.sum()) if watching.way == "sparse" else BATCH * length
        row = {"model": name, "glimpses": n, "frames": looked_at, "seconds": round(statistics.median(seconds), 4)}
        found.append(row)
        print(f"{f'{name}, n = {n}' if watching is JOINT else name:<28}{looked_at:>17}{row['seconds']:>16}")
    return found


if __name__ == "__main__":
    main()
