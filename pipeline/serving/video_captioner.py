"""A trained captioner for any video: it does the work of the stages for a single file.

captioner = VideoCaptioner.load()
for found in captioner.caption(Path("holiday.mp4")):
    print(found.start_s, found.end_s, found.caption)
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.captioner import familiarity
from pipeline.captioner.familiarity import Familiarity, Unlikeness
from pipeline.captioner.generation import Generated, caption_examples, caption_prefixes, most_retrieved
from pipeline.captioner.mapper import Recalled
from pipeline.captioner.model import Captioner, load_captioner
from pipeline.captioner.sequences import make_examples
from pipeline.captioner.streaming import Stream
from pipeline.dataset.segments import Segment
from pipeline.device import autocast, choose_device, choose_dtype
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.encoder import Encoder, load_encoder
from pipeline.features.frames import Sampling
from pipeline.files.revision import at_revision
from pipeline.params import PredictionParams, load_prediction_params
from pipeline.process import progress
from pipeline.process.terminal import printable
from pipeline.scoring.caption_table import Retrieved
from pipeline.serving.cuts import Cuts, find_segments
from pipeline.serving.video_frames import (
    Frames,
    Watch,
    embed_frames,
    end_s,
    read_frames,
    sampling_of,
    unwatched,
    watched,
)

MIN_SEGMENT_S = 4.0  # shortest segment that is found
AHEAD = 8  # frames: more than a cut can precede the frame that reveals it
FIRST = 64  # frames of an arriving video after which its familiarity is reported


@dataclass(frozen=True)
class Captioned:
    """A segment of a video with its caption."""

    start_s: float
    end_s: float
    caption: str
    log_prob: float  # nats
    retrieved: tuple[Retrieved, ...] = ()  # what the memory retrieved for it


@dataclass(frozen=True)
class Prediction(Sequence[Captioned]):
    """The captions of a video in order of time, with warnings."""

    captions: tuple[Captioned, ...]
    duration_s: float
    warnings: tuple[str, ...] = ()  # one line each for the reader of the captions, as when part of the video is missing
    about: str | None = None  # one line: what the captioner was trained on, and how similar this video is
    unlikeness: Unlikeness | None = None  # None: trained by an earlier revision

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: Any) -> Any:
        return self.captions[index]


@dataclass(frozen=True)
class VideoCaptioner:
    params: PredictionParams
    encoder: Encoder
    model: Captioner
    tokenizer: Any
    familiarity: Familiarity | None = None  # what it was trained on

    @classmethod
    def load(cls, variant: str | None = None) -> "VideoCaptioner":
        """The captioner in models/, or that of an experiment or git revision in DVC's cache or remote.

        Raises ValueError if there is none, naming the command that makes one.
        """
        with at_revision(variant, "params.yaml", "models/encoder", "models/decoder", "models/finetuned") as root:
            models = root / "models"
            return cls._of(root / "params.yaml", models / "encoder", models / "finetuned", models / "decoder")

    @classmethod
    def from_pretrained(cls, name: str) -> "VideoCaptioner":
        """A folder that `python -m pipeline.export` wrote, or a repository of the Hugging Face Hub that holds one."""
        folder = Path(name)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            progress.begin_hub_download(printable(name))
            folder = Path(snapshot_download(name))
        return cls._of(folder / "params.yaml", folder / "encoder", folder, folder)

    @classmethod
    def _of(cls, params_file: Path, encoder: Path, captioner: Path, decoder: Path) -> "VideoCaptioner":
        params = load_prediction_params(params_file)
        device = choose_device(params.device)
        caption_dtype = choose_dtype(params.caption.precision, device)
        loaded, tokenizer = load_captioner(captioner, decoder, dtype=caption_dtype)
        dtype = choose_dtype(params.embed.precision, device)
        known = familiarity.load(captioner, loaded.config.mapper.embedding_width)
        return cls(params, load_encoder(encoder, device=device, dtype=dtype), loaded.to(device), tokenizer, known)

    def caption(
        self, video: Path, segments: Sequence[tuple[float, float]] | str = "found", watch: Watch = unwatched
    ) -> Prediction:
        """Captions of a video file's segments, in order of time.

        Args:
            segments: (start_s, end_s) of each; "found": between changes in the video; "whole": a single one. A segment
                that ends after the video is cut, with a warning.

        Raises ValueError saying why the file is not a readable video, or if a segment begins after the video's end.
        """
        seen = self.frames(video, watch)
        try:
            return self.caption_frames(seen, segments, watch)
        except ValueError as error:
            raise ValueError(f"{video}: {error}") from None

    def caption_frames(
        self,
        jpegs: Sequence[bytes],
        segments: Sequence[tuple[float, float]] | str = "found",
        watch: Watch = unwatched,
        embeddings: NDArray[np.float16] | None = None,
    ) -> Prediction:
        """Like `caption`, for frames from `frames`, or others at the same rate.

        Args:
            embeddings: of these frames [T, E], where they are there already (`embed`).
        """
        fps = self.sampling.fps
        seen = jpegs if isinstance(jpegs, Frames) else Frames(jpegs, len(jpegs) / fps)
        warnings = [f"not the whole video: {seen.damage}"] if seen.damage else []
        if segments == "found":
            found = find_segments(watched("segmenting", seen, watch), fps=fps, least_s=MIN_SEGMENT_S)
            wanted = [(start, min(end, seen.duration_s)) for start, end in found]
        elif segments == "whole":
            wanted = [(0.0, seen.duration_s)]
        elif isinstance(segments, str):
            raise ValueError(f"segments: found {segments!r}, expected found, whole, or pairs of seconds")
        else:
            wanted, cut = _within(segments, seen.duration_s, tolerance_s=1 / fps)
            warnings += cut
        if embeddings is None:
            embeddings = self.embed(seen, watch)
        made = self.caption_embeddings(embeddings, wanted, watch)
        unlike = self.familiarity.unlikeness(embeddings) if self.familiarity else None
        about = self.familiarity.about(unlike) if self.familiarity and unlike else None
        if self.familiarity and unlike and unlike.is_far:
            warnings.append(f"this video is {self.familiarity.place(unlike)}")
        captions = tuple(self._captioned(*ends, one) for ends, one in zip(wanted, made, strict=True))
        return Prediction(captions, seen.duration_s, tuple(warnings), about, unlike)

    def embed(self, jpegs: Sequence[bytes], watch: Watch = unwatched) -> NDArray[np.float16]:
        """[T, E]"""
        return embed_frames(self.encoder, jpegs, batch_size=self.params.embed.batch_size, watch=watch)

    def follow(
        self,
        jpegs: Iterable[bytes],
        every_s: float | None = None,
        tell: Callable[[str], None] = lambda line: None,
        duration_s: Callable[[], float | None] = lambda: None,
    ) -> Iterator[Captioned]:
        """Captions of frames as they arrive, at the rate of `sampling`, with no more memory than a stream holds.

        Args:
            every_s: a segment ends every so many seconds; None: where the video changes.
            tell: called once, after some frames or at the end, with a line on what the captioner was trained on, and
                how similar this video is.
            duration_s: called after the last frame: how long the video is, as its file says by then. None: unknown, and
                the last segment ends one frame after its last frame.
        """
        if every_s is not None and not 0 < every_s < math.inf:
            raise ValueError(f"every_s: found {every_s:g}, expected seconds: a finite number greater than 0")
        fps = self.sampling.fps
        cuts = Cuts(fps, MIN_SEGMENT_S)
        seen = _Seen(self)
        first: list[NDArray[np.float16]] = []
        start = count = 0  # the first frame of this segment, and the number of frames so far
        last, embedding = b"", np.empty(0, np.float16)
        for jpeg in jpegs:
            if every_s is None:
                ends = cuts.add(jpeg)
            else:
                ends = [count] if count - start >= max(1, round(every_s * fps)) else []
            if jpeg != last:  # a repeated picture is embedded once
                last, embedding = jpeg, self.encoder.embed([jpeg], batch_size=1)[0]
            seen.add(embedding)
            count += 1
            if count <= FIRST:
                first.append(embedding)
            if count == FIRST:
                self._tell_about(first, tell)
            for end in ends:
                yield self._captioned(start / fps, end / fps, seen.caption(start, end))
                start = end
        if count < FIRST:
            self._tell_about(first, tell)
        if count > start:
            yield self._captioned(start / fps, end_s(count, fps, duration_s()), seen.caption(start, count))

    def _tell_about(self, embeddings: list[NDArray[np.float16]], tell: Callable[[str], None]) -> None:
        if self.familiarity and embeddings:
            tell(self.familiarity.about(self.familiarity.unlikeness(np.stack(embeddings))))

    def frames(self, video: Path, watch: Watch = unwatched) -> Frames:
        """A video file's frames as the pipeline would sample them. Raises ValueError saying why if there are none."""
        return read_frames(video, self.sampling, watch)

    @property
    def sampling(self) -> Sampling:
        return sampling_of(self.params)

    def caption_embeddings(
        self, embeddings: NDArray[np.float16], segments: Sequence[tuple[float, float]], watch: Watch = unwatched
    ) -> list[Generated]:
        """A caption for each segment (start_s, end_s, in order of time) of a video's embeddings [T, E]."""
        video = VideoEmbeddings(np.arange(len(embeddings)) / self.sampling.fps, embeddings)
        wanted = [Segment(f"{i:06}", "video", "test", *ends, (), None) for i, ends in enumerate(segments)]
        config = self.model.config
        examples = make_examples(wanted, {"video": video}, scope=config.scope)
        made: dict[str, Generated] = {}
        torch.manual_seed(self.params.seed)
        watch("captioning", 0, len(wanted))
        with self._autocast():
            for of_batch in caption_examples(
                self.model,
                self.tokenizer,
                examples,
                batch_size=self.params.caption.batch_size,
                **self._how(),
            ):
                made |= of_batch
                watch("captioning", len(made), len(wanted))
        return [made[segment.segment_id] for segment in wanted]

    def caption_recalled(self, recalled: Recalled) -> Generated:
        """A caption for the one segment of `recalled`."""
        with self._autocast():
            return caption_prefixes(self.model, self.tokenizer, recalled.prefixes[0], **self._how())[0]

    def _how(self) -> dict[str, Any]:
        return self.params.caption.model_dump(exclude={"batch_size", "precision"})

    def _autocast(self) -> torch.autocast:
        return autocast(self.params.caption.precision, self.encoder.device)

    def _captioned(self, start_s: float, end_s: float, made: Generated) -> Captioned:
        return Captioned(start_s, end_s, made.caption, made.log_prob, made.retrieved)


