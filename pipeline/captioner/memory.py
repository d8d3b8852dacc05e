"""The kNN memory: attention to the k nearest keys of earlier frames (Memorizing Transformers, Wu et al. 2022).

B sequences of a batch   T frames   Q query frames   N tokens per frame   H heads   d width of a head
K neighbours, up to 2k   A rows of the age table

Keys and values of frames are stored [B, H, T, N, d]. Queries and keys come L2-normalised, so an inner product is
a cosine; a learned scale per head turns it into a logit.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.captioner.retrieval import Window, nearest, within
from pipeline.params import MemoryParams

# Ages are bucketed by half-octaves: 1, 2, 3, 4-5, 6-7, 8-10, ... frames; the last bucket takes everything older.
AGE_BUCKETS = 24

MATCH_RANK = 16  # rank of the match from before the segment that is reported besides the best


@dataclass(frozen=True)
class Moments:
    """The position of each query frame in its sequence."""

    frame: Tensor  # [B, Q] int64; a query sees only frames before it
    segment_start: Tensor  # [B, Q] int64; first frame of the segment being captioned, 0 if there is none


@dataclass(frozen=True)
class MemoryConfig:
    """The settings memory.* of params.yaml that a trained model needs."""

    layers: tuple[PositiveInt, ...]  # counted from 1
    k: PositiveInt
    max_entries: PositiveInt  # keys kept per layer and head: the most recent frames that fit completely
    gate: Literal["joint", "sigmoid"]
    time: Literal["segment", "age", "none"]
    scope: Literal["video", "segment"]
    gradient: Literal["through", "detached"]
    keyframes: NonNegativeInt  # soft keyframes of the segment, each with prefix tokens of its own
    # Initialisation if scope is video and time is not none: half of the heads look at the segment, half before it.
    other_side_bias: float  # added to the cosines of keys on the side that a head does not look at
    likeness_scale: PositiveFloat  # scale of cosines in the heads that look before the segment
    side_mark_length: float  # length of the vector that all values of one side share
    # For videos longer than those in training.
    write_below: float | None  # a frame outlives its segment only if its cosine to the last that did is lower
    usual_keys: PositiveInt | None  # number of keys from before the segment above which their logits are lowered
    match_features: bool  # whether values include how good the matches from before the segment are
    excess_unit: PositiveFloat  # of ln(n / usual_keys) as these features tell it

    @classmethod
    def of(cls, params: MemoryParams) -> "MemoryConfig | None":
        """None where the section switches the memory off."""
        if not params.enabled:
            return None
        return cls(**params.model_dump(include={field.name for field in fields(cls)}))

    def capacity(self, tokens: int) -> int:
        """How many frames are remembered, at `tokens` entries each."""
        return self.max_entries // tokens

    def oldest(self, moments: Moments, tokens: int) -> Tensor:
        """The first frame that a query remembers regardless of whether it was written, [B, Q]."""
        return (moments.frame - self.capacity(tokens)).clamp(min=0)

    def before(self, moments: Moments, frames: int, tokens: int, written: Tensor | None) -> Tensor:
        """Which of the first `frames` frames a query remembers from before its segment, [B, Q, T].

        Args:
            written: [B, T] bool, which frames outlive their segment; None: all.
        """
        first = self.oldest(moments, tokens) if self.write_below is None else torch.zeros_like(moments.frame)
        seen = within(frames, first, moments.segment_start)
        if written is None:
            return seen
        if self.write_below is not None:
            # Of the frames written so far, the most recent that fit.
            count = F.pad(written.cumsum(1), (1, 0))  # [B, T + 1], before each frame
            since = count.gather(1, moments.frame)[:, :, None] - count[:, None, :-1]
            seen = seen & (since <= self.capacity(tokens))
        return seen & written[:, None]


@dataclass(frozen=True)
class History:
    """One layer's stored keys and values of a batch of sequences."""

    keys: Tensor  # [B, H, T, N, d]
    values: Tensor  # [B, H, T, N, d]
    written: Tensor | None = None  # [B, T] bool, which frames outlive their segment; None: all


