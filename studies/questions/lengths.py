"""What videos' length does to answers: figures and tables of what `long` has asked."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.dataset.questions.question import Question
from pipeline.scoring.markdown import table
from studies.questions.scored import Scored, scored

ByLength = Mapping[str, Mapping[int, Scored]]  # of each model, with its number of glimpses, by minutes put in
COSTS = ("frames", "gflop", "once_gflop", "seconds", "once_seconds")


def by_length(rows: pd.DataFrame, questions: Sequence[Question], glimpsing: Sequence[str]) -> ByLength:
    """
    Args:
        rows: of `long`'s answers.parquet.
        questions: all of the split; those that `long` has not asked are left out.
        glimpsing: models that have a number of glimpses.
    """
    asked = [one for one in questions if one.question_id in set(rows["question_id"])]
    found: dict[str, dict[int, Scored]] = {}
    for key in dict.fromkeys(rows[["model", "glimpses", "minutes"]].itertuples(index=False, name=None)):
        model, n, minutes = key
        own = rows[(rows["model"] == model) & (rows["glimpses"] == n) & (rows["minutes"] == minutes)]
        name = f"{model}, n = {n}" if model in glimpsing else model
        found.setdefault(name, {})[minutes] = scored([of_seed for _, of_seed in own.groupby("seed")], asked)
    return found


def length_figures(found: ByLength) -> dict[str, Any]:
    """What metrics/questions/long.json holds: percents, and what a question costs."""
    return {
        name: {
            str(minutes): {
                "groups": {
                    group: {"questions": count, "accuracy": one.accuracy(group), "interval": one.interval(group)}
                    for group, count in groups(one).items()
                },
                "cost": {column: one.mean(column) for column in COSTS},
            }
            for minutes, one in of_model.items()
        }
        for name, of_model in found.items()
    }


def groups(one: Scored) -> dict[str, int]:
    """All, and each kind: how many questions there are."""
    kinds = one.results[0].questions["kind"].value_counts().sort_index()
    return {"all": int(kinds.sum()), **{f"kind {kind}": int(count) for kind, count in kinds.items()}}


def length_report(found: ByLength) -> str:
    """Markdown."""
    first = next(iter(found.values()))
    counts, lengths = groups(next(iter(first.values()))), list(first)
    heads = [f"{minutes} min" for minutes in lengths]
    accuracies = []
    for name, of_model in found.items():
        for group, count in counts.items():
            cells = []
            for minutes in lengths:
                low, high = of_model[minutes].interval(group)
                between = "" if low is None else f" ({low:.0f} to {high:.0f})"
                cells.append(f"{of_model[minutes].accuracy(group):.1f}{between}")
            accuracies.append([f"{name}: {group.removeprefix('kind ')} ({count})", *cells])
    costs = []
    for name, of_model in found.items():
        own = list(of_model.values())
        costs.append([f"{name}: frames", *(f"{one.mean('frames'):.0f}" for one in own)])
        for what, column, once in (("GFLOP", "gflop", "once_gflop"), ("seconds", "seconds", "once_seconds")):
            costs.append(
                [f"{name}: {what} of a question", *(f"{one.mean(column) - one.mean(once):.3f}" for one in own)]
            )
            if own[-1].mean(once):
                costs.append([f"{name}: {what} once a video", *(f"{one.mean(once):.3f}" for one in own)])
    return "\n\n".join(
        [
            f"Videos made long: {counts['all']} of these questions, by how many minutes of other test videos lie "
            "between what came before the last segment and that segment. The others never show what is asked about; "
            "for `count` they show an empty stage, for `now` anything. Accuracy in percent, 95 % intervals over "
            "videos:",
            table(["model: kind", *heads], accuracies),
            "What a question costs there: frames looked at (of a memory those kept), GFLOP with the encoder, and "
            "seconds without it. What a memory does once for all questions about a video stands apart:",
            table(["model: cost", *heads], costs),
        ]
    )
