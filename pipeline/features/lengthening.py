"""Long videos out of short ones: frames of other videos are put into a video's embeddings. Nothing is rendered.

E embedding width   N frames that are put in
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.features.embeddings import Rows, VideoEmbeddings


def drawn(pieces: Sequence[np.ndarray | Rows], frames: int, draw: random.Random) -> list[NDArray[np.float16]]:
    """Pieces [., E] one after the other, each drawn from all, until there are so many frames; the last is cut."""
    found: list[NDArray[np.float16]] = []
    while frames:
        found.append(draw.choice(pieces)[:frames])
        frames -= len(found[-1])
    return found


@dataclass(frozen=True)
class PutIn:
    """Frames of other videos in a video whose frames are evenly spaced. They are copied where they are read."""

    at: int  # just before the frame with this number
    parts: Sequence[NDArray[np.float16]]  # one after the other [., E]

    def times(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """What follows them is later by as much as they take, [T] -> [T + N]."""
        if not self.parts:
            return times
        step, count = float(times[1] - times[0]), sum(map(len, self.parts))
        between = times[self.at] + step * np.arange(count)
        return np.concatenate([times[: self.at], between, times[self.at :] + step * count])

    def rows(self, rows: NDArray[np.float16]) -> NDArray[np.float16]:
        """[T, E] -> [T + N, E]."""
        return np.concatenate([rows[: self.at], *self.parts, rows[self.at :]])


def put_into(video: VideoEmbeddings, at: int, parts: Sequence[NDArray[np.float16]]) -> VideoEmbeddings:
    """The video with these frames just before its frame number `at`; its own must be evenly spaced."""
    others = PutIn(at, parts)
    return VideoEmbeddings(others.times(video.timestamps[:]), others.rows(video.embeddings[:]))
