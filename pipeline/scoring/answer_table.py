"""What `score_answers` found, as figures for a JSON file and as a table to read."""

from typing import Any

from pipeline.scoring.answers import Group, Result

BESIDE = ("most frequent", "most frequent per question word")


def answer_figures(result: Result) -> dict[str, Any]:
    """Percents. `beside` is what needs no video."""
    figures: dict[str, Any] = {
        "accuracy": result.group("all").accuracy,
        "macro_average": result.macro,
        "asked": result.asked,
        "answered": result.answered,
        "coverage": 100 * result.answered / result.asked,
        "unreadable": result.unreadable,
        "outside_list": result.outside_list,
        "ceiling": result.ceiling,
        "most_frequent_answer": result.most_frequent,
        "constants_counted_in": result.constants_of,
        "groups": {group.name: _figures(group) for group in result.groups},
    }
    if counting := result.counting:
        figures["count"] = {
            "questions": counting.questions,
            "answered": counting.answered,
            "mean_squared_error": counting.mean_squared_error,
            "accuracy": counting.accuracy,
            "beside": dict(counting.beside),
        }
    return figures


def _figures(group: Group) -> dict[str, Any]:
    return {
        "questions": group.questions,
        "answered": group.answered,
        "accuracy": group.accuracy,
        "low": group.low,
        "high": group.high,
        "beside": dict(group.beside),
    }


def answer_table(result: Result) -> str:
    width = max(len("macro average"), *(len(group.name) for group in result.groups)) + 2
    lines = [
        f"{result.answered} of {result.asked} questions answered ({100 * result.answered / result.asked:.2f} %), "
        f"{result.unreadable} of them unreadable; accuracy in percent of all {result.asked}, "
        "95 % intervals over videos",
        "beside it two that need no video: the most frequent answer, and that of each question word, "
        f"in {result.constants_of}",
        "",
        f"{'':<{width}}{'questions':>10}{'accuracy':>10}{'95 %':>18}{'most frequent':>15}{'per word':>10}",
    ]
    for group in result.groups:
        between = "-" if group.low is None else f"{group.low:.2f} to {group.high:.2f}"
        constants = [group.beside[name] for name in BESIDE]
        lines.append(
            f"{group.name:<{width}}{group.questions:>10}{group.accuracy:>10.4f}{between:>18}"
            f"{constants[0]:>15.2f}{constants[1]:>10.2f}"
        )
    if result.macro is not None:
        lines.append(f"{'macro average':<{width}}{'':>10}{result.macro:>10.4f}")
    if counting := result.counting:
        error = counting.mean_squared_error
        squared = "-" if error is None else f"{error:.4f} over {counting.answered} of {counting.questions}"
        lines += ["", f"count: mean squared error {squared}, accuracy {counting.accuracy:.4f}"]
        lines += [f"count, {name}: mean squared error {value:.4f}" for name, value in counting.beside.items()]
    if result.most_frequent is not None:
        lines += ["", f"most frequent answer: {result.most_frequent}"]
    if result.ceiling is not None:
        lines.append(
            f"answers outside the list: {result.outside_list:.2f} % of the open questions; "
            f"a perfect choice from the list scores {result.ceiling:.2f}"
        )
    return "\n".join(lines)
