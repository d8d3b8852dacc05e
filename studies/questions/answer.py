"""Answer the questions with one of the study's models.

    python -m studies.questions.answer sparse
    python -m studies.questions.answer sparse --glimpses 16      # only with so many, whatever params.yaml says

Reads studies/questions/params.yaml, data/questions/, data/*/embeddings/ (of a model of captions also
studies/questions/captions/; of a trained encoder also data/*/frames/), models/decoder/, models/encoder/ and
studies/questions/models/MODEL/. Writes to studies/questions/out/MODEL/seed-N/: answers.parquet; results.jsonl as
ClipBERT's are; and where questions have VQA's votes vqa.json, as VQA's server takes them.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.answerer.answering import SCHEMA, Answer, answer
from pipeline.answerer.training import LANGUAGE_MODEL, load_reader, load_speaker
from pipeline.dataset.questions.question import Question, from_table
from pipeline.dataset.segments import frames_of_segment
from pipeline.features.encoder import load_encoder
from pipeline.files.aside import aside, write_text
from pipeline.language.decoder import load_decoder
from pipeline.language.text_reader import load_text_reader
from pipeline.process.command import guarded, parser
from pipeline.scoring.answer_files import read_answer_list
from studies.questions.learn import read_encoder, read_examples
from studies.questions.settings import (
    ANSWER_LIST,
    CAPTION_COST,
    DECODER,
    ENCODER,
    MODELS,
    OUT,
    QUESTIONS,
    TRAINED_ENCODER,
    Study,
    load_study,
)
from studies.questions.videos import read_videos, timed_captions

MODULE = "studies.questions.answer"


def main(model: str, glimpses: int | None = None) -> None:
    study = load_study()
    counts = [glimpses] if glimpses and study.model(model).way == "sparse" else study.counts(model)
    main_count = glimpses or study.main_count(model)
    questions = [one for one in from_table(pq.read_table(QUESTIONS)) if one.split == study.answer.split]
    captions = study.model(model).way == "captions"
    split = study.answer.split
    reads = read_own_language_model(study, model)
    examples = read_examples([split], read_answer_list(ANSWER_LIST), reads, captions=captions)[split]
    gflop = 0.0 if captions else encoder_gflop(ENCODER)
    of_captions = captioning_gflop(questions) if captions else {}
    for seed in study.seeds:
        folder = MODELS / model / f"seed-{seed}"
        reader, watching, answers = load_reader(folder)
        trained = study.model(model).encoder == "trained"
        encoder = read_encoder(folder / TRAINED_ENCODER) if trained else None
        rows = list(
            answer(
                reader,
                watching,
                examples,
                answers,
                counts=counts,
                grid=study.learn.grid,
                batch_size=study.answer.batch_size,
                encoder_gflop=gflop,
                speaker=load_speaker(folder, DECODER, reader, watching),
                encoder=encoder,
            )
        )
        rows = with_captioning(rows, of_captions) if captions else rows
        rows += unanswered(questions, rows, counts)
        out = OUT / model / f"seed-{seed}"
        write_answers(out, rows, questions, main_count if main_count in counts else counts[-1])
        print(f"answer {model}, seed {seed}: {len(rows)} answers to {len(questions)} questions, see {out}", flush=True)


def read_own_language_model(study: Study, model: str) -> tuple[Any, Any]:
    """The one that read questions in the model's training: the same for every seed."""
    if study.learn.language_model is None:
        return load_decoder(DECODER)
    return load_text_reader(MODELS / model / f"seed-{study.seeds[0]}" / LANGUAGE_MODEL)


def captioning_gflop(questions: Sequence[Question]) -> dict[str, float]:
    """Of each video what captions cost, once for all questions about it: of all so far every frame is encoded and every
    segment captioned.
    """
    of_caption, of_frame = json.loads(CAPTION_COST.read_text())["gflop"], encoder_gflop(ENCODER)
    until_s: dict[str, float] = {}
    for one in questions:
        until_s[one.video_id] = max(until_s.get(one.video_id, 0.0), math.inf if one.end_s is None else one.end_s)
    captions, videos = timed_captions(until_s), read_videos(until_s)
    found = {}
    for video_id, end_s in until_s.items():
        frames = frames_of_segment(0.0, end_s, videos[video_id].timestamps[:].tolist())
        captioned = sum(one.end_s <= end_s for one in captions[video_id])
        found[video_id] = of_caption * captioned + of_frame * len(frames)
    return found


def with_captioning(rows: Sequence[Answer], gflop: Mapping[str, float]) -> list[Answer]:
    """With each question's part of `captioning_gflop`."""
    asked = Counter(row.video_id for row in rows)
    parts = [gflop[row.video_id] / asked[row.video_id] for row in rows]
    return [
        replace(row, gflop=row.gflop + part, once_gflop=row.once_gflop + part)
        for row, part in zip(rows, parts, strict=True)
    ]


def unanswered(questions: Sequence[Question], rows: Sequence[Answer], counts: Sequence[int]) -> list[Answer]:
    """Those about videos without frames: rows with an error, never left out."""
    done = {row.question_id for row in rows}
    return [
        Answer(one.question_id, one.video_id, n, None, None, (), (), None, 0, (), (), None, None, 0.0, 0.0, "no frames")
        for one in questions
        if one.question_id not in done
        for n in counts
    ]


def write_answers(out: Path, rows: Sequence[Answer], questions: Sequence[Question], count: int) -> None:
    """Of `count` glimpses also as others have results."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    out.mkdir(parents=True, exist_ok=True)
    with aside(out / "answers.parquet") as written:
        pq.write_table(table, written)
    by_id = {one.question_id: one for one in questions}
    chosen = [row for row in rows if row.glimpses == count]
    lines = [
        json.dumps(
            {
                "question_id": row.question_id,
                "answer": row.prediction,
                "data": {
                    "vid_id": row.video_id,
                    "question": by_id[row.question_id].question,
                    "answer": by_id[row.question_id].answers[0] if by_id[row.question_id].answers else None,
                    "answer_type": by_id[row.question_id].answer_type,
                },
            }
        )
        for row in chosen
    ]
    write_text(out / "results.jsonl", "".join(f"{line}\n" for line in lines))
    voted = [row for row in chosen if by_id[row.question_id].votes is not None]
    if voted:
        submission = [{"question_id": _number(row.question_id), "answer": row.prediction or ""} for row in voted]
        write_text(out / "vqa.json", json.dumps(submission) + "\n")


def _number(id: str) -> int | str:
    """VQA's ids are numbers; `ask` may have put a split before them."""
    last = id.rsplit("_", 1)[-1]
    return int(last) if last.isdecimal() else id


def encoder_gflop(folder: Path) -> float:
    """Of one frame."""
    encoder = load_encoder(folder, device=torch.device("cpu"), dtype=torch.float32)
    side = encoder.preprocess.side
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        encoder.visual(torch.zeros(1, 3, side, side))
    return counted.get_total_flops() / 1e9


if __name__ == "__main__":
    typed = parser(MODULE, __doc__)
    typed.add_argument("model")
    typed.add_argument("--glimpses", type=int, metavar="N", help="a number of glimpses, of 1 to 1000")
    options = typed.parse_args()
    if options.glimpses is not None and not 1 <= options.glimpses <= 1000:
        sys.exit(f"answer: --glimpses {options.glimpses}; expected 1 to 1000")
    with guarded(f"answer {options.model}", kept=None):
        import_module(MODULE).main(options.model, options.glimpses)
