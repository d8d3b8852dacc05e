"""Ways of watching: which frames a question may attend to, and how the answers of several glimpses become one.

V videos   Q questions   n glimpses   f frames of each   T frames   R rows: Q, or Q * n where each glimpse answers alone
I intervals of a question's evidence
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.answerer import glimpses
from pipeline.answerer.examples import Batch
from pipeline.answerer.reader import Memory, Reader
from pipeline.captioner.memory import novel

Way = Literal["blind", "frame", "sparse", "memory"]
Fusion = Literal["mean", "max", "lse", "joint"]
Embedder = Callable[[Batch, Tensor], Tensor]  # frames [V, Q, n, f] of a batch -> embeddings [V, Q, n, f, E]
Sampled = Callable[[int], Tensor]  # glimpses [n, f] of a length in frames


@dataclass(frozen=True)
class Watching:
    """
    way: blind (nothing), frame (the last one), sparse (glimpses), memory (all frames so far).
    fusion: mean, max, lse (log-sum-exp) of the scores that each glimpse gives alone; or joint: the question attends to
        all glimpses at once, and knows their times.
    """

    way: Way
    fusion: Fusion
    frames: int  # f
    step: int  # frames between those of a glimpse, and between a frame and the one it is compared with
    write_below: float | None = None  # memory: a frame is kept whose cosine to the last one kept is below; None: all

    @property
    def alone(self) -> bool:
        """Whether each glimpse answers by itself."""
        return self.way == "sparse" and self.fusion != "joint"

    def rows(self, n: int) -> int:
        """That answer one question of n glimpses."""
        return n if self.alone else 1

    @property
    def timed(self) -> bool:
        return self.way == "memory" or (self.way == "sparse" and self.fusion == "joint")


@dataclass(frozen=True)
class Seen:
    """What rows of questions were shown, and where they looked."""

    features: Tensor  # [V, Q, D]; of glimpses that answer alone [V, Q * n, D]
    attended: Tensor  # [V, Q, T'], the part of its attention that each frame got
    time_s: Tensor  # [V, Q, T'] of these frames
    allowed: Tensor  # [V, Q, T'] bool: those it could look at
    # [V, R, I] of rows, which are Q, or Q * n: the most attention that a word paid to an interval of the evidence; and
    # whether any frame is in it. None where it was not asked for, or nothing is seen.
    found: Tensor | None = None
    findable: Tensor | None = None


@dataclass(frozen=True)
class Remembered:
    """A batch of videos as a memory has stored them, once for all questions. T' frames are kept, or padding."""

    memory: Memory
    index: Tensor  # [V, T'] of the frames
    there: Tensor  # [V, T'] bool


def watch(
    reader: Reader,
    batch: Batch,
    watching: Watching,
    sample: Sampled,
    remembered: Remembered | None = None,
    encoder: Embedder | None = None,
    *,
    evidence: bool = False,
) -> Seen:
    """
    Args:
        remembered: what `remember` has made of these videos already, if it has.
        encoder: makes the embeddings of glimpses, in the place of the stored ones.
        evidence: also tell what was found of it, which training asks for.
    """
    videos, questions = batch.lengths.shape
    if watching.way == "blind":
        read = reader(batch.words, batch.states, batch.looks, batch.there, None, None, None)
        none = batch.time_s.new_zeros(videos, questions, 0)
        return Seen(read.features, none, none, none.bool())
    if watching.way == "memory":
        return _recalled(reader, batch, remembered or remember(reader, batch, watching), evidence=evidence)
    index = _sampled(batch, watching, sample)  # [V, Q, n, f]
    n, frames = index.shape[2:]
    video = torch.arange(videos, device=index.device)[:, None, None, None]
    embeddings = encoder(batch, index) if encoder else batch.embeddings[video, index]  # [V, Q, n, f, E]
    time_s = batch.time_s[video, index]  # [V, Q, n, f]
    # A glimpse's first frame has none before it, its others have.
    before = torch.cat([embeddings[..., :1, :], embeddings[..., :-1, :]], dim=-2)
    rows = watching.rows(n)
    own = videos * questions * rows, n * frames // rows  # as many rows see so many frames each, which are their own
    memory = reader.remember(embeddings.reshape(*own, -1), before.reshape(*own, -1), time_s.reshape(own))
    of_text = (batch.words, batch.states, batch.looks, batch.there)
    asked = [x.flatten(0, 1).repeat_interleave(rows, dim=0)[:, None] for x in of_text]
    allowed = torch.ones(own[0], 1, own[1], dtype=torch.bool, device=index.device)
    age_s = (batch.until_s[..., None, None] - time_s).reshape(own[0], 1, own[1])
    inside = None
    if evidence:
        intervals = batch.evidence_s.flatten(0, 1).repeat_interleave(rows, dim=0)[:, None]
        inside = _inside(intervals, time_s.reshape(own[0], 1, own[1]))
    read = reader(*asked, memory, allowed, age_s, inside)
    attended = read.attended.reshape(videos, questions, n * frames) / rows
    every = torch.ones_like(attended, dtype=torch.bool)
    seen = Seen(read.features.reshape(videos, questions * rows, -1), attended, time_s.flatten(2), every)
    if inside is None or read.found is None:
        return seen
    found, findable = (x.reshape(videos, questions * rows, -1) for x in (read.found, inside.any(-1)))
    return replace(seen, found=found, findable=findable)


