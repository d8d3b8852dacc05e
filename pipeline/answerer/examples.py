"""Videos with all questions about them, as padded batches: a video's frames are read once for all its questions.

V videos   Q questions of a video   L words   T frames   E embedding width   S states of the language model
"""

import random
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.answerer.reader import BUCKETS, MAX_WORDS
from pipeline.dataset.questions.question import Question
from pipeline.dataset.segments import frames_of_segment
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.encoder import embedding_width
from pipeline.features.lengthening import PutIn
from pipeline.features.text_tower import NoTextTower, embed_texts

MAX_TOKENS = 512  # of a question, where a language model does not say how many it reads
Look = Callable[[Sequence[str]], NDArray[np.float32]]  # words -> what they look like [words, E], of length 1
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Text:
    """What a language model makes of a question, or of a question with an option."""

    words: Tensor  # [L] int64, each word's bucket
    states: Tensor  # [L, S] float32
    looks: Tensor  # [L, E] float32, what the encoder's text tower makes of each word alone; zeros if it has none


@dataclass(frozen=True)
class Target:
    """A question, and what a model is to say. frames: how many of the example's may be seen."""

    question: Question
    texts: tuple[Text, ...]  # one; of multiple choice one for each option
    frames: int
    scores: Tensor  # [K] of the answers in the list, or [options]
    number: float  # of a count; else nan


