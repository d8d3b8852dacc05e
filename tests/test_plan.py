import json
import shutil
from pathlib import Path

import pytest

from pipeline import plan
from pipeline.params import load_params
from pipeline.plan import Cost, Sample
from tests.conftest import write_params

OWN = {
    "download.videos.source": "directory",
    "download.videos.annotations": {"train": ["train.json"], "val": ["val.json"], "test": []},
    "download.videos.limit": {"train": None, "val": 3, "test": None},
    "caption.split": "val",
}

COCO = {
    "source": "coco",
    "format": "coco",
    "folder": "data/own/pictures",
    "media": {"train": "train2017", "val": "val2017", "test": "val2017"},
    "annotations": {"train": ["captions_train2017.json"], "val": ["captions_val2017.json"], "test": []},
    "limit": {"train": None, "val": 100, "test": 0},
    "segments": "all",
    "max_failed_fraction": 0.0,
}


def test_a_cost_lies_on_the_line_through_two_samples_and_never_below_nothing():
    small, large = Cost(4.0, 5.0, 100.0, 7.0), Cost(6.0, 8.0, 300.0, 6.0)
    assert plan._on_line(50, 10, 30, small, large) == Cost(8.0, 11.0, 500.0, 7.0)
    assert plan._on_line(30, 30, 30, small, large) == Cost(6.0, 8.0, 300.0, 7.0)  # the sample is all there is
    assert plan._on_line(50, 10, 30, large, small) == Cost(6.0, 8.0, 300.0, 7.0)  # noise; it does not get cheaper


def test_a_sample_of_ones_own_videos_tells_how_much_the_whole_has(make_video, tmp_path, monkeypatch):
    own = tmp_path / "data" / "own" / "videos"
    (own / "media").mkdir(parents=True)
    for number in range(12):
        shutil.copy(make_video("a.mp4"), own / "media" / f"v_{number}.mp4")

    def write(name: str, numbers: range, duration_s: float | None) -> None:
        entry = {"timestamps": [[0, 1]], "sentences": ["a dog runs"]} | ({"duration": duration_s} if duration_s else {})
        (own / name).write_text(json.dumps({f"v_{number}": entry for number in numbers}))

    write("train.json", range(8), 60.0)
    write("val.json", range(8, 12), None)
    params_file = Path("params.yaml").resolve()
    write_params(tmp_path / "params.yaml", params_file, OWN)
    monkeypatch.chdir(tmp_path)
    whole = load_params()
    sample = Sample(Path("params.yaml"), whole, tmp_path / "sample", 4)
    cost = sample.run("download videos")
    assert cost.seconds > 0 and cost.cpu_s > 0 and cost.memory > 1e7 and cost.written > 1000
    assert sample.lengths()["videos"] == {"train": 8.0, "val": 4.0, "test": 0.0}  # of 2 s each
    found = plan._whole_lengths("videos", whole, sample)
    assert found == {"train": 480.0, "val": 6.0, "test": 0.0}  # as the file says; as the sample's are
    assert plan._units("finetune", whole, {"videos": found}) == 3 * 486
    assert plan._units("caption", whole, {"videos": found}) == 6
    assert not list((tmp_path / "data").rglob("*.parquet"))
    with pytest.raises(ValueError, match=r"^frames pictures: .*ledger.parquet"):
        sample.run("frames pictures")


def test_what_is_published_is_counted_without_fetching_it(tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    write_params(path, Path("params.yaml"), {"download.pictures": COCO})
    whole = load_params(path)
    sample = Sample(path, whole, tmp_path / "sample", 2)
    assert sample.params.download["pictures"].source == "shapes"
    monkeypatch.setattr(sample, "mean_length", lambda _: 1.0)
    assert plan._whole_lengths("pictures", whole, sample) == {"train": 118_287.0, "val": 100.0, "test": 0.0}
