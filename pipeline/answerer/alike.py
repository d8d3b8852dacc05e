"""A loss on what frames look back with: frames of *different* videos that show the same thing are to find each other.

Answers alone teach it on the training videos, where place and background are cues as well; in other videos those are
of no use. Captions tell what is the same: a rare pair of words ("red star"), as for the captioner's memory
(pipeline/captioner/distant.py).

Q frames that ask   F frames that are asked for, the first of them those Q   E embedding width
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.answerer.reader import Reader
from pipeline.captioner.distant import RarePairs, contrast
from pipeline.dataset.segments import Segment, frames_of_segment
from pipeline.features.embeddings import VideoEmbeddings

ASKING = 128  # segments of which a frame asks in one step
OTHERS = 384  # frames of any video and time among which they also look
BEFORE_THE_END = 3  # a segment's frame is its last one, or one at most so many before it


class AlikeFrames:
    def __init__(self, segments: Sequence[Segment], videos: Mapping[str, VideoEmbeddings], step: int) -> None:
        """
        Args:
            segments: of these videos, of the training split.
            step: frames between one and the one that it is compared with, as Watching's.
        """
        self.videos, self.segments, self.step = videos, segments, step
        self.pairs = RarePairs(segments)
        times = {id: videos[id].timestamps[:].tolist() for id in {one.video_id for one in segments}}
        self.frames = [frames_of_segment(one.start_s, one.end_s, times[one.video_id]) for one in segments]
        self.ids = sorted(times)

    def loss(self, reader: Reader, random: np.random.Generator) -> Tensor:
        """Nats: how hard it is to find frames of other videos that share a rare pair, in segments that are drawn."""
        asking = random.choice(len(self.segments), min(ASKING, len(self.segments)), replace=False)
        places, pairs = [], []
        for which in asking:
            segment, frames = self.segments[which], self.frames[which]
            places.append((segment.video_id, max(frames.start, frames.stop - 1 - random.integers(BEFORE_THE_END + 1))))
            pairs.append(self.pairs.named(segment))
        for _ in range(OTHERS):
            video_id = self.ids[random.integers(len(self.ids))]
            places.append((video_id, random.integers(len(self.videos[video_id].embeddings))))
        of_video = np.array([video_id for video_id, _ in places])
        alike = np.zeros((len(asking), len(places)), bool)
        unlike = np.zeros_like(alike)
        for q, named in enumerate(pairs):
            alike[q, : len(pairs)] = [not named.isdisjoint(other) for other in pairs]
            alike[q] &= of_video != of_video[q]
            unlike[q] = ~np.isin(of_video, [of_video[q], *self.pairs.showing(named)])
        own, before = (self._read(places, back) for back in (0, self.step))
        device = reader.text.weight.device
        scores = reader.likeness(own.to(device), before.to(device), len(asking))
        return contrast(scores, torch.from_numpy(alike).to(device), torch.from_numpy(unlike).to(device))

    def _read(self, places: Sequence[tuple[str, int]], back: int) -> Tensor:
        """The frames that are so many before these, or the first, [F, E]."""
        numbers = [(video_id, max(0, int(at) - back)) for video_id, at in places]
        return torch.from_numpy(
            np.concatenate([self.videos[video_id].embeddings[at : at + 1] for video_id, at in numbers])
        ).float()
