"""A trained captioner for any video: what the stages do one after the other, for one file at once.

predictor = Predictor.load()
for found in predictor.caption(Path("holiday.mp4")):
    print(found.start_s, found.end_s, found.caption)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import frames, ledger
from pipeline.annotations import Segment
from pipeline.captioner import Captioner, load_captioner
from pipeline.captioning import Generated, caption_examples, caption_prefixes, most_retrieved
from pipeline.captions import Retrieved
from pipeline.cuts import Cuts, find_segments
from pipeline.device import autocast, choose_device, choose_dtype
from pipeline.embeddings import VideoEmbeddings
from pipeline.encoder import Encoder, load_encoder
from pipeline.frames import Sampling, Source
from pipeline.mapper import Recalled, TransformerMapper
from pipeline.params import Params, load_params
from pipeline.revision import at_revision
from pipeline.sequences import make_examples
from pipeline.streaming import Stream

LEAST_SEGMENT_S = 4.0  # of segments that are found
AHEAD = 8  # frames: how far a cut may lie behind the frame that tells of it, and more


@dataclass(frozen=True)
class Captioned:
    """A stretch of a video with its caption."""

    start_s: float
    end_s: float
    caption: str
    log_prob: float  # nats
    retrieved: tuple[Retrieved, ...] = ()  # what the memory gave for it


@dataclass(frozen=True)
class Predictor:
    params: Params  # frames, embed and caption of them
    encoder: Encoder
    captioner: Captioner
    tokenizer: Any

    @classmethod
    def load(cls, variant: str | None = None) -> "Predictor":
        """The captioner in models/, or that of an experiment or a git revision, which DVC's cache or remote has.

        Raises ValueError if there is none, naming the command that makes one.
        """
        with at_revision(variant, "params.yaml", "models/encoder", "models/decoder", "models/finetuned") as root:
            models = root / "models"
            return cls._of(root / "params.yaml", models / "encoder", models / "finetuned", models / "decoder")

    @classmethod
    def from_pretrained(cls, name: str) -> "Predictor":
        """A folder that `python -m pipeline.export` wrote, or a repository of the Hugging Face Hub that holds one."""
        folder = Path(name)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(name))
        return cls._of(folder / "params.yaml", folder / "encoder", folder, folder)

    @classmethod
    def _of(cls, params_file: Path, encoder: Path, captioner: Path, decoder: Path) -> "Predictor":
        params = load_params(params_file)
        device = choose_device(params.device)
        loaded, tokenizer = load_captioner(captioner, decoder)
        dtype = choose_dtype(params.embed.precision, device)
        return cls(params, load_encoder(encoder, device=device, dtype=dtype), loaded.to(device), tokenizer)

    def caption(self, video: Path, segments: Sequence[tuple[float, float]] | str = "found") -> list[Captioned]:
        """Captions of a video file's segments, in the order of time.

        Args:
            segments: (start_s, end_s) of each; "found": between the changes in the video; "whole": one.

        Raises ValueError if the file is no video that can be read, saying why.
        """
        return self.caption_frames(self.frames(video), segments)

    def caption_frames(
        self, jpegs: Sequence[bytes], segments: Sequence[tuple[float, float]] | str = "found"
    ) -> list[Captioned]:
        """As `caption`, of frames that `frames` gave."""
        fps = self.params.frames.fps
        if segments == "found":
            segments = find_segments(jpegs, fps=fps, least_s=LEAST_SEGMENT_S)
        elif segments == "whole":
            segments = [(0.0, len(jpegs) / fps)]
        assert not isinstance(segments, str), f"segments: found {segments!r}, wanted found, whole, or pairs of seconds"
        segments = sorted(segments)
        embeddings = self.encoder.embed(jpegs, batch_size=self.params.embed.batch_size)
        made = self.caption_embeddings(embeddings, segments)
        return [self._captioned(*ends, one) for ends, one in zip(segments, made, strict=True)]

    def follow(self, jpegs: Iterable[bytes], every_s: float | None = None) -> Iterator[Captioned]:
        """Captions of frames as they come, at the rate of frames.fps, with no more memory than a stream holds.

        Args:
            every_s: a segment ends every so many seconds; None: where the video changes.
        """
        fps = self.params.frames.fps
        cuts = Cuts(fps, LEAST_SEGMENT_S)
        seen = _Seen(self)
        start = count = 0  # the frame that this segment begins with, and how many have come
        for jpeg in jpegs:
            if every_s is None:
                ends = cuts.add(jpeg)
            else:
                ends = [count] if count - start >= max(1, round(every_s * fps)) else []
            seen.add(self.encoder.embed([jpeg], batch_size=1)[0])
            count += 1
            for end in ends:
                yield self._captioned(start / fps, end / fps, seen.caption(start, end))
                start = end
        if count > start:
            yield self._captioned(start / fps, count / fps, seen.caption(start, count))

    def frames(self, video: Path) -> Sequence[bytes]:
        """A video file's frames as the pipeline would sample them, JPEG. ValueError if it has none, saying why."""
        if not video.is_file():
            raise ValueError(f"{video}: no such file")
        status, reason, duration_s = ledger.probe(video)
        if status != "ok":
            raise ValueError(f"{video}: {reason}")
        sampled = frames.sample(Source("video", video, duration_s), self.sampling)
        if not sampled.jpegs:
            raise ValueError(f"{video}: {sampled.reason}")
        return sampled.jpegs

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.params.frames.fps, self.params.frames.short_side_px, self.params.frames.jpeg_quality)

    def caption_embeddings(
        self, embeddings: NDArray[np.float16], segments: Sequence[tuple[float, float]]
    ) -> list[Generated]:
        """A caption for each segment (start_s, end_s, in the order of time) of a video's embeddings [T, E]."""
        video = VideoEmbeddings(np.arange(len(embeddings)) / self.params.frames.fps, embeddings)
        wanted = [Segment(f"{i:06}", "video", "test", *ends, (), None) for i, ends in enumerate(segments)]
        config = self.captioner.config
        examples = make_examples(wanted, {"video": video}, scope=config.scope, baseline_frame=config.baseline_frame)
        made: dict[str, Generated] = {}
        torch.manual_seed(self.params.seed)
        with self._autocast():
            for of_batch in caption_examples(
                self.captioner,
                self.tokenizer,
                examples,
                batch_size=self.params.caption.batch_size,
                index=self.params.caption.index,
                **self._how(),
            ):
                made |= of_batch
        return [made[segment.segment_id] for segment in wanted]

    def caption_recalled(self, recalled: Recalled) -> Generated:
        """A caption for the one segment of `recalled`."""
        with self._autocast():
            return caption_prefixes(self.captioner, self.tokenizer, recalled.prefixes[0], **self._how())[0]

    def _how(self) -> dict[str, Any]:
        return self.params.caption.model_dump(exclude={"split", "batch_size", "precision", "index"})

    def _autocast(self) -> torch.autocast:
        return autocast(self.params.caption.precision, self.encoder.device)

    def _captioned(self, start_s: float, end_s: float, made: Generated) -> Captioned:
        return Captioned(start_s, end_s, made.caption, made.log_prob, made.retrieved)


