"""Soft keyframes: what a segment looked like part by part, in the order of time.

B sequences of a batch   R segments per sequence   T frames   E width of an embedding
"""

import torch
from torch import Tensor

from pipeline.retrieval import within


def keyframe_weights(attended: Tensor, since: Tensor, now: Tensor) -> Tensor:
    """Weight of every frame in its segment's keyframes, [B, R, T]; their sum is 1, or 0 where there is no frame.

    Half of it goes where the memory's attention goes; half is spread evenly, so that no stretch of the segment is
    out of sight (attention that starts with likeness to the last frame would never learn what looked different).

    Args:
        attended: [B, R, T], attention paid to every frame.
        since: [B, R] int64, the first frame of the segment that is remembered.
        now: [B, R] int64, the segment's last frame; it is none of those that are weighted.
    """
    there = within(attended.shape[-1], since, now)
    even = there / there.sum(-1, keepdim=True).clamp(min=1)
    attended = attended * there
    attended = attended / attended.sum(-1, keepdim=True).clamp(min=torch.finfo(attended.dtype).tiny)
    return 0.5 * attended + 0.5 * even


def soft_keyframes(weights: Tensor, embeddings: Tensor, count: int) -> Tensor:
    """What a segment's frames looked like on average, part by part, in the order of time.

    In the order of time the frames' weights are cut into `count` parts of equal weight; a part's weighted mean
    embedding is a keyframe. So the keyframes come in order whenever and however fast things happen: what else is in
    a memory is a set, out of which "red, then blue" must be read from ages.

    Args:
        weights: [B, R, T], of every frame, for each of R segments; their sum is 1.
        embeddings: [B, T, E].

    Returns:
        [B, R, count, E], oldest first.
    """
    over = weights.cumsum(-1)
    edges = torch.linspace(0, 1, count + 1, dtype=weights.dtype, device=weights.device)
    low, high = edges[:-1, None], edges[1:, None]
    # A frame fills a stretch of the whole weight; what of it lies in each part, [B, R, count, T].
    stretch = (over[:, :, None].minimum(high) - (over - weights)[:, :, None].maximum(low)).clamp(min=0)
    return count * stretch @ embeddings[:, None]
