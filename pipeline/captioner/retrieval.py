"""Retrieval: the k keys with the largest inner product with a query, within a window of frames.

B sequences of a batch   T frames   Q query frames   N tokens per frame   H heads   d width of a head

`nearest` looks at every key: up to a million of them no index was faster by enough (docs/notebook.md).
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.language.top_k import top_k

# (first, stop, seen): for each query frame the frames first <= t < stop, [B, Q] int64 each, that are also in seen,
# [B, Q, T] bool.
Window = tuple[Tensor, Tensor, Tensor | None]

# Bytes of scores that exist at once. On a CPU few enough to stay in its cache, or nearly.
BLOCK_CPU, BLOCK_GPU = 2**24, 2**29
# Fewest rows of a block: a block of many query frames multiplies more keys needlessly.
BLOCK_ROWS = 8
# Frames of keys per product on a CPU: matrices whose sides are not multiples of 32 are slower.
FRAMES_TOGETHER = 8


def within(frames: int, first: Tensor, stop: Tensor) -> Tensor:
    """Which of `frames` frames lie in windows (first, stop) [B, Q]: [B, Q, T] bool."""
    frame = torch.arange(frames, device=first.device)
    return (frame >= first[:, :, None]) & (frame < stop[:, :, None])


@torch.no_grad()
def nearest(queries: Tensor, keys: Tensor, windows: Sequence[Window], *, k: int) -> tuple[Tensor, Tensor]:
    """The k keys with the largest inner product, for each of several windows of frames.

    Args:
        queries: [B, H, Q, N, d].
        keys: [B, H, T, N, d].
        windows: a query retrieves k from each.
        k: neighbours per window, >= 1.

    Returns:
        index [B, H, Q, N, K] into the T*N keys and their scores [B, H, Q, N, K], -inf where a window has fewer than
        k keys (the index there is valid but meaningless). K is the sum of k over the windows, or the number of their
        keys if no query has that many.
    """
    parts = [_nearest_of(queries, keys, *window, k) for window in windows]
    return torch.cat([index for index, _ in parts], dim=-1), torch.cat([scores for _, scores in parts], dim=-1)


def _nearest_of(
    queries: Tensor, keys: Tensor, first: Tensor, stop: Tensor, seen: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    batch, heads, asking, tokens, _ = queries.shape
    first, stop = first.clamp(min=0), stop.clamp(max=keys.shape[2])
    # The first and last frame of the windows of each query frame, over the batch.
    begins, all_begin, one_ends, ends = torch.stack([first.amin(0), first.amax(0), stop.amin(0), stop.amax(0)]).tolist()
    # Frames in no query's window are not multiplied at all.
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
        # All blocks reuse the same memory: fresh pages would cost as much as the products.
        if room.numel() < math.prod(shape):
            room = keys.new_empty(math.prod(shape))
        scores = room[: math.prod(shape)].view(shape)
        _products(asked, some_keys, scores)
        # Frames within every window need no mask.
        by_frame = scores.view(len(scores), -1, tokens, end - begin, tokens)
        for part in slice(begin, max(all_begin[at])), slice(max(begin, min(one_ends[at])), end):
            frame = torch.arange(part.start, min(end, part.stop), device=queries.device)
            hidden = (frame < first[sequence[rows], at, None]) | (frame >= stop[sequence[rows], at, None])
            of_part = by_frame[:, :, :, part.start - begin : part.start - begin + len(frame)]
            of_part.masked_fill_(hidden[:, :, None, :, None], -torch.inf)
        if seen is not None:
            hidden = ~seen[sequence[rows], at, begin:end]
            by_frame.masked_fill_(hidden[:, :, None, :, None], -torch.inf)
        values, where = top_k(scores, min(count, shape[2]))
        index[rows, at, :, : where.shape[2]] = where.unflatten(1, (-1, tokens)) + begin * tokens
        best[rows, at, :, : where.shape[2]] = values.unflatten(1, (-1, tokens))
    return index.unflatten(0, (batch, heads)), best.unflatten(0, (batch, heads))


def _products(queries: Tensor, keys: Tensor, out: Tensor) -> None:
    """Inner products of queries [R, q, d] and keys [R, M, d], row by row, into out [R, q, M]."""
    if queries.device.type != "cpu" or queries.dtype != torch.bfloat16:
        torch.bmm(queries, keys.transpose(-1, -2), out=out)
        return
    # Keys are part of a larger buffer: a batched product in bf16 would copy them and take twice as long.
    for some_queries, some_keys, scores in zip(queries, keys, out, strict=True):
        torch.mm(some_queries, some_keys.T, out=scores)


def product_dtype(x: Tensor) -> torch.dtype:
    """x in autocast's dtype (autocast ignores products with `out=`)."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _blocks(rows: int, frames: int, size: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of query frames, small enough that their scores fit; those of one frame have `size` bytes."""
    fit = max(1, (BLOCK_CPU if device.type == "cpu" else BLOCK_GPU) // size)  # query frames
    rows_at_once = min(rows, max(BLOCK_ROWS, fit // frames))
    frames_at_once = max(1, fit // rows_at_once)
    for row in range(0, rows, rows_at_once):
        for frame in range(0, frames, frames_at_once):
            yield slice(row, row + rows_at_once), slice(frame, frame + frames_at_once)
