"""Retrieval: the k keys with the largest inner product with a query, among those of a window of frames.

B sequences of a batch   T frames   Q query frames   N tokens per frame   H heads   d width of a head

`nearest` looks at every key and is exact. `ApproximateIndex` (faiss) looks at the likeliest part of them: for streams
of tens of thousands of keys, where looking at all is what takes the time.
"""

import math
from collections.abc import Iterator, Sequence

import faiss
import numpy as np
import torch
from torch import Tensor

Window = tuple[Tensor, Tensor]  # (first, stop) [B, Q] int64 each: frames first <= t < stop of each query frame

# Bytes of scores that exist at once. On a CPU so few that they stay in its cache, or nearly.
BLOCK_CPU, BLOCK_GPU = 2**24, 2**29
# Rows of a block, at least: of a block of many query frames more keys are multiplied in vain.
BLOCK_ROWS = 8
# Frames of keys that are multiplied together, on a CPU: matrices whose sides are not multiples of 32 take longer.
FRAMES_TOGETHER = 8

BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}  # integers of a float's bits


def within(frames: int, first: Tensor, stop: Tensor) -> Tensor:
    """Which of `frames` frames lie in windows (first, stop) [B, Q]: [B, Q, T] bool."""
    frame = torch.arange(frames, device=first.device)
    return (frame >= first[:, :, None]) & (frame < stop[:, :, None])


@torch.no_grad()
def nearest(queries: Tensor, keys: Tensor, windows: Sequence[Window], *, k: int) -> tuple[Tensor, Tensor]:
    """The k keys with the largest inner product of each of some windows of frames.

    Args:
        queries: [B, H, Q, N, d].
        keys: [B, H, T, N, d].
        windows: a query retrieves k from each.
        k: neighbours wanted of each window, >= 1.

    Returns:
        index [B, H, Q, N, K] into the T*N keys and their scores [B, H, Q, N, K], -inf where a window has fewer than
        k keys (the index there is valid but means nothing). K is the sum of k over the windows, or of all their keys
        where no query has as many.
    """
    parts = [_nearest_of(queries, keys, first, stop, k) for first, stop in windows]
    return torch.cat([index for index, _ in parts], dim=-1), torch.cat([scores for _, scores in parts], dim=-1)


