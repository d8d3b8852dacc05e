"""Which frames a captioner without memory sees: the registry of baselines.

A baseline chooses frames. The mapper turns each into P prefix tokens by itself, and these are put in order of time.
If there are several frames, each carries a learned mark of its age and of whether it belongs to the segment.

To add one, add it to BASELINES: then `baseline.frames` of params.yaml takes its name. Nothing here loads torch, because
params are read everywhere.

B sequences of a batch   R segments per sequence
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from torch import Tensor

# (first, stop) [B, R] int64 each: the mapper gets the mean of frames first <= t < stop, usually a single one.
Window = tuple["Tensor", "Tensor"]

MAX_FRAMES = 4096


@dataclass(frozen=True)
class Baseline:
    about: str  # completes "it sees ..."; {count} stands for baseline.count
    # From the first and the last frame of segments [B, R] and baseline.count to windows in order of time. None reaches
    # past the last frame; with scope segment, none before the first.
    windows: Callable[["Tensor", "Tensor", int], list[Window]]
    several: bool = False  # baseline.count frames with marks, or one frame without
    scope: Literal["segment", "past"] = "segment"  # where the frames come from (past: the video so far)
    tokens: int | None = None  # of each frame's P prefix tokens, the first so many; None: all


def spread(first: "Tensor", last: "Tensor", count: int) -> list[Window]:
    """`count` frames evenly spaced from `first` to `last`, both included; if `count` is 1, the last.

    If there are fewer frames, some are repeated, so a prefix always has the same length.
    """
    places = [last - (last - first) * left // max(count - 1, 1) for left in reversed(range(count))]
    return [(place, place + 1) for place in places]


def spread_before_and_in(first: "Tensor", last: "Tensor", count: int) -> list[Window]:
    """Half of the frames from before the segment (its first frame if there are none), half from it."""
    before = count // 2
    return [*spread(first * 0, (first - 1).clamp(min=0), before), *spread(first, last, count - before)]


def parts_and_last(first: "Tensor", last: "Tensor", count: int) -> list[Window]:
    """Everything before the segment's last frame in count - 1 parts of equal length, and the last frame."""
    parts = count - 1
    begins = [first + (last - first) * part // max(parts, 1) for part in range(parts)]
    ends = [first + (last - first) * part // max(parts, 1) for part in range(1, count)]
    windows = [(begin, end.maximum(begin + 1)) for begin, end in zip(begins, ends, strict=True)]
    return [*windows, (last, last + 1)]


BASELINES = {
    "last": Baseline("a segment's last frame", lambda first, last, _: [(last, last + 1)]),
    "first": Baseline("a segment's first frame", lambda first, last, _: [(first, first + 1)]),
    "middle": Baseline(
        "a segment's middle frame", lambda first, last, _: spread((first + last + 1) // 2, (first + last + 1) // 2, 1)
    ),
    "mean": Baseline("the mean of a segment's frames", lambda first, last, _: [(first, last + 1)]),
    "segment": Baseline("{count} frames of a segment, evenly spaced", spread, several=True),
    "video": Baseline(
        "{count} frames of the video so far, evenly spaced",
        lambda first, last, count: spread(first * 0, last, count),
        several=True,
        scope="past",
    ),
    "both": Baseline(
        "{count} frames, evenly spaced, half from a segment and half from before it",
        spread_before_and_in,
        several=True,
        scope="past",
    ),
    "many": Baseline(
        "{count} frames, evenly spaced, half from a segment and half from before it, each as a single token",
        spread_before_and_in,
        several=True,
        scope="past",
        tokens=1,
    ),
    "parts": Baseline(
        "a segment in {count} parts: its last frame, and the means of equal parts of the rest",
        parts_and_last,
        several=True,
    ),
}


def _known(name: str) -> str:
    if name not in BASELINES:
        raise ValueError(f"found {name!r}, expected one of {', '.join(BASELINES)}")
    return name


BaselineName = Annotated[str, AfterValidator(_known)]
FrameCount = Annotated[int, Field(gt=0, le=MAX_FRAMES)]


@dataclass(frozen=True)
class BaselineConfig:
    """The section `baseline` of params.yaml."""

    frames: BaselineName
    count: FrameCount

    @property
    def kind(self) -> Baseline:
        return BASELINES[self.frames]

    @property
    def prefixes(self) -> int:
        """How many frames have prefix tokens."""
        return self.count if self.kind.several else 1

    def length(self, prefix_tokens: int) -> int:
        """Of the whole prefix, where a frame by itself has so many tokens."""
        return self.prefixes * min(prefix_tokens, self.kind.tokens or prefix_tokens)

    @property
    def about(self) -> str:
        return self.kind.about.format(count=self.count)


LAST = BaselineConfig("last", 1)  # pretraining uses this too: pictures have one frame
