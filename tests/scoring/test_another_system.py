"""Captions of a system that is none of this project's: a table of captions and nothing else."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import stages.evaluate
from pipeline.compare import table
from pipeline.dataset.segments import Segment, to_table
from pipeline.scoring.caption_table import SCHEMA
from pipeline.scoring.paired import compare
from pipeline.scoring.segment_scores import read_scores
from pipeline.serving.report.page import write_page
from pipeline.serving.report.runs import read_run

TEXTS = ("a red star rests on the left", "a green circle turns blue", "a dog runs")


def test_its_captions_are_evaluated_compared_and_shown_without_anything_that_a_memory_says(tmp_path, monkeypatch):
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.scoring.registry.clip_scores", lambda captions, *_: {})
    monkeypatch.setattr("pipeline.serving.report.page._videos", lambda expected: {})
    segments = [Segment(f"v#{i}", "v", "test", 3.0 * i, 3.0 * i + 2, (text,), "now") for i, text in enumerate(TEXTS)]
    Path("data/videos").mkdir(parents=True)
    pq.write_table(to_table(segments), stages.evaluate.SEGMENTS)
    rows = [
        {"segment_id": one.segment_id, "video_id": "v", "split": "test", "start_s": one.start_s, "end_s": one.end_s}
        | {"caption": TEXTS[0], "references": list(one.captions), "log_prob": None}
        for one in segments
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), stages.evaluate.CAPTIONS)

    stages.evaluate.main()
    scores = read_scores("workspace")
    assert list(scores["METEOR"] == 100) == [True, False, False] and scores["log_prob"].isna().all()
    better = scores.assign(CIDEr=scores["CIDEr"] + 1)
    assert "+1.0" in table(compare(scores, better), ("theirs", "better"))
    run = read_run("workspace")
    assert run.retrieved == {}
    write_page([run], Path("report.html"), fps=5.0)
    assert TEXTS[2] in Path("report.html").read_text()
