"""Score what the model said: `python -m studies.vlm.evaluate captions|answers`.

Reads studies/vlm/out/TASK/ and what the stage evaluate reads beside captions, or data/questions/questions.parquet.
Writes metrics/vlm/TASK/: captions.json, coverage.json, segments.parquet (each segment's scores, for pipeline.compare
and pipeline.table) and kinds.csv, or answers.json; calls.json, what it cost, and cost.json, what a request cost.
"""

import json

import pyarrow.parquet as pq

from pipeline.dataset.questions.question import from_table
from pipeline.files.aside import write_text
from pipeline.params import load_params
from pipeline.scoring.answer_table import answer_figures, answer_table
from pipeline.scoring.answers import score_answers
from stages import run
from studies.vlm.settings import METRICS, OUT, QUESTIONS, load_study, task_of

TABLES = ("captions.json", "coverage.json", "segments.parquet", "kinds.csv")  # as the stage `evaluate` wants them


def main(name: str) -> None:
    task = task_of(name)
    out, metrics = OUT / task, METRICS / task
    found = json.loads((out / "calls.json").read_text())
    if not found["answered"]:
        raise ValueError(f"none of {found['asked']} requests has a usable reply: {found['unusable']}")
    if task == "captions":
        from stages.evaluate import evaluate

        params, split = load_params(), load_study().captions.split
        params = params.model_copy(update={"caption": params.caption.model_copy(update={"split": split})})
        print(evaluate(params, out / "captions.parquet", *(metrics / name for name in TABLES)))
    else:
        questions, split = from_table(pq.read_table(QUESTIONS)), load_study().answers.split
        table = pq.read_table(out / "answers.parquet", columns=["question_id", "prediction"])
        given = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
        scored = score_answers(
            [one for one in questions if one.split == split],
            {id: answer for id, answer in given.items() if answer is not None},
            train=[one for one in questions if one.split == "train"],
        )
        write_text(metrics / "answers.json", json.dumps(answer_figures(scored), indent=2) + "\n")
        print(answer_table(scored))
    write_text(metrics / "calls.json", json.dumps(found, indent=2) + "\n")
    each = {key: found[key] and found[key] / found["sent"] for key in ("seconds", "tokens_in", "tokens_out", "cost")}
    write_text(metrics / "cost.json", json.dumps(each | {"currency": found["currency"]}, indent=2) + "\n")


if __name__ == "__main__":
    run(kept=None, takes="task")
