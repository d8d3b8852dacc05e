"""The list of scores, and what follows from it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import pipeline.compare
import stages.evaluate
from pipeline.dataset.segments import Segment, to_table
from pipeline.scoring import paired, registry
from pipeline.scoring.caption_table import write_captions
from pipeline.scoring.registry import SCORES, Captions, NotScored, Score, in_tables, markdown, of_corpus, register
from pipeline.scoring.scorer import by_name
from pipeline.scoring.variants import best, summarize
from pipeline.serving.report.page import gather
from pipeline.serving.report.runs import Run

TEXTS = ["a red star rests on the left", "a green circle turns blue", "a dog runs"]


class Caption:
    log_prob = -2.0

    def __init__(self, caption: str) -> None:
        self.caption = caption


@pytest.fixture
def letters(monkeypatch):
    """A score from outside: how much too long a caption is, as a fraction; none of the empty caption."""

    def of_segments(captions: Captions) -> dict[str, float]:
        lengths = {id: len(captions.segments[id].captions[0]) for id in captions.texts}
        return {id: abs(len(text) - lengths[id]) / lengths[id] for id, text in captions.texts.items() if text}

    monkeypatch.setitem(SCORES, "excess", Score("excess", "letters too many", "table", of_segments, 100.0))
    return SCORES["excess"]


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """Evaluate these captions in a folder of their own; returns the table of each segment's scores."""
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "clip_scores", lambda captions, *_: {})
    segments = [Segment(f"v{i}#0", f"v{i}", "test", 0.0, 2.0 + i, (text,), "now") for i, text in enumerate(TEXTS)]
    stages.evaluate.SEGMENTS.parent.mkdir(parents=True)
    pq.write_table(to_table(segments), stages.evaluate.SEGMENTS)

    def run(captions: list[str]) -> pd.DataFrame:
        texts = zip(segments, map(Caption, captions), strict=True)
        write_captions(stages.evaluate.CAPTIONS, segments, {segment.segment_id: one for segment, one in texts})
        stages.evaluate.main()
        return pd.read_parquet(stages.evaluate.EACH)

    return run


def test_a_score_from_outside_is_in_every_table_once_it_is_registered(letters, evaluated, monkeypatch, capsys):
    one = evaluated([text + text for text in TEXTS])
    assert ", excess 100.00" in capsys.readouterr().out
    corpus = json.loads(stages.evaluate.CORPUS.read_text())
    assert corpus["excess"] == corpus["excess.now"] == 100
    assert "excess" in set(pd.read_csv(stages.evaluate.PLOT)["metric"])
    assert list(one["excess"]) == [1, 1, 1]
    two = evaluated(TEXTS)

    [found] = [row for row in paired.compare(one, two) if (row.group, row.metric) == ("all", "excess")]
    assert (found.first, found.second) == (100, 0)
    text = pipeline.compare.table(paired.compare(one, two), ("one", "two"))
    [line] = [line.split() for line in text.splitlines() if line.startswith("all") and "excess" in line]
    assert line[2:7] == ["3", "3", "100.0", "0.0", "-100.0"]

    monkeypatch.setattr("pipeline.serving.report.page._videos", lambda expected: {})
    content = gather([Run(name, table, {}, {}, {}) for name, table in (("one", one), ("two", two))], fps=5.0)
    assert [score["meaning"] for score in content["scores"] if score["name"] == "excess"] == ["letters too many"]
    [everything] = [group["scores"] for group in content["groups"] if group["name"] == "all"]
    assert [mean for mean, _, _ in everything["excess"]] == [100, 0]
    assert [caption["scores"]["excess"] for caption in content["segments"][0]["captions"]] == [100, 0]
    assert "excess" in {row["metric"] for row in content["differences"]}

    results = summarize({"one": [one], "two": [two]}, ["one"], draws=10)
    assert {"excess"} < {result.metric for result in results}


def test_a_segment_without_a_value_and_a_score_that_cannot_be_computed_are_left_out(letters, evaluated, capsys):
    each = evaluated(["", TEXTS[1] * 2, TEXTS[2]])
    assert np.isnan(each["excess"][0]) and list(each["excess"][1:]) == [1, 0]
    assert json.loads(stages.evaluate.CORPUS.read_text())["excess"] == 50

    def cannot(captions: Captions) -> dict[str, float]:
        raise NotScored("no ruler")

    SCORES["excess"] = Score("excess", "letters too many", "table", cannot)
    assert "excess" not in evaluated(TEXTS)
    assert capsys.readouterr().out.endswith("; no excess: no ruler\n")


def test_of_a_score_whose_direction_is_down_the_lowest_is_best(monkeypatch):
    monkeypatch.setitem(SCORES, "errors", Score("errors", "", higher_is_better=False))
    runs = {"many": [pd.DataFrame({"errors": [3.0, 5.0]})], "few": [pd.DataFrame({"errors": [1.0, 2.0]})]}
    assert best(runs, runs, "errors") == "few"


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match=r"^a score named CIDEr already exists$"):
        register(Score("CIDEr", "another"))


def test_facts_are_in_percent_and_a_missing_value_or_column_is_no_number():
    facts = SCORES["facts"].values(pd.DataFrame({"facts": pd.array([True, False, None], dtype="boolean")}))
    assert np.array_equal(facts, [100, 0, np.nan], equal_nan=True)
    assert np.isnan(SCORES["CIDEr"].values(pd.DataFrame({"segment_id": ["a"]}))).all()


def test_the_corpus_scores_are_those_that_the_scorer_computes_and_tables_begin_with_the_headlines():
    assert of_corpus() == list(by_name([0] * 4, 0, 0, 0))
    names = [score.name for score in in_tables()]
    assert names[:2] == ["CIDEr", "facts"] and set(SCORES) - set(names) == {"BLEU-2", "BLEU-3"}


def test_the_documentation_lists_every_score():
    assert markdown() in Path("docs/scores.md").read_text(encoding="utf-8"), f"put it there:\n{markdown()}"
