"""Whether memory stays flat: what `frames` and `embed` take for many videos, and for one of hours.

    python -m bench.flat [--videos 1000] [--hours 3] [--size 320x224]

Runs the two stages as DVC does, in a folder of their own, on: one video of 2 seconds, so many of them, one of so many
hours (a minute of noisy test pictures, repeated). Memory is what the stage's process and its children have of their
own, not files in the page cache, sampled every 20 ms; growth is what the peak is above that of the one short video,
which has all of Python, torch and a tower of one layer in it. Needs Linux. Prints a table and, as its last line, JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from ruamel.yaml import YAML

from bench.frames import run
from bench.usage import family, own_bytes
from pipeline.dataset import ledger, verdict
from pipeline.dataset.segments import Segment, to_table
from tests.random_clip import write_random_clip

ROOT = Path(__file__).resolve().parent.parent
DATASET = "videos"
SHORT_S = 2
LOOP_S = 60
# Of one narrow layer, so that hours of frames take minutes; its input and its embeddings are as wide as ViT-B/32's.
VISION = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 32, "image_size": 224}
WIDTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.flat")
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--size", default="320x224")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    columns = [
        "jpegs_mib",
        *(f"{stage}_{unit}" for stage in ("frames", "embed") for unit in ("s", "mib", "growth_mib")),
    ]
    print(f"{'':<16}" + "".join(f"{name:>18}" for name in columns))
    with TemporaryDirectory() as temporary:
        short, loop, long = (Path(temporary) / f"{name}.mp4" for name in ("short", "loop", "long"))
        pictures = f"testsrc2=s={options.size}:r=5,noise=alls=20:allf=t"
        for path, seconds in ((short, SHORT_S), (loop, LOOP_S)):
            run("-f", "lavfi", "-i", pictures, "-t", str(seconds), "-preset", "ultrafast", str(path))
        run("-stream_loop", "-1", "-i", str(loop), "-t", str(options.hours * 3600), "-c", "copy", str(long))
        for what, videos in (
            (f"one of {SHORT_S} s", [short]),
            (f"{options.videos:,} of {SHORT_S} s", [short] * options.videos),
            (f"one of {options.hours:g} h", [long]),
        ):
            folder = Path(temporary) / what.replace(" ", "-")
            prepare(folder, videos)
            row: dict[str, Any] = {"what": what, "videos": len(videos)}
            for stage in ("frames", "embed"):
                row[f"{stage}_mib"], row[f"{stage}_s"] = peak_of(stage, folder)
            shards = (folder / "data" / DATASET / "frames").iterdir()
            row["jpegs_mib"] = sum(path.stat().st_size for path in shards) >> 20
            for stage in ("frames", "embed"):
                row[f"{stage}_growth_mib"] = row[f"{stage}_mib"] - (rows[0] if rows else row)[f"{stage}_mib"]
            rows.append(row)
            print(f"{row['what']:<16}" + "".join(f"{row[name]:>18,}" for name in columns), flush=True)
    print(json.dumps(rows))


def prepare(folder: Path, videos: list[Path]) -> None:
    """What the stages read: params, videos with their ledger and segments, an encoder."""
    data = folder / "data" / DATASET
    (data / "media").mkdir(parents=True)
    seen: dict[Path, verdict.Row] = {}
    rows, segments = [], []
    for number, video in enumerate(videos):
        video_id = f"v_{number:06d}"
        (data / "media" / f"{video_id}.mp4").symlink_to(video)
        one = seen.setdefault(video, verdict.examine("v", video))
        rows.append(verdict.Row(video_id, one.status, one.reason, one.duration_s, one.bytes, one.sha256))
        segments.append(Segment(f"{video_id}#0", video_id, "train", 0.0, float(one.duration_s or 1), ("x",), None))
    ledger.write(data / "ledger.parquet", rows)
    pq.write_table(to_table(segments), data / "segments.parquet")
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    params["frames"]["short_side_px"] = 224
    params["device"] = "cpu"
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    write_random_clip(folder / "models" / "encoder", WIDTH, vision=VISION)


def peak_of(stage: str, folder: Path) -> tuple[int, int]:
    """MiB at the peak, and seconds, of `python -m stages.STAGE` in that folder."""
    command = [sys.executable, "-m", f"stages.{stage}", DATASET]
    started, most = time.monotonic(), 0
    with (folder / f"{stage}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
        )
        while process.poll() is None:
            most = max(most, sum(own_bytes(one) or 0 for one in family(process.pid)))
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"bench.flat: {' '.join(command)} failed\n{(folder / f'{stage}.log').read_text()}")
    return most >> 20, round(time.monotonic() - started)


if __name__ == "__main__":
    main()
