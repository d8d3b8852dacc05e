"""Score all models' answers, and set them beside each other and beside what needs no video.

Reads studies/questions/params.yaml, data/questions/, studies/questions/out/ and, of videos made long,
studies/questions/long/. Writes metrics/questions/MODEL.json and long.json, docs/questions.png (accuracy against what a
question costs) and, in docs/results.md, what stands between two markers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline.dataset.questions.question import Question, from_table
from pipeline.files.aside import write_text
from pipeline.scoring.answer_files import read_answer_list
from pipeline.scoring.answer_table import answer_figures
from pipeline.scoring.markdown import insert, table
from stages import run
from studies.questions.lengths import by_length, length_figures, length_report
from studies.questions.plot import Dot, draw
from studies.questions.scored import Scored, scored
from studies.questions.settings import ANSWER_LIST, LONG, METRICS, MODELS, OUT, QUESTIONS, Study, load_study
from studies.questions.together import together

REPORT, PLOT = Path("docs/results.md"), Path("docs/questions.png")
BEGIN, END = "<!-- studies/questions/table.py writes from here -->", "<!-- and to here -->"


def main() -> None:
    study = load_study()
    questions = from_table(pq.read_table(QUESTIONS))
    scored_questions = [one for one in questions if one.split == study.answer.split]
    train = [one for one in questions if one.split == "train"]
    answers = read_answer_list(ANSWER_LIST)
    by_model = {
        name: {n: score(study, name, n, scored_questions, train, answers) for n in study.counts(name)}
        for name in study.models
    }
    for name in study.together:
        by_model[name] = {1: score(study, name, 1, scored_questions, train, answers)}
    kinds = sorted({one.kind for one in scored_questions if one.kind})
    for name in by_model:
        write_text(METRICS / f"{name}.json", json.dumps(figures(study, by_model, name, kinds), indent=1) + "\n")
    dots = {
        name: [Dot(float(one.rows["gflop"].mean()), one.accuracy(), str(n)) for n, one in by_count.items()]
        for name, by_count in by_model.items()
    }
    draw(dots, PLOT, title="accuracy, %, against GFLOP per question", x_label="GFLOP per question, with the encoder")
    text = report(study, by_model, kinds, scored_questions)
    if study.long.models:
        sparse = [name for name in study.models if study.model(name).way == "sparse"]
        longer = by_length(pd.read_parquet(LONG), scored_questions, sparse)
        write_text(METRICS / "long.json", json.dumps(length_figures(longer), indent=1) + "\n")
        text += f"\n\n{length_report(longer)}"
    if BEGIN in REPORT.read_text(encoding="utf-8"):
        insert(REPORT, text, BEGIN, END)
    print(text)
    print(f"\nWhere to look: {REPORT}, {PLOT}, {METRICS}/, {OUT}/MODEL/seed-N/answers.parquet, docs/questions.md")


def score(
    study: Study,
    name: str,
    n: int,
    scored_questions: Sequence[Question],
    train: Sequence[Question],
    answers: Sequence[str],
) -> Scored:
    rows = []
    for seed in study.seeds:
        parts = study.parts(name)
        found = [read_rows(part, seed, n if len(parts) == 1 else study.main_count(part)) for part in parts]
        rows.append(found[0] if len(found) == 1 else together(found, len(answers)))
    return scored(rows, scored_questions, train=train, answers=answers)


def read_rows(name: str, seed: int, n: int) -> pd.DataFrame:
    path = OUT / name / f"seed-{seed}" / "answers.parquet"
    if not path.is_file():
        raise ValueError(f"no {path}: make questions")
    rows = pd.read_parquet(path)
    rows = rows[rows["glimpses"] == n]
    if not len(rows):
        raise ValueError(f"{path} has no answers with {n} glimpses: python -m studies.questions.answer {name}")
    return rows


def figures(
    study: Study, scored: Mapping[str, Mapping[int, Scored]], name: str, kinds: Sequence[str]
) -> dict[str, Any]:
    """What metrics/questions/MODEL.json holds: of the main number of glimpses everything, of the others accuracies."""
    main = scored[name][study.main_count(name)]
    found = answer_figures(main.results[0])
    seeds = [result.group("all").accuracy for result in main.results]
    found["seeds"] = {str(seed): value for seed, value in zip(study.seeds, seeds, strict=True)}
    found["accuracy"], found["accuracy_sd"] = main.accuracy(), float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    for group, values in found["groups"].items():
        for other in study.models:
            if study.model(other).way in ("blind", "frame"):
                values["beside"][other] = scored[other][1].accuracy(group)
    found["glimpses"] = {
        str(n): {group: one.accuracy(group) for group in ("all", *(f"kind {kind}" for kind in kinds))}
        for n, one in scored[name].items()
    }
    found["cost"] = cost(main)
    found["evidence"] = {kind: evidence(study, main, scored_kind(main, kind)) for kind in kinds}
    found["training_cpu_seconds"] = cpu_seconds_of_training(study, name)
    return found


def cost(scored: Scored) -> dict[str, float]:
    return {name: scored.mean(name) for name in ("gflop", "seconds", "frames")}


def scored_kind(scored: Scored, kind: str) -> set[str]:
    questions = scored.results[0].questions
    return set(questions["question_id"][questions["kind"] == kind])


def evidence(study: Study, scored: Scored, ids: set[str]) -> dict[str, float | None]:
    """Did it look at the right moment? The evidence's share of the attention to frames, over its share of the time."""
    rows = scored.rows[scored.rows["question_id"].isin(ids)].dropna(subset=["evidence_attention"])
    if not len(rows):
        return {"attention": None, "time": None, "lift": None}
    attention, time_share = float(rows["evidence_attention"].mean()), float(rows["evidence_time"].mean())
    return {"attention": attention, "time": time_share, "lift": attention / time_share if time_share else None}


