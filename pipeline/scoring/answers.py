"""Answers to questions about videos: how many are right, of all that were asked.

A question that was not answered, or with something that cannot be read, is wrong: accuracy divides by the questions
asked. Beside every accuracy stand those of who has seen nothing, the most frequent answer and the most frequent for
each question word, and the ceiling of who answers from a list. Intervals draw whole videos, as everywhere
(pipeline/scoring/paired.py).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.dataset.questions.question import Question
from pipeline.dataset.questions.votes import DIGITS, accuracy
from pipeline.scoring.paired import interval, videos_of

DRAWS = 2_000
ALL = "all"
Given = str | int | float | None  # an answer as a file has it: an option's or a label's number, or a text


@dataclass(frozen=True)
class Group:
    """Accuracies in percent of the questions asked, and 95 % intervals over videos (None for a single video)."""

    name: str
    questions: int
    answered: int
    accuracy: float
    low: float | None
    high: float | None
    # What needs no video, by name.
    beside: Mapping[str, float]


@dataclass(frozen=True)
class Counting:
    """Of the questions that ask for a number. An answer that is none has no error, and is not right."""

    questions: int
    answered: int
    mean_squared_error: float | None  # of those answered
    accuracy: float
    beside: Mapping[str, float]  # mean squared errors of constant answers


@dataclass(frozen=True)
class Result:
    questions: pd.DataFrame  # question_id, video_id, kind, answer_type, task, prediction, answered, score (0 to 1)
    groups: tuple[Group, ...]  # all; "kind ..."; "answer type ..."
    macro: float | None  # mean of the kinds' accuracies (of the answer types' where there are no kinds)
    counting: Counting | None
    asked: int
    answered: int
    unreadable: int  # of those answered: no option, no number
    outside_list: float | None  # percent of the open questions with no right answer in the list
    ceiling: float | None  # percent: the accuracy of who always picks the best of the list
    most_frequent: str | None
    constants_of: str  # where constant answers are counted

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)


def score_answers(
    questions: Sequence[Question],
    given: Mapping[str, Given],
    *,
    train: Sequence[Question] = (),
    answer_list: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Result:
    """
    Args:
        given: by question_id.
        train: questions that the constant answers are counted in; none: those asked, which flatters them.
        answer_list: the answers that a closed list holds, by label. An integer as the answer to an open question is
            one of these labels.

    Raises ValueError for no questions, questions without answers, and answers to questions that were not asked.
    """
    if not questions:
        raise ValueError("found no questions to score answers to")
    # With soft labels nothing is right for some questions; without, their answers are kept secret.
    soft = any(score < 1 for question in questions for score in question.scores)
    if hidden := [one for one in questions if not one.answers and one.votes is None and not soft]:
        first = hidden[0].question_id
        raise ValueError(f"{len(hidden)} questions have no answer, the first {first!r}; expected one for each")
    asked = {question.question_id: question for question in questions}
    if unknown := [id for id in given if id not in asked]:
        raise ValueError(f"{len(unknown)} answers are to questions that were not asked, the first {unknown[0]!r}")
    _refuse_labels([given[id] for id, one in asked.items() if id in given and one.task == "open"], answer_list)
    rows = []
    for id, question in asked.items():
        answered = read_answer(question, given[id], answer_list) if id in given else None
        rows.append((answered, id in given, worth(question, answered)))
    table = pd.DataFrame(
        {
            "question_id": list(asked),
            "video_id": [one.video_id for one in questions],
            "kind": [one.kind for one in questions],
            "answer_type": [one.answer_type for one in questions],
            "task": [one.task for one in questions],
            "prediction": [_shown(one, value) for one, (value, _, _) in zip(questions, rows, strict=True)],
            "answered": [there for _, there, _ in rows],
            "score": [score for _, _, score in rows],
        }
    )
    # A constant needs answers to count, and to be one that the question can have.
    counted_in = [one for one in train or questions if one.answers]
    constants = {
        "most frequent": constant(counted_in, lambda question: question.task),
        "most frequent per question word": constant(counted_in, lambda question: (question.task, question.first_word)),
        "most frequent per kind": constant(counted_in, lambda question: (question.task, question.kind)),
    }
    beside = {
        name: np.array([worth(one, read_answer(one, answer_of(one), None)) for one in questions])
        for name, answer_of in constants.items()
    }
    rng = np.random.default_rng(seed)
    groups = tuple(_group(name, table, rows_of, beside, rng, draws) for name, rows_of in groups_of(table))
    open_ones = [one for one in questions if one.task == "open" and one.answers]
    best = np.array([_best_in(one, set(answer_list)) for one in open_ones]) if answer_list is not None else None
    numbers = [question for question in questions if question.task == "count"]
    frequent = constants["most frequent"](open_ones[0]) if open_ones else None
    return Result(
        table,
        groups,
        _macro(groups),
        _counting(numbers, table, constants) if numbers else None,
        asked=len(table),
        answered=int(table["answered"].sum()),
        unreadable=sum(there and value is None for value, there, _ in rows),
        outside_list=None if best is None or not len(best) else 100 * float((best == 0).mean()),
        ceiling=None if best is None or not len(best) else 100 * float(best.mean()),
        most_frequent=None if frequent is None else str(frequent),
        constants_of="the training questions" if train else "the questions asked",
    )


def _refuse_labels(given: Sequence[Given], answer_list: Sequence[str] | None) -> None:
    if given and answer_list is None and all(isinstance(answer, int) for answer in given):
        raise ValueError(
            f"the answers to open questions are numbers, as {given[0]}: labels, it seems; name the list that they "
            "count in with --list ans2label.json"
        )


def read_answer(question: Question, given: Given, answer_list: Sequence[str] | None) -> Given:
    """What an answer means: an option's number, a number, or a text. None if it cannot be read as such.

    Never a guess: what names no option is no option.
    """
    if given is None or (isinstance(given, float) and math.isnan(given)):
        return None
    if question.task == "choice":
        assert question.options is not None
        return _option(question.options, given)
    if question.task == "count":
        return _number(given)
    if isinstance(given, int) and answer_list is not None:
        return answer_list[given] if 0 <= given < len(answer_list) else None
    text = str(given)
    return text if text.strip() else None


def _option(options: Sequence[str], given: Given) -> int | None:
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if isinstance(given, int):
        return given if 0 <= given < len(options) else None
    text = plain(str(given))
    for number, option in enumerate(options):
        if plain(option) == text:
            return number
    text = text.strip("().: ")
    if text.isdecimal():
        return _option(options, int(text))
    if len(text) == 1 and "a" <= text <= "z":
        return _option(options, ord(text) - ord("a"))
    return None


def _number(given: Given) -> float | None:
    text = plain(str(given))
    try:
        number = float(DIGITS.get(text, text))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def plain(text: str) -> str:
    """As texts are compared: case and spaces do not count."""
    return " ".join(text.lower().split())


def worth(question: Question, answer: Given) -> float:
    """0 to 1, of an answer as `read_answer` has it."""
    if answer is None:
        return 0.0
    if question.task == "choice":
        return float(answer == question.right_option)
    if question.task == "count":
        assert not isinstance(answer, str)
        return float(math.floor(answer + 0.5) == float(question.answer))
    if question.votes is not None:
        return accuracy(str(answer), question.votes)
    given = plain(str(answer))
    return max(
        (score for right, score in zip(question.answers, question.scores, strict=True) if plain(right) == given),
        default=0.0,
    )


def _best_in(question: Question, answers: Collection[str]) -> float:
    return max(
        (score for right, score in zip(question.answers, question.scores, strict=True) if right in answers), default=0.0
    )


def constant(questions: Iterable[Question], group: Callable[[Question], Hashable]) -> Callable[[Question], Given]:
    """Of a question the answer that is right most often among those of its group (of its task, if none is).

    For multiple choice that is an option's number.
    """
    counts: defaultdict[Hashable, Counter[Given]] = defaultdict(Counter)
    for question in questions:
        for key in {group(question), question.task}:
            if question.right_option is not None:
                counts[key][question.right_option] += 1
            else:
                for answer, score in zip(question.answers, question.scores, strict=True):
                    counts[key][answer] += score  # type: ignore[assignment]
    # Of equally frequent ones the first by the alphabet, whatever the order of the questions.
    best = {key: min(count, key=lambda answer: (-count[answer], str(answer))) for key, count in counts.items()}
    return lambda question: best.get(group(question), best.get(question.task))


def groups_of(table: pd.DataFrame) -> list[tuple[str, NDArray[np.bool_]]]:
    found = [(ALL, np.ones(len(table), dtype=bool))]
    for column, name in ("kind", "kind"), ("answer_type", "answer type"):
        values = sorted(set(table[column].dropna()))
        found += [(f"{name} {value}", (table[column] == value).to_numpy()) for value in values]
    return found


def _group(
    name: str,
    table: pd.DataFrame,
    chosen: NDArray[np.bool_],
    beside: Mapping[str, NDArray[np.float64]],
    rng: np.random.Generator,
    draws: int,
) -> Group:
    rows = table[chosen]
    score = rows["score"].to_numpy(np.float64)
    low, high = interval(100 * score, videos_of(rows), rng, draws)
    return Group(
        name,
        len(rows),
        int(rows["answered"].sum()),
        100 * float(score.mean()),
        low,
        high,
        {other: 100 * float(values[chosen].mean()) for other, values in beside.items()},
    )


def _macro(groups: Sequence[Group]) -> float | None:
    for name in "kind ", "answer type ":
        if found := [group.accuracy for group in groups if group.name.startswith(name)]:
            return float(np.mean(found))
    return None


def _counting(
    questions: Sequence[Question], table: pd.DataFrame, constants: Mapping[str, Callable[[Question], Given]]
) -> Counting:
    rows = table.set_index("question_id").loc[[question.question_id for question in questions]]
    errors = [
        (float(number) - float(question.answer)) ** 2
        for question, number in zip(questions, rows["prediction"], strict=True)
        if number is not None and number == number
    ]
    beside = {
        name: float(np.mean([(float(str(answer_of(one))) - float(one.answer)) ** 2 for one in questions]))
        for name, answer_of in constants.items()
    }
    return Counting(
        len(questions),
        len(errors),
        float(np.mean(errors)) if errors else None,
        100 * float(rows["score"].mean()),
        beside,
    )


def _shown(question: Question, answer: Given) -> str | None:
    if answer is None:
        return None
    if question.task == "choice":
        assert question.options is not None and isinstance(answer, int)
        return question.options[answer]
    return f"{answer:g}" if isinstance(answer, float) else str(answer)
