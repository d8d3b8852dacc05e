"""The k largest of many values, faster on a CPU than `torch.topk`."""

import math

import torch
from torch import Tensor

BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}  # integers of a float's bits


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Like scores.topk(k, dim=-1, sorted=False), but faster for small k and many values."""
    if scores.device.type != "cpu" or scores.dtype not in BITS:
        where = _largest(scores, k)
        return scores.gather(-1, where), where
    # The bits of floats, read as integers, have the floats' order. Only negative floats, which are also negative as
    # integers, are reversed among themselves; that matters for the few queries that select one.
    bits = scores.view(BITS[scores.dtype])
    where = _largest(bits, k)
    best = scores.gather(-1, where)
    wrong = (best <= 0).any(-1)
    if wrong.any():
        most = torch.iinfo(bits.dtype)
        bits = bits[wrong]
        again = _largest(bits ^ ((bits >> most.bits - 1) & most.max), k)
        where[wrong], best[wrong] = again, scores[wrong].gather(-1, again)
    return best, where


def _largest(values: Tensor, k: int) -> Tensor:
    """Indices of the k largest values [..., M], in any order: [..., k].

    The k largest are in the k groups with the largest maxima: one pass finds the maxima, and only the members of those
    groups need a second look.
    """
    count = values.shape[-1]
    if count < 12 * k:
        return _select(values, torch.arange(count, dtype=torch.int32, device=values.device), count, k)
    # Measured: larger groups mean more members, smaller ones more rounds.
    size = max(4, 2 ** int(math.log2(count / k) / 3))
    # Member i of group g is value i * groups + g, so maxima are taken across rows, which is fast.
    groups = count // size
    even = groups * size
    grouped = values[..., :even].unflatten(-1, (size, groups))
    chosen = _largest(grouped.amax(-2), k)[..., None, :]
    members = grouped.gather(-1, chosen.expand(*chosen.shape[:-2], size, k)).flatten(-2)
    within = torch.arange(0, even, groups, dtype=torch.int32, device=values.device)
    places = (chosen.int() + within[:, None]).flatten(-2)
    if even < count:
        members = torch.cat([members, values[..., even:]], dim=-1)
        rest = torch.arange(even, count, dtype=torch.int32, device=values.device)
        places = torch.cat([places, rest.expand(*places.shape[:-1], -1)], dim=-1)
    return _select(members, places, count, k)


def _select(values: Tensor, places: Tensor, end: int, k: int) -> Tensor:
    """The indices, all below `end`, of the k largest values: [..., M] of both -> [..., k] int64.

    NumPy's partition of integers is vectorised but returns no indices, so value and index share an integer.
    """
    count = values.shape[-1]
    if values.dtype.is_floating_point or k == count:
        return places.expand(values.shape).gather(-1, values.topk(k, dim=-1, sorted=False).indices).long()
    wide, room = (torch.int32, 16) if values.dtype == torch.int16 and end <= 2**16 else (torch.int64, 32)
    packed = values.to(wide) << room
    packed |= places
    packed.numpy().partition(count - k, axis=-1)
    return (packed[..., count - k :] & (2**room - 1)).long()
