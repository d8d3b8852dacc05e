"""What it costs to add videos, against a clean build: download, frames and embed.

    python -m bench.incremental [--videos 1000] [--added 1 10 100] [--shards 64]

(5 minutes.) Runs the three stages on a folder of tiny videos (2 s of 64x48) with a tiny random encoder; then adds
videos, and runs them again. Work is what the stages say they computed, and the shards that they wrote anew. CPU
seconds leave out the start of Python and torch, which every run of a stage takes as well (1 s, embed 5 s). Prints a
table and, as the last line, JSON.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imageio_ffmpeg
from ruamel.yaml import YAML

from bench.table import show
from tests.forking import Forking
from tests.random_clip import write_random_clip

STAGES = ("download", "frames", "embed")
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.incremental")
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--added", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--shards", type=int, default=64)
    asked = parser.parse_args()
    forking = Forking()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_params(folder, asked.shards)
        write_random_clip(folder / "models/encoder", 32)
        contents = make_contents(folder)
        there = 0
        figures: list[dict[str, Any]] = []
        for added in (asked.videos, *asked.added):
            add_videos(folder / "own", contents, range(there, there + added), there + added)
            figures.append({"added": added, "to": there} | run_stages(forking, folder))
            there += added
        forking.stop()
    show(figures)
    print(json.dumps(figures))


def write_params(folder: Path, shards: int) -> None:
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text())
    params["device"] = "cpu"
    params["download"]["videos"] |= {
        "source": "directory",
        "folder": "own",
        "annotations": {"train": ["train.json"], "val": [], "test": []},
        "limit": {"train": None, "val": 0, "test": 0},
    }
    params["frames"]["shards"] = shards
    yaml.dump(params, folder / "params.yaml")


def make_contents(folder: Path, kinds: int = 8) -> list[bytes]:
    contents = []
    for kind in range(kinds):
        path = folder / "made.mp4"
        source = f"testsrc2=s=64x48:r=10:d=2,hue=h={360 * kind // kinds}"
        options = ["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", source]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *options, str(path)], check=True)
        contents.append(path.read_bytes())
    return contents


def add_videos(own: Path, contents: list[bytes], numbers: range, total: int) -> None:
    """Each another file: its number lies in a box at its end that nobody reads."""
    (own / "media").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        box = b"\0\0\0\x10free" + number.to_bytes(8, "big")
        (own / f"media/v_{number:06d}.mp4").write_bytes(contents[number % len(contents)] + box)
    captions = {"duration": 2.0, "timestamps": [[0, 2]], "sentences": ["colours move"]}
    (own / "train.json").write_text(json.dumps({f"v_{number:06d}": captions for number in range(total)}))


def run_stages(forking: Forking, folder: Path) -> dict[str, Any]:
    before = shards_of(folder)
    output, cpu_s = "", {}
    for stage in STAGES:
        running = forking.start(ROOT, folder, [[stage, "videos"]])
        ended = running.wait()
        assert ended.status == 0, running.output
        output += running.output
        cpu_s[f"{stage}_cpu_s"] = round(ended.cpu_s, 2)
    after = shards_of(folder)
    written = {path: size for path, (size, *_) in after.items() if before.get(path) != after[path]}
    return {
        "decoded": counted(r"\((\d+) sampled", output),
        "embedded": counted(r"\((\d+) embedded", output),
        "shards_written": len(written),
        "of_shards": len(after),
        "written_kib": sum(written.values()) // 1024,
        "of_kib": sum(size for size, *_ in after.values()) // 1024,
    } | cpu_s


def shards_of(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Size, inode and time of every shard of frames and embeddings."""
    statuses = {path: path.stat() for path in sorted((folder / "data").rglob("shard-*.parquet"))}
    return {path: (status.st_size, status.st_ino, status.st_mtime_ns) for path, status in statuses.items()}


def counted(pattern: str, output: str) -> int:
    found = re.search(pattern, output)
    assert found, output
    return int(found[1])


if __name__ == "__main__":
    main()
