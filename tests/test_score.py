"""The command. What it reads is in test_caption_files.py."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from pipeline.score import main
from pipeline.scoring.registry import of_corpus
from pipeline.scoring.scorer import Scorer
from tests.scoring.test_caption_files import CANDIDATES, REFERENCES, write


def test_the_command_prints_both_families_with_evaluator_and_coverage(tmp_path):
    files = [
        write(tmp_path / "candidates.json", CANDIDATES),
        write(tmp_path / "references.json", REFERENCES | {"4": ["a tree"]}),
    ]
    command = [sys.executable, "-m", "pipeline.score", *map(str, files), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with Scorer() as scorer:
        scores = scorer.score(CANDIDATES, REFERENCES)
    assert found["corpus"] == scores.corpus and found["mean"] == scores.mean
    assert (found["evaluator"], found["meteor"]) == ("pycocoevalcap", "1.5")
    assert found["version"] and found["java"].split(".")[0].isdigit()
    assert found["coverage"] | {"split_sha256": ""} == {"asked": 4, "scored": 3, "missing": ["4"], "split_sha256": ""}


def test_the_command_prints_tables_and_says_what_is_wrong_in_a_line(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["score", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    events = {"v_a": {"timestamps": [[0, 9]], "sentences": ["a dog runs"]}}
    truth = write(tmp_path / "val.json", events | {"v_b": events["v_a"]})
    text = run(write(tmp_path / "predicted.json", events), truth)
    assert "1 of 2 videos" in text and "missing: v_b" in text
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert {"CIDEr, as in 2018", "mean", "mean of predicted", "best of predicted", "merged"} <= rows.keys()
    assert rows["mean of predicted"][3:] == ["100.00"] * 3 and rows["mean"][1:] == ["50.00"] * 3
    assert rows["recall"][1:] == ["50.00"] * 5 and set(of_corpus()) <= rows.keys()

    candidates, references = (
        write(tmp_path / "candidates.json", CANDIDATES),
        write(tmp_path / "references.json", {"1": REFERENCES["1"]}),
    )
    with pytest.raises(SystemExit, match=r"^score: 2 captions belong to segments without references, the first '2'$"):
        run(candidates, references)
    with pytest.raises(SystemExit, match=r"^score: .*candidates\.json: found no times in it"):
        run(candidates, references, "--dense")


def test_one_file_may_hold_both_and_the_segments_scores_are_written_for_compare(tmp_path, monkeypatch, capsys):
    pairs = [{"prediction": CANDIDATES[id], "captions": REFERENCES[id]} for id in CANDIDATES]
    out = tmp_path / "scores.parquet"
    arguments = [write(tmp_path / "pairs.json", pairs), "--json", "--per-segment", out]
    monkeypatch.setattr("sys.argv", ["score", *map(str, arguments)])
    main()
    with Scorer() as scorer:
        scores = scorer.score(CANDIDATES, REFERENCES)
    assert json.loads(capsys.readouterr().out)["corpus"] == scores.corpus
    written = pd.read_parquet(out)
    assert written[["segment_id", *of_corpus()]].equals(scores.segments)
    assert list(written["caption"]) == list(CANDIDATES.values()) and written["references"].map(list).to_list() == [
        *REFERENCES.values()
    ]


def test_the_table_has_meteors_own_columns_and_what_is_to_be_known(tmp_path, monkeypatch, capsys):
    candidates = write(tmp_path / "candidates.json", {"1": "一只棕色的狗在公园里跑", "2": "两个男人在下国际象棋"})
    monkeypatch.setattr("sys.argv", ["score", str(candidates), str(candidates)])
    main()
    text = capsys.readouterr().out
    assert "tokenizer ptb" in text and "note: 4 of 4 captions and references are written without spaces" in text
    assert "METEOR fragmentation penalty" in text
    monkeypatch.setattr("sys.argv", ["score", str(candidates), str(candidates), "--tokenizer", "characters", "--json"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert (found["tokenizer"], found["notes"], found["diversity"]["vocabulary"]) == ("characters", [], 20)
    assert found["corpus"]["BLEU-4"] == pytest.approx(100) == found["meteor_columns"]["precision"]


def test_what_the_command_is_asked_for_wrongly_is_said_in_a_line(tmp_path, monkeypatch):
    def refused(*arguments):
        monkeypatch.setattr("sys.argv", ["score", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return str(stopped.value)

    candidates = write(tmp_path / "candidates.json", CANDIDATES)
    assert (
        refused(candidates) == f"score: {candidates} holds no references beside the candidates; name a file that does"
    )
    assert "scores.csv: expected a name that ends in .parquet" in refused(
        candidates, candidates, "--per-segment", "scores.csv"
    )
    events = write(tmp_path / "val.json", {"v_a": {"timestamps": [[0, 9]], "sentences": ["a dog runs"]}})
    assert refused(events) == f"score: {events} holds no references beside the candidates; name a file that does"
    assert "--per-segment is for captions of segments" in refused(events, events, "--per-segment", "a.parquet")


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_number_of_proposals_that_is_none_is_refused(count, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["score", "a.json", "b.json", "--max-proposals", count])
    with pytest.raises(SystemExit):
        main()
    assert "argument --max-proposals: " in capsys.readouterr().err


def test_what_needs_no_model_is_scored_from_the_references_alone(tmp_path, monkeypatch, capsys):
    references = {"1": ["a dog runs", "the dog is running"], "2": ["a cat sleeps", "a cat is asleep", "the cat sleeps"]}
    path = write(tmp_path / "references.json", references | {"3": ["alone"]})

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["score", *map(str, arguments), "--json"])
        main()
        return json.loads(capsys.readouterr().out)

    with Scorer() as scorer:
        constant = scorer.score(dict.fromkeys([*references, "3"], "a dog is here"), references | {"3": ["alone"]})
        human = scorer.score(
            {id: texts[0] for id, texts in references.items()}, {id: t[1:] for id, t in references.items()}
        )
    found = run("--constant", "a dog is here", path)
    assert found["corpus"] == constant.corpus and found["coverage"]["asked"] == 3
    found = run("--human", path)
    assert found["corpus"] == human.corpus and found["coverage"]["asked"] == 2  # of the third there is no second
    with pytest.raises(SystemExit, match="--human: no segment has more than one reference"):
        run("--human", write(tmp_path / "one.json", {"1": ["alone"]}))