def remember(reader: Reader, batch: Batch, watching: Watching) -> Remembered:
    """Every frame that a question may see, but for those that are nearly the last one that was kept."""
    lengths = batch.lengths.amax(1).clamp(min=1).tolist()
    kept = [_kept(own[:length], watching.write_below) for own, length in zip(batch.embeddings, lengths, strict=True)]
    most = max(map(len, kept))
    index = torch.stack([torch.cat([own, own[-1:].expand(most - len(own))]) for own in kept])  # [V, T']
    there = torch.stack([torch.arange(most, device=index.device) < len(own) for own in kept])
    video = torch.arange(len(index), device=index.device)[:, None]
    before = batch.embeddings[video, (index - watching.step).clamp(min=0)]
    memory = reader.remember(batch.embeddings[video, index], before, batch.time_s[video, index])
    return Remembered(memory, index, there)


def _recalled(reader: Reader, batch: Batch, remembered: Remembered, *, evidence: bool) -> Seen:
    index = remembered.index
    time_s = batch.time_s[torch.arange(len(index), device=index.device)[:, None], index]
    allowed = remembered.there[:, None] & (index[:, None] < batch.lengths[..., None])  # [V, Q, T']
    age_s = batch.until_s[..., None] - time_s[:, None]
    inside = None
    if evidence:
        inside = _inside(batch.evidence_s, time_s[:, None].expand_as(allowed)) & allowed[:, :, None]
    of_text = (batch.words, batch.states, batch.looks, batch.there)
    read = reader(*of_text, remembered.memory, allowed, age_s, inside)
    findable = inside.any(-1) if inside is not None else None
    return Seen(read.features, read.attended, time_s[:, None].expand_as(allowed), allowed, read.found, findable)


def _inside(intervals: Tensor, time_s: Tensor) -> Tensor:
    """Which frames at these times [..., T] are in which interval [..., I, 2], in seconds: [..., I, T] bool."""
    from_s, to_s = intervals[..., None].unbind(-2)
    return (time_s[..., None, :] >= from_s) & (time_s[..., None, :] <= to_s)


def _kept(embeddings: Tensor, write_below: float | None) -> Tensor:
    if write_below is None:
        return torch.arange(len(embeddings), device=embeddings.device)
    return novel(embeddings, write_below).nonzero()[:, 0]


def _sampled(batch: Batch, watching: Watching, sample: Sampled) -> Tensor:
    """Glimpses of each question [V, Q, n, f]."""
    lengths = [max(1, length) for length in batch.lengths.flatten().tolist()]
    if watching.way == "frame":
        index = torch.tensor(lengths).view(-1, 1, 1) - 1
    else:
        index = torch.stack([sample(length) for length in lengths])
    return index.to(batch.lengths.device).unflatten(0, batch.lengths.shape)


def fused(scores: Tensor, questions: int, watching: Watching) -> Tensor:
    """Scores of rows [V, R, K] -> of questions [V, Q, K]."""
    if not watching.alone:
        return scores
    by_glimpse = scores.unflatten(1, (questions, -1))  # [V, Q, n, K]
    match watching.fusion:
        case "mean":
            return by_glimpse.mean(2)
        case "max":
            return by_glimpse.amax(2)
        case _:
            return by_glimpse.logsumexp(2)


def sampler(watching: Watching, n: int, grid: glimpses.Grid | torch.Generator) -> Sampled:
    """grid: a generator draws them at random, as in training."""
    if isinstance(grid, torch.Generator):
        return lambda length: glimpses.random(length, n, watching.frames, watching.step, grid)
    return lambda length: glimpses.uniform(length, n, watching.frames, watching.step, grid)
