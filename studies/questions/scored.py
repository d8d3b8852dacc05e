"""A model's answers, scored: one result for each seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.dataset.questions.question import Question
from pipeline.scoring.answers import Result, score_answers
from pipeline.scoring.paired import interval, videos_of

DRAWS = 2_000


@dataclass(frozen=True)
class Scored:
    """A model's answers with one number of glimpses: one Result per seed, and their rows."""

    results: tuple[Result, ...]
    rows: pd.DataFrame

    def accuracy(self, group: str = "all") -> float:
        return float(np.mean([result.group(group).accuracy for result in self.results]))

    def interval(self, group: str = "all") -> tuple[float | None, float | None]:
        """95 % over videos: each question's score is averaged over the seeds first."""
        first = self.results[0].questions
        score = np.mean([result.questions["score"].to_numpy(float) for result in self.results], axis=0)
        of_kind = (first["kind"] == group.removeprefix("kind ")).to_numpy()
        chosen = np.ones(len(first), bool) if group == "all" else of_kind
        return interval(100 * score[chosen], videos_of(first[chosen]), np.random.default_rng(0), DRAWS)

    def mean(self, column: str) -> float:
        return float(self.rows[column].mean())


def scored(
    rows_by_seed: Sequence[pd.DataFrame],
    questions: Sequence[Question],
    *,
    train: Sequence[Question] = (),
    answers: Sequence[str] | None = None,
) -> Scored:
    """
    Args:
        rows_by_seed: rows of answers.parquet, one for each question.
        train, answers: as `score_answers`' train and answer_list.
    """
    results = []
    for rows in rows_by_seed:
        both = zip(rows["question_id"], rows["prediction"], strict=True)
        given = {id: prediction for id, prediction in both if pd.notna(prediction)}
        results.append(score_answers(questions, given, train=train, answer_list=answers, draws=DRAWS))
    return Scored(tuple(results), pd.concat(rows_by_seed))
