"""Questions out of the files in which they were published. Which format a file has is recognised from its content.

MSRVTT-QA and MSVD-QA (JSON, and HQGA's CSV), TGIF-QA, ActivityNet-QA, NExT-QA, VQA v2, ClipBERT's jsonl of these, and
one's own: jsonl, JSON, CSV or Parquet with the columns of questions.parquet. Nothing is dropped here and nothing
repaired: what cannot be read is an error that names the file, the line and what was wanted.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.annotations import described, encodable, is_id, is_time, short
from pipeline.dataset.questions.question import COUNT, Question, from_table
from pipeline.dataset.questions.votes import soft_scores
from pipeline.files import strict_csv, strict_json
from pipeline.process.terminal import printable

TABLES = (".csv", ".tsv")
LISTS = ("questions", "annotations", "results")  # of VQA's files
FRAMEQA_TYPES = ("object", "number", "color", "location")
# ActivityNet-QA's `type`: 0 to 2 say what a question is about, 3 to 8 what the answer of any other is.
ACTIVITYNET_TYPES = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")
NEXT_GROUPS = {"C": "causal", "T": "temporal", "D": "descriptive"}
MAX_TEXT = 4_000  # characters of a question or an answer: more is a file gone wrong, or an attack

WANTED = (
    "expected MSRVTT-QA or MSVD-QA [{question, answer, video_id, id}], their CSV (video, question, answer, qid), "
    "TGIF-QA (gif_name, question, answer, with or without a1 to a5), ActivityNet-QA ([{question, question_id, "
    "video_name}] and [{question_id, answer, type}]), NExT-QA (video, question, answer, qid, type, a0 to a4), "
    "VQA v2 ({questions} and {annotations}), ClipBERT's jsonl, or your own: question_id, video_id, question, answer "
    "or answers, and if you like options, kind, answer_type, split, start_s, end_s"
)


@dataclass(frozen=True)
class Entry:
    """One row or object of a file. In CSV all cells are text."""

    where: str
    number: int  # in the file, from 0
    cells: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A text that is there; numbers become text."""
        value = self.cells.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{self.where}: {name} is {short(value)}; expected some text")
        if len(value) > MAX_TEXT:
            raise ValueError(f"{self.where}: {name} has {len(value):,} characters; expected {MAX_TEXT:,} at most")
        return encodable(" ".join(value.split()))

    def id(self, name: str) -> str:
        value = self.cells.get(name)
        if not is_id(value) or not str(value).strip():
            raise ValueError(f"{self.where}: {name} is {short(value)}; expected an id")
        return encodable(str(value).strip())

    def index(self, name: str, below: int) -> int:
        """0 <= index < below."""
        value = self.cells.get(name)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
            raise ValueError(f"{self.where}: {name} is {short(value)}; expected a number from 0 to {below - 1}")
        return value

    def count(self, name: str) -> str:
        value = self.cells.get(name)
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{self.where}: {name} is {short(value)}; expected a number")
        return f"{number:g}"

    def has(self, *names: str) -> bool:
        return all(name in self.cells for name in names)


def read_questions(paths: Sequence[Path], *, split: str | None = None) -> list[Question]:
    """The questions of files that belong together: VQA's and ActivityNet-QA's answers may lie in files of their own.

    Args:
        split: of those that do not name one themselves.

    Raises ValueError for what is no such file, for two questions of one id, and for answers to no question.
    """
    questions: dict[str, tuple[Question, str]] = {}
    answers: dict[str, tuple[Question, str]] = {}
    for path in paths:
        for question, where in _of_file(path):
            into = questions if question.question else answers
            if question.question_id in into:
                first = into[question.question_id][1]
                raise ValueError(f"{where}: the question_id {short(question.question_id)} stands in {first} already")
            into[question.question_id] = (question, where)
    if answers and not questions:
        raise ValueError(f"{paths[0]} has answers only; name the file of their questions as well")
    for id, (answer, where) in answers.items():
        if id not in questions:
            raise ValueError(f"{where}: answers the question {short(id)}, which is in none of the files")
        asked, of = questions[id]
        questions[id] = (
            replace(
                asked,
                answers=answer.answers,
                scores=answer.scores,
                answer_type=answer.answer_type,
                kind=answer.kind,
                votes=answer.votes,
            ),
            of,
        )
    return [replace(question, split=question.split or split) for question, _ in questions.values()]


