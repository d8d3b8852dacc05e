"""The kNN memory: attention to the k nearest keys of earlier frames (Memorizing Transformers, Wu et al. 2022).

B sequences of a batch   T frames   Q query frames   N tokens per frame   H heads   d width of a head
K neighbours, up to 2k   A rows of the age table

Keys and values of frames are stored [B, H, T, N, d]. Queries and keys come L2-normalised, so an inner product is
a cosine; a learned scale per head turns it into a logit.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.retrieval import ApproximateIndex, nearest, within

# Ages are bucketed by half-octaves: 1, 2, 3, 4-5, 6-7, 8-10, ... frames; the last bucket takes everything older.
AGE_BUCKETS = 24

OTHERS_BIAS = -0.5  # of a cosine: what a head is at first put off by frames that are another head's


@dataclass(frozen=True)
class Moments:
    """Where in its sequence each query frame stands."""

    frame: Tensor  # [B, Q] int64; a query sees only frames before it
    segment_start: Tensor  # [B, Q] int64; first frame of the segment being captioned, 0 where none is


@dataclass(frozen=True)
class MemoryConfig:
    """What memory.* of params.yaml says of a trained model's memory."""

    layers: tuple[int, ...]  # counted from 1
    k: int
    max_entries: int  # keys kept per layer and head: the frames that fit whole, the most recent
    gate: str  # joint | sigmoid
    time: str  # age | none
    scope: str  # video | segment
    gradient: str  # through | detached
    keyframes: int  # soft keyframes of the segment that get prefix tokens of their own

    def capacity(self, tokens: int) -> int:
        """Frames that are remembered, of `tokens` entries each."""
        return self.max_entries // tokens

    def oldest(self, moments: Moments, tokens: int) -> Tensor:
        """First frame that a query still remembers, [B, Q]."""
        return (moments.frame - self.capacity(tokens)).clamp(min=0)


@dataclass(frozen=True)
class History:
    """One layer's stored keys and values of a batch of sequences."""

    keys: Tensor  # [B, H, T, N, d]
    values: Tensor  # [B, H, T, N, d]
    index: ApproximateIndex | None = None  # of the keys, where B is 1; None: all keys are looked at


@dataclass(frozen=True)
class Remembered:
    """What a mapper has stored of T frames."""

    layers: dict[int, History]  # by number of the memory layer
    embeddings: Tensor  # [B, T, E]


def age_bucket(age: Tensor) -> Tensor:
    """Row of the age table for an age in frames (int64, >= 1; smaller counts as 1)."""
    age = age.clamp(min=1)
    # Integer thresholds rather than log2: float rounding must not move an age across a boundary.
    return torch.bucketize(age, _age_edges(age.device), right=True)


def _age_edges(device: torch.device) -> Tensor:
    return torch.tensor([round(2 ** (half / 2)) for half in range(2, AGE_BUCKETS + 1)], device=device)


