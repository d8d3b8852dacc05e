"""Training and captioning batches: sequences of frame embeddings with the segments to be captioned in them.

B sequences of a batch   T frames   R segments per sequence   S segments of the batch   E embedding width
L caption tokens

What a sequence is depends on what the model sees: one frame (no memory), the frames of a segment
(scope segment), or a video up to the end of its last segment (scope video).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.annotations import Segment
from pipeline.embeddings import Rows, VideoEmbeddings
from pipeline.memory import Moments


@dataclass(frozen=True, slots=True)
class Target:
    """A segment within its sequence: its first and last frame there."""

    segment: Segment
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence: which frames of a video it is, to be read when a batch is made of it, and the segments in it."""

    video: np.ndarray | Rows  # [video's frames, E] float16
    frames: range  # of the video
    averaged: bool  # into one frame
    targets: tuple[Target, ...]

    def __len__(self) -> int:
        """T, without reading anything."""
        return 1 if self.averaged else len(self.frames)

    def read(self) -> np.ndarray:
        """Embeddings [T, E] float16."""
        frames = self.video[self.frames.start : self.frames.stop]
        if self.averaged:
            return frames.mean(axis=0, dtype=np.float32, keepdims=True).astype(frames.dtype)
        return frames


@dataclass(frozen=True)
class Batch:
    embeddings: Tensor  # [B, T, E] float32, padded at the end
    moments: Moments  # [B, R] each, padded at the end
    real: Tensor  # [B, R] bool
    segments: list[Segment]  # S, in the order of real's True entries
    begins: list[int]  # B, the frame of its video that each sequence begins with

    def to(self, device: torch.device) -> "Batch":
        moments = Moments(self.moments.frame.to(device), self.moments.segment_start.to(device))
        return Batch(self.embeddings.to(device), moments, self.real.to(device), self.segments, self.begins)


def make_examples(
    segments: Sequence[Segment], videos: Mapping[str, VideoEmbeddings], *, scope: str | None, baseline_frame: str | None
) -> list[Example]:
    """Examples of the segments whose video has embeddings, in the order of the segments.

    Args:
        segments: grouped by video, as in segments.parquet.
        scope: video | segment for a model with memory, None for one without.
        baseline_frame: last | first | middle | mean: the one frame a model without memory sees.
    """
    examples: list[Example] = []
    for video_id, group in _by_video(segments):
        video = videos.get(video_id)
        if video is None or not len(video.timestamps):
            continue
        targets = []
        timestamps = video.timestamps[:].tolist()
        for segment in group:
            frames = frames_of_segment(segment.start_s, segment.end_s, timestamps)
            targets.append(Target(segment, frames[0], frames[-1]))
        if scope == "video":
            # In the order of time; a target that ends last decides how far the sequence goes.
            targets.sort(key=lambda target: (target.end, target.start))
            examples.append(Example(video.embeddings, range(targets[-1].end + 1), False, tuple(targets)))
            continue
        for target in targets:
            seen = range(target.start, target.end + 1)
            if scope is None:
                seen = frames_seen(seen, baseline_frame)
            averaged = scope is None and baseline_frame == "mean"
            last = 0 if averaged else len(seen) - 1
            examples.append(Example(video.embeddings, seen, averaged, (Target(target.segment, 0, last),)))
    return examples


def frames_of_segment(start_s: float, end_s: float, timestamps: Sequence[float]) -> range:
    """Indices into `timestamps` (seconds, ascending) of the frames with start_s <= t < end_s.

    A segment between two frames gets the one on screen at start_s. Raises ValueError if there are no frames at all.
    """
    if len(timestamps) == 0:
        raise ValueError(f"no frames for the segment [{start_s}, {end_s}) s: its video has none")
    first, end = bisect_left(timestamps, start_s), bisect_left(timestamps, end_s)
    if first < end:
        return range(first, end)
    on_screen = max(0, bisect_right(timestamps, start_s) - 1)
    return range(on_screen, on_screen + 1)


def frames_seen(frames: range, which: str | None) -> range:
    """Of a segment's frames, the one that a model without memory sees; all of them for their mean."""
    match which:
        case "last":
            return frames[-1:]
        case "first":
            return frames[:1]
        case "middle":
            return frames[len(frames) // 2 :][:1]
        case "mean":
            return frames
    raise ValueError(f"baseline_frame: found {which!r}, wanted last, first, middle or mean")


def collate(examples: Sequence[Example]) -> Batch:
    """The examples' embeddings, read now, and their targets; of no examples, an empty batch."""
    frames = max((len(example) for example in examples), default=0)
    rows = max((len(example.targets) for example in examples), default=0)
    width = examples[0].video.shape[1] if examples else 0
    embeddings = torch.zeros(len(examples), frames, width)
    end = torch.zeros(len(examples), rows, dtype=torch.int64)
    start = torch.zeros_like(end)
    real = torch.zeros(len(examples), rows, dtype=torch.bool)
    segments = []
    for b, example in enumerate(examples):
        embeddings[b, : len(example)] = torch.from_numpy(example.read().astype(np.float32))
        for r, target in enumerate(example.targets):
            end[b, r], start[b, r], real[b, r] = target.end, target.start, True
            segments.append(target.segment)
    return Batch(embeddings, Moments(end, start), real, segments, [example.frames.start for example in examples])


def plan_batches(examples: Sequence[Example], batch_size: int, *, seed: Sequence[int] | None) -> list[list[int]]:
    """Which examples make up each batch of an epoch: whole examples, about `batch_size` segments.

    A batch closes with the example that fills it. Lengths are alike within a batch, so that little is padding:
    a shuffled epoch (seed given) is sorted by length in stretches of some batches, whose batches are shuffled
    again; without a seed the whole is sorted.
    """
    lengths = [len(example) for example in examples]
    if seed is None:
        order = sorted(range(len(examples)), key=lambda i: lengths[i])
        return _fill(order, examples, batch_size)
    random = np.random.default_rng(seed)
    order = random.permutation(len(examples)).tolist()
    per_batch = max(1, round(batch_size * len(examples) / sum(len(example.targets) for example in examples)))
    stretch = 8 * per_batch
    sorted_order = []
    for begin in range(0, len(order), stretch):
        sorted_order += sorted(order[begin : begin + stretch], key=lambda i: lengths[i])
    batches = _fill(sorted_order, examples, batch_size)
    return [batches[i] for i in random.permutation(len(batches))]


def pad_tokens(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of captions as [S, L], 0 behind each caption's end, and their lengths [S]."""
    lengths = torch.tensor([len(caption) for caption in captions])
    tokens = torch.zeros(len(captions), int(lengths.max()), dtype=torch.int64)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = torch.tensor(caption)
    return tokens, lengths


def _fill(order: Sequence[int], examples: Sequence[Example], batch_size: int) -> list[list[int]]:
    batches: list[list[int]] = []
    full = batch_size
    for i in order:
        if full >= batch_size:
            batches.append([])
            full = 0
        batches[-1].append(i)
        full += len(examples[i].targets)
    return batches


def _by_video(segments: Sequence[Segment]) -> Iterator[tuple[str, list[Segment]]]:
    groups: dict[str, list[Segment]] = {}
    for segment in segments:
        groups.setdefault(segment.video_id, []).append(segment)
    yield from groups.items()
