"""An LSTM (or GRU) that looks at a video's cells before every word.

B segments   T cells in time   P places (h * w)   C channels   D width   H heads   N cells attended to
R captions of a segment   L tokens of a caption   V vocabulary

Xu et al. 2015 (Show, Attend and Tell) looked at the places of a picture, Yao et al. 2015 at the times of a video
(SA-LSTM). Here the cells have both, and `attention` says which of them are left to choose from.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from studies.attend.vocabulary import BEGIN, PAD, UNKNOWN

FREQUENCIES = 8  # of the encoding of times: periods of 0.5 to 64 s


@dataclass(frozen=True)
class Config:
    attention: Literal["none", "temporal", "spatial", "space-time"]
    rnn: Literal["lstm", "gru"]
    places: int  # P
    channels: int  # C
    width: int  # D
    heads: int  # H
    vocabulary: int  # V
    dropout: float
    noise: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """Segments' cells. Those of a shorter segment are filled up with zeros."""

    cells: Tensor  # [B, T, P, C] float32
    since_s: Tensor  # [B, T] seconds from the segment's start to the cell's beginning
    until_s: Tensor  # [B, T] to the segment's end
    lengths: Tensor  # [B] int64, cells in time

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(part.to(device) for part in (self.cells, self.since_s, self.until_s, self.lengths)))

    def with_cells(self, cells: Tensor) -> "Batch":
        return replace(self, cells=cells)


@dataclass(frozen=True)
class Seen:
    """What the decoder may attend to. keep: which of it is there."""

    encoded: Tensor  # [B, N, D]
    keep: Tensor  # [B, N] bool
    mean: Tensor  # [B, D]

    def of(self, segments: Tensor) -> "Seen":
        return Seen(self.encoded[segments], self.keep[segments], self.mean[segments])


@dataclass
class State:
    hidden: Tensor  # [B, R, D]
    cell: Tensor  # [B, R, D]; of a GRU: not used


