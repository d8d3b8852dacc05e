"""A question about a video, and the table of them, questions.parquet."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

Task = Literal["open", "choice", "count"]

SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),  # unique over all splits
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),  # [start_s, end_s) may be seen; null: to the video's end
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),  # all that are right, the best first
        ("scores", pa.list_(pa.float64())),  # what each of them is worth, 0 to 1
        ("options", pa.list_(pa.string())),  # of multiple choice, else null
        ("answer_type", pa.string()),
        ("kind", pa.string()),
        (
            "evidence",
            pa.list_(pa.list_(pa.float64())),
        ),  # [[from_s, to_s], ...] in which the answer can be seen, or null
        ("right_option", pa.int64()),  # of multiple choice: its number from 0, for options may be equal
        ("votes", pa.list_(pa.string())),  # VQA's ten answers as people gave them, else null
    ]
)
COUNT = "count"  # the answer_type of what is answered by a number and scored by how far off it is


@dataclass(frozen=True)
class Question:
    question_id: str
    video_id: str
    question: str
    answers: tuple[str, ...] = ()  # none: a test set whose answers are not public
    scores: tuple[float, ...] = ()
    options: tuple[str, ...] | None = None
    answer_type: str | None = None
    kind: str | None = None
    split: str | None = None
    start_s: float = 0.0
    end_s: float | None = None
    evidence: tuple[tuple[float, float], ...] | None = None
    right_option: int | None = None
    votes: tuple[str, ...] | None = None

    @property
    def task(self) -> Task:
        if self.options is not None:
            return "choice"
        return "count" if self.answer_type == COUNT else "open"

    @property
    def answer(self) -> str:
        """The best one."""
        return self.answers[0]

    @property
    def first_word(self) -> str:
        """The question word, mostly."""
        words = self.question.lower().split()
        return words[0].strip(",.?!") if words else ""


def to_table(questions: Iterable[Question], *, ids: str | None = None) -> pa.Table:
    """ids: how ids were made unique, for the metadata."""
    schema = SCHEMA if ids is None else SCHEMA.with_metadata({"ids": json.dumps(ids)})
    return pa.Table.from_pylist([asdict(question) for question in questions], schema=schema)


def from_table(table: pa.Table) -> list[Question]:
    """Of a table of SCHEMA; columns that it lacks are null. Raises ValueError without the first ones."""
    if missing := {"question_id", "video_id", "question", "answers"} - set(table.column_names):
        raise ValueError(
            f"found the columns {', '.join(table.column_names)}; expected {', '.join(sorted(missing))} too"
        )
    names = [name for name in SCHEMA.names if name in table.column_names]
    return [Question(**_as_tuples(row)) for row in table.select(names).to_pylist()]


def _as_tuples(row: dict[str, Any]) -> dict[str, Any]:
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    found["answers"] = found["answers"] or ()
    found["scores"] = found.get("scores") or (1.0,) * len(found["answers"])
    found["start_s"] = found.get("start_s") or 0.0
    if found.get("evidence") is not None:
        found["evidence"] = tuple((float(from_s), float(to_s)) for from_s, to_s in found["evidence"])
    return found
