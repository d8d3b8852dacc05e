"""Training and captioning batches: sequences of frame embeddings with the segments to be captioned in them.

B sequences of a batch   T frames   R segments per sequence   S segments of the batch   E embedding width
L caption tokens

A sequence holds what the model sees: the frames of a segment (scope segment), a video up to the end of its last segment
(scope video), or a video up to the end of one segment (scope past).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.captioner.memory import Moments
from pipeline.dataset.segments import Segment, frames_of_segment
from pipeline.features.embeddings import Rows, VideoEmbeddings


@dataclass(frozen=True, slots=True)
class Target:
    """A segment within its sequence: its first and last frame there."""

    segment: Segment
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence: which frames of a video (read when its batch is made), and the segments in it."""

    video: np.ndarray | Rows  # [video's frames, E] float16
    frames: range  # first frame, in the video
    targets: tuple[Target, ...]

    def __len__(self) -> int:
        """T, without reading the frames."""
        return len(self.frames)

    def read(self) -> np.ndarray:
        """Embeddings [T, E] float16."""
        return self.video[self.frames.start : self.frames.stop]


@dataclass(frozen=True)
class Batch:
    embeddings: Tensor  # [B, T, E] float32, padded at the end
    moments: Moments  # [B, R] each, padded at the end
    real: Tensor  # [B, R] bool
    segments: list[Segment]  # S, in the order of the True entries of `real`
    begins: list[int]  # B, the first frame of each sequence in its video

    def to(self, device: torch.device) -> "Batch":
        moments = Moments(self.moments.frame.to(device), self.moments.segment_start.to(device))
        return Batch(self.embeddings.to(device), moments, self.real.to(device), self.segments, self.begins)


def make_examples(
    segments: Sequence[Segment], videos: Mapping[str, VideoEmbeddings], *, scope: str, sparse: int | None = None
) -> list[Example]:
    """Examples of the segments whose video has embeddings, in the order of the segments.

    Args:
        segments: grouped by video, as in segments.parquet.
        scope: what an example is: video (up to the end of its last segment) | past (of one segment, the video up to its
            end) | segment (its own frames).
        sparse: an example of each segment instead, as `sparse_examples` makes it with so many frames.
    """
    if sparse is not None:
        return sparse_examples(make_examples(segments, videos, scope="past"), sparse)
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
            # In order of time; the target that ends last decides how long the sequence is.
            targets.sort(key=lambda target: (target.end, target.start))
            examples.append(Example(video.embeddings, range(targets[-1].end + 1), tuple(targets)))
            continue
        for target in targets:
            first = 0 if scope == "past" else target.start
            moved = Target(target.segment, target.start - first, target.end - first)
            examples.append(Example(video.embeddings, range(first, target.end + 1), (moved,)))
    return examples


def sparse_examples(examples: Sequence[Example], count: int) -> list[Example]:
    """Examples of one segment each, with `count` of their frames: half from before the segment, half of it.

    They are evenly spaced, the segment's last one among them; where there are fewer, all. A frame's number is its place
    among these, so ages are in steps of this choice.
    """
    found = []
    for example in examples:
        [target] = example.targets
        before = _evenly(0, target.start - 1, count // 2)
        chosen = [*before, *_evenly(target.start, target.end, count - count // 2)]
        moved = replace(target, start=len(before), end=len(chosen) - 1)
        found.append(Example(example.read()[chosen], range(len(chosen)), (moved,)))
    return found


def _evenly(first: int, last: int, count: int) -> list[int]:
    """At most `count` whole numbers, evenly spaced from `first` to `last`, both included; of one, the last."""
    return sorted({round(place) for place in np.linspace(last, first, count)}) if last >= first else []


def collate(examples: Sequence[Example]) -> Batch:
    """A batch of the examples' embeddings, read now, and their targets; an empty batch for no examples."""
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

    A batch closes with the example that fills it. Lengths are similar within a batch, to need little padding: a
    shuffled epoch (seed given) is sorted by length within chunks of several batches, and these batches are shuffled
    again; without a seed, everything is sorted.
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
    """Token ids of captions as [S, L], 0 after each caption's end, and their lengths [S]."""
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
