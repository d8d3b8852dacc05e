"""What DVC itself costs at ActivityNet's size: when there is nothing to do, and when one video is new.

    python -m bench.noop [noop|change|both] [--videos 20000] [--shards 1024] [--rounds 3]

`noop` (10 minutes): a scratch repository with this project's dvc.yaml and profiles/activitynet.yaml, a ledger,
segments, and small files under the names of all videos and shards. `dvc commit -f` makes every stage up to date
without running any. Tells what `dvc repro` and `dvc status` take in three layouts: ours; videos as an out of
`download` and a dep of `frames`; and `source: directory`, where all videos are below the folder that `download`
depends on. `change` (a minute and 3 GB of disk): a stage with a persisted out of --shard-mib shards, of which it
replaces one, by the kind of link to DVC's cache; run by DVC, or by hand and committed. Prints tables and, as the last
line, JSON. CPU seconds do not depend on what else the machine does, wall seconds do.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from ruamel.yaml import YAML

from bench.table import show
from pipeline.dataset import ledger
from pipeline.dataset.segments import Segment, to_table
from pipeline.dataset.verdict import Row
from stages import DATASETS

LAYOUTS = ("ours", "videos as an out", "source: directory")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.noop")
    parser.add_argument("what", nargs="?", choices=["noop", "change", "both"], default="both")
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=1024)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-mib", type=int, nargs="+", default=[64] * 16)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    if options.what != "change":
        with TemporaryDirectory(dir=options.folder) as folder:
            figures["noop"] = measure_noop(
                Path(folder), options.videos, options.shards, options.layouts, options.rounds
            )
        show(figures["noop"])
    if options.what != "noop":
        figures["change"] = []
        for links, command in (("hardlink", "repro"), ("hardlink", "commit"), ("copy", "repro"), ("copy", "commit")):
            with TemporaryDirectory(dir=options.folder) as folder:
                figures["change"].append(measure_change(Path(folder), links, command, options.shard_mib))
        show(figures["change"])
        figures["md5_mib_per_s"] = md5_rate()
        print(f"one core's MD5: {figures['md5_mib_per_s']:,} MiB/s")
    print(json.dumps(figures))


def measure_noop(folder: Path, videos: int, shards: int, layouts: list[str], rounds: int) -> list[dict[str, Any]]:
    make_repository(folder)
    for dataset in DATASETS:
        make_data(folder / "data" / dataset, videos, shards)
    for stage in YAML().load(Path("dvc.yaml").read_text())["stages"].values():
        if "foreach" not in stage:  # models, captions and scores
            for out in [*stage["outs"], *stage.get("metrics", ())]:
                path = folder / (out if isinstance(out, str) else next(iter(out)))
                write(path if path.suffix else path / "file")
    rows = []
    for layout in layouts:
        arrange(folder, layout)
        committed = dvc(folder, "commit", "-f", "-q")
        taken = [(dvc(folder, "repro"), dvc(folder, "status")) for _ in range(rounds)]
        assert all("up to date" in one.said for pair in taken for one in pair), taken[0][0].said
        rows.append(
            {"layout": layout}
            | {f"repro_{name}": min(getattr(repro, name) for repro, _ in taken) for name in ("cpu_s", "wall_s")}
            | {f"status_{name}": min(getattr(status, name) for _, status in taken) for name in ("cpu_s", "wall_s")}
            | {"commit_cpu_s": committed.cpu_s}
        )
        print(f"{layout}: done", file=sys.stderr)
    return rows


def make_repository(folder: Path) -> None:
    """This project's code and pipeline at the published scale, without its data."""
    own = ["dvc.yaml", ".dvc", ".dvcignore", ".gitignore", "pipeline", "stages", "data", "models"]
    listed = subprocess.run(["git", "ls-files", *own], capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, folder / name)
    shutil.copy("profiles/activitynet.yaml", folder / "params.yaml")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)


