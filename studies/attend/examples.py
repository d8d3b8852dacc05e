"""Segments with their cells, in batches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.dataset.segments import Segment, frames_of_segment
from pipeline.features.embeddings import VideoEmbeddings
from studies.attend.model import Batch


@dataclass(frozen=True)
class Example:
    """A segment, and where its cells are: rows `rows` of the video's."""

    segment: Segment
    video: VideoEmbeddings  # cells [T, P * C]
    rows: range


@dataclass(frozen=True)
class Examples:
    """What the training loop calls a batch: segments, and their cells, of a process; there may be none."""

    segments: tuple[Segment, ...]
    batch: Batch | None


def make_examples(segments: Iterable[Segment], videos: Mapping[str, VideoEmbeddings]) -> list[Example]:
    """Those of the segments whose video has cells; each gets the cells that begin in it, at least one."""
    times = {video_id: np.asarray(video.timestamps[:]).tolist() for video_id, video in videos.items()}
    return [
        Example(one, videos[one.video_id], frames_of_segment(one.start_s, one.end_s, times[one.video_id]))
        for one in segments
        if one.video_id in videos
    ]


def middles(example: Example) -> NDArray[np.float64]:
    """[T], seconds; the last cell is as long as the one before it."""
    rows = example.rows
    begins = example.video.timestamps[slice(rows.start, rows.stop + 1)]
    every = np.diff(begins) if len(begins) > 1 else np.array([0.2])
    lengths = np.append(every, every[-1])[: len(rows)]
    found: NDArray[np.float64] = begins[: len(rows)] + lengths / 2
    return found


def to_batch(examples: Sequence[Example], places: int) -> Batch:
    lengths = [len(one.rows) for one in examples]
    width = examples[0].video.embeddings.shape[1]
    cells = np.zeros((len(examples), max(lengths), width), np.float16)
    times = np.zeros((2, len(examples), max(lengths)), np.float32)
    for i, (one, length) in enumerate(zip(examples, lengths, strict=True)):
        rows = slice(one.rows.start, one.rows.stop)
        cells[i, :length] = one.video.embeddings[rows]
        begins = one.video.timestamps[rows]
        times[0, i, :length], times[1, i, :length] = begins - one.segment.start_s, one.segment.end_s - begins
    in_space = torch.from_numpy(cells).float().unflatten(2, (places, -1))
    return Batch(in_space, torch.from_numpy(times[0]), torch.from_numpy(times[1]), torch.tensor(lengths))


def plan_batches(examples: Sequence[Example], size: int, seed: Sequence[int] | None) -> list[list[int]]:
    """Every example once: shuffled, then of like lengths together, and the batches shuffled. None: in order."""
    if seed is None:
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].rows))
        return [order[at : at + size] for at in range(0, len(order), size)]
    draw = np.random.default_rng(list(seed))
    order = draw.permutation(len(examples)).tolist()
    pool = 16 * size  # sorted within so many: little is filled up, and batches stay random
    order = [
        i
        for at in range(0, len(order), pool)
        for i in sorted(order[at : at + pool], key=lambda i: len(examples[i].rows))
    ]
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    return [batches[i] for i in draw.permutation(len(batches))]