def report(
    study: Study, scored: Mapping[str, Mapping[int, Scored]], kinds: Sequence[str], scored_questions: Sequence[Question]
) -> str:
    """The Markdown between the markers."""
    videos = len({one.video_id for one in scored_questions})
    counts = {kind: sum(one.kind == kind for one in scored_questions) for kind in kinds}
    head = ["model", "all", *(f"{kind} ({counts[kind]})" for kind in kinds), "GFLOP", "frames", "CPU s of training"]
    rows = []
    first = next(iter(scored.values()))
    constants = next(iter(first.values())).results[0]
    for constant in ("most frequent per question word", "most frequent per kind"):
        values = [constants.group(group).beside[constant] for group in ("all", *(f"kind {kind}" for kind in kinds))]
        rows.append([constant, *(f"{value:.1f}" for value in values), "0", "0", "0"])
    for name in scored:
        one = scored[name][study.main_count(name)]
        spent = cost(one)
        low, high = one.interval()
        between = "" if low is None else f" ({low:.1f} to {high:.1f})"
        cpu = cpu_seconds_of_training(study, name)
        rows.append(
            [
                name,
                f"{one.accuracy():.1f}{between}",
                *(f"{one.accuracy(f'kind {kind}'):.1f}" for kind in kinds),
                f"{spent['gflop']:.3f}",
                f"{spent['frames']:.0f}",
                f"{cpu:.0f}",
            ]
        )
    parts = [
        f"`make questions`: {len(scored_questions)} questions about {videos} videos, training seeds "
        f"{', '.join(map(str, study.seeds))}. Accuracy in percent of the questions asked, 95 % intervals over videos. "
        f"Models of glimpses answer with {study.answer.main} of {study.learn.frames} frames each, at both ends and "
        "evenly between. GFLOP are of one question, with the encoder on the frames that it looks at; a memory encodes "
        "each frame once for all questions about a video."
        + "".join(
            f" `{name}`: {' and '.join(f'`{one}`' for one in of)}, the product of their probabilities."
            for name, of in study.together.items()
        ),
        table(head, rows),
    ]
    sparse = [name for name in study.models if study.model(name).way == "sparse"]
    if sparse:
        head = ["model, kind", *(f"n = {n}" for n in study.answer.glimpses)]
        by_count = [
            [f"{name}, {group.removeprefix('kind ')}", *(f"{one.accuracy(group):.1f}" for one in scored[name].values())]
            for name in sparse
            for group in ("all", *(f"kind {kind}" for kind in kinds))
        ]
        parts += ["By number of glimpses, without training again:", table(head, by_count)]
    looked = [name for name in study.models if study.model(name).way in ("sparse", "memory")]
    lifts = []
    for name in looked:
        one = scored[name][study.main_count(name)]
        found = [evidence(study, one, scored_kind(one, kind)) for kind in kinds]
        lifts.append([name, *("-" if each["lift"] is None else f"{each['lift']:.2f}" for each in found)])
    parts += [
        "Did it look at the right moment? The share of the attention to frames that fell on the evidence, over the "
        "evidence's share of the time so far; 1 is chance:",
        table(["model", *kinds], lifts),
        f"![accuracy against GFLOP per question]({PLOT.name})",
    ]
    return "\n\n".join(parts)


def cpu_seconds_of_training(study: Study, name: str) -> float:
    paths = [[MODELS / part / f"seed-{seed}" / "training.json" for part in study.parts(name)] for seed in study.seeds]
    return float(np.mean([sum(json.loads(path.read_text())["cpu_seconds"] for path in own) for own in paths]))


if __name__ == "__main__":
    run(kept=None)
