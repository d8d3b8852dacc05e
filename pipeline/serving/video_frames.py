"""A video file's frames and their embeddings, made as the stages make them."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import probe
from pipeline.dataset.media import not_a_file
from pipeline.features import frames
from pipeline.features.encoder import Encoder
from pipeline.features.frames import Sampling, Source
from pipeline.params import PredictionParams, embedded_fps
from pipeline.serving.arriving import is_address

# Called during the work: what is being done, how much is done, of how much (None: unknown). "sampling" counts seconds
# of the video, "segmenting" and "embedding" frames, "captioning" segments. Raising an exception ends the work.
Watch = Callable[[str, float, float | None], None]


def unwatched(doing: str, done: float, of: float | None) -> None: ...


@dataclass(frozen=True)
class Frames(Sequence[bytes]):
    """The frames of a video, sampled like in the pipeline, as JPEG."""

    jpegs: Sequence[bytes]
    duration_s: float
    damage: str | None = None  # why there are fewer than the file promises, or what did not decode

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, index: Any) -> Any:
        return self.jpegs[index]


def sampling_of(params: PredictionParams) -> Sampling:
    """How a file's frames are taken: only those that the pipeline embeds."""
    return Sampling(embedded_fps(params), params.frames.short_side_px, params.frames.jpeg_quality)


def read_frames(video: Path, sampling: Sampling, watch: Watch = unwatched) -> Frames:
    """A video file's frames as the pipeline samples them. Raises ValueError saying why if there are none."""
    if reason := not_a_file(video):
        raise ValueError(f"{video}: {reason}")
    path = video.absolute()  # in a relative name, ffmpeg would read what precedes a colon as a protocol
    probed = probe.probe(path)
    if not probed.kind:
        raise ValueError(f"{video}: {probed.reason}")
    duration_s, fps = probed.duration_s, sampling.fps
    sampled = frames.sample(
        Source("video", path, duration_s, probed.kind == "picture"),
        sampling,
        lambda count: watch("sampling", count / fps, duration_s),
    )
    if not sampled.jpegs:
        raise ValueError(f"{video}: {sampled.reason}")
    return Frames(sampled.jpegs, end_s(len(sampled.jpegs), fps, duration_s), sampled.reason)


def embed_frames(
    encoder: Encoder, jpegs: Sequence[bytes], *, batch_size: int, watch: Watch = unwatched
) -> NDArray[np.float16]:
    """[T, E]"""
    rest = watched("embedding", jpegs, watch)
    parts = iter(lambda: list(islice(rest, batch_size)), [])
    return next(encoder.embed_videos(((None, part) for part in parts), batch_size=batch_size))[1]


@contextmanager
def local_file(video: str, limits: Mapping[str, Any], watch: Watch = unwatched) -> Iterator[Path]:
    """The file of that name; what is at an address is fetched into one that is deleted afterwards.

    limits: the section `predict` of params.yaml. A ValueError about the fetched file names the address.
    """
    if not is_address(video):
        yield Path(video)
        return
    from pipeline.dataset.sources import youtube

    with tempfile.TemporaryDirectory() as folder:
        file = youtube.download(video, Path(folder), **limits, watch=lambda done, of: watch("downloading", done, of))
        try:
            yield file
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), video)) from None


def watched(doing: str, jpegs: Sequence[bytes], watch: Watch) -> Iterator[bytes]:
    for number, jpeg in enumerate(jpegs):
        watch(doing, number, len(jpegs))
        yield jpeg


def end_s(count: int, fps: float, duration_s: float | None) -> float:
    """When a video of so many frames ends, which is after the last frame and before the next one would have been.

    duration_s: as its file says, if it does.
    """
    is_plausible = duration_s is not None and (count - 1) / fps < duration_s < count / fps
    return float(duration_s) if duration_s and is_plausible else count / fps
