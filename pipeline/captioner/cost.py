"""What a caption costs: weights, arithmetic, time, and what has to be remembered until the segment ends.

From stored embeddings on: sampling and embedding a video's frames is the same for every captioner.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from pipeline.captioner.generation import caption_examples
from pipeline.captioner.memory import novel
from pipeline.captioner.model import Captioner, CaptionerConfig
from pipeline.captioner.sequences import Example
from pipeline.dataset.annotations import subset_order

VIDEOS = 20  # whose captions are measured


@dataclass(frozen=True)
class Cost:
    """Means over the captions of some examples."""

    parameters: int  # of mapper and decoder
    gflop: float  # of matrix products, a multiplication and an addition counted as two
    cpu_s: float
    remembered_bytes: float  # when the segment ends


def measure(captioner: Captioner, tokenizer: Any, examples: Sequence[Example], **options: Any) -> Cost:
    """Of captioning these examples.

    Args:
        options: as for `caption_examples`. What a batch computes for its padding is a part of what captioning costs.
    """

    def caption() -> int:
        return sum(len(made) for made in caption_examples(captioner, tokenizer, examples, **options))

    caption()  # what only the first call does is no part of a caption's cost
    started = time.process_time()
    captions = caption()
    cpu_s = time.process_time() - started
    with FlopCounterMode(display=False) as counter:
        caption()
    held = [
        remembered_bytes(captioner.config, example.read()[: target.end + 1], target.end - target.start + 1)
        for example in examples
        for target in example.targets
    ]
    return Cost(
        parameters=sum(weights.numel() for weights in captioner.parameters()),
        gflop=counter.get_total_flops() / 1e9 / captions,
        cpu_s=cpu_s / captions,
        remembered_bytes=float(np.mean(held)),
    )


def costed(video_ids: Iterable[str]) -> set[str]:
    """Of these videos those whose captions are measured: the same ones for every captioner."""
    return set(subset_order(set(video_ids))[:VIDEOS])


def remembered_bytes(config: CaptionerConfig, embeddings: NDArray[np.floating], of_segment: int) -> int:
    """What a stream holds when a segment ends: keys, values, embeddings; without a memory, embeddings.

    Where frames are evenly spaced, nobody knows which these are before the end: all that they are taken from are held.

    Args:
        embeddings: of the sequence up to the segment's last frame [T, E].
        of_segment: how many of these are the segment's.
    """
    memory, mapper, frames = config.memory, config.mapper, len(embeddings)
    if memory is None:
        held = 1
        if config.baseline and config.baseline.kind.several:
            held = frames if config.baseline.kind.scope == "past" else of_segment
        return 4 * held * mapper.embedding_width
    capacity = memory.capacity(mapper.tokens)
    held = min(frames, capacity)
    if memory.write_below is not None and frames > capacity:
        written = novel(torch.from_numpy(embeddings[: frames - capacity].astype(np.float32)), memory.write_below)
        held += min(int(written.sum()), capacity)
    return 4 * held * (2 * len(memory.layers) * mapper.tokens * mapper.width + mapper.embedding_width)