def make_data(data: Path, videos: int, shards: int) -> None:
    ids = [f"v_{number:011d}" for number in range(videos)]
    for video_id in ids:
        write(data / "media" / f"{video_id}.mp4")
    write(data / "annotations/train.json")
    sha256 = hashlib.sha256(b"").hexdigest()
    ledger.write(data / "ledger.parquet", [Row(i, "ok", None, 120.0, 8_000_000, sha256, 1) for i in ids])
    # As many as ActivityNet's videos have.
    segments = [Segment(f"{i}#{n}", i, "train", 30 * n, 30 * (n + 1), ("words",), None) for i in ids for n in range(4)]
    pq.write_table(to_table(segments), data / "segments.parquet")
    for number in range(shards):
        for out in ("frames", "embeddings"):
            write(data / out / f"shard-{number:05d}.parquet")


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(path))  # files of one content would be one in the cache


def arrange(folder: Path, layout: str) -> None:
    """dvc.yaml and the place of the videos."""
    shutil.copy("dvc.yaml", folder / "dvc.yaml")
    if layout == "videos as an out":
        yaml = YAML()
        pipeline = yaml.load((folder / "dvc.yaml").read_text())
        pipeline["stages"]["download"]["do"]["outs"].append({"data/${key}/media": {"persist": True}})
        pipeline["stages"]["frames"]["do"]["deps"].append("data/${item}/media")
        yaml.dump(pipeline, folder / "dvc.yaml")
    if layout == "source: directory":
        for dataset in DATASETS:
            shutil.copytree(folder / f"data/{dataset}/media", folder / f"data/own/{dataset}/media")


class Done:
    """A command that ran: what it said, CPU seconds (of all its processes), wall seconds, MiB written to files."""

    def __init__(self, folder: Path, *command: str) -> None:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stdout + done.stderr
        self.said = done.stdout
        self.wall_s = round(time.perf_counter() - started, 2)
        self.cpu_s = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)
        self.written_mib = (after.ru_oublock - before.ru_oublock) * 512 // 2**20


def dvc(folder: Path, *arguments: str) -> Done:
    return Done(folder, sys.executable, "-m", "dvc", *arguments)


def measure_change(folder: Path, links: str, command: str, shard_mib: list[int]) -> dict[str, Any]:
    """A stage with a persisted out, run again to replace one file of it."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(f"[cache]\n    type = {links}\n")
    write(folder / "version")
    (folder / "out").mkdir()
    for number, mib in enumerate(shard_mib):
        (folder / "out" / f"{number}").write_bytes(os.urandom(2**20) * mib)
    (folder / "dvc.yaml").write_text(
        "stages: {change: {cmd: mv new out/0, deps: [version], outs: [out: {persist: true}]}}\n"
    )
    dvc(folder, "commit", "-f", "-q")
    (folder / "new").write_bytes(os.urandom(2**20) * shard_mib[0])
    (folder / "version").write_text("other")
    if command == "commit":
        (folder / "new").replace(folder / "out/0")
    done = dvc(folder, "repro", "-q") if command == "repro" else dvc(folder, "commit", "-f", "-q")
    blocks = {(status.st_dev, status.st_ino): status.st_blocks for status in map(Path.lstat, folder.rglob("*"))}
    return {
        "cache.type": links,
        "dvc": command,
        "out_mib": sum(shard_mib),
        "changed_mib": shard_mib[0],
        "written_mib": done.written_mib,
        "cpu_s": done.cpu_s,
        "wall_s": done.wall_s,
        "on_disk_mib": sum(blocks.values()) * 512 // 2**20,
    }


def md5_rate() -> int:
    """MiB per CPU second."""
    mebibyte, digest, started = bytes(2**20), hashlib.md5(usedforsecurity=False), time.process_time()
    for _ in range(256):
        digest.update(mebibyte)
    return round(256 / (time.process_time() - started))


if __name__ == "__main__":
    main()
