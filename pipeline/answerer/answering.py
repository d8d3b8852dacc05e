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

from pipeline.answerer.examples import Batch, Example, Target, collate, plan_batches
from pipeline.answerer.glimpses import Grid
from pipeline.answerer.reader import Reader, flops
from pipeline.answerer.watching import Seen, Watching, fused, sampler, watch

FIRST = 5  # answers that are kept of each question
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
) -> Iterator[Answer]:
    """Every question, with each number of glimpses: a video's frames are read once for all of them.

    Args:
        answers: the closed list, by label.
        encoder_gflop: of one frame. A memory encodes every frame once, for all questions about the video; glimpses are
            encoded for each question, as they are others for each.
    """
    reader.eval()
    for numbers in plan_batches(examples, batch_size, None):
        some = [examples[number] for number in numbers]
        batch = collate(some)
        for n in counts:
            began = time.perf_counter()
            seen = watch(reader, batch, watching, sampler(watching, n, grid))
            questions = batch.lengths.shape[1]
            of_list = fused(reader.list_head(seen.features), questions, watching).log_softmax(-1)
            of_option = fused(reader.option_head(seen.features), questions, watching)[..., 0]
            counted = fused(reader.count_head(seen.features), questions, watching)[..., 0]
            seconds = (time.perf_counter() - began) / sum(len(one.targets) for one in some)
            for v, example in enumerate(some):
                q = 0
                for target in example.targets:
                    options = target.question.options
                    if options is None:
                        named, scores = answers, of_list[v, q]
                    else:
                        named, scores = options, of_option[v, q : q + len(options)].log_softmax(-1)
                    best = scores.topk(min(FIRST, len(named)))
                    number = float(counted[v, q]) if target.question.task == "count" else None
                    first = tuple(named[label] for label in best.indices.tolist())
                    cost = encoder_gflop * _encoded(example, target, watching, n) + _flops(
                        reader, batch, v, q, watching, n, example
                    )
                    yield _row(target, seen, v, q, n, first, tuple(best.values.tolist()), number, seconds, cost)
                    q += len(target.texts)


def _row(
    target: Target,
    seen: Seen,
    v: int,
    q: int,
    n: int,
    first: tuple[str, ...],
    log_probs: tuple[float, ...],
    number: float | None,
    seconds: float,
    gflop: float,
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
        seconds,
        gflop,
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


def _encoded(example: Example, target: Target, watching: Watching, n: int) -> float:
    """Frames that go through the encoder for a question."""
    match watching.way:
        case "blind":
            return 0.0
        case "frame":
            return 1.0
        case "sparse":
            return float(n * watching.frames)
        case _:
            return max(one.frames for one in example.targets) / len(example.targets)


def _flops(reader: Reader, batch: Batch, v: int, q: int, watching: Watching, n: int, example: Example) -> float:
    """GFLOP of the reader."""
    words = int(batch.there[v, q].sum())
    match watching.way:
        case "blind":
            rows, frames, stored = 1, 0, 0.0
        case "frame":
            rows, frames, stored = 1, 1, 1.0
        case "sparse" if watching.alone:
            rows, frames, stored = n, watching.frames, float(watching.frames)
        case "sparse":
            rows, frames, stored = 1, n * watching.frames, float(n * watching.frames)
        case _:
            rows, frames = 1, int(batch.lengths[v, q])
            stored = frames / len(example.targets)
    return rows * flops(reader.config, words, frames, stored) / 1e9
