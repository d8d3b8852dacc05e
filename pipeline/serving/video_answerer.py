"""A trained reader for any video: it looks at it once, and then answers questions about it.

answerer = VideoAnswerer.load()
seen = answerer.look(Path("holiday.mp4"))
for found in answerer.ask(seen, ["where did the red star go?", "how many stars came in?"]):
    print(found.answer, found.probability, [moment.start_s for moment in found.moments])
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.answerer.answering import Answer, answer
from pipeline.answerer.examples import Look, Text, asked, make_examples, read_texts, text_width, word_looks, words_of
from pipeline.answerer.reader import Reader
from pipeline.answerer.saying import Speaker
from pipeline.answerer.training import LANGUAGE_MODEL, load_reader, load_speaker
from pipeline.answerer.watching import Watching
from pipeline.dataset.questions.formats import MAX_TEXT
from pipeline.dataset.questions.question import Question
from pipeline.device import choose_device, choose_dtype
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.encoder import Encoder, load_encoder
from pipeline.features.frames import Sampling
from pipeline.language.decoder import load_decoder
from pipeline.language.text_reader import load_text_reader
from pipeline.params import PredictionParams, load_prediction_params
from pipeline.serving.video_frames import Frames, Watch, embed_frames, read_frames, sampling_of, unwatched
from pipeline.serving.web import neighbours

ANSWERER = Path("studies/questions/models/memory")  # where `make questions` leaves one
GLIMPSES = 8  # of a model of glimpses, evenly spaced and at both ends
MAX_MOMENTS = 6
MIN_SHARE = 0.002  # of the attention: smaller moments are not shown


@dataclass(frozen=True)
class Seen:
    """A video that has been looked at. All questions about it are answered from this."""

    frames: Frames
    embeddings: NDArray[np.float16]  # [T, E]


@dataclass(frozen=True)
class Moment:
    """Neighbouring frames that a question attended to."""

    start_s: float
    end_s: float  # when its last frame begins
    frame: int  # the one with the most attention
    share: float  # of all attention that the question paid, to its own words as well


@dataclass(frozen=True)
class Answered:
    question: str
    answer: str
    probability: float
    first: tuple[tuple[str, float], ...]  # the likeliest answers with their probabilities, the best first
    moments: tuple[Moment, ...]  # those with the most attention, in order of time
    frames: int  # that it could look at
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class VideoAnswerer:
    params: PredictionParams
    encoder: Encoder
    text_tower: Look  # what words look like, by the same encoder's text tower
    language_model: Any  # that reads questions
    tokenizer: Any
    reader: Reader
    watching: Watching
    answers: list[str]  # it chooses from these...
    speaker: Speaker | None = None  # ...or says an answer in words of its own

    @classmethod
    def load(cls, folder: Path | None = None, encoder: Encoder | None = None) -> "VideoAnswerer":
        """A reader that the study of questions trained, with the encoder and the decoder in models/.

        Args:
            folder: of the reader, or with one folder for each seed, of which the first is taken; by default the
                study's memory. Where the folder has encoder/, decoder/ or params.yaml of its own, these are used.
            encoder: one that is loaded already, instead of that in models/.

        Raises ValueError if something is missing or does not fit, naming the command that makes it.
        """
        if folder is None:
            folder = ANSWERER
            if not folder.is_dir():
                raise ValueError(f"{folder} holds no answerer yet; train one with: make questions, or name another's")
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        folder = next(iter(sorted(folder.glob("seed-*"))), folder)
        params = load_prediction_params(_own(folder, "params.yaml", Path()))
        reader, watching, answers = load_reader(folder)
        device = choose_device(params.device)
        encoder_folder = _own(folder, "encoder", Path("models"))
        if encoder is None or encoder_folder.parent == folder:
            dtype = choose_dtype(params.embed.precision, device)
            encoder = load_encoder(encoder_folder, device=device, dtype=dtype)
        decoder_folder = _own(folder, "decoder", Path("models"))
        own = folder / LANGUAGE_MODEL
        reads = load_text_reader(own) if own.exists() else load_decoder(decoder_folder)
        found = text_width(reads[0])
        if found != reader.config.text_width:
            raise ValueError(
                f"{folder} was trained with a language model of {reader.config.text_width // 2} numbers a word, "
                f"{own if own.exists() else decoder_folder} has {found // 2}: train it again with make questions"
            )
        speaker = load_speaker(folder, decoder_folder, reader, watching)
        looks = word_looks(encoder_folder, params.device)
        return cls(params, encoder, looks, *reads, reader, watching, answers, speaker)

    @property
    def chooses(self) -> str:
        """What its answers are, in a sentence."""
        if self.speaker:
            return f"it says answers of up to {self.speaker.config.max_tokens} tokens in words of its own"
        return f"it chooses from {len(self.answers)} answers: {', '.join(self.answers)}"

    @property
    def sampling(self) -> Sampling:
        return sampling_of(self.params)

    def look(self, video: Path, watch: Watch = unwatched) -> Seen:
        """Decode and embed a video file, once for all questions. Raises ValueError saying why that is not possible."""
        return self.look_at(read_frames(video, self.sampling, watch), watch)

    def look_at(self, frames: Frames, watch: Watch = unwatched) -> Seen:
        made = embed_frames(self.encoder, frames, batch_size=self.params.embed.batch_size, watch=watch)
        return Seen(frames, made)

    def ask(
        self, seen: Seen, questions: Sequence[str], *, at_s: float | None = None, glimpses: int = GLIMPSES
    ) -> list[Answered]:
        """The answers, in the order of the questions.

        Args:
            at_s: questions may look at what came before this time; None: at the whole video.
            glimpses: that a model of glimpses gets; others ignore it.

        Raises ValueError for a question without words or with more than MAX_TEXT characters, and for a time that is
        not in the video.
        """
        for question in questions:
            check_question(question)
        if at_s is not None and not 0 < at_s <= seen.frames.duration_s:
            raise ValueError(
                f"{at_s:g} s is not in the video, which lasts {seen.frames.duration_s:g} s; expected more than 0"
            )
        if not 1 <= glimpses <= 1000:
            raise ValueError(f"{glimpses} glimpses; expected 1 to 1000")
        if seen.embeddings.shape[1] != self.reader.config.embedding_width:
            raise ValueError(
                f"the encoder makes {seen.embeddings.shape[1]} numbers of a frame, the answerer was trained on "
                f"{self.reader.config.embedding_width}: train it again with make questions"
            )
        fps = self.sampling.fps
        asked_of = [
            Question(str(number), "video", " ".join(text.split()), end_s=at_s) for number, text in enumerate(questions)
        ]
        texts = read_texts(
            [text for one in asked_of for text in asked(one)], self.language_model, self.tokenizer, self.text_tower
        )
        video = VideoEmbeddings(np.arange(len(seen.embeddings)) / fps, seen.embeddings)
        rows = answer(
            self.reader,
            self.watching,
            make_examples(asked_of, {"video": video}, texts, self.answers),
            self.answers,
            counts=[glimpses if self.watching.way == "sparse" else 1],
            grid="ends",
            batch_size=1,
            encoder_gflop=0.0,
            speaker=self.speaker,
        )
        damage = (f"not the whole video: {seen.frames.damage}",) if seen.frames.damage else ()
        found = {row.question_id: row for row in rows}
        return [
            _answered(found[one.question_id], one.question, fps, (*damage, *_cut(one.question, texts[one.question])))
            for one in asked_of
        ]


def check_question(question: str) -> None:
    """Raises ValueError for one that no answerer takes."""
    if len(question) > MAX_TEXT:
        raise ValueError(f"the question has {len(question):,} characters; expected {MAX_TEXT:,} at most")
    if not question.strip():
        raise ValueError("the question is empty; expected some words")


def _own(folder: Path, name: str, else_in: Path) -> Path:
    return folder / name if (folder / name).exists() else else_in / name


def _cut(question: str, text: Text) -> tuple[str, ...]:
    """A warning, if not all words were read."""
    words, read = len(words_of(question)), len(text.words)
    return (f"only the first {read} of the question's {words} words are read",) if read < words else ()


def _answered(row: Answer, question: str, fps: float, warnings: tuple[str, ...]) -> Answered:
    assert row.prediction is not None and row.log_prob is not None
    first = tuple((text, math.exp(one)) for text, one in zip(row.first, row.first_log_probs, strict=True))
    shares: dict[int, float] = {}
    for time_s, share in zip(row.frames_s, row.attention, strict=True):  # glimpses may have a frame in common
        frame = round(time_s * fps)
        shares[frame] = shares.get(frame, 0.0) + share
    moments = []
    for near in neighbours(sorted(shares)):
        most = max(near, key=lambda frame: shares[frame])
        moments.append(Moment(near[0] / fps, near[-1] / fps, most, sum(shares[frame] for frame in near)))
    moments = sorted((one for one in moments if one.share >= MIN_SHARE), key=lambda one: -one.share)[:MAX_MOMENTS]
    return Answered(
        question,
        row.prediction,
        math.exp(row.log_prob),
        first,
        tuple(sorted(moments, key=lambda one: one.frame)),
        row.frames,
        warnings,
    )