def _nearest_of(queries: Tensor, keys: Tensor, first: Tensor, stop: Tensor, k: int) -> tuple[Tensor, Tensor]:
    batch, heads, asking, tokens, _ = queries.shape
    first, stop = first.clamp(min=0), stop.clamp(max=keys.shape[2])
    # Where the windows of each query frame begin and end, over the batch: the first and the last of them.
    begins, all_begin, one_ends, ends = torch.stack([first.amin(0), first.amax(0), stop.amin(0), stop.amax(0)]).tolist()
    # Frames that are in nobody's window are not even multiplied.
    frames = slice(min(begins), max(min(begins), max(ends)))
    count = min(k, (frames.stop - frames.start) * tokens)
    dtype = product_dtype(queries)
    index = torch.zeros(batch * heads, asking, tokens, count, dtype=torch.int64, device=queries.device)
    best = torch.full(index.shape, -torch.inf, dtype=dtype, device=queries.device)
    if not count:
        return index.unflatten(0, (batch, heads)), best.unflatten(0, (batch, heads))
    queries = queries.flatten(0, 1).to(dtype)  # [B*H, Q, N, d]
    keys = keys[:, :, frames].flatten(0, 1).flatten(1, 2).to(dtype)  # [B*H, T*N, d]
    sequence = torch.arange(batch, device=queries.device).repeat_interleave(heads)
    room = keys.new_empty(0)
    scores_of_frame = tokens * tokens * (frames.stop - frames.start)
    for rows, at in _blocks(batch * heads, asking, scores_of_frame * dtype.itemsize, queries.device):
        begin, end = min(begins[at]), max(ends[at])
        end = min(frames.stop, begin + -(-(end - begin) // FRAMES_TOGETHER) * FRAMES_TOGETHER)
        if begin >= end:
            continue
        asked = queries[rows, at].flatten(1, 2)  # [rows, q*N, d]
        some_keys = keys[rows, (begin - frames.start) * tokens : (end - frames.start) * tokens]
        shape = (*asked.shape[:2], some_keys.shape[1])
        # All blocks in the same memory: fresh pages would cost as much as the products.
        if room.numel() < math.prod(shape):
            room = keys.new_empty(math.prod(shape))
        scores = room[: math.prod(shape)].view(shape)
        _products(asked, some_keys, scores)
        # What lies within every window need not be asked for.
        by_frame = scores.view(len(scores), -1, tokens, end - begin, tokens)
        for part in slice(begin, max(all_begin[at])), slice(max(begin, min(one_ends[at])), end):
            frame = torch.arange(part.start, min(end, part.stop), device=queries.device)
            hidden = (frame < first[sequence[rows], at, None]) | (frame >= stop[sequence[rows], at, None])
            of_part = by_frame[:, :, :, part.start - begin : part.start - begin + len(frame)]
            of_part.masked_fill_(hidden[:, :, None, :, None], -torch.inf)
        values, where = top_k(scores, min(count, shape[2]))
        index[rows, at, :, : where.shape[2]] = where.unflatten(1, (-1, tokens)) + begin * tokens
        best[rows, at, :, : where.shape[2]] = values.unflatten(1, (-1, tokens))
    return index.unflatten(0, (batch, heads)), best.unflatten(0, (batch, heads))


def _products(queries: Tensor, keys: Tensor, out: Tensor) -> None:
    """Inner products of queries [R, q, d] and keys [R, M, d], row by row, into out [R, q, M]."""
    if queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
        torch.bmm(queries, keys.transpose(-1, -2), out=out)
        return
    # Keys are part of a larger buffer: a batched product in bf16 would copy them, and take twice as long.
    for some_queries, some_keys, scores in zip(queries, keys, out, strict=True):
        torch.mm(some_queries, some_keys.T, out=scores)


def product_dtype(x: Tensor) -> torch.dtype:
    """What autocast would multiply x in (a product into memory that is there is none of its business)."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _blocks(rows: int, frames: int, size: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of their query frames with few enough scores together: those of a frame have `size` bytes."""
    fit = max(1, (BLOCK_CPU if device.type == "cpu" else BLOCK_GPU) // size)  # query frames
    rows_at_once = min(rows, max(BLOCK_ROWS, fit // frames))
    frames_at_once = max(1, fit // rows_at_once)
    for row in range(0, rows, rows_at_once):
        for frame in range(0, frames, frames_at_once):
            yield slice(row, row + rows_at_once), slice(frame, frame + frames_at_once)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As scores.topk(k, dim=-1, sorted=False), faster where k is few of many."""
    if scores.device.type != "cpu" or scores.dtype not in BITS:
        where = _largest(scores, k)
        return scores.gather(-1, where), where
    # The bits of floats, taken for integers, have the floats' order. Only negative ones, which are negative as integers
    # too, have the reverse one among themselves: that matters to the few queries that have to choose such a one.
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
    """Places of the k largest values [..., M], in any order: [..., k].

    The k largest lie in the k groups that have the largest maxima: a maximum is found in one pass, and only those
    groups' members need to be looked at again.
    """
    count = values.shape[-1]
    if count < 12 * k:
        return _select(values, torch.arange(count, dtype=torch.int32, device=values.device), count, k)
    # By measurement: larger groups cost more members, smaller ones more rounds.
    size = max(4, 2 ** int(math.log2(count / k) / 3))
    # Member i of group g is value i * groups + g: so the maxima are taken over rows, not along them, at full speed.
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
    """The places, all below `end`, of the k largest values: [..., M] of both -> [..., k] int64.

    Of integers by NumPy's partition, which is vectorised but gives no places: value and place share an integer.
    """
    count = values.shape[-1]
    if values.dtype.is_floating_point or k == count:
        return places.expand(values.shape).gather(-1, values.topk(k, dim=-1, sorted=False).indices).long()
    wide, room = (torch.int32, 16) if values.dtype == torch.int16 and end <= 2**16 else (torch.int64, 32)
    packed = values.to(wide) << room
    packed |= places
    packed.numpy().partition(count - k, axis=-1)
    return (packed[..., count - k :] & (2**room - 1)).long()


# Of the keys of a trained model, 64,000 in 256 lists: 32 lists hold 0.96 of the nearest 32 (bench/memory.py).
LISTS, PROBES = 256, 32
LEAST_KEYS = 40 * LISTS  # fewer do not make good lists, and are searched exactly in no time


class ApproximateIndex:
    """An index of one stream's keys in one layer, a faiss inverted file (IVF) per head: what it finds is approximate.

    Keys are sorted into lists around centres; a query looks into the lists whose centres are nearest. Keys have the
    places they have in the stream's buffer: when the buffer moves what it keeps, the index is made anew.
    """

    def __init__(self) -> None:
        self._files: list[faiss.IndexIVFFlat] = []  # by head; none while there are few keys
        self._sorted = 0  # keys when the centres were chosen

    def clear(self) -> None:
        self._files, self._sorted = [], 0

    def follow(self, keys: Tensor, new: int) -> None:
        """Take in that a buffer holds these keys [H, T, N, d], the last `new` frames of which are new.

        The centres are chosen anew whenever there are twice the keys that they were chosen from.
        """
        tokens, width = keys.shape[2:]
        count = keys.shape[1] * tokens
        if count < LEAST_KEYS:
            return
        begin = count - new * tokens
        if count >= 2 * self._sorted:
            self._files, self._sorted, begin = [], count, 0
            for head in keys:
                file = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, LISTS, faiss.METRIC_INNER_PRODUCT)
                file.train(_rows(head.flatten(0, 1)[:: max(1, count // LEAST_KEYS)]))
                self._files.append(file)
        places = np.arange(begin, count, dtype=np.int64)
        for file, head in zip(self._files, keys, strict=True):
            file.add_with_ids(_rows(head.flatten(0, 1)[begin:]), places)

    def search(self, queries: Tensor, keys: Tensor, windows: Sequence[Window], *, k: int) -> tuple[Tensor, Tensor]:
        """As `nearest`, of one sequence: queries [1, H, Q, N, d], keys [1, H, T, N, d]."""
        if not self._files:
            return nearest(queries, keys, windows, k=k)
        tokens = queries.shape[3]
        count = min(k, keys.shape[2] * tokens)
        index = torch.zeros(*queries.shape[:-1], count * len(windows), dtype=torch.int64)
        scores = torch.full(index.shape, -torch.inf)
        for head, file in enumerate(self._files):
            for number, (first, stop) in enumerate(windows):
                part = slice(number * count, (number + 1) * count)
                for frame, (begin, end) in enumerate(zip(first[0].tolist(), stop[0].tolist(), strict=True)):
                    if begin >= end:
                        continue
                    chosen = faiss.IDSelectorRange(begin * tokens, end * tokens, True)
                    options = faiss.SearchParametersIVF(sel=chosen, nprobe=PROBES)  # type: ignore[call-arg]
                    best, nearest_first = file.search(_rows(queries[0, head, frame]), count, params=options)
                    places = torch.from_numpy(nearest_first)
                    index[0, head, frame, :, part] = places.clamp(min=0)
                    scores[0, head, frame, :, part] = torch.from_numpy(best).masked_fill_(places < 0, -torch.inf)
        return index.to(queries.device), scores.to(queries.device)


def _rows(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().float().cpu().numpy())
