"""Answers out of the files that people have, whatever their layout. docs/scores.md lists the layouts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.annotations import described, is_id, short
from pipeline.dataset.questions.formats import TABLES, read_entries
from pipeline.dataset.questions.question import Question
from pipeline.files import strict_json
from pipeline.scoring.answers import Given

IDS = ("question_id", "qid", "id", "question_number")
ANSWERS = ("prediction", "pred", "predicted_answer", "predicted", "answer")  # a file may hold the right ones as well
WANTED = (
    'expected [{"question_id", "answer"}, ...] as JSON or jsonl, {question_id: answer}, '
    '{question_id: {"prediction": ...}}, a table with the columns question_id and prediction or answer, '
    "or a .txt file with an answer in each line"
)


def read_answers(path: Path, questions: Sequence[Question]) -> dict[str, Given]:
    """By question_id. Raises ValueError for what cannot be read, and for two answers to one question.

    Where ids are no question's but numbers from 0, as ClipBERT's, they count the questions.
    """
    pairs = _pairs(path, questions)
    found: dict[str, Given] = {}
    for where, id, answer in pairs:
        if id in found:
            raise ValueError(f"{where}: a second answer to the question {short(id)}; expected one each")
        found[id] = answer
    known = {question.question_id for question in questions}
    if found and not found.keys() <= known and all(id.isdecimal() and int(id) < len(questions) for id in found):
        return {questions[int(id)].question_id: answer for id, answer in found.items()}
    return found


def _pairs(path: Path, questions: Sequence[Question]) -> list[tuple[str, str, Given]]:
    """(where, question_id, answer)."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            rows = pq.read_table(path).to_pylist()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror or error}") from error
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: {error}") from None
        return [_pair(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]
    if suffix == ".txt":
        lines = path.read_text("utf-8").splitlines()
        if len(lines) != len(questions):
            raise ValueError(f"{path}: found {len(lines)} lines; expected one for each of {len(questions)} questions")
        return [
            (f"{path}, line {number}", question.question_id, line)
            for number, (question, line) in enumerate(zip(questions, lines, strict=True), 1)
        ]
    if suffix not in TABLES and (value := _object(path)) is not None:
        return [_of_key(path, id, answer) for id, answer in value.items()]
    return [_pair(entry.where, entry.cells) for entry in read_entries(path)]


def _object(path: Path) -> dict[str, Any] | None:
    """{question_id: answer}, if that is what a file holds."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not content.strip():
        raise ValueError(f"{path}: the file is empty")
    if not content.lstrip().startswith((b"{", b"\xef\xbb\xbf{")):
        return None
    try:
        value = strict_json.loads(content, where=str(path))
    except ValueError:
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) > 1 and lines[0].strip().endswith(b"}"):
            return None  # an object a line
        raise
    if not isinstance(value, dict) or {"results", "annotations", "question_id"} & value.keys():
        return None
    return value


def _of_key(path: Path, id: str, value: Any) -> tuple[str, str, Given]:
    where = f"{path}, {short(id)}"
    if isinstance(value, dict):
        name = next((name for name in ANSWERS if name in value), None)
        if name is None:
            raise ValueError(f"{where}: found {short(value)}; {WANTED}")
        value = value[name]
    return where, id, _answer(where, value)


def _pair(where: str, cells: Mapping[str, Any]) -> tuple[str, str, Given]:
    name = next((name for name in ANSWERS if name in cells), None)
    id = next((cells[key] for key in IDS if key in cells), None)
    if name is None or not is_id(id):
        raise ValueError(f"{where}: found {short(dict(cells))}; {WANTED}")
    # NExT-QA counts the questions of each video.
    if "qid" in cells and "question_id" not in cells and is_id(cells.get("video")) and "a0" in cells:
        id = f"{cells['video']}_{id}"
    return where, str(id), _answer(where, cells[name])


def _answer(where: str, value: Any) -> Given:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{where}: the answer is {described(value)}; expected a text or a number")


def read_answer_list(path: Path) -> list[str]:
    """The answers of ans2label.json ({answer: label}), or of a JSON list, by label."""
    value = strict_json.load(path)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = {answer: label for label, answer in enumerate(value)}
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path}: found {described(value)}; expected {{answer: label}}, or a list of answers")
    if sorted(map(str, value.values())) != sorted(map(str, range(len(value)))):
        raise ValueError(f"{path}: labels are not the numbers from 0 to {len(value) - 1}, each once")
    return sorted(value, key=lambda answer: int(value[answer]))
