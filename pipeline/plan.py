"""Estimate what a run of a params file will cost on this machine, stage by stage, before it starts.

    python -m pipeline.plan                                             # of params.yaml; or: make plan
    python -m pipeline.plan profiles/activitynet.yaml --videos 2        # of another file, from a smaller sample

Runs the stages themselves in a temporary folder, on a few of the videos and on four times as many, and draws a line
through the two: a fixed cost, and a cost for every second of video, picture or step. How many of these the whole
dataset has is read from the caption files, or estimated from the sample where they do not say how long a video is.

It cannot know how fast the network is, whether a training stops early (it counts all epochs), or the memory of a batch
with a much longer segment than the sample's. docs/benchmarks.md says how far off it was.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from ruamel.yaml import YAML

from pipeline.dataset import formats, ledger
from pipeline.dataset.annotations import SPLITS
from pipeline.dataset.sources.chosen import unzipped
from pipeline.imports import ROOT
from pipeline.params import PARAMS_FILE, Dataset, Params, load_params
from pipeline.process import children
from pipeline.process.terminal import message, printable

LARGER = 4  # times the small sample
PICTURES = 8  # pictures of a sample, per video
DATASETS: tuple[Dataset, ...] = ("pictures", "videos")
STAGES = (
    *(f"{stage} {dataset}" for stage in ("download", "frames") for dataset in DATASETS),
    *("backbones", "embed pictures", "embed videos", "pretrain", "finetune", "caption", "evaluate"),
)
# Source coco comes 19 GB at a time, so built-in pictures stand in for its pictures; the numbers of pictures in each.
PUBLISHED = {
    **{"captions_train2014.json": 82_783, "captions_val2014.json": 40_504},
    **{"captions_train2017.json": 118_287, "captions_val2017.json": 5_000},
    **{"karpathy_train.json": 113_287, "karpathy_val.json": 5_000, "karpathy_test.json": 5_000},
}

Lengths = dict[str, dict[str, float]]  # amounts: seconds of video, or pictures, by dataset and split


@dataclass(frozen=True)
class Cost:
    """A stage's cost. seconds: by the clock. written: bytes left on the disk. memory: bytes of its largest process."""

    seconds: float
    cpu_s: float
    written: float
    memory: float


