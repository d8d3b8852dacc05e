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

# Scores that exist at once. On a CPU so few that they stay in its cache, or nearly.
BLOCK_CPU, BLOCK_GPU = 2**22, 2**27

LARGEST_GROUP = 16  # scores of which at first only the largest is looked at


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
        index [B, H, Q, N, K] into the T*N keys and found [B, H, Q, N, K] bool, False where a window has fewer than
        k keys (the index there is valid but means nothing). K is the sum of k over the windows, or of all their keys
        where no query has as many.
    """
    parts = [_nearest_of(queries, keys, first, stop, k) for first, stop in windows]
    return torch.cat([index for index, _ in parts], dim=-1), torch.cat([found for _, found in parts], dim=-1)


def _nearest_of(queries: Tensor, keys: Tensor, first: Tensor, stop: Tensor, k: int) -> tuple[Tensor, Tensor]:
    batch, heads, asking, tokens, _ = queries.shape
    # Frames that are in nobody's window are not even multiplied.
    begin, end = max(0, int(first.min())), min(keys.shape[2], int(stop.max()))
    frames = max(0, end - begin)
    count = min(k, frames * tokens)
    index = torch.empty(batch * heads, asking, tokens, count, dtype=torch.int64, device=queries.device)
    found = torch.empty_like(index, dtype=torch.bool)
    if count:
        dtype = _product_dtype(queries)
        queries = queries.flatten(0, 1).to(dtype)  # [B*H, Q, N, d]
        keys = keys[:, :, begin:end].flatten(0, 1).flatten(1, 2).to(dtype)  # [B*H, T*N, d]
        hidden = ~within(frames, first - begin, stop - begin).repeat_interleave(heads, dim=0)  # [B*H, Q, T]
        hides = bool(hidden.any())
        room = keys.new_empty(0)
        for some, at in _blocks(batch * heads, asking, tokens * frames * tokens, queries.device):
            asked = queries[some, at].flatten(1, 2)
            shape = (*asked.shape[:2], keys.shape[1])
            # All blocks in the same memory: fresh pages would cost as much as the products.
            if room.numel() < math.prod(shape):
                room = keys.new_empty(math.prod(shape))
            scores = room[: math.prod(shape)].view(shape)
            torch.bmm(asked, keys[some].transpose(-1, -2), out=scores)  # [rows, q*N, T*N]
            if hides:
                by_frame = scores.view(len(scores), -1, tokens, frames, tokens)
                by_frame.masked_fill_(hidden[some, at][:, :, None, :, None], -torch.inf)
            best, where = top_k(scores, count)
            index[some, at] = (where + begin * tokens).unflatten(1, (-1, tokens))
            found[some, at] = best.isfinite().unflatten(1, (-1, tokens))
    return index.unflatten(0, (batch, heads)), found.unflatten(0, (batch, heads))


def _product_dtype(x: Tensor) -> torch.dtype:
    """What autocast would multiply x in (a product into memory that is there is none of its business)."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _blocks(rows: int, frames: int, scores: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of their query frames that have few enough scores together; each frame has `scores`."""
    fit = max(1, (BLOCK_CPU if device.type == "cpu" else BLOCK_GPU) // scores)  # query frames
    rows_at_once, frames_at_once = max(1, fit // frames), min(fit, frames)
    for row in range(0, rows, rows_at_once):
        for frame in range(0, frames, frames_at_once):
            yield slice(row, row + rows_at_once), slice(frame, frame + frames_at_once)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As scores.topk(k, dim=-1, sorted=False), faster where k is few of many.

    The k largest lie in the k groups that have the largest maxima: a maximum is found in one pass, and only those
    groups' members need to be looked at again.
    """
    count = scores.shape[-1]
    # As many groups' maxima as members of the groups that are chosen, or thereabouts.
    size = min(LARGEST_GROUP, 2 ** int(math.log2(math.sqrt(count / k))))
    if size < 4:
        best = scores.topk(k, dim=-1, sorted=False)
        return best.values, best.indices
    # Member i of group g is score i * groups + g: so the maxima are taken over rows, not along them, at full speed.
    groups = count // size
    even = groups * size
    _, chosen = top_k(scores[..., :even].unflatten(-1, (size, groups)).amax(-2), k)
    members = (torch.arange(0, even, groups, device=scores.device)[:, None] + chosen[..., None, :]).flatten(-2)
    rest = torch.arange(even, count, device=scores.device).expand(*scores.shape[:-1], -1)
    where = torch.cat([members, rest], dim=-1)
    best = scores.gather(-1, where).topk(k, dim=-1, sorted=False)
    return best.values, where.gather(-1, best.indices)


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
        found = torch.zeros_like(index, dtype=torch.bool)
        for head, file in enumerate(self._files):
            for number, (first, stop) in enumerate(windows):
                part = slice(number * count, (number + 1) * count)
                for frame, (begin, end) in enumerate(zip(first[0].tolist(), stop[0].tolist(), strict=True)):
                    if begin >= end:
                        continue
                    chosen = faiss.IDSelectorRange(begin * tokens, end * tokens, True)
                    options = faiss.SearchParametersIVF(sel=chosen, nprobe=PROBES)  # type: ignore[call-arg]
                    _, nearest_first = file.search(_rows(queries[0, head, frame]), count, params=options)
                    places = torch.from_numpy(nearest_first)
                    index[0, head, frame, :, part] = places.clamp(min=0)
                    found[0, head, frame, :, part] = places >= 0
        return index.to(queries.device), found.to(queries.device)


def _rows(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().float().cpu().numpy())
