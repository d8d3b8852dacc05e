"""The page as one file that needs no network: questions, each model's answer, the frames looked at, the evidence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.dataset.questions.question import Question
from pipeline.features import shards
from pipeline.files.aside import write_text
from pipeline.scoring.answers import read_answer, worth
from pipeline.serving.web import assemble, neighbours, thumbnail

MOMENTS = 4  # pictures of each answer: of the moments with the most attention
RIGHT = 0.5  # of a soft score: what is worth more counts as right


def write_questions_page(
    questions: Sequence[Question],
    answers: Mapping[str, pd.DataFrame],
    frames: Path,
    out: Path,
    *,
    fps: float,
    every: int = 1,
) -> str:
    """Write the page; returns a line on its content.

    Args:
        answers: by model, its rows of answers.parquet with one number of glimpses.
        frames: the folder of the videos' frames. Those that it lacks get no pictures.
        fps: of the frames that models look at: every n-th (`every`) of the stored ones.
    """
    content = gather(questions, answers, frames, fps=fps, every=every)
    write_text(out, assemble(Path(__file__).parent, "Questions, and where they were looked up", content))
    pictures = sum(len(thumbnails) for thumbnails in content["videos"].values())
    return (
        f"{len(content['questions'])} questions, {len(answers)} models, {pictures} pictures, "
        f"{out.stat().st_size / 1e6:.1f} MB"
    )


def gather(
    questions: Sequence[Question], answers: Mapping[str, pd.DataFrame], frames: Path, *, fps: float, every: int = 1
) -> dict[str, Any]:
    """Everything the page shows, as JSON values."""
    by_id = {name: {row.question_id: row for row in table.itertuples()} for name, table in answers.items()}
    rows: list[dict[str, Any]] = []
    wanted: dict[str, set[int]] = {}
    for question in sorted(questions, key=lambda one: (one.video_id, one.end_s or 0.0, one.question_id)):
        given = [_given(question, rows_of.get(question.question_id), fps) for rows_of in by_id.values()]
        wanted.setdefault(question.video_id, set()).update(m["frame"] for one in given for m in one["moments"])
        rows.append(
            {
                "id": question.question_id,
                "video": question.video_id,
                "kind": question.kind or question.answer_type,
                "question": question.question,
                "options": question.options,
                "answers": question.answers,
                "end": question.end_s,
                "evidence": question.evidence or [],
                "given": given,
            }
        )
    models = [
        {"name": name, "accuracy": 100 * sum(row["given"][i]["score"] for row in rows) / max(1, len(rows))}
        for i, name in enumerate(answers)
    ]
    return {"fps": fps, "models": models, "questions": rows, "videos": _thumbnails(frames, wanted, every)}


def _given(question: Question, row: Any, fps: float) -> dict[str, Any]:
    if row is None or pd.isna(row.prediction):
        why = "not asked" if row is None else ("no answer" if pd.isna(row.error) else row.error)
        return {"answer": None, "error": why, "score": 0.0, "right": False, "looked": [], "moments": []}
    score = worth(question, read_answer(question, row.prediction, None))
    shares: dict[int, float] = {}
    for time_s, share in zip(row.frames_s, row.attention, strict=True):
        frame = round(time_s * fps)
        shares[frame] = shares.get(frame, 0.0) + float(share)
    groups = sorted(neighbours(sorted(shares)), key=lambda near: -sum(shares[frame] for frame in near))[:MOMENTS]
    moments = [
        {"frame": max(near, key=lambda frame: shares[frame]), "share": round(sum(shares[frame] for frame in near), 4)}
        for near in groups
    ]
    return {
        "answer": row.prediction,
        "log_prob": round(float(row.log_prob), 3),
        "first": list(row.first),
        "score": score,
        "right": score > RIGHT,
        "frames": int(row.frames),
        "looked": [[round(frame / fps, 2), round(share, 4)] for frame, share in sorted(shares.items())],
        "moments": sorted(moments, key=lambda one: one["frame"]),
    }


def _thumbnails(frames: Path, wanted: Mapping[str, set[int]], every: int) -> dict[str, dict[int, str]]:
    """Small pictures by video and frame that models look at."""
    there = shards.index(frames).keys() if frames.is_dir() else set()
    found: dict[str, dict[int, str]] = {video_id: {} for video_id in wanted}
    ids = [video_id for video_id in sorted(wanted) if video_id in there and wanted[video_id]]
    for video_id, table in shards.iterate(frames, ids, ["frame_index", "jpeg"]):
        at = {index // every: i for i, index in enumerate(table["frame_index"].to_pylist()) if index % every == 0}
        for frame in sorted(wanted[video_id] & at.keys()):
            found[video_id][frame] = thumbnail(table["jpeg"][at[frame]].as_py())
    return found
