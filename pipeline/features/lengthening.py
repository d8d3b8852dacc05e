"""Long videos out of short ones: frames of other videos are put into a video's embeddings. Nothing is rendered.

E embedding width   N frames that are put in
"""

import random
from collections.abc import Sequence

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


def put_into(video: VideoEmbeddings, at: int, parts: Sequence[NDArray[np.float16]]) -> VideoEmbeddings:
    """The video with these frames just before its frame number `at`; what follows is later by as much.

    Its frames must be evenly spaced.
    """
    times, rows = video.timestamps[:], video.embeddings[:]
    if not parts:
        return VideoEmbeddings(times, rows)
    step = float(times[1] - times[0])
    count = sum(map(len, parts))
    return VideoEmbeddings(
        np.concatenate([times[:at], times[at] + step * np.arange(count), times[at:] + step * count]),
        np.concatenate([rows[:at], *parts, rows[at:]]),
    )
