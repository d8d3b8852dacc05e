"""Soft keyframes: what a segment looked like part by part, in order of time.

B sequences of a batch   R segments per sequence   T frames   E width of an embedding
"""

import torch
from torch import Tensor

from pipeline.captioner.retrieval import within


def keyframe_weights(attended: Tensor, since: Tensor, now: Tensor) -> Tensor:
    """Weight of every frame in its segment's keyframes, [B, R, T]; their sum is 1, or 0 where there is no frame.

    Half of it goes where the memory's attention goes. Half is spread evenly, so that no part of the segment is ignored
    (attention that starts from similarity to the last frame would never learn what looked different).

    Args:
        attended: [B, R, T], attention paid to every frame.
        since: [B, R] int64, the first frame of the segment that is remembered.
        now: [B, R] int64, the segment's last frame, which gets no weight.
    """
    there = within(attended.shape[-1], since, now)
    even = there / there.sum(-1, keepdim=True).clamp(min=1)
    attended = attended * there
    attended = attended / attended.sum(-1, keepdim=True).clamp(min=torch.finfo(attended.dtype).tiny)
    return 0.5 * attended + 0.5 * even


def soft_keyframes(weights: Tensor, embeddings: Tensor, count: int) -> Tensor:
    """What a segment's frames looked like on average, part by part, in order of time.

    The frames, in order of time, are cut into `count` parts of equal total weight. A part's weighted mean embedding is
    a keyframe. So keyframes keep the order of events, whenever and however fast they happen. Everything else in a
    memory is a set, where "red, then blue" has to be read from ages.

    Args:
        weights: [B, R, T], of every frame, for each of R segments; their sum is 1.
        embeddings: [B, T, E].

    Returns:
        [B, R, count, E], oldest first.
    """
    over = weights.cumsum(-1)
    edges = torch.linspace(0, 1, count + 1, dtype=weights.dtype, device=weights.device)
    low, high = edges[:-1, None], edges[1:, None]
    # Each frame covers an interval of the total weight; its overlap with each part, [B, R, count, T].
    stretch = (over[:, :, None].minimum(high) - (over - weights)[:, :, None].maximum(low)).clamp(min=0)
    return count * stretch @ embeddings[:, None]
