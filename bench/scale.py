"""From 20 videos to 100 million: bytes, shards, hours, dollars from rates measured here; and how shards fill workers.

    python -m bench.scale [--videos FOLDER] [--encoder ViT-B-32]

Measures on the videos of a folder (default: one that ffmpeg makes) and on an encoder of random weights what a frame
costs in CPU seconds and bytes, and what a video costs whoever keeps the books. GPU rate and prices are assumptions,
options all of them. Then simulates shards on workers that are not equally fast and die, against work that divides
without rest. Prints tables and, as its last line, JSON. docs/scale.md says what follows from them.
"""

import argparse
import hashlib
import heapq
import json
import subprocess
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray

from bench.usage import cpu_s
from pipeline.dataset import ledger, verdict
from pipeline.dataset.verdict import Row
from pipeline.device import choose_dtype
from pipeline.features import encoder, frame_rows, frames, shards
from pipeline.features.encoder import Preprocess
from pipeline.features.frames import Sampling, Source
from pipeline.features.shards import VideoRows

SAMPLING = Sampling(fps=5, short_side_px=224, jpeg_quality=3)  # profiles/activitynet.yaml
SIZES = (20, 2_000, 20_000, 1_000_000, 10_000_000, 100_000_000)
SHARDS_PER_WORKER = (1, 2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--videos", type=Path, help="folder of videos to measure on")
    parser.add_argument("--encoder", default="ViT-B-32", help="open_clip's name of a model")
    parser.add_argument("--batch", type=int, default=64, help="frames that are embedded at once")
    parser.add_argument("--books", type=int, default=100_000, help="rows of the ledger that is measured")
    parser.add_argument("--rounds", type=int, default=40, help="simulations that are averaged")
    assumed = parser.add_argument_group("assumptions")
    assumed.add_argument("--video-s", type=float, default=117.0, help="mean length of a video")
    assumed.add_argument("--source-mbit", type=float, default=0.5, help="of a second of video, 360p H.264")
    assumed.add_argument("--shard-gb", type=float, default=1.0, help="of frames in a shard")
    assumed.add_argument("--gpu-frames", type=float, default=3000.0, help="frames a GPU embeds in a second")
    assumed.add_argument("--core-dollars", type=float, default=0.04, help="a core for an hour")
    assumed.add_argument("--gpu-dollars", type=float, default=2.0, help="a GPU for an hour")
    assumed.add_argument("--tb-dollars", type=float, default=23.0, help="a terabyte kept for a month")
    assumed.add_argument("--youtube", type=float, default=300.0, help="videos an hour that it gives one address")
    assumed.add_argument("--workers", type=int, default=64)
    assumed.add_argument("--deaths", type=float, default=0.05, help="of a worker in an hour")
    assumed.add_argument("--repair-s", type=float, default=300.0, help="until a dead worker is back")
    assumed.add_argument("--slow", type=float, default=0.02, help="share of the shards that take three times as long")
    options = parser.parse_args()

    rates = (
        measure_frames(options.videos) | measure_embed(options.encoder, options.batch) | measure_books(options.books)
    )
    for name, value in rates.items():
        print(f"{name:<32}{value:>12,.4g}")
    print()
    table = [scaled(videos, rates, options) for videos in SIZES]
    for name in table[0]:
        print(f"{name:<24}" + "".join(f"{row[name]:>13,.3g}" for row in table))
    print()
    print(f"{options.workers} workers, time over that of work without rest; {options.rounds} rounds")
    print(f"{'shards per worker':<20}{'minutes each':>14}{'queue':>9}{'slices':>9}{'queue, deaths':>16}{'lost':>8}")
    schedule = []
    for per_worker in SHARDS_PER_WORKER:
        row = simulated(per_worker, rates["frames_cpu_s"] * SAMPLING.fps, options)
        schedule.append(row)
        print(
            f"{per_worker:<20}{row['minutes_each']:>14.1f}{row['queue']:>9.2f}{row['slices']:>9.2f}"
            f"{row['queue_deaths']:>16.2f}{row['lost']:>8.1%}"
        )
    print(json.dumps({"rates": rates, "table": table, "schedule": schedule}))


def measure_frames(folder: Path | None) -> dict[str, float]:
    """Of a sampled frame: CPU seconds of decoding, scaling and writing it, bytes of its row in a shard."""
    with tempfile.TemporaryDirectory() as own:
        if folder is None:
            make_video(Path(own) / "made.mp4")
        rows = [verdict.examine(path.stem, path) for path in sorted((folder or Path(own)).iterdir()) if path.is_file()]
        paths = {path.stem: path for path in (folder or Path(own)).iterdir()}
        sources = [Source(row.video_id, paths[row.video_id], row.duration_s) for row in rows if row.duration_s]
        before = cpu_s()
        sampled = [one for one in frames.sample_all(sources, SAMPLING, workers=1) if one.jpegs]
        spent = cpu_s() - before
        fingerprints = {one.video_id: "-" * 64 for one in sampled}
        tables = {one.video_id: frames.to_table(one, fps=SAMPLING.fps) for one in sampled}
        out = Path(own) / "frames"
        done = shards.update(
            out, schema=frames.SCHEMA, shards=1, fingerprints=fingerprints, compute=from_tables(tables)
        )
        size = sum(path.stat().st_size for path in out.iterdir())
    return {"frames_cpu_s": spent / done.rows, "frames_bytes": size / done.rows}


def make_video(path: Path) -> None:
    """10 s of 640x360 H.264 in which something moves before noise: it neither decodes nor compresses for nothing."""
    source = "testsrc2=s=640x360:r=30:d=10,noise=alls=12:allf=t"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source]
    subprocess.run([*command, "-pix_fmt", "yuv420p", "-b:v", "500k", "-y", str(path)], check=True)


