"""Captions in the place of frames: a question attends to the words of the captions of the video so far.

S states of the language model   W words of a video's captions, and one of nothing before them
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.answerer.examples import read_texts
from pipeline.features.embeddings import VideoEmbeddings

BEFORE_S = 1e-3  # a caption is known just before its segment's end, at which questions are asked


@dataclass(frozen=True)
class TimedCaption:
    end_s: float  # of the segment
    caption: str


def caption_videos(
    captions: Mapping[str, Sequence[TimedCaption]], model: Any, tokenizer: Any
) -> dict[str, VideoEmbeddings]:
    """Each video's words as the language model reads them, caption by caption: "embeddings" [W, S] at their times."""
    texts = read_texts([one.caption for own in captions.values() for one in own], model, tokenizer, None)
    found = {}
    for video_id, own in captions.items():
        in_order = sorted(own, key=lambda one: one.end_s)
        words = [texts[one.caption].states.numpy() for one in in_order]
        nothing = np.zeros((1, words[0].shape[1]))  # or a question before the first caption would see that one
        times = [0.0, *(one.end_s - BEFORE_S for one, of in zip(in_order, words, strict=True) for _ in range(len(of)))]
        found[video_id] = VideoEmbeddings(np.array(times), np.concatenate([nothing, *words]).astype(np.float16))
    return found
