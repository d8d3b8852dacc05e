"""One table of all captioners."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import table
from pipeline.scoring.captioners import cells, line
from pipeline.serving.report.runs import changed, read_run

KINDS = ("now", "before")


def scores(seed: int, videos: int = 6, facts: float = 0.5) -> pd.DataFrame:
    """Two segments of 30 s of each video."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "segment_id": f"v{video}#{i}",
            "video_id": f"v{video}",
            "start_s": 30.0 * i,
            "end_s": 30.0 * (i + 1),
            "kind": KINDS[i],
            "references": ["a red star"],
            "caption": "a star",
            "CIDEr": 100 * random.random(),
            "METEOR": 100 * random.random(),
            "facts": bool(random.random() < facts),
        }
        for video in range(videos)
        for i in range(2)
    ]
    return pd.DataFrame(rows)


def write_entries(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["table", *arguments])
    table.main()


def test_a_captioners_figures_are_means_over_its_trainings_with_intervals_over_videos():
    runs = [scores(0), scores(1)]
    found = line("mine", runs, [])
    for name, scale in (("CIDEr", 1), ("METEOR", 1), ("facts", 100)):
        mean = np.mean([scale * one[name].to_numpy(float) for one in runs])
        figure = found.figures[name]
        assert figure.mean == pytest.approx(mean)
        assert figure.low is not None and figure.high is not None
        assert figure.low < figure.mean < figure.high
    now = np.mean([100 * one[one["kind"] == "now"]["facts"].to_numpy(float) for one in runs])
    assert found.figures["facts.now"].mean == pytest.approx(now)
    assert (found.trainings, found.segments, found.minutes) == (2, 12, 6.0)


def test_costs_are_means_of_the_trainings_and_a_cost_that_one_does_not_know_is_empty():
    costs = [
        {"parameters": 2_000_000, "cpu_s": 1.0, "remembered_bytes": 4000, "tokens_in": 90, "tokens_out": 10},
        {"parameters": 2_000_000, "cpu_s": 3.0, "remembered_bytes": None, "tokens_in": 110, "tokens_out": 10},
    ]
    found = line("mine", [scores(0), scores(1)], costs)
    assert found.per_minute_s == 4.0  # 2 s for each of 12 captions of 6 minutes
    head, row = cells([found])
    shown = dict(zip(head, row, strict=True))
    assert shown["s per minute"] == "4"
    assert shown["parameters"] == "2 M"
    assert shown["bytes remembered"] == ""
    assert shown["tokens"] == "100 + 10"
    assert shown["cost of 1000"] == ""


def test_a_cost_in_money_has_its_currency_and_nothing_is_made_up_where_nothing_is_known():
    head, with_cost, without = cells(
        [line("a", [scores(0)], [{"cost": 0.0005, "currency": "EUR"}]), line("b", [scores(0)], [])]
    )
    assert with_cost[head.index("cost of 1000")] == "0.5 EUR"
    assert without[head.index("s per minute") :] == [""] * 5


def test_trainings_with_other_segments_are_refused():
    with pytest.raises(ValueError, match="mine: its trainings have scores of different segments"):
        line("mine", [scores(0), scores(0, videos=5)], [])


def test_anyones_captioners_are_put_in_one_table_and_what_has_no_scores_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        scores(seed).to_parquet(f"mine-{seed}.parquet")
    scores(2, facts=1).to_parquet("theirs.parquet")
    Path("theirs.json").write_text(json.dumps({"seconds": 0.5, "parameters": 10}))
    entries = """
mine: {scores: [mine-*.parquet], costs: , make: }
theirs: {scores: [theirs.parquet], costs: [theirs.json], make: }
nobody: {scores: [nobody.parquet], costs: , make: attend}
"""
    run(monkeypatch, str(write_entries(tmp_path / "captioners.yaml", entries)), "--json", "out/all.json")
    said = capsys.readouterr()
    assert "nobody is left out, no nobody.parquet: make attend" in said.err
    found = json.loads(Path("out/all.json").read_text())
    assert [one["name"] for one in found["captioners"]] == ["mine", "theirs"]
    assert found["captioners"][1]["figures"]["facts"]["mean"] == 100
    assert found["captioners"][1]["seconds_per_minute"] == 1.0
    assert Path("out/all.md").read_text().startswith("| captioner | trainings | segments | CIDEr |")
    run(monkeypatch, "captioners.yaml", "--missing")
    assert capsys.readouterr().out == "attend\n"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("a: {scores: [], costs: , make: }", "a.scores: found"),
        ("a: {scores: [x], costs: guessed, make: }", "a.costs"),
        ("a: {scores: [x], make: }", "a.costs: found .* Field required"),
        ("{}", "names no captioner"),
        ("a: [", "not YAML"),
    ],
)
def test_a_params_file_that_cannot_be_is_refused_naming_the_key(entries, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        table.read_entries(write_entries(tmp_path / "captioners.yaml", entries))


def test_the_projects_own_captioners_can_be_read_and_made():
    entries = table.read_entries(table.CAPTIONERS)
    targets = Path("Makefile").read_text()
    assert all(f"\n{one.make}: " in targets for one in entries.values() if one.make)


def test_the_report_takes_any_captioners_scores_as_a_run(tmp_path):
    path = tmp_path / "theirs.parquet"
    scores(0).to_parquet(path)
    theirs = read_run(str(path))
    assert list(theirs.scores["segment_id"]) == list(scores(0)["segment_id"])
    assert changed([theirs, theirs]) == {}