def from_tables(tables: dict[str, Any]) -> Callable[[list[str]], Iterator[VideoRows]]:
    return lambda ids: (VideoRows(video_id, tables[video_id], None if tables[video_id] else "none") for video_id in ids)


def measure_embed(name: str, batch: int) -> dict[str, float]:
    """Of a frame: CPU seconds of decoding its JPEG, and of the forward on one core; bytes of its row in a shard."""
    import cv2
    import open_clip

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dtype = choose_dtype("auto", torch.device("cpu"))
    model = open_clip.create_model(name, precision="bf16" if dtype == torch.bfloat16 else "fp32")
    visual = model.visual.eval().requires_grad_(False)
    preprocess = Preprocess(visual.preprocess_cfg)
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.integers(0, 256, (12, 20, 3), dtype=np.uint8), (398, 224))
    jpeg = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    preprocess.pixels(jpeg)
    before = cpu_s()
    pixels = torch.stack([preprocess.pixels(jpeg) for _ in range(batch)])
    decode = cpu_s() - before
    inputs = preprocess.normalised(pixels).to(dtype)
    with torch.inference_mode():
        visual(inputs)
        before = cpu_s()
        embeddings = visual(inputs).to(torch.float16).numpy()
        forward = cpu_s() - before
    torch.set_num_threads(threads)

    width, count = embeddings.shape[1], 2000
    rows = frames.to_table(frames.Sampled("v_0123456789a", [b""] * count), fps=SAMPLING.fps).drop_columns("jpeg")
    schema = encoder.schema_of(width)
    table = encoder.to_table(rows, random.standard_normal((count, width)).astype(np.float16), schema)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        fingerprints = {"v_0123456789a": "-" * 64}
        compute = from_tables({"v_0123456789a": table})
        shards.update(out, schema=schema, shards=1, fingerprints=fingerprints, compute=compute)
        size = sum(path.stat().st_size for path in out.iterdir())
    return {"jpeg_cpu_s": decode / batch, "embed_cpu_s": forward / batch, "embeddings_bytes": size / count}