def _within(
    segments: Iterable[tuple[float, float]], duration_s: float, *, tolerance_s: float
) -> tuple[list[tuple[float, float]], list[str]]:
    """The segments in order of time, cut at the video's end, and a line about each that was cut.

    Raises ValueError if one is not valid or begins after the end.
    """
    within, cut = [], []
    for start, end in sorted(segments):
        if not (0 <= start < end < math.inf):
            raise ValueError(
                f"segment {start:g}-{end:g}: expected START-END in seconds, from 0 on, with START before END"
            )
        if start >= duration_s:
            raise ValueError(
                f"segment {start:g}-{end:g} s begins after the end of the video, which lasts {duration_s:g} s"
            )
        if end > duration_s + tolerance_s:
            cut.append(f"segment {start:g}-{end:g} s ends at {duration_s:g} s, with the video")
        within.append((start, min(end, duration_s)))
    return within, cut


class _Seen:
    """The frames of an arriving video that the captioner still needs."""

    def __init__(self, captioner: VideoCaptioner) -> None:
        self.captioner = captioner
        mapper = captioner.model.mapper.with_memory
        self.stream = Stream(mapper) if mapper else None
        # Evenly spaced frames of the video so far change with every segment, so all are kept: two bytes per number.
        self.keeps_all = captioner.model.config.scope == "past"
        self.begins = 0  # the first frame in `waiting`
        self.waiting: list[NDArray[np.float16]] = []

    def add(self, embedding: NDArray[np.float16]) -> None:
        self.waiting.append(embedding)
        if self.stream and len(self.waiting) > AHEAD:  # no segment can end with an older frame
            self._remember(1)

    def caption(self, start: int, end: int) -> Generated:
        """The caption of the segment from frame `start` to before `end`; earlier frames are dropped afterwards."""
        if self.stream is None:
            fps = self.captioner.sampling.fps
            seen = np.stack(self.waiting[: end - self.begins])
            ends = ((start - self.begins) / fps, (end - self.begins) / fps)
            made = self.captioner.caption_embeddings(seen, [ends])[0]
            if not self.keeps_all:
                del self.waiting[: end - self.begins]
                self.begins = end
            return made
        self._remember(end - 1 - self.begins)
        last = self._tensor(self.waiting[:1])
        with torch.inference_mode():
            (recalled,) = self.stream.recall(last, torch.tensor([[start]], device=last.device))
            made = self.captioner.caption_recalled(recalled)
        return replace(made, retrieved=most_retrieved(recalled, 0, 0, end - 1, 0))

    def _remember(self, count: int) -> None:
        if count:
            assert self.stream is not None
            self.stream.remember(self._tensor(self.waiting[:count]))
            del self.waiting[:count]
            self.begins += count

    def _tensor(self, embeddings: list[NDArray[np.float16]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(embeddings)).float()[None].to(self.captioner.encoder.device)
