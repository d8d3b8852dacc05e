"""Training a memory for videos much longer than those it is trained on: distractors, and a loss on the keys.

A model that never sees keys of other videos does not learn to tell them from its own: the more keys there are, the more
likely one matches by chance. So most training steps remember frames of other videos (distractors, as in Focused
Transformer, Tworkowski et al. 2023) besides their own. There are no labels for which of these show the thing that a
query looks for, but captions tell: a *rare pair* of words ("red star") that captions of a segment contain, and that a
caption of the other video contains too, wherever the two words stand in it.

With distractors alone a model may learn to ignore the memory. The loss on the keys makes segments of *different* videos
that share a rare pair find each other among many that do not, so neither place nor background can be the cue.

B sequences of a batch   D frames of distractors   Q query segments   F candidate frames   E embedding width
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline.captioner.mapper import Distractors, TransformerMapper
from pipeline.captioner.memory import novel
from pipeline.captioner.sequences import Batch, Example
from pipeline.dataset.segments import Segment
from pipeline.features.embeddings import Rows
from pipeline.params import MemoryParams

NAMED = 0.8  # at least so many of a segment's captions contain a pair that it is about
RARE = 0.05  # a pair is rare if fewer than this share of all segments have it in a caption

LOOK_BACK = 3  # a segment's query is its last frame, or one at most this much earlier


@dataclass(frozen=True)
class DistantTraining:
    """The settings memory.* of params.yaml that concern training for long videos."""

    distractors: int  # most frames of other videos that a step remembers
    fewest_distractors: int  # and at least; their number is as likely to be in one octave as in another
    distractor_share: float  # of the steps that have any, once they begin
    # When they come, in parts of all steps: too many at first, and a model learns to ignore its memory.
    distractors_begin: float
    distractors_full: float  # from here there may be as many as there will be
    key_loss: float  # weight of the loss on the keys
    key_loss_segments: int  # that ask in one step
    key_loss_frames: int  # of any video and time, among which they also look

    @classmethod
    def of(cls, memory: MemoryParams) -> "DistantTraining":
        return cls(**memory.model_dump(include={field.name for field in fields(cls)}))

    def most(self, progress: float) -> float:
        """How many distractors a step may have when that part of all steps, 0..1, is over; 0: none yet."""
        if not self.distractors or progress < self.distractors_begin:
            return 0.0
        ramp = self.distractors_full - self.distractors_begin
        grown = min(1.0, (progress - self.distractors_begin) / ramp) if ramp else 1.0
        fewest = self.fewest_distractors
        return fewest * (max(fewest, self.distractors) / fewest) ** grown


class RarePairs:
    """Which segments and videos show the same things, as far as their captions tell."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        named: dict[str, set[frozenset[str]]] = {}
        having: dict[frozenset[str], int] = defaultdict(int)  # segments
        videos: dict[frozenset[str], set[str]] = defaultdict(set)
        for segment in segments:
            counts: dict[frozenset[str], int] = defaultdict(int)
            for caption in segment.captions:
                for pair in {frozenset(pair) for pair in pairwise(_words(caption))}:
                    counts[pair] += 1
            for pair in counts:
                having[pair] += 1
                videos[pair].add(segment.video_id)
            wanted = NAMED * len(segment.captions)
            named[segment.segment_id] = {pair for pair, count in counts.items() if count >= wanted}
        every = set().union(*named.values())
        rare = {
            pair for pair in every if len(pair) == 2 and having[pair] < RARE * len(segments) and len(videos[pair]) > 1
        }
        self._named = {segment: frozenset(pairs & rare) for segment, pairs in named.items()}
        with_word: dict[str, set[frozenset[str]]] = defaultdict(set)
        for pair in rare:
            for word in pair:
                with_word[word].add(pair)
        self._showing: dict[frozenset[str], set[str]] = defaultdict(set)
        for segment in segments:
            for caption in segment.captions:
                words = set(_words(caption))
                for pair in {pair for word in words for pair in with_word.get(word, ()) if pair <= words}:
                    self._showing[pair].add(segment.video_id)

    def named(self, segment: Segment) -> frozenset[frozenset[str]]:
        """The rare pairs that a segment is about."""
        return self._named[segment.segment_id]

    def showing(self, pairs: frozenset[frozenset[str]]) -> set[str]:
        """Videos that may show one of the pairs: one of their captions has both words."""
        return set().union(*(self._showing[pair] for pair in pairs))


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