def measure_books(videos: int) -> dict[str, float]:
    """What a video costs that nobody touches: its row of the ledger, its part of a plan; and DVC's hash of a byte."""
    hashes = (hashlib.sha256(b"%d" % number).hexdigest() for number in range(videos))
    rows = [Row(f"v_{i:011d}", "ok", None, 117.0, 7_000_000, sha256, 1) for i, sha256 in enumerate(hashes)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.parquet"
        ledger.write(path, rows)
        size = path.stat().st_size
        tracemalloc.start()
        books = read_books(path)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del books
        started = cpu_s()
        _, fingerprints = read_books(path)
        read = cpu_s() - started
        compute = from_tables(dict.fromkeys(fingerprints))
        settings: dict[str, Any] = {"schema": frames.SCHEMA, "shards": 8, "fingerprints": fingerprints}
        shards.update(Path(folder) / "frames", compute=compute, **settings)
        shards._footer_of.cache_clear()
        started = cpu_s()
        _, stale = shards.plan(Path(folder) / "frames", **settings)
        planned = cpu_s() - started
        assert not stale
    content = bytes(1 << 28)
    started = cpu_s()
    hashlib.md5(content, usedforsecurity=False)
    hashed = cpu_s() - started
    return {
        "ledger_bytes": size / videos,
        "books_memory_bytes": held / videos,
        "books_cpu_s": read / videos,
        "plan_cpu_s": planned / videos,
        "md5_gb_per_s": len(content) / 1e9 / hashed,
    }


def read_books(path: Path) -> tuple[dict[str, Row], dict[str, str]]:
    """What the stage `frames` holds of every video."""
    rows = ledger.read(path)
    return rows, frame_rows.fingerprints(rows, SAMPLING)


def scaled(videos: int, rates: dict[str, float], options: argparse.Namespace) -> dict[str, float]:
    seconds = videos * options.video_s
    count = seconds * SAMPLING.fps
    tb = {
        "videos, TB": seconds * options.source_mbit / 8e6,
        "frames, TB": count * rates["frames_bytes"] / 1e12,
        "embeddings, TB": count * rates["embeddings_bytes"] / 1e12,
    }
    frames_h = count * rates["frames_cpu_s"] / 3600
    embed_h = count * (rates["jpeg_cpu_s"] + rates["embed_cpu_s"]) / 3600
    gpu_h = count / options.gpu_frames / 3600
    feed_h = count * rates["jpeg_cpu_s"] / 3600
    return {
        "videos": videos,
        "hours of video": seconds / 3600,
        "frames": count,
        **tb,
        "shards": max(1, round(tb["frames, TB"] * 1000 / options.shard_gb)),
        "frames, core-hours": frames_h,
        "embed, core-hours": embed_h,
        "or GPU-hours": gpu_h,
        "and core-hours": feed_h,
        "frames, $": frames_h * options.core_dollars,
        "embed on CPUs, $": embed_h * options.core_dollars,
        "embed on GPUs, $": gpu_h * options.gpu_dollars + feed_h * options.core_dollars,
        "kept a month, $": sum(tb.values()) * options.tb_dollars,
        "YouTube, days": videos / options.youtube / 24,
        "books, GB of memory": videos * rates["books_memory_bytes"] / 1e9,
        "books, core-hours": videos * (rates["books_cpu_s"] + rates["plan_cpu_s"]) / 3600,
        "DVC's hashes, hours": tb["frames, TB"] * 1000 / rates["md5_gb_per_s"] / 3600,
    }


def simulated(per_worker: int, cpu_s_per_video_s: float, options: argparse.Namespace) -> dict[str, float]:
    """Means over rounds of: makespan over what work without rest would take; share of the work that deaths undo."""
    sums = {"minutes_each": 0.0, "queue": 0.0, "slices": 0.0, "queue_deaths": 0.0, "lost": 0.0}
    for seed in range(options.rounds):
        random = np.random.default_rng(seed)
        # An hour of work for each worker, whatever the number of shards; lengths as ActivityNet's, which vary by half.
        videos = int(options.workers * 3600 / (options.video_s * cpu_s_per_video_s))
        lengths = random.gamma(4, options.video_s / 4, videos)
        shard = random.integers(0, options.workers * per_worker, videos)  # as a hash does
        work = np.bincount(shard, lengths, options.workers * per_worker) * cpu_s_per_video_s
        work *= np.where(random.random(work.size) < options.slow, 3, 1)
        speeds = random.lognormal(0, 0.1, options.workers)
        ideal = work.sum() / speeds.sum()
        slices = max(work[part :: options.workers].sum() / speed for part, speed in enumerate(speeds))
        dying, lost = makespan(work, speeds, random, options.deaths / 3600, options.repair_s)
        sums["minutes_each"] += work.mean() / 60
        sums["queue"] += makespan(work, speeds, random, 0, 0)[0] / ideal
        sums["slices"] += slices / ideal
        sums["queue_deaths"] += dying / ideal
        sums["lost"] += lost / work.sum()
    return {"shards_per_worker": per_worker} | {name: value / options.rounds for name, value in sums.items()}


def makespan(
    work: NDArray[np.floating],
    speeds: NDArray[np.floating],
    random: np.random.Generator,
    deaths: float,
    repair_s: float,
) -> tuple[float, float]:
    """(when the last shard is made, work undone) if whoever is free takes the next, and dies so often a second."""
    waiting = deque(work.tolist())
    free = [(0.0, worker) for worker in range(len(speeds))]  # when each is next
    ends = [0.0]
    lost = 0.0
    returned: list[tuple[float, float]] = []  # shards that a death gave back, and when
    while waiting or returned:
        now, worker = heapq.heappop(free)
        if returned and returned[0][0] <= now:
            size = heapq.heappop(returned)[1]
        elif waiting:
            size = waiting.popleft()
        else:  # nothing yet: wait for what a death will give back
            heapq.heappush(free, (returned[0][0], worker))
            continue
        takes = size / speeds[worker]
        dies = random.exponential(1 / deaths) if deaths else np.inf
        if dies < takes:
            lost += dies * speeds[worker]
            heapq.heappush(returned, (now + dies, size))
            heapq.heappush(free, (now + dies + repair_s, worker))
        else:
            ends.append(now + takes)
            heapq.heappush(free, (now + takes, worker))
    return max(ends), lost


if __name__ == "__main__":
    main()
