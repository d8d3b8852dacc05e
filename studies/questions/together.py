"""One answer of several models: that with the largest product of the probabilities that they give."""

import math
from collections.abc import Sequence

import pandas as pd

SUMMED = ("gflop", "seconds", "frames", "once_gflop", "once_seconds")  # what it costs is what they cost


def together(parts: Sequence[pd.DataFrame], answers: int) -> pd.DataFrame:
    """Rows of answers.parquet as one model's; questions that one of the models did not answer have no prediction.

    A model's rows have its likeliest answers; of those not among them each gets an even share of what is left.

    Args:
        parts: of each model its rows, one for each question.
        answers: how many there are to choose from.
    """
    by_id = [rows.set_index("question_id") for rows in parts]
    ids = [id for id in by_id[0].index if all(id in rows.index for rows in by_id)]
    found = by_id[0].loc[ids].copy()
    for column in SUMMED:
        found[column] = sum(rows.loc[ids, column] for rows in by_id)
    best = [likeliest([rows.loc[id] for rows in by_id], answers) for id in ids]
    found["prediction"] = [None if one is None else one[0] for one in best]
    found["log_prob"] = [None if one is None else one[1] for one in best]
    for column in ("evidence_attention", "evidence_time"):  # of one model's attention
        found[column] = None
    return found.reset_index()


def likeliest(rows: Sequence[pd.Series], answers: int) -> tuple[str, float] | None:
    """Of one question: its answer, and the logarithm of the product, which is no probability."""
    if any(pd.isna(row["prediction"]) for row in rows):
        return None
    given = [dict(zip(row["first"], row["first_log_probs"], strict=True)) for row in rows]
    rest = []
    for of in given:
        left = 1.0 - sum(math.exp(value) for value in of.values())
        rest.append(math.log(max(left, 1e-9) / max(answers - len(of), 1)))
    named = dict.fromkeys(answer for of in given for answer in of)
    product = {answer: sum(of.get(answer, other) for of, other in zip(given, rest, strict=True)) for answer in named}
    answer = max(product, key=lambda one: product[one])
    return answer, product[answer]