def _of_file(path: Path) -> list[tuple[Question, str]]:
    """Each question, and where it stands. One without the question's text is an answer to one of another file."""
    if path.suffix.lower() == ".parquet":
        return _of_parquet(path)
    entries = read_entries(path)
    if not entries:
        raise ValueError(f"{path}: found nothing in it; {WANTED}")
    reader = _reader(entries[0])
    if reader is None:
        found = printable(", ".join(entries[0].cells))
        raise ValueError(f"{entries[0].where}: found {found or 'nothing'}; {WANTED}")
    return [(reader(entry), entry.where) for entry in entries]


def _of_parquet(path: Path) -> list[tuple[Question, str]]:
    try:
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        table = pq.read_table(path)
        questions = from_table(table)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except (pa.ArrowInvalid, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not questions:
        raise ValueError(f"{path}: found nothing in it; {WANTED}")
    found = [(question, f"{path}, row {row}") for row, question in enumerate(questions, 1)]
    for question, where in found:
        _check(question, where)
    return found


def _check(question: Question, where: str) -> None:
    """What a reader of text would have refused, in a table that anyone may have written."""
    entry = Entry(where, 0, asdict(question))
    entry.id("question_id"), entry.id("video_id"), entry.text("question")
    for name in ("answers", "options"):
        for one in getattr(question, name) or ():
            Entry(where, 0, {name: one}).text(name)
    if question.split not in (None, "train", "val", "test"):
        raise ValueError(f"{where}: split is {short(question.split)}; expected train, val or test")
    _check_times(question, where)
    if len(question.scores) != len(question.answers) or not all(is_time(s) and 0 <= s <= 1 for s in question.scores):
        raise ValueError(
            f"{where}: scores is {short(list(question.scores))}; expected {len(question.answers)} numbers from 0 to 1"
        )
    options, right = question.options, question.right_option
    if options is not None and question.answers and (right is None or not 0 <= right < len(options)):
        raise ValueError(f"{where}: right_option is {short(right)}; expected a number from 0 to {len(options) - 1}")


def _check_times(question: Question, where: str) -> None:
    start_s, end_s = question.start_s, question.end_s
    if not is_time(start_s) or start_s < 0 or (end_s is not None and not (is_time(end_s) and end_s > start_s)):
        raise ValueError(f"{where}: what may be seen is [{start_s:g}, {end_s}) s; expected 0 <= start_s < end_s")


def read_entries(path: Path) -> list[Entry]:
    """The rows of a table, the objects of a JSON list, of VQA's two kinds of files, or of jsonl.

    Raises ValueError for what cannot be read at all, and for a list with something else in it.
    """
    try:
        if path.suffix.lower() in TABLES:
            _, rows = strict_csv.load(path)
            return [Entry(f"{path}, line {row.line}", number, row.cells) for number, row in enumerate(rows)]
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not content.strip():
        raise ValueError(f"{path}: the file is empty")
    if lines := _lines_of_json(content):
        found = [(f"{path}, line {number}", _line(path, number, line)) for number, line in lines]
    else:
        value = strict_json.loads(content, where=str(path))
        if isinstance(value, dict):
            inner = next((value[name] for name in LISTS if isinstance(value.get(name), list)), None)
            value = [value] if inner is None and "question" in value else inner
        if not isinstance(value, list):
            raise ValueError(f"{path}: found no list of questions; {WANTED}")
        found = [(f"{path}, entry {number}", one) for number, one in enumerate(value, 1)]
    for where, one in found:
        if not isinstance(one, dict):
            raise ValueError(f"{where}: found {described(one)}; expected an object")
    return [Entry(where, number, one) for number, (where, one) in enumerate(found)]


def _lines_of_json(content: bytes) -> list[tuple[int, bytes]]:
    """(number, line), if it is an object a line. A single line is JSON like any other."""
    lines = [(number, line.strip()) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    several = len(lines) > 1 and all(line[:1] == b"{" and line[-1:] == b"}" for _, line in lines[:2])
    return lines if several else []


def _line(path: Path, number: int, line: bytes) -> Any:
    try:
        return strict_json.loads(line, where=str(path))
    except ValueError as error:  # it counts lines from this one's beginning
        raise ValueError(str(error).replace(f"{path}, line 1:", f"{path}, line {number}:")) from None


def _reader(entry: Entry) -> Callable[[Entry], Question] | None:
    """What reads a file that has such entries."""
    if entry.has("question", "question_id", "video_name"):
        return _activitynet_question
    if entry.has("gif_name", "question", "a1", "answer") or (entry.has("a0", "question", "answer", "video")):
        return _next if entry.has("video") else _tgif_choice
    if entry.has("gif_name", "question", "answer") and not entry.has("options"):
        return _tgif_open if entry.has("type") or entry.has("answer_type") else _tgif_count
    if entry.has("video", "question", "answer", "qid"):
        return _msrvtt_csv
    if entry.has("question", "labels") and entry.has("question_id"):
        return _clipbert_vqa
    if entry.has("answers", "question_type", "question_id"):
        return _vqa_answer
    if entry.has("image_id", "question", "question_id") and not entry.has("answer"):
        return _vqa_question
    if entry.has("question_id", "answer", "type") and not entry.has("question"):
        return _activitynet_answer
    if entry.has("question_id", "video_id", "question"):
        return _own
    if entry.has("question", "options", "answer") and (entry.has("gif_name") or entry.has("video_id")):
        return _clipbert_choice
    if entry.has("question", "answer", "video_id"):
        return _msrvtt
    return None


def _accepted(*answers: str) -> dict[str, Any]:
    return {"answers": answers, "scores": (1.0,) * len(answers)}


def _chosen(options: Sequence[str], right: int) -> dict[str, Any]:
    return {**_accepted(options[right]), "options": tuple(options), "right_option": right}


def _msrvtt(entry: Entry) -> Question:
    """[{answer, category_id, id, question, video_id}]; ClipBERT's has answer_type and no id: the line's number."""
    question = entry.text("question")
    id = entry.id("id") if entry.has("id") else str(entry.number)
    kind = entry.text("answer_type") if entry.has("answer_type") else question.lower().split()[0]
    answers = _accepted(entry.text("answer"))
    return Question(id, entry.id("video_id"), question, **answers, answer_type=kind)


def _msrvtt_csv(entry: Entry) -> Question:
    """HQGA's. Its `type` is the video's category or the question's type, by dataset: the question word says more."""
    question = entry.text("question")
    kind = question.lower().split()[0]
    return Question(entry.id("qid"), entry.id("video"), question, **_accepted(entry.text("answer")), answer_type=kind)


def _tgif_choice(entry: Entry) -> Question:
    options = [entry.text(name) for name in _numbered(entry, 1)]
    right = entry.index("answer", len(options))
    id = _tgif_id(entry)
    kind = {"ACTION": "action", "TRANS": "transition"}.get(id.rstrip("0123456789"))
    return Question(
        id, entry.id("gif_name"), entry.text("question"), **_chosen(options, right), kind=kind, answer_type="choice"
    )


def _tgif_id(entry: Entry) -> str:
    """Its `vid_id` is the question's ("ACTION4"), its `key` the video's."""
    return entry.id("vid_id") if entry.has("vid_id") else str(entry.number)


def _tgif_open(entry: Entry) -> Question:
    if entry.has("answer_type"):  # ClipBERT's
        answer_type = entry.text("answer_type")
    else:
        answer_type = FRAMEQA_TYPES[entry.index("type", len(FRAMEQA_TYPES))]
    answers = _accepted(entry.text("answer"))
    return Question(
        _tgif_id(entry),
        entry.id("gif_name"),
        entry.text("question"),
        **answers,
        answer_type=answer_type,
        kind="frameqa",
    )


def _tgif_count(entry: Entry) -> Question:
    answers = _accepted(entry.count("answer"))
    return Question(
        _tgif_id(entry), entry.id("gif_name"), entry.text("question"), **answers, answer_type=COUNT, kind="count"
    )


def _activitynet_question(entry: Entry) -> Question:
    return Question(entry.id("question_id"), entry.id("video_name"), entry.text("question"))


def _activitynet_answer(entry: Entry) -> Question:
    number = entry.index("type", len(ACTIVITYNET_TYPES))
    kind, answer_type = (ACTIVITYNET_TYPES[number] if number < 3 else "free"), ACTIVITYNET_TYPES[number]
    answers = _accepted(entry.text("answer"))
    return Question(entry.id("question_id"), "", "", **answers, answer_type=answer_type, kind=kind)


def _next(entry: Entry) -> Question:
    """Its own evaluation counts TP (previous) as TN (next)."""
    options = [entry.text(name) for name in _numbered(entry, 0)]
    code = entry.text("type")
    if code[0] not in NEXT_GROUPS:
        raise ValueError(f"{entry.where}: type is {short(code)}; expected one that begins with C, T or D")
    video = entry.id("video")
    return Question(
        f"{video}_{entry.id('qid')}",
        video,
        entry.text("question"),
        **_chosen(options, entry.index("answer", len(options))),
        kind="TN" if code == "TP" else code,
        answer_type=NEXT_GROUPS[code[0]],
    )


def _numbered(entry: Entry, first: int) -> list[str]:
    """a1, a2, ...: as many as there are."""
    names: list[str] = []
    while entry.has(name := f"a{first + len(names)}"):
        names.append(name)
    return names


def _vqa_question(entry: Entry) -> Question:
    return Question(entry.id("question_id"), entry.id("image_id"), entry.text("question"))


def _vqa_answer(entry: Entry) -> Question:
    """Ten people's answers; what each is worth: pipeline/dataset/questions/votes.py."""
    given = entry.cells["answers"]
    if not isinstance(given, list) or not given:
        raise ValueError(f"{entry.where}: answers is {described(given)}; expected the list of people's answers")
    votes = []
    for one in given:
        if not isinstance(one, dict) or not isinstance(one.get("answer"), str):
            raise ValueError(f'{entry.where}: found the answer {short(one)}; expected {{"answer": text}}')
        votes.append(encodable(one["answer"]))
    answers, scores = soft_scores(votes)
    answer_type = entry.text("answer_type") if entry.has("answer_type") else None
    return Question(
        entry.id("question_id"),
        "",
        "",
        answers=answers,
        scores=scores,
        votes=tuple(votes),
        answer_type=answer_type,
        kind=entry.text("question_type"),
    )


def _clipbert_vqa(entry: Entry) -> Question:
    """Soft labels, {answer: score}; with an empty object where nothing of the ten answers is in the list."""
    labels = entry.cells["labels"]
    if not isinstance(labels, dict) or not all(is_time(score) and 0 < score <= 1 for score in labels.values()):
        raise ValueError(f"{entry.where}: labels is {short(labels)}; expected {{answer: score}}, scores from 0 to 1")
    ranked = sorted(labels.items(), key=lambda one: -one[1])
    video = entry.id("image_id" if entry.has("image_id") else "video_id")
    return Question(
        entry.id("question_id"),
        video,
        entry.text("question"),
        answers=tuple(encodable(answer) for answer, _ in ranked),
        scores=tuple(float(score) for _, score in ranked),
        answer_type=entry.text("answer_type") if entry.has("answer_type") else None,
    )


def _clipbert_choice(entry: Entry) -> Question:
    options = _texts(entry, "options")
    video = entry.id("gif_name" if entry.has("gif_name") else "video_id")
    right = entry.index("answer", len(options))
    kind = entry.text("answer_type") if entry.has("answer_type") else None
    id = entry.id("question_id") if entry.has("question_id") else str(entry.number)
    return Question(id, video, entry.text("question"), **_chosen(options, right), kind=kind, answer_type="choice")


def _own(entry: Entry) -> Question:
    question = Question(entry.id("question_id"), entry.id("video_id"), entry.text("question"))
    texts = {name: entry.text(name) for name in ("kind", "answer_type", "split") if entry.cells.get(name)}
    question = replace(question, **texts)  # type: ignore[arg-type]
    if question.split not in (None, "train", "val", "test"):
        raise ValueError(f"{entry.where}: split is {short(question.split)}; expected train, val or test")
    if entry.cells.get("start_s") not in (None, ""):
        question = replace(question, start_s=float(entry.count("start_s")))
    if entry.cells.get("end_s") not in (None, ""):
        question = replace(question, end_s=float(entry.count("end_s")))
    _check_times(question, entry.where)
    if entry.cells.get("evidence") not in (None, ""):
        question = replace(question, evidence=_intervals(entry))
    name = "answers" if entry.has("answers") else "answer"
    if entry.cells.get("options") not in (None, ""):
        options = _texts(entry, "options")
        given = entry.cells.get(name)
        if isinstance(given, list) and len(given) == 1:
            given = given[0]
        number = str(given).strip()
        if isinstance(given, str) and " ".join(given.split()) in options:
            return replace(question, **_chosen(options, options.index(" ".join(given.split()))))
        if not number.isdecimal() or int(number) >= len(options):
            raise ValueError(f"{entry.where}: the answer {short(given)} is none of the options {short(options)}")
        return replace(question, **_chosen(options, int(number)))
    if entry.cells.get(name) in (None, "", []):
        return question
    answers = _texts(entry, "answers") if name == "answers" else [entry.text("answer")]
    if question.answer_type == COUNT:
        answers = [Entry(entry.where, entry.number, {name: answer}).count(name) for answer in answers]
    question = replace(question, **_accepted(*answers))
    if entry.cells.get("scores") not in (None, ""):
        scores = _list(entry, "scores")
        if len(scores) != len(answers) or not all(is_time(one) and 0 <= one <= 1 for one in scores):
            raise ValueError(f"{entry.where}: scores is {short(scores)}; expected {len(answers)} numbers from 0 to 1")
        ranked = sorted(zip(answers, map(float, scores), strict=True), key=lambda one: -one[1])
        question = replace(question, answers=tuple(a for a, _ in ranked), scores=tuple(s for _, s in ranked))
    return question


def _list(entry: Entry, name: str) -> list[Any]:
    """CSV has no lists: there they are JSON."""
    value = entry.cells[name]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = strict_json.loads(value, where=f"{entry.where}, {name}")
    if isinstance(value, str) and name == "answers":
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{entry.where}: {name} is {short(value)}; expected a list")
    return value


def _texts(entry: Entry, name: str) -> list[str]:
    return [Entry(entry.where, entry.number, {name: one}).text(name) for one in _list(entry, name)]


def _intervals(entry: Entry) -> tuple[tuple[float, float], ...]:
    found = _list(entry, "evidence")
    for one in found:
        if not (isinstance(one, list) and len(one) == 2 and all(map(is_time, one)) and 0 <= one[0] < one[1]):
            raise ValueError(f"{entry.where}: evidence has {short(one)}; expected [[from_s, to_s], ...], in seconds")
    return tuple((float(from_s), float(to_s)) for from_s, to_s in found)


def equal_options(questions: Sequence[Question]) -> list[Question]:
    """Those with two options that are the same: which of them was meant nobody can tell."""
    return [one for one in questions if one.options and len({*map(str.lower, one.options)}) < len(one.options)]


def unique_over_splits(questions: Sequence[Question]) -> list[Question]:
    """The same with ids that no two splits share: published files count from 0 in each of them."""
    counts = Counter(question.question_id for question in questions)
    if max(counts.values(), default=0) < 2:
        return list(questions)
    return [replace(one, question_id=f"{one.split}_{one.question_id}") for one in questions]
