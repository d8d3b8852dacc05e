"""The answers of a trained reader, with where it looked and what that cost.

V videos   Q questions   K answers in the list   T' frames that a question could look at
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.answerer.examples import Batch, Example, Target, collate, placed, plan_batches
from pipeline.answerer.glimpses import Grid
from pipeline.answerer.reader import Reader, asking_flops, storing_flops
from pipeline.answerer.saying import Answers, Speaker
from pipeline.answerer.seeing import TrainedEncoder
from pipeline.answerer.watching import Seen, Watching, fused, remember, sampler, watch

FIRST = 5  # answers that are kept of each question; and beams, where they are said
MOMENTS = 32  # frames that are kept of each question, those with the most attention

SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("video_id", pa.string()),
        ("glimpses", pa.int32()),
        ("prediction", pa.string()),  # null: see error
        ("log_prob", pa.float64()),
        ("first", pa.list_(pa.string())),  # the likeliest answers, the best first
        ("first_log_probs", pa.list_(pa.float64())),
        ("number", pa.float64()),  # of a count, by regression; else null
        ("frames", pa.int32()),  # that could be looked at
        ("frames_s", pa.list_(pa.float64())),  # when they were, those with the most attention
        ("attention", pa.list_(pa.float64())),  # and the part of it that each got
        (
            "evidence_attention",
            pa.float64(),
        ),  # share of it that the evidence got; null: no evidence
        ("evidence_time", pa.float64()),  # share that it takes of the time that may be seen
        ("seconds", pa.float64()),  # of computing, the batch's divided by its questions
        ("gflop", pa.float64()),  # with the encoder, on the frames looked at
        ("once_seconds", pa.float64()),  # part of seconds: what a memory does once for all of a video's questions
        ("once_gflop", pa.float64()),  # the same of gflop
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Answer:
    """A row of SCHEMA."""

    question_id: str
    video_id: str
    glimpses: int
    prediction: str | None
    log_prob: float | None
    first: tuple[str, ...]
    first_log_probs: tuple[float, ...]
    number: float | None
    frames: int
    frames_s: tuple[float, ...]
    attention: tuple[float, ...]
    evidence_attention: float | None
    evidence_time: float | None
    seconds: float
    gflop: float
    error: str | None = None
    once_seconds: float = 0.0
    once_gflop: float = 0.0


@torch.no_grad()
def answer(
    reader: Reader,
    watching: Watching,
    examples: Sequence[Example],
    answers: Sequence[str],
    *,
    counts: Sequence[int],
    grid: Grid,
    batch_size: int,
    encoder_gflop: float,
    speaker: Speaker | None = None,
    encoder: TrainedEncoder | None = None,
) -> Iterator[Answer]:
    """Every question, with each number of glimpses: a video's frames are read once for all of them.

    Args:
        answers: the closed list, by label.
        encoder_gflop: of one frame. A memory encodes every frame once, for all questions about the video; glimpses are
            encoded for each question, as they are others for each.
        speaker: says the answers to questions without options, where the reader has an open head.
        encoder: that was trained with the reader; its seconds count then.
    """
    reader.eval()
    for numbers in plan_batches(examples, batch_size, None):
        some = [examples[number] for number in numbers]
        batch = collate(some)
        for n in counts:
            began = time.perf_counter()
            remembered = remember(reader, batch, watching) if watching.way == "memory" else None
            once_seconds = (time.perf_counter() - began) if remembered else 0.0
            seen = watch(reader, batch, watching, sampler(watching, n, grid), remembered, encoder)
            questions = batch.lengths.shape[1]
            said = say(reader, speaker, seen.features, batch) if speaker else {}
            of_list = None if speaker else fused(reader.list_head(seen.features), questions, watching).log_softmax(-1)
            of_option = fused(reader.option_head(seen.features), questions, watching)[..., 0]
            counted = fused(reader.count_head(seen.features), questions, watching)[..., 0]
            asked = sum(len(one.targets) for one in some)
            seconds, once_seconds = (time.perf_counter() - began) / asked, once_seconds / asked
            for v, example in enumerate(some):
                for q, target in placed(example.targets):
                    options = target.question.options
                    if options is not None:
                        best = likeliest(options, of_option[v, q : q + len(options)].log_softmax(-1))
                    elif of_list is not None:
                        best = likeliest(answers, of_list[v, q])
                    else:
                        best = said[v, q]
                    number = float(counted[v, q]) if target.question.task == "count" else None
                    first, log_probs = zip(*best, strict=True)
                    cost, once = _cost(reader, batch, seen, v, q, watching, n, encoder_gflop, len(example.targets))
                    if speaker and options is None:
                        cost += speaker.gflop(target.question.question, first[0], rows=watching.rows(n), beams=FIRST)
                    yield _row(target, seen, v, q, n, first, log_probs, number, (seconds, once_seconds), (cost, once))


def likeliest(named: Sequence[str], log_probs: Tensor) -> Answers:
    best = log_probs.topk(min(FIRST, len(named)))
    return [(named[label], value) for label, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def say(reader: Reader, speaker: Speaker, features: Tensor, batch: Batch) -> dict[tuple[int, int], Answers]:
    """The likeliest answers to each question without options, by its place [v, q]."""
    asked = {
        (v, q): target.question.question
        for v, targets in enumerate(batch.targets)
        for q, target in placed(targets)
        if target.question.options is None
    }
    if not asked:
        return {}
    prefixes = reader.prefixes(features, batch.lengths.shape[1], list(asked))
    return dict(zip(asked, speaker.answers(prefixes, list(asked.values()), beams=FIRST), strict=True))


def _row(
    target: Target,
    seen: Seen,
    v: int,
    q: int,
    n: int,
    first: tuple[str, ...],
    log_probs: tuple[float, ...],
    number: float | None,
    seconds: tuple[float, float],  # all, and of these those spent once for a video
    gflop: tuple[float, float],
) -> Answer:
    allowed = seen.allowed[v, q].numpy()
    time_s, attention = seen.time_s[v, q].double().numpy()[allowed], seen.attended[v, q].double().numpy()[allowed]
    most = np.sort(np.argsort(-attention, kind="stable")[:MOMENTS])
    inside, share = evidence_shares(target, time_s, attention)
    return Answer(
        target.question.question_id,
        target.question.video_id,
        n,
        first[0],
        log_probs[0],
        first,
        log_probs,
        number,
        len(time_s),
        tuple(time_s[most].tolist()),
        tuple(attention[most].tolist()),
        inside,
        share,
        seconds[0],
        gflop[0],
        once_seconds=seconds[1],
        once_gflop=gflop[1],
    )


def evidence_shares(
    target: Target, time_s: NDArray[np.float64], attention: NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """Of the attention to frames at these times [T'] what the evidence got; and its share of the time that may be seen.

    None without evidence, or where nothing was looked at.
    """
    question = target.question
    if question.evidence is None or question.end_s is None or not len(time_s) or not attention.sum() > 0:
        return None, None
    inside = np.zeros(len(time_s), dtype=bool)
    covered = 0.0
    until = question.start_s
    for from_s, to_s in sorted(question.evidence):
        inside |= (time_s >= from_s) & (time_s <= to_s)
        covered += max(0.0, min(to_s, question.end_s) - max(from_s, until))
        until = max(until, to_s)
    return float(attention[inside].sum() / attention.sum()), covered / (question.end_s - question.start_s)


def _cost(
    reader: Reader,
    batch: Batch,
    seen: Seen,
    v: int,
    q: int,
    watching: Watching,
    n: int,
    encoder_gflop: float,
    questions: int,
) -> tuple[float, float]:
    """GFLOP of a question, and of these its part of what a memory does once for all questions about the video."""
    words = int(batch.there[v, q].sum())
    if watching.way != "memory":
        # Rows of frames of their own, which are encoded and stored for this question.
        rows = watching.rows(n)
        frames = {"blind": 0, "frame": 1, "sparse": n * watching.frames}[watching.way] // rows
        own = (asking_flops(reader.config, words, frames) + storing_flops(reader.config, frames)) / 1e9
        return rows * (own + encoder_gflop * frames), 0.0
    encoded, stored = int(batch.lengths[v].max()), int(seen.allowed[v].any(0).sum())
    asking = asking_flops(reader.config, words, int(seen.allowed[v, q].sum()))
    storing = storing_flops(reader.config, stored)
    once = (encoder_gflop * encoded + storing / 1e9) / questions
    return asking / 1e9 + once, once