class _Seen:
    """The frames of a video that is still arriving, as far as the captioner needs them."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        mapper = predictor.captioner.mapper
        remembers = isinstance(mapper, TransformerMapper) and mapper.memory is not None
        self.stream = Stream(mapper, index=predictor.params.caption.index) if remembers else None  # type: ignore[arg-type]
        self.begins = 0  # the frame that `waiting` begins with
        self.waiting: list[NDArray[np.float16]] = []

    def add(self, embedding: NDArray[np.float16]) -> None:
        self.waiting.append(embedding)
        if self.stream and len(self.waiting) > AHEAD:  # no segment ends with what is older
            self._remember(1)

    def caption(self, start: int, end: int) -> Generated:
        """Of the segment from frame `start` to the one before `end`, after which all before that is done with."""
        if self.stream is None:
            own = np.stack(self.waiting[start - self.begins : end - self.begins])
            made = self.predictor.caption_embeddings(own, [(0.0, len(own) / self.predictor.params.frames.fps)])[0]
            del self.waiting[: end - self.begins]
            self.begins = end
            return made
        self._remember(end - 1 - self.begins)
        last = self._tensor(self.waiting[:1])
        with torch.inference_mode():
            (recalled,) = self.stream.recall(last, torch.tensor([[start]], device=last.device))
            made = self.predictor.caption_recalled(recalled)
        return replace(made, retrieved=most_retrieved(recalled, 0, 0, end - 1, 0))

    def _remember(self, count: int) -> None:
        if count:
            assert self.stream is not None
            self.stream.remember(self._tensor(self.waiting[:count]))
            del self.waiting[:count]
            self.begins += count

    def _tensor(self, embeddings: list[NDArray[np.float16]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(embeddings)).float()[None].to(self.predictor.encoder.device)
