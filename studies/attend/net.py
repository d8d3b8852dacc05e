"""Provide the video net: `python -m studies.attend.net`.

Reads the section net of studies/attend/params.yaml (and cells.size_px, cells.window); for the built-in net also
data/videos/frames/, segments.parquet and annotations/scenes.json, on whose training videos it is trained. Writes
studies/attend/models/net/: net.json and net.safetensors.
"""

from pathlib import Path

import pyarrow.parquet as pq

import stages
from pipeline.features import shards
from pipeline.files.aside import aside
from pipeline.params import load_params
from studies.attend import events, nets
from studies.attend.settings import NET, load_attend

VIDEOS = Path("data/videos")
WINDOW = 16  # frames of a clip that the built-in net learns from: more clips teach more than longer ones


def main() -> None:
    attend = load_attend()
    own = attend.net
    with aside(NET) as folder:
        folder.mkdir(parents=True)
        if own.source == "torchvision":
            nets.save_torchvision(folder, own.name, Path(own.weights) if own.weights else None)
            print(f"net: {own.name}, weights {own.weights or 'random: for trying things out only'}")
            return
        scenes = events.load_scenes(VIDEOS / "annotations/scenes.json")
        table = pq.read_table(VIDEOS / "segments.parquet", columns=["video_id", "split"]).to_pandas()
        training = sorted(set(table[table["split"] == "train"]["video_id"]))
        videos = {
            video_id: (
                rows["jpeg"].to_pylist()[:: attend.cells.every],
                rows["timestamp_s"].to_pylist()[:: attend.cells.every],
            )
            for video_id, rows in shards.iterate(VIDEOS / "frames", training, ["timestamp_s", "jpeg"])
        }
        module, loss = events.train(
            videos,
            scenes,
            side=attend.cells.size_px,
            window=min(WINDOW, attend.cells.window),
            seed=load_params().seed,
            **own.model_dump(include={"width", "steps", "batch_size", "learning_rate"}),
        )
        config = {"width": own.width, "mean": nets.KINETICS_MEAN, "std": nets.KINETICS_STD, "classes": events.CLASSES}
        nets.save_builtin(folder, module, config)
    print(f"net: built-in, {own.steps} steps on {len(videos)} training videos, loss {loss:.4f}")


if __name__ == "__main__":
    stages.run(kept=None)
