"""What the built-in net learns: what is seen and what happens at each moment of the built-in world's training videos.

Read from scenes.json, which only the built-in dataset has: colours, shapes, both together, a stand, and events.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbones.small_training import minimise, reproducible
from pipeline.dataset.shapes.grammar import COLOURS, SHAPES, WHITE
from studies.attend.nets import KINETICS_MEAN, KINETICS_STD, Net, SmallVideoNet, picture

EVENTS = ("leaves", "comes", "moves", "grows", "shrinks", "spins", "turns", "flash", "visit")
HUES = (*COLOURS, WHITE)
CLASSES = (*HUES, *SHAPES, "stand", *EVENTS, *(f"{hue} {shape}" for hue in HUES for shape in SHAPES))
NEAR_S = 0.3  # around an event, in which it still shows
_PLACE = {name: i for i, name in enumerate(CLASSES)}

Scenes = Mapping[str, Mapping[str, Any]]


def load_scenes(path: Path) -> Scenes:
    """Raises ValueError where there is no such file: only the built-in dataset says what happens in its videos."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file. Only the built-in dataset has it: for videos of your own, name a net with weights "
            "(net.source: torchvision in studies/attend/params.yaml)"
        )
    scenes: Scenes = json.loads(path.read_text())
    return scenes


def classes_at(scene: Mapping[str, Any], times_s: Sequence[float]) -> NDArray[np.float32]:
    """0 or 1, [times, classes]: what is on the stage and what happens at each time."""
    found = np.zeros((len(times_s), len(CLASSES)), np.float32)
    events = [event for segment in scene["segments"] for event in segment["events"]]
    for row, time_s in zip(found, times_s, strict=True):
        for thing in scene["objects"]:
            for shown in thing["shown"]:
                if shown["from_s"] <= time_s <= shown["to_s"]:
                    hue = [name for from_s, name in shown["colours"] if from_s <= time_s][-1]
                    names = [hue, thing["shape"], f"{hue} {thing['shape']}", *(["stand"] if shown["rests"] else [])]
                    row[[_PLACE[name] for name in names]] = 1
        for event in events:
            if event["start_s"] - NEAR_S <= time_s <= event["end_s"] + NEAR_S:
                row[_PLACE[event["what"].split("_")[0].split(" ")[0]]] = 1
    return found


def train(
    videos: Mapping[str, tuple[Sequence[bytes], Sequence[float]]],
    scenes: Scenes,
    *,
    width: int,
    side: int,
    window: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> tuple[SmallVideoNet, float]:
    """The net, and its mean loss at the end.

    Args:
        videos: JPEGs and times in seconds of each video's frames. Those shorter than a window are left out.
    """
    draw = np.random.default_rng(seed)
    ids = sorted(video_id for video_id, (jpegs, _) in videos.items() if len(jpegs) >= window)
    if not ids:
        raise ValueError(f"no training video has {window} frames; lower cells.window in studies/attend/params.yaml")
    with reproducible(seed):
        module = SmallVideoNet(width, len(CLASSES)).to(memory_format=torch.channels_last_3d)
        normalise = Net(module, "", KINETICS_MEAN, KINETICS_STD).normalised

        def loss() -> Tensor:
            pixels = np.empty((batch_size, window, side, side, 3), np.uint8)
            labels = []
            for i, video_id in enumerate(draw.choice(ids, batch_size)):
                jpegs, times_s = videos[video_id]
                start = int(draw.integers(len(jpegs) - window + 1))
                pixels[i] = [picture(jpeg, side) for jpeg in jpegs[start : start + window]]
                labels.append(classes_at(scenes[video_id], times_s[start : start + window : 2]))
            logits = module(normalise(torch.from_numpy(pixels)))  # [B, t, classes]
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(np.stack(labels)))

        final = minimise(module, loss, steps, learning_rate, name="attend net")
    return module.eval(), final
