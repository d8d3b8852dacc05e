"""Examples in which a memory may look at a few evenly spaced frames only: what does it gain from all the others?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.captioner.sequences import Example, make_examples
from pipeline.dataset.segments import Segment
from pipeline.features.embeddings import VideoEmbeddings


def sparse_examples(
    segments: Sequence[Segment], videos: Mapping[str, VideoEmbeddings], *, scope: str, count: int
) -> list[Example]:
    """An example of each segment: `count` frames, half from before it, half of it; the last is its last frame.

    Where there are fewer, all. A frame's number is its place among these, so ages are in steps of this choice.

    Args:
        scope: ignored; what the captioner sees otherwise.
    """
    found = []
    for example in make_examples(segments, videos, scope="past"):
        [target] = example.targets
        before = evenly(0, target.start - 1, count // 2)
        chosen = [*before, *evenly(target.start, target.end, count - count // 2)]
        moved = replace(target, start=len(before), end=len(chosen) - 1)
        found.append(Example(example.read()[chosen], range(len(chosen)), (moved,)))
    return found


def evenly(first: int, last: int, count: int) -> list[int]:
    """At most `count` whole numbers, evenly spaced, from `first` to `last`, both included."""
    return sorted({round(place) for place in np.linspace(first, last, count)}) if last >= first else []
