"""How long a memory lasts: the sequences that are measured, and the study from training to its table."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.dataset.segments import Segment, frames_of_segment
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.params import load_params
from pipeline.scoring import plot
from pipeline.scoring.variants import Curve
from studies.long import measure, train
from studies.long.lasting import Answer, Videos, interval, stretched
from studies.long.settings import FILE, METRICS, MODELS, RUN, load_long, params_of
from tests.conftest import write_params
from tests.studies.test_ablation import TINY_PARAMS, make_inputs

CAPTIONS = {"now": "a red star rests on the left", "before": "the red star comes back"}
TINY = """
captioners:
  mean: {memory.enabled: false, baseline.frames: mean, baseline.count: 1}
entries: {entries-20: 20}
measuring: {seconds: [0, 10, 60], seed: 0}
"""


def test_between_evidence_and_segment_lie_videos_that_never_show_what_is_asked_for():
    def video(number: float, frames: int) -> VideoEmbeddings:
        return VideoEmbeddings(np.arange(frames) / 5, np.full((frames, 2), number, np.float16))

    videos = {"own": video(1, 40), "other": video(2, 30), "showing": video(3, 30)}
    np.asarray(videos["own"].embeddings)[20:31] = 4  # the segment
    shown = {"own": {("red", "star")}, "other": {("red", "ring")}, "showing": {("red", "star")}}
    segment = Segment("own#1", "own", "test", 4.0, 6.15, ("the red star comes back",), "before")
    others = [Segment("own#0", "own", "test", 0.0, 3.0, ("a red star rests on the left",), "now")]
    for seconds in (0, 17):
        [(moved, long)] = stretched(Videos([*others, segment], videos, shown), seconds, 0)
        of_segment = frames_of_segment(moved.start_s, moved.end_s, long.timestamps.tolist())
        embeddings = long.embeddings[:]
        assert embeddings[:, 0].tolist() == [1] * 20 + [2] * (5 * seconds) + [4] * 11
        assert embeddings[of_segment.start : of_segment.stop, 0].tolist() == [4] * 11
    assert moved.captions == segment.captions


def test_an_interval_over_videos_is_wider_where_their_segments_agree():
    def answers(right):
        return [Answer(f"{i // 2}", one, True, one) for i, one in enumerate(right)]

    low, high = interval(answers([True, False] * 20))
    assert low == high == 50  # every video has half of its two
    low, high = interval(answers([True, True, False, False] * 10))
    assert low < 35 and high > 65


def test_every_captioner_is_valid_and_a_wrong_one_is_named(tmp_path):
    long = load_long()
    curve = Curve(np.arange(3.0), np.ones(3), np.zeros(3), np.full(3, 2.0))
    plot.draw(dict.fromkeys([RUN, *long.captioners, *long.entries], curve), tmp_path / "p.png", title="t", x_label="x")
    assert [params_of(long, name).memory.enabled for name in long.captioners].count(True) == 1
    path = tmp_path / "params.yaml"
    path.write_text(TINY.replace("mean:", f"{RUN}:", 1))
    with pytest.raises(ValueError, match="captioners: run is what models/finetuned is called"):
        load_long(path)
    path.write_text(TINY.replace("entries-20: 20", ", ".join(f"entries-{n}: {n}" for n in range(20, 27))))
    with pytest.raises(ValueError, match="run, captioners and entries: found 9, the plot has 7 colours"):
        measure.refuse_too_many(load_long(path))
    path.write_text(TINY.replace("entries-20: 20", "mean: 20"))
    with pytest.raises(ValueError, match="entries: mean is one of captioners, too"):
        load_long(path)
    path.write_text(TINY.replace("baseline.count: 1", "baseline.count: 0"))
    with pytest.raises(ValueError, match=r"for captioner mean, params\.yaml:\n  baseline\.count: found 0"):
        params_of(load_long(path), "mean")
    with pytest.raises(ValueError, match="has no captioner 'many'; it has mean"):
        params_of(load_long(path), "many")


def test_the_study_trains_measures_and_writes_its_table(tmp_path, monkeypatch, one_thread):
    from stages.finetune import finetune
    from stages.pretrain import pretrain

    write_params(tmp_path / "params.yaml", Path("params.yaml"), TINY_PARAMS)
    make_inputs(tmp_path, CAPTIONS)
    monkeypatch.chdir(tmp_path)
    for file, text in {FILE: TINY, measure.REPORT: f"# Results\n\nBefore.\n\n{measure.BEGIN}\n{measure.END}\n"}.items():
        file.parent.mkdir(parents=True)
        file.write_text(text)
    scenes: dict[str, dict[str, list[str]]] = {f"v{v}": {"objects": []} for v in range(9)}
    (measure.DATA / "annotations").mkdir()
    (measure.DATA / "annotations/scenes.json").write_text(json.dumps(scenes))
    params = params_of(load_long(), "mean")
    pretrain(params, Path("models/pretrained"), Path("curves"))
    finetune(load_params(changes={"memory.enabled": True}), measure.FINETUNED, Path("curves"))

    train.main("mean")
    measure.main()

    found = pd.read_csv(METRICS / "table.csv")
    assert found.groupby("captioner").seconds.apply(list).to_dict() == {
        name: [0, 10, 60] for name in (RUN, "entries-20", "mean")
    }
    assert set(found.segments) == {3} and found.facts.between(0, 100).all()
    held = found.set_index(["captioner", "seconds"]).mib
    assert held[RUN, 60] > held[RUN, 0] and held["mean", 60] == held["mean", 0]
    assert held["entries-20", 60] < held[RUN, 60]
    text = measure.REPORT.read_text()
    assert "Before." in text and re.search(r"^\| `run` \| \d+\.\d \(", text, re.MULTILINE)
    assert f"mean was trained in {json.loads((MODELS / 'mean/training.json').read_text())['cpu_s']} CPU s" in text
    assert json.loads((METRICS / "run.json").read_text()).keys() == {"facts.0s", "facts.10s", "facts.60s"}
    assert measure.PLOT.is_file()


def test_what_is_left_is_said_of_what_there_is_ten_seconds_after_the_evidence(monkeypatch):
    monkeypatch.setattr(measure, "training_cpu_s", lambda name: 1)
    usual = {"segments": 4, "high": 100.0, "cpu_s": 1.0, "mib": 2.0}
    facts = {"run": {0: 96.0, 10: 90.0, 600: 70.0}, "mean": {0: 50.0, 10: 54.0, 600: 45.0}}
    rows = [
        {"captioner": name, "seconds": seconds, "facts": value, "low": value - 5, **usual}
        for name, of_one in facts.items()
        for seconds, value in of_one.items()
    ]
    last = measure.report(rows, ["mean"]).split("taken away from both:")[1]
    assert "| `run` | 1.15 | 1.00 | 0.50 |" in last and "| `mean` | - | - | - |" in last