@dataclass(frozen=True)
class Remembered:
    """Everything a mapper has stored of T frames."""

    layers: dict[int, History]  # by number of the memory layer
    embeddings: Tensor  # [B, T, E]


def novel(embeddings: Tensor, below: float, last: Tensor | None = None) -> Tensor:
    """Which frames of a sequence [T, E] are new, [T] bool: their cosine to the last new frame is less than `below`.

    Args:
        last: [E], the last new frame before these; None: there was none, so the first of these is new.
    """
    frames = embeddings.detach().float().cpu().numpy()
    frames = frames / np.linalg.norm(frames, axis=1, keepdims=True).clip(1e-12)
    found = np.zeros(len(frames), bool)
    if last is None:
        if not len(frames):
            return torch.from_numpy(found).to(embeddings.device)
        found[0] = True
        newest, at = frames[0], 1
    else:
        newest, at = last.detach().float().cpu().numpy(), 0
        newest = newest / np.linalg.norm(newest).clip(1e-12)
    while at < len(frames):
        # Summed row by row: so a frame's cosine does not depend on the number of rows in a product.
        other = ((frames[at : at + 32] * newest).sum(1) < below).nonzero()[0]
        if len(other):
            at += int(other[0])
            found[at] = True
            newest = frames[at]
            at += 1
        else:
            at += 32
    return torch.from_numpy(found).to(embeddings.device)


def age_bucket(age: Tensor) -> Tensor:
    """The row of the age table for an age in frames (int64, >= 1; smaller counts as 1)."""
    age = age.clamp(min=1)
    # Integer thresholds rather than log2: float rounding must not move an age across a boundary.
    return torch.bucketize(age, _age_edges(age.device), right=True)


def _age_edges(device: torch.device) -> Tensor:
    return torch.tensor([round(2 ** (half / 2)) for half in range(2, AGE_BUCKETS + 1)], device=device)


