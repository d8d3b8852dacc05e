"""Files of every format, through the command."""

import csv
import json
import subprocess
import sys

import pytest

from pipeline.annotations import Segment
from pipeline.captions import write_captions
from pipeline.score import main, read_candidates, read_events, read_references
from pipeline.scores import METRICS, Scorer

SAID = {"1": "a dog runs", "2": "a cat, asleep\non a mat", "3": "two men play chess"}
MEANT = {"1": ["the dog is running", "a dog runs fast"], "2": ["a cat sleeps on a mat"], "3": ["men playing chess"]}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_every_format_says_the_same(tmp_path):
    coco = [{"image_id": int(id), "id": 100 + int(id), "caption": text} for id, text in SAID.items()]
    plain = write(tmp_path / "plain.json", SAID)
    lists = write(tmp_path / "lists.json", {id: [text] for id, text in SAID.items()})
    results = write(tmp_path / "results.json", coco)
    table = write_csv(tmp_path / "table.csv", ["id", "caption"], SAID.items())
    assert [read_candidates(path) for path in (plain, lists, results, table)] == [SAID] * 4

    flat = [(id, text) for id, texts in MEANT.items() for text in texts]
    rows = [{"image_id": int(id), "id": i, "caption": text} for i, (id, text) in enumerate(flat)]
    captions = write(tmp_path / "captions.json", {"images": [{"id": int(id)} for id in MEANT], "annotations": rows})
    several = write_csv(tmp_path / "several.csv", ["image_id", "text"], flat)
    plain = write(tmp_path / "references.json", MEANT)
    assert [read_references([path]) for path in (captions, several, plain)] == [MEANT] * 3
    parts = [write(tmp_path / f"part-{id}.json", {id: texts}) for id, texts in MEANT.items()]
    assert read_references(parts) == MEANT


def test_the_pipelines_own_captions_are_read_beside_activitynets_annotations(tmp_path):
    segments = [Segment(f"v_a#{i}", "v_a", "test", i, i + 1, (f"ref {i}",), None) for i in range(2)]

    class Said:
        caption, log_prob, retrieved = "a dog", -1.0, ()

    write_captions(tmp_path / "captions.parquet", segments, {segment.segment_id: Said() for segment in segments})
    annotated = {"duration": 9, "timestamps": [[1, 2], [0, 1]], "sentences": ["ref 1", "ref 0"]}
    references = read_references([write(tmp_path / "val.json", {"v_a": annotated})])
    assert references == {"v_a#0": ["ref 0"], "v_a#1": ["ref 1"]} == read_references([tmp_path / "captions.csv"])
    for name in ("captions.json", "captions.csv"):
        assert read_candidates(tmp_path / name) == {"v_a#0": "a dog", "v_a#1": "a dog"}


def test_events_are_read_from_results_and_from_annotations(tmp_path):
    results = {"version": "VERSION 1.0", "results": {"v_a": [{"sentence": "a dog", "timestamp": [1.5, 3]}]}}
    annotations = {"v_a": {"duration": 9, "timestamps": [[1.5, 3]], "sentences": ["a dog"]}}
    assert read_events(write(tmp_path / "r.json", results)) == read_events(write(tmp_path / "a.json", annotations))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.json", '{"1": "a", "2": "b", "1": "c"}', r"a\.json: '1' stands there more than once$"),
        ("a.json", [{"image_id": 1, "caption": "a"}] * 2, r"1 ids have several candidates, the first '1'; wanted one"),
        ("a.csv", "id,caption\n1,a\n1,b\n", r"a\.csv: 1 ids have several candidates, the first '1'"),
        ("a.json", {"1": ["a", "b"]}, r"a\.json: the candidate of '1' is a list of 2; wanted one text$"),
        ("a.json", [{"image_id": 1}], r"found the entry \{'image_id': 1\}; wanted an id \(.*\) and a text in it$"),
        ("a.json", "{", r"a\.json: not JSON \("),
        ("a.json", "3", r'a\.json: found 3; wanted COCO \(\[\{"image_id", "caption"\}'),
        ("a.csv", "name,caption\n1,a\n", r"a\.csv: found the columns name, caption; wanted one of segment_id,"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, error):
    with pytest.raises(ValueError, match=error):
        read_candidates(write(tmp_path / name, content))


def test_files_that_are_not_there_or_of_other_times_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json: No such file or directory$"):
        read_references([tmp_path / "gone.json"])
    with pytest.raises(ValueError, match=r"plain\.json: found no times in it; wanted ActivityNet's annotations"):
        read_events(write(tmp_path / "plain.json", SAID))
    odd = {"results": {"v_a": [{"sentence": "a dog", "timestamp": [1]}]}}
    with pytest.raises(ValueError, match=r"odd\.json: found the event \{.*\} of 'v_a'; wanted \{\"timestamp\":"):
        read_events(write(tmp_path / "odd.json", odd))


def test_the_command_prints_both_families_with_evaluator_and_coverage(tmp_path):
    files = [write(tmp_path / "said.json", SAID), write(tmp_path / "meant.json", MEANT | {"4": ["a tree"]})]
    command = [sys.executable, "-m", "pipeline.score", *map(str, files), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with Scorer() as scorer:
        scores = scorer.score(SAID, MEANT)
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
    assert rows["recall"][1:] == ["50.00"] * 5 and set(METRICS) <= rows.keys()

    said, meant = write(tmp_path / "said.json", SAID), write(tmp_path / "meant.json", {"1": MEANT["1"]})
    with pytest.raises(SystemExit, match=r"^score: 2 captions are of segments without references, the first '2'$"):
        run(said, meant)
    with pytest.raises(SystemExit, match=r"^score: .*said\.json: found no times in it"):
        run(said, meant, "--dense")
