"""Write a page of the questions: what each model answered, where it looked, where the evidence was. The end of `make
questions`.

Reads studies/questions/params.yaml, data/questions/, studies/questions/out/ (the first seed's, with the main number of
glimpses) and data/videos/frames/ (for pictures). Writes metrics/questions.html.
"""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from pipeline.dataset.annotations import subset_order
from pipeline.dataset.questions.question import from_table
from pipeline.params import embedded_fps, load_params
from pipeline.process import command
from pipeline.serving.questions.page import write_questions_page
from studies.questions.settings import OUT, QUESTIONS, load_study

FRAMES, PAGE = Path("data/videos/frames"), Path("metrics/questions.html")
VIDEOS = 40  # or the pictures of large test sets would take hundreds of megabytes


def main() -> None:
    study = load_study()
    questions = [one for one in from_table(pq.read_table(QUESTIONS)) if one.split == study.answer.split]
    chosen = set(list(subset_order({one.video_id for one in questions}))[:VIDEOS])
    answers = {}
    for name in study.models:
        path = OUT / name / f"seed-{study.seeds[0]}" / "answers.parquet"
        if not path.is_file():
            raise ValueError(f"no {path}: make questions")
        rows = pd.read_parquet(path)
        answers[name] = rows[rows["glimpses"] == study.main_count(name)]
    kept = [one for one in questions if one.video_id in chosen]
    params = load_params()
    line = write_questions_page(kept, answers, FRAMES, PAGE, fps=embedded_fps(params), every=params.embed.every)
    print(f"show: {line}; of {len(chosen)} videos -> {PAGE}")


if __name__ == "__main__":
    command.run("studies.questions.show", __doc__, main)
