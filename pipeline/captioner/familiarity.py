"""How unlike a video is to those that a captioner was trained on.

A captioner has an answer to anything: one that knows only shapes captions a street with "a cyan square arrives". So
fine-tuning records the distribution of its training frames (mean and covariance of their embeddings), and how far from
it the held-out videos are. The distance is Mahalanobis's (Lee et al. 2018, A simple unified framework for detecting
out-of-distribution samples) per dimension, averaged over a video's frames.

T frames   E width of an embedding   V held-out videos
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.dataset.segments import Segment
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.files.aside import aside
from pipeline.process.terminal import printable

FILE = "familiarity.safetensors"
_TRAINING_FRAMES = 8  # per video, evenly spaced
_FRAMES = 64  # the same, for a video whose distance is measured
_SHRINK = 1e-3  # times the mean variance, added to each variance: so directions without variance in training count too


@dataclass(frozen=True)
class Unlikeness:
    distance: float  # 1: about as far as a training frame
    further: float | None  # the share of held-out videos that are further from the training videos
    times: float | None  # this distance over the most distant held-out video's

    @property
    def is_far(self) -> bool:
        """Whether it is further away than every held-out video."""
        return self.times is not None and self.times > 1


@dataclass(frozen=True)
class Familiarity:
    mean: NDArray[np.float32]  # [E]
    covariance: NDArray[np.float32]  # [E, E]
    held_out: NDArray[np.float32]  # [V] distances, ascending
    videos: int  # that the captioner was trained on
    captions: tuple[str, ...]  # a few examples

    @property
    def trained_on(self) -> str:
        """What the captioner was trained on, in one line."""
        such = " or ".join(f"“{printable(caption, 80)}”" for caption in self.captions)
        return f"trained on {self.videos:,} videos" + (f", with captions such as {such}" if such else "")

    def unlikeness(self, embeddings: Any) -> Unlikeness:
        """The distance of a video with embeddings [T, E], an array or rows of a file."""
        apart = _some(embeddings, _FRAMES) - self.mean
        shrunk = self.covariance + _SHRINK * np.trace(self.covariance) / len(self.mean) * np.eye(len(self.mean))
        squares = np.einsum("te,et->t", apart, np.linalg.solve(shrunk, apart.T)) / len(self.mean)
        distance = float(np.sqrt(squares.clip(min=0)).mean())
        if not len(self.held_out):
            return Unlikeness(distance, None, None)
        further = float((self.held_out > distance).mean())
        return Unlikeness(distance, further, distance / max(float(self.held_out[-1]), 1e-9))

    def place(self, unlike: Unlikeness) -> str | None:
        """How a video compares with the held-out ones; None if there are none."""
        count = len(self.held_out)
        if unlike.further is None or unlike.times is None:
            return None
        if unlike.is_far:
            return (
                f"less like the training videos than each of {count} held-out ones ({unlike.times:.1f} times as far as "
                "the most distant): do not rely on its captions"
            )
        return f"like the training videos: of {count} held-out ones, {unlike.further:.0%} are less like them"

    def about(self, unlike: Unlikeness) -> str:
        """One line: what the captioner was trained on, and how like that the video is."""
        place = self.place(unlike)
        return f"the captioner was {self.trained_on}" + (f"; this video is {place}" if place else "")


def summarize(
    training: Iterable[VideoEmbeddings], held_out: Iterable[VideoEmbeddings], captions: Sequence[str]
) -> Familiarity:
    """Statistics of the training videos, and distances of held-out ones. Raises ValueError without training frames."""
    videos, count = 0, 0
    total: Any = 0.0
    products: Any = 0.0
    for video in training:
        some = _some(video.embeddings, _TRAINING_FRAMES)
        videos, count = videos + 1, count + len(some)
        total, products = total + some.sum(0), products + some.T @ some
    if not count:
        raise ValueError("no training video has frames")
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    known = Familiarity(
        mean.astype(np.float32), covariance.astype(np.float32), np.empty(0, np.float32), videos, tuple(captions)
    )
    distances = sorted(known.unlikeness(video.embeddings).distance for video in held_out)
    return Familiarity(known.mean, known.covariance, np.array(distances, np.float32), videos, known.captions)


def of_segments(segments: Sequence[Segment], videos: Mapping[str, VideoEmbeddings]) -> Familiarity:
    """What the videos of split train are like, and how far from them those of split val are.

    Args:
        videos: by video_id; videos without embeddings may be missing.
    """
    of_split = {
        split: [videos[id] for id in sorted({one.video_id for one in segments if one.split == split} & videos.keys())]
        for split in ("train", "val")
    }
    training = [segment for segment in segments if segment.split == "train" and segment.captions]
    captions = dict.fromkeys(segment.captions[0] for segment in (training[:1] + training[len(training) // 2 :][:1]))
    return summarize(of_split["train"], of_split["val"], list(captions))


def save(path: Path, known: Familiarity) -> None:
    # One entry: safetensors writes several in an order that changes from run to run.
    about = json.dumps({"videos": known.videos, "captions": known.captions}, ensure_ascii=False)
    tensors = {"mean": known.mean, "covariance": known.covariance, "held_out": known.held_out}
    with aside(path) as written:
        save_file(tensors, written, metadata={"about": about})


def load(folder: Path, width: int) -> Familiarity | None:
    """Read it from a captioner's folder; None if earlier revisions wrote the folder. width: E of the encoder."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            mean, covariance, held_out = (file.get_tensor(name) for name in ("mean", "covariance", "held_out"))
        known = Familiarity(mean, covariance, held_out, int(about["videos"]), tuple(about["captions"]))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a file that fine-tuning wrote ({printable(str(error))})") from None
    if (shape := known.covariance.shape) != (width, width) or known.mean.shape != (width,) or known.held_out.ndim != 1:
        raise ValueError(f"{path}: made from embeddings of shape {shape}, but the encoder's have width {width}")
    return known


def _some(embeddings: Any, most: int) -> NDArray[np.float64]:
    """At most `most` frames of a video, evenly spaced, [T, E]."""
    count = len(embeddings)
    at = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    return np.concatenate([np.asarray(embeddings[i : i + 1], np.float64) for i in at])
