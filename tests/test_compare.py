import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipeline.compare as module
from pipeline.scoring.paired import Comparison, compare
from pipeline.scoring.registry import of_corpus
from pipeline.scoring.scorer import score
from pipeline.scoring.segment_scores import common, incomplete, read_scores


def scores(values, kinds=None) -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame(
        {
            "segment_id": [f"v{i}#0" for i in range(n)],
            "kind": kinds or ["now"] * n,
            "start_s": np.zeros(n),
            "end_s": np.arange(n) + 1.0,
            "references": [["a caption"]] * n,
            "CIDEr": values,
        }
    )


def test_the_command_says_why_a_single_video_has_no_p_and_what_is_left_out(tmp_path, monkeypatch, capsys):
    names = [str(tmp_path / name) for name in ("one.parquet", "two.parquet")]
    for name, values in zip(names, ([1.0, np.nan], [5.0, 2.0]), strict=True):
        scores([1.0, 2.0], ["now", "then"]).assign(METEOR=values).to_parquet(name)
    monkeypatch.setattr("sys.argv", ["compare", *names])
    module.main()
    printed = capsys.readouterr()
    assert printed.err == f"compare: METEOR is left out where {names[0]} has none: 1 of 2 segments\n"
    assert "A single video has no interval and no p (-)" in printed.out
    assert "Neither run has video ids: each segment counts as a video of its own." in printed.out
    assert "corrected for all of the 1 comparisons" in printed.out
    row = next(line.split() for line in printed.out.splitlines() if line.startswith("now") and "METEOR" in line)
    assert row[-5:] == ["+4.0", "-", "-", "-", "-"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_in_either_table_is_left_out_and_said(value):
    whole = scores([1.0, 2.0, 3.0]).assign(METEOR=[1.0, 2.0, 3.0])
    part = scores([1.0, value, 3.0]).assign(METEOR=[1.0, 2.0, 3.0])
    for tables in ((whole, part), (part, whole)):
        assert {result.metric for result in compare(*tables)} == {"METEOR"}
    assert incomplete({"old": whole, "new": part}) == ["CIDEr is left out where new has none: 1 of 3 segments"]


def test_tables_without_segments_or_that_are_no_tables_of_scores_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^no segments in either run: nothing to compare$"):
        compare(scores([]), scores([]))
    path = tmp_path / "a.parquet"

    def refused(frame, message):
        frame.to_parquet(path)
        with pytest.raises(ValueError, match=message):
            read_scores(str(path))

    refused(scores([]), r"a\.parquet: no segments, nothing to compare$")
    refused(
        scores([1.0]).drop(columns="references"), r"not a table of scores \(it has no column references\); `python -m "
    )
    refused(pd.concat([scores([1.0])] * 2), r"a\.parquet: 1 segments occur twice, the first 'v0#0'$")
    path.write_text("segment_id,CIDEr")
    with pytest.raises(
        ValueError, match=r"a\.parquet: not a table of scores \(.*\); `python -m pipeline.score .* writes one$"
    ):
        read_scores(str(path))
    with pytest.raises(ValueError, match=r"gone\.parquet: no such file; `python -m pipeline.score"):
        read_scores(str(tmp_path / "gone.parquet"))


def test_scores_of_captions_from_elsewhere_compare_with_a_runs(tmp_path):
    run, theirs = scores([1.0, 2.0, 3.0]), scores([2.0, 2.0, 5.0])[["segment_id", "references", "CIDEr"]]
    theirs["references"] = pd.Series([np.array(["a caption"])] * 3)
    for tables in ((run, theirs), (theirs, run)):
        found = compare(*tables)
        assert {result.group for result in found} == {"all", "now"} and abs(found[0].difference) == 1


def test_scores_of_different_tokenizers_are_refused(tmp_path):
    one, two = scores([1.0]), scores([2.0])
    two.attrs["tokenizer"] = "characters"
    two.to_parquet(tmp_path / "two.parquet")
    with pytest.raises(
        ValueError, match=r"^one run is scored with the tokenizer ptb, the other with characters: not com"
    ):
        compare(one, read_scores(str(tmp_path / "two.parquet")))


def test_runs_over_other_segments_or_references_are_refused():
    with pytest.raises(ValueError, match=r"3 and 2 segments, 1 of them in only one run \(v2#0"):
        compare(scores([1.0, 2.0, 3.0]), scores([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"--common compares the segments that both have$"):
        compare(scores([1.0, 2.0]), scores([1.0, 2.0, 3.0]))
    other = scores([1.0])
    other["references"] = [["another"]]
    with pytest.raises(ValueError, match="references differ"):
        compare(scores([1.0]), other)
    with pytest.raises(ValueError, match="references differ"):
        common(scores([1.0, 2.0]), other)
    other["segment_id"] = "x"
    with pytest.raises(ValueError, match=r"^the runs have no segment in common$"):
        common(scores([1.0]), other)


def test_common_segments_are_scored_again_because_ciders_rare_words_are_counted_over_all():
    captions = {"a": "a dog runs", "b": "a cat sleeps on a mat", "c": "a dog sleeps", "d": "two men play"}
    references = {"a": ["the dog runs fast"], "b": ["a cat sleeps"], "c": ["a dog sleeps"], "d": ["men play chess"]}

    def run(ids):
        """With scores that nobody computed."""
        texts = {"caption": [captions[id] for id in ids], "references": [references[id] for id in ids]}
        return scores([0.0] * len(ids)).assign(segment_id=list(ids), **texts)

    one, two = common(run("abc"), run("abcd"))
    expected = score({id: captions[id] for id in "abc"}, {id: references[id] for id in "abc"}).segments
    for found in (one, two):
        assert list(found["segment_id"]) == ["a", "b", "c"]
        assert found[of_corpus()].equals(expected[of_corpus()])
    assert {result.difference for result in compare(one, two)} == {0.0}
    same = run("ab")
    assert all(table is same for table in common(same, same))  # nothing to restrict, nothing scored again


def test_the_command_compares_the_workspace_with_itself_and_says_what_is_missing(tmp_path):
    (tmp_path / "metrics").mkdir()
    scores([1.0, 2.0]).to_parquet(tmp_path / "metrics/segments.parquet")
    command = [sys.executable, "-m", "pipeline.compare", "workspace"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    run = subprocess.run(
        [*command, "workspace", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    first = json.loads(run.stdout)[0]
    assert (first["difference"], first["p"], first["p_bootstrap"]) == (0, 1, 1)
    scores([3.0]).to_parquet(tmp_path / "theirs.parquet")
    run = subprocess.run([*command, "theirs.parquet"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and "2 and 1 segments, 1 of them in only one run (v1#0, ...)" in run.stderr
    run = subprocess.run(
        [*command, "theirs.parquet", "--common"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (
        run.returncode == 1
        and run.stderr == "compare: the first run has no captions to score again (no column caption)\n"
    )
    text = subprocess.run([*command, "workspace"], cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert "p bootstrap  p exchange  p Holm" in text
    run = subprocess.run([*command, "nowhere"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("compare: nowhere: metrics/segments.parquet not found")


def test_each_figure_of_the_table_stands_under_its_name():
    found = Comparison("now", "CIDEr", 12, 5, 1.25, 3.5, 2.25, 0.5, 4.0, p=0.02, p_bootstrap=0.01, p_holm=0.3)
    head, row = module.table([found], ("old", "new")).splitlines()
    names = ["group", "score", "segments", "videos", "old", "new", "difference", "95 % interval"]
    names += ["p bootstrap", "p exchange", "p Holm"]
    assert re.split(r" {2,}", head.strip()) == names
    figures = ["now", "CIDEr", "12", "5", "1.2", "3.5", "+2.2", "+0.5 .. +4.0", "0.0100", "0.0200", "0.3000"]
    assert re.split(r" {2,}", row.strip()) == figures


def test_that_only_common_segments_are_compared_is_told(tmp_path, monkeypatch, capsys):
    for name, values in (("one.parquet", [1.0, 2.0, 3.0]), ("two.parquet", [1.0, 2.0])):
        scores(values).assign(caption="a caption").to_parquet(tmp_path / name)
    monkeypatch.setattr("pipeline.scoring.segment_scores.rescored", lambda table: table)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", "one.parquet", "two.parquet", "--common"])
    module.main()
    assert capsys.readouterr().out.startswith("Only the 2 common segments, of 3 in one.parquet, 2 in two.parquet.")