class AttendingCaptioner(nn.Module):
    """Cells -> encoding -> attention -> LSTMCell -> words. (cuDNN's LSTM refuses to go backwards in eval mode.)"""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))
        self.mean: Tensor
        self.std: Tensor
        self.encode_cells = nn.Linear(config.channels, width)
        self.place = nn.Parameter(torch.randn(config.places, width) * 0.1)
        self.time = nn.Linear(4 * FREQUENCIES, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.words = nn.Embedding(config.vocabulary, width)
        self.query = nn.Linear(2 * width, config.heads * width)
        self.value = nn.Linear(config.heads * width, width)
        self.start = nn.Linear(width, 2 * width)
        make = nn.LSTMCell if config.rnn == "lstm" else nn.GRUCell
        self.rnn = make(2 * width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(2 * width, config.vocabulary)

    def look(self, batch: Batch) -> Seen:
        """Encode the cells, and leave of them what the kind of attention chooses from."""
        there = torch.arange(batch.cells.shape[1], device=batch.cells.device) < batch.lengths[:, None]  # [B, T]
        cells = (batch.cells - self.mean) / self.std
        if self.training and self.config.noise:
            cells = cells + self.config.noise * torch.randn_like(cells)
        when = self.time(torch.cat([waves(batch.since_s), waves(batch.until_s)], dim=-1))  # [B, T, D]
        encoded = self.norm(torch.relu(self.encode_cells(cells) + self.place + when[:, :, None]))  # [B, T, P, D]
        weight = there.float() / batch.lengths[:, None]  # [B, T]
        of_times = encoded.mean(2)  # [B, T, D]
        mean = torch.einsum("bt,btd->bd", weight, of_times)
        match self.config.attention:
            case "none":
                seen, keep = mean[:, None], there[:, :1]
            case "temporal":
                seen, keep = of_times, there
            case "spatial":
                seen = torch.einsum("bt,btpd->bpd", weight, encoded)
                keep = there[:, :1].expand(-1, encoded.shape[2])
            case _:
                seen, keep = encoded.flatten(1, 2), there.repeat_interleave(encoded.shape[2], 1)
        return Seen(seen, keep, mean)

    def begin(self, seen: Seen, rows: int) -> State:
        """rows: captions of a segment."""
        both = torch.tanh(self.start(seen.mean))[:, None].expand(-1, rows, -1)
        return State(*both.chunk(2, dim=-1))

    def step(self, seen: Seen, state: State, tokens: Tensor) -> tuple[Tensor, State, Tensor]:
        """The next word after `tokens` [B, R]: logits [B, R, V], the state, and the attention [B, R, H, N]."""
        words = self.dropout(self.words(tokens))  # [B, R, D]
        query = self.query(torch.cat([state.hidden, words], dim=-1)).unflatten(-1, (self.config.heads, -1))
        scores = torch.einsum("brhd,bnd->brhn", query, seen.encoded) / math.sqrt(self.config.width)
        attention = scores.masked_fill(~seen.keep[:, None, None], -torch.inf).softmax(-1)
        context = self.value(torch.einsum("brhn,bnd->brhd", attention, seen.encoded).flatten(2))  # [B, R, D]
        inputs = torch.cat([words, context], dim=-1).flatten(0, 1)
        hidden = state.hidden.flatten(0, 1)
        if self.config.rnn == "lstm":
            new, cell = self.rnn(inputs, (hidden, state.cell.flatten(0, 1)))
        else:
            new = cell = self.rnn(inputs, hidden)
        shape = tokens.shape
        state = State(new.unflatten(0, shape), cell.unflatten(0, shape))
        logits = self.output(self.dropout(torch.cat([state.hidden, context], dim=-1)))
        return logits, state, attention

    def log_probs(self, seen: Seen, tokens: Tensor, *, teacher_forcing: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, R, L] of `tokens`, each after those before it; and the attention [B, R, L, N].

        Args:
            teacher_forcing: how often a step goes on from the caption's own word, and not from the likeliest one.
        """
        state = self.begin(seen, tokens.shape[1])
        previous, found, attended = torch.full_like(tokens[..., 0], BEGIN), [], []
        for place in range(tokens.shape[2]):
            logits, state, attention = self.step(seen, state, previous)
            found.append(logits.log_softmax(-1).gather(-1, tokens[..., place, None])[..., 0])
            attended.append(attention.mean(2))
            previous = tokens[..., place]
            if teacher_forcing < 1:
                own = logits.detach().argmax(-1)
                previous = torch.where(
                    torch.rand(previous.shape, device=previous.device) < teacher_forcing, previous, own
                )
        return torch.stack(found, dim=-1), torch.stack(attended, dim=2)


def waves(seconds: Tensor) -> Tensor:
    """Sines and cosines of times, [..., 2 * FREQUENCIES]."""
    periods = 0.5 * 2.0 ** torch.arange(FREQUENCIES, device=seconds.device)
    angles = seconds[..., None] * (2 * math.pi / periods)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Decoding:
    """`pipeline.language.beam.WordByWord` of a captioner that looks at the cells of S segments."""

    def __init__(self, captioner: AttendingCaptioner, batch: Batch) -> None:
        self.captioner = captioner
        self.seen = captioner.look(batch)
        self.state = captioner.begin(self.seen, 1)

    def advance(self, tokens: Tensor | None) -> Tensor:
        segments, rows = self.state.hidden.shape[:2]
        if tokens is None:
            tokens = torch.full((segments * rows,), BEGIN, device=self.state.hidden.device)
        logits, self.state, _ = self.captioner.step(self.seen, self.state, tokens.view(segments, rows))
        logits[..., [PAD, BEGIN, UNKNOWN]] = -torch.inf  # a caption reads back to the words that it was made of
        return logits.flatten(0, 1)

    def reorder(self, rows: Tensor) -> None:
        segments, beams = self.state.hidden.shape[:2]
        # Beams of a segment are consecutive and as many in each: the first of each tells which segments are left.
        of_row = rows // beams
        left, counts = of_row.unique_consecutive(return_counts=True)
        per_segment = int(counts[0])
        if len(left) < segments:
            self.seen = self.seen.of(left)
        hidden, cell = (part.flatten(0, 1)[rows] for part in (self.state.hidden, self.state.cell))
        self.state = State(hidden.unflatten(0, (-1, per_segment)), cell.unflatten(0, (-1, per_segment)))