class Sample:
    """The project with a few of its videos, in a temporary folder."""

    def __init__(self, params_file: Path, whole: Params, folder: Path, videos: int) -> None:
        self.folder = folder
        values = YAML(typ="safe").load(params_file.read_text())
        for dataset, own in values["download"].items():
            times = PICTURES if dataset == "pictures" else 1
            few = {"train": times * videos, "val": max(2, times * videos // 4), "test": max(2, times * videos // 4)}
            own["limit"] = {split: min(few[split], _limit(whole.download[dataset].limit[split])) for split in SPLITS}
            own["folder"], own["max_failed_fraction"] = str(Path(own["folder"]).absolute()), 1.0
            own["source"] = "shapes" if own["source"] == "coco" else own["source"]
        values["pretrain"]["epochs"] = values["finetune"]["epochs"] = 1
        built = values["backbones"]["builtin"]
        part = min(1.0, 5 * videos / built["encoder_steps"])
        for name in ("encoder_steps", "decoder_steps"):
            built[name] = max(1, round(part * built[name]))
        folder.mkdir()
        YAML().dump(values, folder / PARAMS_FILE)
        self.params = load_params(folder / PARAMS_FILE)

    def run(self, stage: str) -> Cost:
        """Raises ValueError if the stage fails."""
        name, *arguments = stage.split()
        before, began, log = _size(self.folder), time.monotonic(), self.folder / "log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", f"stages.{name}", *arguments]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = children.start(command, cwd=self.folder, env=environment, stdout=output, stderr=output)
            _, status, used = os.wait4(process.pid, 0)
        seconds, process.returncode = time.monotonic() - began, os.waitstatus_to_exitcode(status)
        last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
        log.unlink()
        if process.returncode:
            raise ValueError(printable(last, 300))
        memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Cost(seconds, used.ru_utime + used.ru_stime, _size(self.folder) - before, memory)

    def lengths(self) -> Lengths:
        found: Lengths = {dataset: dict.fromkeys(SPLITS, 0.0) for dataset in DATASETS}
        for dataset in DATASETS:
            data = self.folder / "data" / dataset
            if (data / "segments.parquet").exists():
                rows = ledger.read(data / "ledger.parquet")
                named = pq.read_table(data / "segments.parquet", columns=["video_id", "split"]).to_pylist()
                for video_id, split in {(one["video_id"], one["split"]) for one in named}:
                    found[dataset][split] += rows[video_id].duration_s or 1.0
        return found

    def mean_length(self, dataset: str) -> float:
        rows = ledger.read(self.folder / "data" / dataset / "ledger.parquet").values()
        found = [row.duration_s or 1.0 for row in rows if row.status == "ok"]
        return sum(found) / len(found)


def plan(params_file: Path, videos: int) -> Iterator[tuple[str, Cost | str]]:
    """Each stage's cost, or why it or a stage that it needs failed. Raises ValueError for wrong params."""
    whole, lengths, problem = load_params(params_file), Lengths(), ""
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        small = Sample(params_file, whole, Path(folder, "small"), videos)
        large = Sample(params_file, whole, Path(folder, "large"), LARGER * videos)
        Path(folder, "data").mkdir()
        for stage in STAGES:
            if not problem:
                print(f"plan: a sample of {videos} and one of {LARGER * videos} videos: {stage}", file=sys.stderr)
                try:
                    first, second = small.run(stage), large.run(stage)
                    if stage.startswith("download"):
                        dataset: Dataset = "pictures" if stage.endswith("pictures") else "videos"
                        lengths[dataset] = _whole_lengths(dataset, whole, large)
                except ValueError as error:
                    problem = f"{stage}: {message(error)}"
            if problem:
                yield stage, problem
                continue
            few, more = (_units(stage, one.params, one.lengths()) for one in (small, large))
            yield stage, _on_line(_units(stage, whole, lengths), few, more, first, second)


def _units(stage: str, params: Params, lengths: Lengths) -> float:
    """The amount that the stage's cost grows with."""
    if stage == "backbones":
        sources = (params.backbones.encoder.source, params.backbones.decoder.source)
        return params.backbones.builtin.encoder_steps if "builtin" in sources else 1
    if stage in ("pretrain", "finetune"):
        own, training = ("pictures", params.pretrain) if stage == "pretrain" else ("videos", params.finetune)
        return training.epochs * (lengths[own]["train"] + lengths[own]["val"])
    if stage in ("caption", "evaluate"):
        return lengths["videos"][params.caption.split]
    return sum(lengths[stage.split()[1]].values())


def _on_line(units: float, small: float, large: float, first: Cost, second: Cost) -> Cost:
    """The cost of `units`, if `small` of them cost `first` and `large` of them `second`; memory is not extrapolated."""
    share = (units - small) / (large - small) if large > small else 1.0
    on_line = (max(0.0, a + share * max(0.0, b - a)) for a, b in zip(astuple(first), astuple(second), strict=True))
    seconds, cpu_s, written, _ = on_line
    return Cost(seconds, cpu_s, written, max(first.memory, second.memory))


def _whole_lengths(dataset: Dataset, params: Params, sample: Sample) -> dict[str, float]:
    own, mean = params.download[dataset], sample.mean_length(dataset)
    if own.source == "shapes":
        return {split: (own.limit[split] or 0) * mean for split in SPLITS}
    if own.source == "coco":
        held = {split: sum(PUBLISHED.get(name, 0) for name in own.annotations[split]) for split in SPLITS}
        return {split: float(min(held[split], _limit(own.limit[split]))) for split in SPLITS}
    with tempfile.TemporaryDirectory() as unpacked:
        files: dict[str, list[Path]] = {
            split: [unzipped(Path(own.folder) / name, Path(unpacked)) for name in own.annotations[split]]
            for split in SPLITS
        }
        by_video, splits, _ = formats.read_splits(files, own.format)
    found: dict[str, float] = {}
    for split in SPLITS:
        ids = [video_id for video_id, its in splits.items() if its == split]
        lengths = [length for video_id in ids if (length := by_video[video_id][0].duration_s)]
        found[split] = min(len(ids), _limit(own.limit[split])) * (sum(lengths) / len(lengths) if lengths else mean)
    return found


def _limit(videos: int | None) -> float:
    return math.inf if videos is None else videos


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.plan", description="What a run will cost here.")
    parser.add_argument("params", nargs="?", type=Path, default=PARAMS_FILE, help="a params file; default: params.yaml")
    parser.add_argument(
        "--videos", type=int, default=8, help=f"videos in the small sample; the large one has {LARGER} times as many"
    )
    options = parser.parse_args()
    if options.videos < 1:
        parser.error(f"--videos: found {options.videos}, expected 1 or more")
    row, total = "{:<22}{:>10}{:>10}{:>10}{:>12}", [0.0, 0.0, 0.0]
    known = True
    try:
        print(row.format("", "seconds", "CPU s", "GB kept", "GB memory"))
        for stage, cost in plan(options.params, options.videos):
            if isinstance(cost, str):
                known = False
                print(f"{stage:<22}not known; {cost}", flush=True)
                continue
            figures = (cost.seconds, cost.cpu_s, cost.written / 1e9)
            total = [one + more for one, more in zip(total, figures, strict=True)]
            print(row.format(stage, *_shown(*figures), f"{cost.memory / 1e9:.1f}"), flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"plan: {message(error)}")
    print(row.format("all" if known else "sum of the known", *_shown(*total), ""))
    print("DVC stores the same amount again in .dvc/cache if the file system has neither reflinks nor hard links.")


def _shown(seconds: float, cpu_s: float, gigabytes: float) -> tuple[str, str, str]:
    return f"{seconds:,.0f}", f"{cpu_s:,.0f}", f"{gigabytes:,.3f}" if gigabytes < 1 else f"{gigabytes:,.1f}"


if __name__ == "__main__":
    main()