class MemoryAttention(nn.Module):
    """The parameters that a memory layer adds to its local attention: the gate and the embedding of age."""

    def __init__(self, config: MemoryConfig, heads: int, head_width: int) -> None:
        super().__init__()
        self.config = config
        if config.gate == "sigmoid":
            self.gate_logit = nn.Parameter(torch.zeros(heads))
        if config.match_features:
            self.match_value = nn.Parameter(torch.zeros(heads, 4, head_width))
        if config.time != "none":
            # Two tables in one: frames of the segment being captioned, then frames from before it. A memory that
            # outlives a segment must tell them apart: "turns blue" is about now, "comes back" is not.
            def rows(buckets: int, length: float) -> Tensor:
                return torch.randn(heads, 2, buckets, head_width) * length * head_width**-0.5

            # Half as long as a key: heads start with preferences in time, some for recent frames, some for old ones.
            self.age_key = nn.Parameter(rows(AGE_BUCKETS, 0.5))
            self.age_value = nn.Parameter(rows(AGE_BUCKETS, 0.5))
            self.age_bias = nn.Parameter(torch.zeros(heads, 2, AGE_BUCKETS))
            if config.scope == "video":
                with torch.no_grad():
                    # What a table's rows share means "in this segment" or "before it". If small, it is ignored.
                    self.age_value.add_(rows(1, config.side_mark_length))
                    # One half of the heads starts with each preference.
                    self.age_bias[: heads // 2, 1] = self.age_bias[heads // 2 :, 0] = config.other_side_bias

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
        """Attend to a frame's own tokens and to the nearest tokens of the history.

        Args:
            queries: [B, H, Q, N, d], normalised.
            local_logits: [B, H, Q, N, N].
            local_values: [B, H, Q, N, d].
            scale: [H, 1, 1, 1].
            attended: whether to compute the second result.

        Returns:
            [B, H, Q, N, d]; and [B, H, Q, T]: the share of its attention that a query frame pays to each frame,
            averaged over its tokens. The rest, up to 1, goes to the frame itself.
        """
        before = self._before(history, moments)  # [B, Q, T]
        near = self._neighbours(queries, history, moments, before)
        logits = near.logits(queries)
        if self._counts:
            excess = self._excess(before, queries.shape[3], logits.dtype)[:, None, :, None, None]  # [B, 1, Q, 1, 1]
            from_before = near.found & near.of_frames(before)  # [B, H, Q, N, K]
            matches = self._matches(logits, from_before, excess) if self.config.match_features else None
        if self.config.time != "none":
            row = self._age_row(history.keys.shape[2], moments)  # [B, Q, T]
            by_age = torch.einsum("bhqnd,had->bhqna", queries, self.age_key.flatten(1, 2))
            by_age = by_age + self.age_bias.flatten(1)[:, None, None]  # [B, H, Q, N, A]
            logits = logits + near.of_rows(by_age, row)
        logits = logits * scale
        if self._counts:
            logits = logits - excess * from_before
        logits = logits.masked_fill(~near.found, -torch.inf)

        if self.config.gate == "joint":
            weights = torch.cat([local_logits, logits], dim=-1).softmax(-1)
            local_weights, memory_weights = weights.split([local_logits.shape[-1], logits.shape[-1]], dim=-1)
        else:
            remembers = near.found.any(-1, keepdim=True)  # else local only; also avoids a softmax over a row of -inf
            gate = self.gate_logit.sigmoid().view(-1, 1, 1, 1) * remembers
            local_weights = (1 - gate) * local_logits.softmax(-1)
            memory_weights = gate * logits.masked_fill(~remembers, 0.0).softmax(-1)
        out = local_weights @ local_values + near.read(memory_weights)
        if self._counts and matches is not None:
            out = out + torch.einsum("bhqnm,hmd->bhqnd", matches, self.match_value)
        if self.config.time != "none":
            by_age = near.to_rows(memory_weights, row, rows=by_age.shape[-1])
            out = out + torch.einsum("bhqna,had->bhqnd", by_age, self.age_value.flatten(1, 2))
        return out, near.to_frames(memory_weights).mean(3) if attended else None

    @property
    def _counts(self) -> bool:
        """Whether the number or quality of matches from before the segment matters."""
        return self.config.usual_keys is not None or self.config.match_features

    def _before(self, history: History, moments: Moments) -> Tensor:
        _, _, frames, tokens, _ = history.keys.shape
        return self.config.before(moments, frames, tokens, history.written)

    def _excess(self, before: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
        """By how much logits of keys from before the segment are lowered, [B, Q].

        With more keys of unrelated things, the best of them comes nearer and the softmax sum over them grows with n.
        Lowering by this amount keeps the sum constant.
        """
        keys = before.sum(-1).to(dtype) * tokens
        if self.config.usual_keys is None:
            return torch.zeros_like(keys)
        return (keys / self.config.usual_keys).clamp(min=1).log()

    def _matches(self, cosines: Tensor, from_before: Tensor, excess: Tensor) -> Tensor:
        """How good a token's matches from before the segment are, [B, H, Q, N, 4].

        A mean of values over tokens dilutes the one that matched, and does not show how well it matched.
        """
        nothing = -2.0  # less than any cosine
        cosines = F.pad(cosines.masked_fill(~from_before, nothing), (0, MATCH_RANK), value=nothing)
        best = cosines.topk(MATCH_RANK, dim=-1).values[..., [0, -1]]
        there = best > nothing
        excess = (excess / self.config.excess_unit).expand(*there.shape[:-1], 1)
        return torch.cat([there[..., :1].to(best.dtype), best.where(there, 0.0), excess], dim=-1)

    def _neighbours(self, queries: Tensor, history: History, moments: Moments, before: Tensor) -> "_Gathered | _Masked":
        index, scores = self._retrieve(queries, history, moments, before)
        # For gradients, products with all keys cost less than gathering a large part of them.
        every = history.keys.shape[2] * history.keys.shape[3]
        masked = torch.is_grad_enabled() and every <= index.shape[-1] * queries.shape[-1]
        return (_Masked if masked else _Gathered)(history, index, scores)

    def _retrieve(self, queries: Tensor, history: History, moments: Moments, before: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of the segment and the k nearest from before it.

        Each part has its own k: a long video has plenty of frames that look like the present, and k of them from other
        segments would leave no room for what happened in this one.
        """
        oldest = self.config.oldest(moments, tokens=queries.shape[3])
        windows: list[Window] = [(oldest.maximum(moments.segment_start), moments.frame, None)]
        if history.written is None:
            windows.append((oldest, moments.segment_start, None))
        else:
            windows.append((torch.zeros_like(oldest), moments.segment_start, before))
        return nearest(queries, history.keys, windows, k=self.config.k)

    def _age_row(self, frames: int, moments: Moments) -> Tensor:
        """Every frame's row in the flat age table, for every query frame, [B, Q, T]."""
        age = moments.frame[:, :, None] - torch.arange(frames, device=moments.frame.device)
        before = within(frames, torch.zeros_like(moments.frame), moments.segment_start)
        if self.config.time == "segment":  # everything from before it shares one row, whatever its age
            return torch.where(before, AGE_BUCKETS, age_bucket(age))
        return age_bucket(age) + AGE_BUCKETS * before


class _Gathered:
    """The K neighbours of each query, gathered from the history."""

    def __init__(self, history: History, index: Tensor, scores: Tensor) -> None:
        self.history, self.index, self.scores = history, index, scores
        self.found = scores.isfinite()  # [B, H, Q, N, K]

    def logits(self, queries: Tensor) -> Tensor:
        """Inner products with the neighbours, [B, H, Q, N, K]."""
        if not torch.is_grad_enabled():
            return self.scores  # the search has computed them
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
        """A value per table row to a value per neighbour: [B, H, Q, N, A] -> [B, H, Q, N, K].

        Args:
            row: each frame's row for each query frame, [B, Q, T].
        """
        return table.gather(-1, self._row(row))

    def to_rows(self, weights: Tensor, row: Tensor, rows: int) -> Tensor:
        """Sums over the neighbours of each row: [B, H, Q, N, K] -> [B, H, Q, N, A]."""
        return weights.new_zeros(*weights.shape[:-1], rows).scatter_add(-1, self._row(row), weights)

    def of_frames(self, what: Tensor) -> Tensor:
        """A value per frame [B, Q, T] to a value per neighbour: [B, H, Q, N, K]."""
        return self._row(what)

    def to_frames(self, weights: Tensor) -> Tensor:
        """Sums over the neighbours in each frame: [B, H, Q, N, K] -> [B, H, Q, N, T]."""
        frames = self.history.keys.shape[2]
        return weights.new_zeros(*weights.shape[:-1], frames).scatter_add(-1, self._frame, weights)

    def _row(self, row: Tensor) -> Tensor:
        return row[:, None, :, None].expand(*self.index.shape[:-1], -1).gather(-1, self._frame)

    @cached_property
    def _frame(self) -> Tensor:
        return self.index // self.history.keys.shape[3]


def _fetch(stored: Tensor, index: Tensor) -> Tensor:
    """Rows of [B, H, T, N, d] by index [B, H, Q, N, K] into the T*N rows of each head: [B, H, Q, N, K, d].

    With F.embedding on one table: on a CPU, advanced indexing and its backward take several times as long.
    """
    rows, table = _table(stored, index)
    return F.embedding(rows, table)


def _table(stored: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """[B, H, T, N, d] as one table [rows, d], and the rows of an index [B, H, Q, N, K] into each head's T*N."""
    batch, heads, _, tokens, width = stored.shape
    if torch.is_grad_enabled() or stored.stride(-1) != 1 or any(step % width for step in stored.stride()[:-1]):
        stored = stored.contiguous()
    # What is stored may be part of a larger buffer: then the table is the buffer, and nothing is copied.
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
    """The same with all keys as neighbours, K = T * N, masked to the nearest (`found`)."""

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

    def of_frames(self, what: Tensor) -> Tensor:
        return what.repeat_interleave(self.tokens, dim=-1)[:, None, :, None]

    def to_frames(self, weights: Tensor) -> Tensor:
        return weights.unflatten(-1, (-1, self.tokens)).sum(-1)

    @staticmethod
    def _row(like: Tensor, row: Tensor) -> Tensor:
        return row[:, None, :, None].expand(*like.shape[:-1], -1)  # [B, H, Q, N, T]
