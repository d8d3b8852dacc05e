"""Ask trained models the same questions of videos that have been made long.

Frames of other videos of the split are put in just before the last segment, at whose end a question is asked: so they
lie between the evidence and the end, and the age of the evidence is what is put in and what was between them before.
Of every kind of questions as many are drawn, the same for every length and model. What they mean stays true:

    earlier, order, where, before   the others never show the thing that is asked about, in none of its colours
    count                           they show an empty stage: frames in which nothing is seen, by the ground truth
    now                             they may show anything: it is asked what rests at the end

Questions of which all evidence lies in the last segment would not need anything before it and are left out, but for
`now`; `before` needs what was never seen as well as what was.

Reads studies/questions/params.yaml, data/questions/, data/videos/ (annotations and embeddings), models/decoder/,
models/encoder/ and studies/questions/models/. Writes studies/questions/long/answers.parquet.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.answerer.answering import SCHEMA, answer
from pipeline.answerer.examples import make_examples, read_texts, word_looks
from pipeline.answerer.training import load_reader
from pipeline.dataset.questions.question import Question, from_table
from pipeline.dataset.segments import frames_of_segment
from pipeline.dataset.shapes.looks import Truth, read_scenes, stage_set_s
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.lengthening import drawn, put_into
from pipeline.files.aside import aside
from stages import run
from studies.questions.answer import encoder_gflop, read_own_language_model
from studies.questions.lengthening import NEEDS_EMPTY, Others, Piece, later, never_shown
from studies.questions.settings import (
    ENCODER,
    LONG,
    MODELS,
    QUESTIONS,
    SCENES,
    load_study,
)
from studies.questions.videos import read_videos, rows_there

KINDS = ("now", "earlier", "order", "before", "count", "where")
ABOUT_THE_END = ("now", "before")  # asked of what is seen last, whatever was before it
LONG_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("seed", pa.int32()),
        ("minutes", pa.int32()),
        *((field.name, field.type) for field in SCHEMA),
    ]
)


@dataclass(frozen=True)
class Asked:
    """A question, and what may be put into its video."""

    question: Question
    cut_s: float  # before which: when what the last segment shows begins to appear
    pieces: Sequence[Piece]  # of other videos


def main() -> None:
    study = load_study()
    torch.set_num_threads(1)  # seconds are those of one thread
    rows = []
    if study.long.models:
        scenes = {id: truth for id, truth in read_scenes(SCENES).items() if truth["split"] == study.answer.split}
        videos = read_videos(scenes.keys() & rows_there().keys())
        questions = [one for one in from_table(pq.read_table(QUESTIONS)) if one.split == study.answer.split]
        asked = chosen(questions, scenes, videos, study.long.per_kind, study.long.seed)
        reads = read_own_language_model(study, study.long.models[0])
        texts = read_texts([one.question.question for one in asked], *reads, word_looks(ENCODER, "cpu"))
        gflop = encoder_gflop(ENCODER)
        readers = {
            (name, seed): load_reader(MODELS / name / f"seed-{seed}")
            for name in study.long.models
            for seed in study.seeds
        }
        for minutes in study.long.minutes:
            for one in asked:
                question, video = lengthened(one, videos[one.question.video_id], 60 * minutes, study.long.seed)
                for (name, seed), (reader, watching, answers) in readers.items():
                    [example] = make_examples([question], {question.video_id: video}, texts, answers)
                    counts = study.long.glimpses if watching.way == "sparse" else [1]
                    for row in answer(
                        reader,
                        watching,
                        [example],
                        answers,
                        counts=counts,
                        grid=study.learn.grid,
                        batch_size=1,
                        encoder_gflop=gflop,
                    ):
                        rows.append({"model": name, "seed": seed, "minutes": minutes} | asdict(row))
            print(f"long: {len(asked)} questions with {minutes} minutes put in, by {len(readers)} models", flush=True)
    LONG.parent.mkdir(parents=True, exist_ok=True)
    with aside(LONG) as written:
        pq.write_table(pa.Table.from_pylist(rows, schema=LONG_SCHEMA), written)
    print(f"long: {len(rows)} answers, see {LONG}")


def chosen(
    questions: Sequence[Question],
    scenes: Mapping[str, Truth],
    videos: Mapping[str, VideoEmbeddings],
    per_kind: int,
    seed: int,
) -> list[Asked]:
    """So many of each kind, in an order that the seed draws; fewer where there are fewer."""
    there = Others(videos, scenes)
    order = sorted(questions, key=lambda one: one.question_id)
    random.Random(f"long {seed}").shuffle(order)
    found: defaultdict[str, list[Asked]] = defaultdict(list)
    for question in order:
        kind, truth = question.kind, scenes.get(question.video_id)
        if kind not in KINDS or truth is None or question.video_id not in videos or len(found[kind]) == per_kind:
            continue
        assert question.end_s is not None  # a segment's
        cut_s = stage_set_s(truth, next(one for one in truth["segments"] if one["end_s"] == question.end_s))
        if kind not in ABOUT_THE_END and min(from_s for from_s, _ in question.evidence or ()) >= cut_s:
            continue
        others = sorted(videos.keys() - {question.video_id})
        if kind == NEEDS_EMPTY:
            pieces = there.empty_stages(others)
        else:
            pieces = [there.shown[other] for other in there.without(never_shown(question, truth), others)]
        if pieces:
            found[kind].append(Asked(question, cut_s, pieces))
    return [one for kind in KINDS for one in found[kind]]


def lengthened(asked: Asked, video: VideoEmbeddings, seconds: int, seed: int) -> tuple[Question, VideoEmbeddings]:
    """The question and its video with so many seconds of others put in. With none, both as they are."""
    question, times = asked.question, video.timestamps[:]
    at = frames_of_segment(asked.cut_s, times[-1] + 1.0, times.tolist()).start
    step = float(times[1] - times[0])
    frames = round(seconds / step)
    parts = drawn(asked.pieces, frames, random.Random(f"long {seed} {question.question_id} {seconds}"))
    return later(question, asked.cut_s, frames * step), put_into(video, at, parts)


if __name__ == "__main__":
    run(kept=None)
