"""Examples made long: frames of other videos between what a question is about and the end at which it is asked.

They are put in where a segment begins, and questions that are asked after it stay true: the others never show a thing
that one of the questions is about, or else they show an empty stage.

E embedding width
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.answerer.examples import Example
from pipeline.dataset.questions.question import Question
from pipeline.dataset.segments import frames_of_segment
from pipeline.dataset.shapes.looks import Look, Truth, asked_about, looks_in, stage_set_s
from pipeline.dataset.shapes.looks import empty as is_empty
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.lengthening import PutIn, drawn

Piece = NDArray[np.float16]  # frames of a video that are put in together, [., E]
NEEDS_EMPTY = "count"  # kind of questions to which any other thing matters


@dataclass(frozen=True)
class Others:
    """What may be put into videos: those of a split."""

    videos: Mapping[str, VideoEmbeddings]
    scenes: Mapping[str, Truth]

    @cached_property
    def looks(self) -> dict[str, set[Look]]:
        return {id: looks_in(self.scenes[id]) for id in self.videos}

    @cached_property
    def shown(self) -> dict[str, Piece]:
        return {id: video.embeddings[:] for id, video in self.videos.items()}

    @cached_property
    def bare(self) -> dict[str, list[Piece]]:
        """Of each video the stretches in which nothing is seen."""
        return {id: empty_pieces(video, self.scenes[id]) for id, video in self.videos.items()}

    def empty_stages(self, ids: Sequence[str]) -> list[Piece]:
        return [piece for id in ids for piece in self.bare[id]]

    def without(self, looks: set[Look], ids: Sequence[str]) -> list[str]:
        """Those of the videos that never show any of these."""
        return [id for id in ids if looks.isdisjoint(self.looks[id])]


def empty_pieces(video: VideoEmbeddings, truth: Truth) -> list[Piece]:
    """The stretches of a video in which nothing is seen."""
    times, rows = video.timestamps[:], video.embeddings[:]
    margin_s = float(times[1] - times[0]) if len(times) > 1 else 0.0
    bare = is_empty(truth, times.tolist(), margin_s)
    ends = np.flatnonzero(np.diff(bare, prepend=False, append=False))  # where they begin and end, in turn
    return [rows[begin:end] for begin, end in ends.reshape(-1, 2)]


def never_shown(question: Question, truth: Truth) -> set[Look]:
    """What others must not show, that the question is put to a video as it was."""
    assert question.end_s is not None  # a segment's
    return set() if question.kind == "now" else asked_about(question.question, truth, question.end_s)


def later(question: Question, cut_s: float, seconds: float) -> Question:
    """The question where so many seconds are put in at `cut_s`, before it is asked."""
    assert question.end_s is not None
    evidence = tuple(
        (from_s + seconds * (from_s >= cut_s), to_s + seconds * (to_s > cut_s))
        for from_s, to_s in question.evidence or ()
    )
    return replace(question, end_s=question.end_s + seconds, evidence=evidence)


def lengthened_example(
    example: Example, others: Others, seconds: Sequence[float], empty: float, draw: random.Random
) -> Example | None:
    """The questions that are asked behind a segment's begin, with others put in there; None if none can be kept.

    The segment is drawn. Left out are questions that too few of the others would leave true, and of the kind `count`
    all if the others show anything.

    Args:
        seconds: least and most that are put in; the logarithm is drawn evenly.
        empty: the part of examples for which it is empty stages.
    """
    truth, video = others.scenes[example.video_id], example.video
    if len(truth["segments"]) < 2:
        return None
    cut_s = stage_set_s(truth, draw.choice(truth["segments"][1:]))
    times = video.timestamps[:]
    at = frames_of_segment(cut_s, times[-1] + 1.0, times.tolist()).start
    step = float(times[1] - times[0])
    frames = round(math.exp(draw.uniform(*map(math.log, seconds))) / step)
    ids = sorted(others.videos.keys() - {example.video_id})
    behind = [target for target in example.targets if target.frames > at]
    targets = []
    if draw.random() < empty:
        pieces = others.empty_stages(ids)
        targets = behind
    else:
        enough = len(ids) // 4
        for target in draw.sample(behind, len(behind)):
            if target.question.kind == NEEDS_EMPTY:
                continue
            rest = others.without(never_shown(target.question, truth), ids)
            if len(rest) >= enough:
                ids = rest
                targets.append(target)
        pieces = [others.shown[id] for id in ids]
    if not pieces or not targets:
        return None
    parts = drawn(pieces, frames, draw)
    moved = tuple(
        replace(one, question=later(one.question, cut_s, frames * step), frames=one.frames + frames) for one in targets
    )
    return replace(example, put_in=PutIn(at, parts), targets=moved)