class Distant:
    """The training videos as a source of distractors and of keys to compare with."""

    def __init__(self, examples: Sequence[Example], options: DistantTraining, seed: int, below: float | None) -> None:
        """
        Args:
            examples: of the training split.
            below: memory.write_below.
        """
        self.options, self.seed, self.below = options, seed, below
        self.targets = [(example, target) for example in examples for target in example.targets]
        self.pairs = RarePairs([target.segment for _, target in self.targets])
        self.videos: dict[str, np.ndarray | Rows] = {}
        for example, target in self.targets:
            self.videos.setdefault(target.segment.video_id, example.video)
        self.ids = list(self.videos)
        self._written: dict[str, np.ndarray] = {}  # by video, cached

    def distractors(self, batch: Batch, epoch: int, step: int, progress: float) -> Distractors | None:
        """The distractors of a step: a function of (seed, epoch, step), except for which sequences see them.

        Args:
            progress: the share of all steps done so far, 0..1.
        """
        random = np.random.default_rng((self.seed, epoch, step, 0))
        most = self.options.most(progress)
        if not most:
            return None
        wanted = round(math.exp(random.uniform(math.log(self.options.fewest_distractors), math.log(most))))
        if random.random() >= self.options.distractor_share:
            return None
        frames, of_video, total = [], [], 0
        for which in random.permutation(len(self.ids)):
            video_id = self.ids[which]
            some = self._frames(video_id, wanted - total)
            total += min(len(self.videos[video_id]), wanted - total)
            frames.append(some)
            of_video += [video_id] * len(some)
            if total >= wanted:
                break
        asked: list[set[str]] = [set() for _ in batch.real]
        pairs: list[frozenset[frozenset[str]]] = [frozenset() for _ in batch.real]
        for (b, _), segment in zip(batch.real.nonzero().tolist(), batch.segments, strict=True):
            asked[b].add(segment.video_id)
            pairs[b] |= self.pairs.named(segment)
        seen = torch.zeros(len(asked), len(of_video), dtype=torch.bool)
        for b in range(len(asked)):
            unfit = asked[b] | self.pairs.showing(pairs[b])
            seen[b] = torch.tensor([video_id not in unfit for video_id in of_video])
        device = batch.embeddings.device
        return Distractors(torch.from_numpy(np.concatenate(frames)).to(device, torch.float32), seen.to(device))

    def key_loss(self, mapper: TransformerMapper, epoch: int, step: int) -> Tensor:
        """The loss on the keys, nats: how hard it is to find segments of other videos that share a rare pair."""
        assert mapper.memory is not None
        random = np.random.default_rng((self.seed, epoch, step, 1))
        asking = random.choice(len(self.targets), min(self.options.key_loss_segments, len(self.targets)), replace=False)
        frames, of_video, pairs = [], [], []
        for which in asking:
            example, target = self.targets[which]
            at = max(target.start, target.end - int(random.integers(LOOK_BACK + 1))) + example.frames.start
            frames.append(example.video[at : at + 1])
            of_video.append(target.segment.video_id)
            pairs.append(self.pairs.named(target.segment))
        for _ in range(self.options.key_loss_frames):
            video_id = self.ids[random.integers(len(self.ids))]
            at = int(random.integers(len(self.videos[video_id])))
            frames.append(self.videos[video_id][at : at + 1])
            of_video.append(video_id)
        embeddings = torch.from_numpy(np.concatenate(frames).astype(np.float32)).to(mapper.constants.device)
        alike = torch.zeros(len(asking), len(frames), dtype=torch.bool)
        unlike = torch.zeros_like(alike)
        for q, named in enumerate(pairs):
            unfit = self.pairs.showing(named) | {of_video[q]}
            unlike[q] = torch.tensor([video_id not in unfit for video_id in of_video])
            alike[q, : len(pairs)] = torch.tensor([not named.isdisjoint(others) for others in pairs])
            alike[q, [f for f, video_id in enumerate(of_video) if video_id == of_video[q]]] = False
        scores = [likeness(*mapper.alone(embeddings, layer), len(asking)) for layer in mapper.memory.layers]
        return contrast(torch.cat(scores), alike.to(embeddings.device), unlike.to(embeddings.device))

    def _frames(self, video_id: str, most: int) -> np.ndarray:
        """Which of a video's first frames outlive their segment."""
        frames = self.videos[video_id][:most]
        if self.below is None:
            return frames
        if video_id not in self._written:
            every = torch.from_numpy(self.videos[video_id][:].astype(np.float32))
            self._written[video_id] = novel(every, self.below).nonzero()[:, 0].numpy()
        written = self._written[video_id]
        return frames[written[written < len(frames)]]


def likeness(queries: Tensor, keys: Tensor, asking: int) -> Tensor:
    """Attention that the query frames' tokens would pay to each frame, [heads that look before the segment, Q, F].

    Args:
        queries: [H, F, N, d], times the heads' scales.
        keys: [H, F, N, d].
    """
    half, tokens = len(queries) // 2, keys.shape[2]
    asked = queries[half:, :asking].flatten(1, 2)
    # Keys token by token: the sum over tokens is then of rows as long as there are frames, which takes less time.
    products = asked @ keys[half:].transpose(1, 2).flatten(1, 2).transpose(1, 2)  # [h, Q*N, N*F]
    return products.view(len(asked), asking, tokens * tokens, -1).logsumexp(2)


def contrast(scores: Tensor, alike: Tensor, unlike: Tensor) -> Tensor:
    """InfoNCE: the mean over heads, and over queries with a match, of -log p of a match among it and the non-matches.

    Args:
        scores: [h, Q, F].
        alike, unlike: [Q, F] bool, matches and non-matches; a frame that is neither is ignored.
    """
    some = alike.any(1)
    if not some.any():
        return scores.sum() * 0.0
    scores, alike, unlike = scores[:, some], alike[some], unlike[some]
    rest = scores.masked_fill(~unlike, -torch.inf).logsumexp(-1, keepdim=True)
    # Each match against the non-matches alone: matches do not compete with each other.
    each = torch.nn.functional.softplus(rest - scores)
    return ((each * alike).sum(-1) / alike.sum(-1)).mean()
