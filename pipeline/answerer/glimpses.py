"""Which frames a question gets to see: glimpses of a few frames each (ClipBERT, Lei et al. 2021).

T frames that may be seen   n glimpses   f frames of each, `step` frames apart
"""

from typing import Literal

import torch
from torch import Tensor

Grid = Literal["ends", "centres", "clipbert"]


def span(frames: int, step: int) -> int:
    """Frames from a glimpse's first to its last, both counted."""
    return (frames - 1) * step + 1


def uniform(length: int, n: int, frames: int, step: int, grid: Grid) -> Tensor:
    """Evenly spaced glimpses of `length` frames: [n, f] indices, ascending.

    ends: the first glimpse begins with the first frame, the last one ends with the last. centres: in the middle of n
    equal parts. clipbert: at the beginning of n equal parts, so never at the end, as the original samples.
    A video that is shorter than a glimpse repeats its last frame.
    """
    assert length > 0
    last = max(0, length - span(frames, step))  # where a glimpse can begin at the latest
    place = torch.arange(n, dtype=torch.float64)
    match grid:
        case "ends":
            start = place * (last / (n - 1)) if n > 1 else torch.full((1,), last / 2, dtype=torch.float64)
        case "centres":
            start = (place + 0.5) * (length / n) - span(frames, step) / 2
        case "clipbert":
            start = (place * (length / n)).floor()
    first = start.round().long().clamp(0, last)
    return (first[:, None] + step * torch.arange(frames)).clamp(max=length - 1)


def random(length: int, n: int, frames: int, step: int, generator: torch.Generator) -> Tensor:
    """Glimpses that begin anywhere: [n, f] indices, in the order of time."""
    assert length > 0
    last = max(0, length - span(frames, step))
    first = torch.randint(last + 1, (n,), generator=generator).sort().values
    return (first[:, None] + step * torch.arange(frames)).clamp(max=length - 1)