class MemoryAttention(nn.Module):
    """What a memory layer adds to its local attention: the gate and the embedding of age."""

    def __init__(self, config: MemoryConfig, heads: int, head_width: int) -> None:
        super().__init__()
        self.config = config
        if config.gate == "sigmoid":
            self.gate_logit = nn.Parameter(torch.zeros(heads))
        if config.time == "age":
            # Two tables in one: frames of the segment being captioned, then frames from before it. A memory that
            # outlives a segment must know which is which: "turns blue" is about now, "comes back" is not.
            def rows(buckets: int, length: float) -> Tensor:
                return torch.randn(heads, 2, buckets, head_width) * length * head_width**-0.5

            # Half as long as a key: the heads start out with tastes in time, some for the recent, some for the old.
            self.age_key = nn.Parameter(rows(AGE_BUCKETS, 0.5))
            self.age_value = nn.Parameter(rows(AGE_BUCKETS, 0.5))
            self.age_bias = nn.Parameter(torch.zeros(heads, 2, AGE_BUCKETS))
            if config.scope == "video":
                with torch.no_grad():
                    # What is common to a table says "of this segment" or "from before it": loud, or it is not heard.
                    self.age_value.add_(rows(1, 6.0))
                    # One half of the heads starts out with each.
                    self.age_bias[: heads // 2, 1] = self.age_bias[heads // 2 :, 0] = OTHERS_BIAS

    def forward(
        self,
        queries: Tensor,
        local_logits: Tensor,
        local_values: Tensor,
        history: History,
        moments: Moments,
        scale: Tensor,
        *,
        attended: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to a frame's own tokens and to the nearest of the history.

        Args:
            queries: [B, H, Q, N, d], normalised.
            local_logits: [B, H, Q, N, N].
            local_values: [B, H, Q, N, d].
            scale: [H, 1, 1, 1].
            attended: whether the second result is wanted.

        Returns:
            [B, H, Q, N, d]; and [B, H, Q, T]: the part of its attention that a query frame pays to each frame, its mean
            over tokens. What is missing to 1 it pays to itself.
        """
        near = self._neighbours(queries, history, moments)
        logits = near.logits(queries)
        if self.config.time == "age":
            row = self._age_row(history.keys.shape[2], moments)  # [B, Q, T]
            by_age = torch.einsum("bhqnd,had->bhqna", queries, self.age_key.flatten(1, 2))
            by_age = by_age + self.age_bias.flatten(1)[:, None, None]  # [B, H, Q, N, A]
            logits = logits + near.of_rows(by_age, row)
        logits = (logits * scale).masked_fill(~near.found, -torch.inf)

        if self.config.gate == "joint":
            weights = torch.cat([local_logits, logits], dim=-1).softmax(-1)
            local_weights, memory_weights = weights.split([local_logits.shape[-1], logits.shape[-1]], dim=-1)
        else:
            remembers = near.found.any(-1, keepdim=True)  # else local only; also keeps softmax off a row of -inf
            gate = self.gate_logit.sigmoid().view(-1, 1, 1, 1) * remembers
            local_weights = (1 - gate) * local_logits.softmax(-1)
            memory_weights = gate * logits.masked_fill(~remembers, 0.0).softmax(-1)
        out = local_weights @ local_values + near.read(memory_weights)
        if self.config.time == "age":
            by_age = near.to_rows(memory_weights, row, rows=by_age.shape[-1])
            out = out + torch.einsum("bhqna,had->bhqnd", by_age, self.age_value.flatten(1, 2))
        return out, near.to_frames(memory_weights).mean(3) if attended else None

    def _neighbours(self, queries: Tensor, history: History, moments: Moments) -> "_Gathered | _Masked":
        index, scores = self._retrieve(queries, history, moments)
        # For gradients, matrix products with every key cost less than gathering a good part of them.
        every = history.keys.shape[2] * history.keys.shape[3]
        masked = torch.is_grad_enabled() and every <= index.shape[-1] * queries.shape[-1]
        return (_Masked if masked else _Gathered)(history, index, scores)

    def _retrieve(self, queries: Tensor, history: History, moments: Moments) -> tuple[Tensor, Tensor]:
        """The k nearest of the segment and the k nearest from before it.

        Each part has its own k: frames that look like now are plentiful in a long video, and k of them from other
        segments would leave no room for what happened in this one.
        """
        oldest = self.config.oldest(moments, tokens=queries.shape[3])
        windows = [(oldest.maximum(moments.segment_start), moments.frame), (oldest, moments.segment_start)]
        if history.index:
            return history.index.search(queries, history.keys, windows, k=self.config.k)
        return nearest(queries, history.keys, windows, k=self.config.k)

    def _age_row(self, frames: int, moments: Moments) -> Tensor:
        """Row of the flat age table of every frame for every query frame, [B, Q, T]."""
        age = moments.frame[:, :, None] - torch.arange(frames, device=moments.frame.device)
        before = within(frames, torch.zeros_like(moments.frame), moments.segment_start)
        return age_bucket(age) + AGE_BUCKETS * before


class _Gathered:
    """The neighbours of each query, K of them, fetched from the history."""

    def __init__(self, history: History, index: Tensor, scores: Tensor) -> None:
        self.history, self.index, self.scores = history, index, scores
        self.found = scores.isfinite()  # [B, H, Q, N, K]

    def logits(self, queries: Tensor) -> Tensor:
        """Inner products with the neighbours, [B, H, Q, N, K]."""
        if not torch.is_grad_enabled():
            return self.scores  # the search has multiplied them
        return torch.einsum("bhqnd,bhqnkd->bhqnk", queries, _fetch(self.history.keys, self.index))

    def read(self, weights: Tensor) -> Tensor:
        """[B, H, Q, N, K] -> [B, H, Q, N, d]."""
        if torch.is_grad_enabled() or not weights.numel():
            return torch.einsum("bhqnk,bhqnkd->bhqnd", weights, _fetch(self.history.values, self.index))
        rows, table = _table(self.history.values, self.index)
        rows, weights_of = rows.flatten(0, -2), weights.to(table.dtype).flatten(0, -2)
        read = F.embedding_bag(rows, table, per_sample_weights=weights_of, mode="sum")
        return read.view(*weights.shape[:-1], -1)

    def of_rows(self, table: Tensor, row: Tensor) -> Tensor:
        """What a table of A rows says of frames, said of the neighbours: [B, H, Q, N, A] -> [B, H, Q, N, K].

        Args:
            row: of each frame for each query frame, [B, Q, T].
        """
        return table.gather(-1, self._row(row))

    def to_rows(self, weights: Tensor, row: Tensor, rows: int) -> Tensor:
        """Each row's sum: [B, H, Q, N, K] -> [B, H, Q, N, A]."""
        return weights.new_zeros(*weights.shape[:-1], rows).scatter_add(-1, self._row(row), weights)

    def to_frames(self, weights: Tensor) -> Tensor:
        """Each frame's sum: [B, H, Q, N, K] -> [B, H, Q, N, T]."""
        frames = self.history.keys.shape[2]
        return weights.new_zeros(*weights.shape[:-1], frames).scatter_add(-1, self._frame, weights)

    def _row(self, row: Tensor) -> Tensor:
        return row[:, None, :, None].expand(*self.index.shape[:-1], -1).gather(-1, self._frame)

    @cached_property
    def _frame(self) -> Tensor:
        return self.index // self.history.keys.shape[3]


def _fetch(stored: Tensor, index: Tensor) -> Tensor:
    """Rows of [B, H, T, N, d], by their number [B, H, Q, N, K] among the T*N of each head: [B, H, Q, N, K, d].

    By F.embedding out of one table: on a CPU advanced indexing takes several times as long, and its backward too.
    """
    rows, table = _table(stored, index)
    return F.embedding(rows, table)


def _table(stored: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """[B, H, T, N, d] as one table [rows, d], and the rows that an index [B, H, Q, N, K] of each head's T*N means."""
    batch, heads, _, tokens, width = stored.shape
    if torch.is_grad_enabled() or stored.stride(-1) != 1 or any(step % width for step in stored.stride()[:-1]):
        stored = stored.contiguous()
    # What is stored may be part of a larger buffer: the table is the buffer, of which nothing need be copied.
    of_batch, of_head, of_frame, of_token = (step // width for step in stored.stride()[:-1])
    first = (
        torch.arange(batch, device=index.device).view(-1, 1, 1, 1, 1) * of_batch
        + torch.arange(heads, device=index.device).view(-1, 1, 1, 1) * of_head
    )
    if of_frame == tokens * of_token:
        rows = first + index * of_token
    else:
        rows = first + index // tokens * of_frame + index % tokens * of_token
    if torch.is_grad_enabled():
        return rows, stored.flatten(0, -2)
    last = sum((size - 1) * step for size, step in zip(stored.shape, stored.stride(), strict=True))
    return rows, stored.as_strided((last // width + 1, width), (width, 1))


class _Masked:
    """The same with all keys as neighbours, K = T * N, of which only the nearest are `found`."""

    def __init__(self, history: History, index: Tensor, scores: Tensor) -> None:
        self.tokens = history.keys.shape[3]
        self.keys = history.keys.flatten(2, 3)  # [B, H, T*N, d]
        self.values = history.values.flatten(2, 3)
        none = torch.zeros(*index.shape[:-1], self.keys.shape[2], dtype=torch.int8, device=index.device)
        self.found = none.scatter_reduce(-1, index, scores.isfinite().to(torch.int8), "amax") > 0

    def logits(self, queries: Tensor) -> Tensor:
        products = queries.flatten(2, 3) @ self.keys.transpose(-1, -2)
        return products.view(*queries.shape[:-1], -1)

    def read(self, weights: Tensor) -> Tensor:
        return (weights.flatten(2, 3) @ self.values).view(*weights.shape[:-1], -1)

    def of_rows(self, table: Tensor, row: Tensor) -> Tensor:
        of_frames = table.gather(-1, self._row(table, row))
        return of_frames.repeat_interleave(self.tokens, dim=-1)

    def to_rows(self, weights: Tensor, row: Tensor, rows: int) -> Tensor:
        row = self._row(weights, row)
        return weights.new_zeros(*weights.shape[:-1], rows).scatter_add(-1, row, self.to_frames(weights))

    def to_frames(self, weights: Tensor) -> Tensor:
        return weights.unflatten(-1, (-1, self.tokens)).sum(-1)

    @staticmethod
    def _row(like: Tensor, row: Tensor) -> Tensor:
        return row[:, None, :, None].expand(*like.shape[:-1], -1)  # [B, H, Q, N, T]