@dataclass(frozen=True)
class Example:
    video_id: str
    video: VideoEmbeddings
    first: int  # number in the video of the first frame that may be seen
    targets: tuple[Target, ...]
    put_in: PutIn | None = None  # frames of others that make it longer
    epoch: int | None = None  # of training in which alone it is used; None: in every one

    @property
    def seen(self) -> slice:
        """The frames that one of the targets may see."""
        return slice(self.first, self.first + max(target.frames for target in self.targets))

    @property
    def longest_s(self) -> float:
        """From the first of them to the last."""
        times = self._times()
        return float(times[-1] - times[0])

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Embeddings [T, E] and times [T] in seconds of the frames that one of the targets may see."""
        rows = self.put_in.rows(self.video.embeddings[:]) if self.put_in else self.video.embeddings
        return np.asarray(rows[self.seen], np.float32), self._times()

    def _times(self) -> NDArray[np.float64]:
        times = self.put_in.times(self.video.timestamps[:]) if self.put_in else self.video.timestamps
        return np.asarray(times[self.seen])


@dataclass(frozen=True)
class Batch:
    embeddings: Tensor  # [V, T, E] float32, zeros behind a video's end
    time_s: Tensor  # [V, T]
    words: Tensor  # [V, Q, L]: Q texts, in the order of the targets and their options
    states: Tensor  # [V, Q, L, S]
    looks: Tensor  # [V, Q, L, E]
    there: Tensor  # [V, Q, L] bool
    until_s: Tensor  # [V, Q]
    lengths: Tensor  # [V, Q] int64, frames that may be seen; 0: no question
    evidence_s: Tensor  # [V, Q, I, 2], from and to of `to_find`; what is padded begins after it ends
    targets: tuple[tuple[Target, ...], ...]
    videos: tuple[tuple[str, int], ...]  # of each its id, and the number in it of its first frame here

    def to(self, device: torch.device) -> "Batch":
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.type is Tensor}
        return replace(self, **moved)


@torch.no_grad()
def read_texts(
    texts: Iterable[str], model: Any, tokenizer: Any, look: Look | None, *, batch_size: int = 64
) -> dict[str, Text]:
    """Each different text through a language model (causal or masked) once: of every word the mean of its tokens'
    embeddings and of their last states.

    A causal one reads from left to right, so a batch is padded on the right and pads change nothing; a masked one is
    told where they are, and gets the marks of a text's begin and end that it knows ([CLS] and [SEP]).

    Args:
        look: as `word_looks`'; None: a word looks like its states, as words that it is compared with do.
    """
    different = sorted(set(texts), key=lambda text: (len(text), text))
    vocabulary = sorted({word for text in different for word in words_of(text)[:MAX_WORDS]})
    looks = dict(zip(vocabulary, torch.from_numpy(look(vocabulary)), strict=True)) if look and vocabulary else {}
    found = {}
    begin, end = ([id] if id is not None else [] for id in (tokenizer.cls_token_id, tokenizer.sep_token_id))
    most = min(getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS, MAX_TOKENS) - len(begin + end)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    for start in range(0, len(different), batch_size):
        some = different[start : start + batch_size]
        words = [words_of(text)[:MAX_WORDS] for text in some]
        pieces = [tokenizer([f" {word}" for word in of], add_special_tokens=False)["input_ids"] for of in words]
        # A masked model's tokenizer drops some characters: a word of these alone is one that it does not know.
        pieces = [_within([piece or [tokenizer.unk_token_id] for piece in own], most) for own in pieces]
        ids = [[*begin, *(id for piece in of for id in piece), *end] for of in pieces]
        longest = max(map(len, ids))
        rows = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        out = model(input_ids=rows, attention_mask=mask, output_hidden_states=True)
        both = torch.cat([model.get_input_embeddings()(rows), out.hidden_states[-1]], dim=-1).float()
        for text, of, own, states in zip(some, words, pieces, both, strict=True):
            ends = (len(begin) + np.cumsum([len(piece) for piece in own])).tolist()
            means = torch.stack([states[end - len(piece) : end].mean(0) for piece, end in zip(own, ends, strict=True)])
            read = of[: len(own)]
            buckets = torch.tensor([zlib.crc32(word.encode()) % BUCKETS for word in read])
            seen = torch.stack([looks[word] for word in read]) if look else F.normalize(means, dim=-1)
            found[text] = Text(buckets, means, seen)
    return found


def text_width(model: Any) -> int:
    """S, of what `read_texts` makes with a language model."""
    return int(model.get_input_embeddings().weight.shape[1] + model.config.hidden_size)


def word_looks(encoder: Path, device: str) -> Look:
    """What an encoder's text tower makes of words, each alone; zeros, which find nothing, if it cannot read.

    The tower is loaded for words that it has not read before.
    """
    folder, known = encoder.resolve(), dict[str, NDArray[np.float32]]()

    def look(words: Sequence[str]) -> NDArray[np.float32]:
        if new := sorted(set(words) - known.keys()):
            try:
                read = embed_texts(folder, new, device)
            except NoTextTower:
                read = np.zeros((len(new), embedding_width(folder)), np.float32)
            known.update(zip(new, read, strict=True))
        return np.stack([known[word] for word in words])

    return look


def _within(pieces: list[list[int]], most: int) -> list[list[int]]:
    """The first words of a text whose tokens the language model has places for; of a first one that is longer, a part.

    A word can have thousands of tokens: an address, or a line of one letter.
    """
    found: list[list[int]] = [pieces[0][:most]]
    for piece in pieces[1:]:
        most -= len(found[-1])
        if len(piece) > most:
            break
        found.append(piece)
    return found


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower()) or ["?"]


def make_examples(
    questions: Sequence[Question],
    videos: Mapping[str, VideoEmbeddings],
    texts: Mapping[str, Text],
    answers: Sequence[str],
) -> list[Example]:
    """One example a video that has frames, with its questions: one for each time at which what they may see begins.

    Args:
        texts: of `asked` of every question.
        answers: the closed list.
    """
    label = {answer: number for number, answer in enumerate(answers)}
    times = {video_id: video.timestamps[:].tolist() for video_id, video in videos.items()}
    own: defaultdict[tuple[str, int], list[tuple[Question, int]]] = defaultdict(list)
    for question in questions:
        if question.video_id in videos:
            end_s = np.inf if question.end_s is None else question.end_s
            seen = frames_of_segment(question.start_s, end_s, times[question.video_id])
            own[question.video_id, seen.start].append((question, len(seen)))
    examples = []
    for (video_id, first), asked_of in own.items():
        targets = []
        for question, frames in asked_of:
            targets.append(
                Target(
                    question,
                    tuple(texts[text] for text in asked(question)),
                    frames,
                    _scores(question, label),
                    float(question.answer) if question.task == "count" and question.answers else float("nan"),
                )
            )
        examples.append(Example(video_id, videos[video_id], first, tuple(targets)))
    return examples


def to_find(question: Question) -> tuple[tuple[float, float], ...]:
    """The intervals that a word of the question may look for: of a count none, whose words name no single thing."""
    return (question.evidence or ()) if question.task != "count" else ()


def asked(question: Question) -> list[str]:
    """What is read: of multiple choice the question with each option, any number of them."""
    if question.options is None:
        return [question.question]
    return [f"{question.question} {option}" for option in question.options]


def _scores(question: Question, label: Mapping[str, int]) -> Tensor:
    if question.options is not None:
        return torch.tensor([float(number == question.right_option) for number in range(len(question.options))])
    scores = torch.zeros(len(label))
    for answer, score in zip(question.answers, question.scores, strict=True):
        if answer in label:
            scores[label[answer]] = score
    return scores


def collate(examples: list[Example]) -> Batch:
    """A batch of the examples, whose frames are read now; an empty batch for no examples."""
    if not examples:
        none = torch.zeros(0)
        return Batch(none, none, none, none, none, none, none, none, none, (), ())
    embeddings, times = zip(*(example.read() for example in examples), strict=True)
    rows = [[(target, text) for target in e.targets for text in target.texts] for e in examples]
    videos, frames = len(examples), max(map(len, embeddings))
    most, longest = max(map(len, rows)), max(len(text.words) for row in rows for _, text in row)
    width = rows[0][0][1].states.shape[-1]
    intervals = max(len(to_find(target.question)) for e in examples for target in e.targets)
    batch = Batch(
        torch.zeros(videos, frames, embeddings[0].shape[1]),
        torch.zeros(videos, frames),
        torch.zeros(videos, most, longest, dtype=torch.int64),
        torch.zeros(videos, most, longest, width),
        torch.zeros(videos, most, longest, embeddings[0].shape[1]),
        torch.zeros(videos, most, longest, dtype=torch.bool),
        torch.zeros(videos, most),
        torch.zeros(videos, most, dtype=torch.int64),
        torch.tensor([1.0, 0.0]).repeat(videos, most, intervals, 1),
        tuple(e.targets for e in examples),
        tuple((e.video_id, e.first) for e in examples),
    )
    for v, (own, time_s) in enumerate(zip(embeddings, times, strict=True)):
        batch.embeddings[v, : len(own)] = torch.from_numpy(own)
        batch.time_s[v, : len(own)] = torch.tensor(time_s)
        for q, (target, text) in enumerate(rows[v]):
            count = len(text.words)
            batch.words[v, q, :count], batch.states[v, q, :count] = text.words, text.states
            batch.looks[v, q, :count] = text.looks
            batch.there[v, q, :count] = True
            batch.lengths[v, q] = target.frames
            batch.until_s[v, q] = float(time_s[target.frames - 1])
            for number, interval in enumerate(to_find(target.question)):
                batch.evidence_s[v, q, number] = torch.tensor(interval)
        batch.there[v, len(rows[v]) :, 0] = True  # a row of nothing would divide by nothing
    return batch


def placed(targets: Iterable[Target]) -> Iterator[tuple[int, Target]]:
    """With the place q of a target's first text among those of its video."""
    q = 0
    for target in targets:
        yield q, target
        q += len(target.texts)


def plan_batches(examples: Sequence[Example], batch_size: int, seed: Sequence[int] | None) -> list[list[int]]:
    """Numbers of examples by batch; videos of about one length together, in an order drawn by the seed.

    Args:
        seed: the last of it is the epoch; None: batches that do not train.
    """
    rng = random.Random(str(seed))
    epochs = (None, seed[-1] if seed else None)
    order = [number for number, example in enumerate(examples) if example.epoch in epochs]
    rng.shuffle(order)
    length = {number: max(target.frames for target in examples[number].targets) for number in order}
    some = 8 * batch_size  # sorted among as many: so that batches differ from epoch to epoch
    chunks = [sorted(order[at : at + some], key=lambda number: length[number]) for at in range(0, len(order), some)]
    batches = [chunk[at : at + batch_size] for chunk in chunks for at in range(0, len(chunk), batch_size)]
    if seed is not None:
        rng.shuffle(batches)
    return batches
