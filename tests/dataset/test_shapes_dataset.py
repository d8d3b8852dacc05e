import hashlib
import json

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.shapes.dataset import BOXES, video_frames, write_long_videos, write_pictures, write_videos
from pipeline.dataset.shapes.grammar import read_facts
from pipeline.dataset.shapes.scenes import video_scene


def pictures(folder, **changes):
    given = {"seed": 0, "counts": {"train": 6, "val": 2, "test": 0}, "size_px": 64, "captions_per_picture": 5}
    return write_pictures(folder / "pictures", folder / "notes", **given | {"workers": 1} | changes)


def videos(folder, **changes):
    given = {
        "seed": 0,
        "counts": {"train": 2, "val": 1, "test": 1},
        "size_px": 64,
        "fps": 10,
        "captions_per_segment": {"train": 3, "val": 5, "test": 5},
        "workers": 1,
    }
    return write_videos(folder / "videos", folder / "notes", **given | changes)


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    pictures(folder)
    videos(folder)
    return folder


def test_runs_and_numbers_of_workers_give_the_same_bytes(written, tmp_path):
    pictures(tmp_path, workers=2)
    videos(tmp_path, workers=2)
    assert digests(tmp_path) == digests(written)


def test_asking_for_more_changes_nothing_that_was_there(written, tmp_path):
    assert pictures(tmp_path, counts={"train": 8, "val": 2})[:6] == [f"shapes_train_{i:06d}" for i in range(6)]
    assert len(videos(tmp_path, counts={"train": 3, "val": 1, "test": 1})) == 5
    before, after = digests(written), digests(tmp_path)
    media = [name for name in before if not name.startswith("notes")]
    assert {name: after[name] for name in media} == {name: before[name] for name in media}
    assert len(after) == len(before) + 3
    for name in ("train.json", "captions_train.json"):
        old, new = (json.loads((folder / "notes" / name).read_text()) for folder in (written, tmp_path))
        if name == "train.json":
            assert new | old == new
        else:
            assert new["annotations"][: len(old["annotations"])] == old["annotations"]


def test_pictures_come_with_coco_captions(written):
    ids = set()
    for split, count in {"train": 6, "val": 2, "test": 0}.items():
        document = json.loads((written / "notes" / f"captions_{split}.json").read_text())
        assert len(document["images"]) == count and len(document["annotations"]) == 5 * count
        ids |= {image["id"] for image in document["images"]}
        for image in document["images"]:
            picture = cv2.imread(str(written / "pictures" / image["file_name"]))
            assert picture.shape == (image["height"], image["width"], 3) == (64, 64, 3)
            own = [a["caption"] for a in document["annotations"] if a["image_id"] == image["id"]]
            assert len(set(own)) == 5 and len({read_facts(caption) for caption in own}) == 1
            assert read_facts(own[0])
    assert len(ids) == 8


def test_videos_come_with_activitynet_captions_and_kinds(written):
    for split, name, count, each in [("train", "train", 2, 3), ("val", "val_1", 1, 5), ("test", "val_2", 1, 5)]:
        document = json.loads((written / "notes" / f"{name}.json").read_text())
        assert list(document) == [f"v_shapes_{split}_{i:04d}" for i in range(count)]
        for index, entry in enumerate(document.values()):
            scene = video_scene(0, split, index)
            assert len(entry["timestamps"]) == len(entry["sentences"]) == len(entry["kinds"])
            assert len(entry["sentences"]) == each * len(scene.segments)
            for i, (interval, caption, kind) in enumerate(
                zip(entry["timestamps"], entry["sentences"], entry["kinds"], strict=True)
            ):
                segment = scene.segments[i // each]
                assert interval == [segment.start_s, segment.end_s] and kind == segment.kind
                assert read_facts(caption) == segment.facts
                assert interval[1] < entry["duration"]


def test_a_video_shows_its_scene_at_its_rate(written):
    scene = video_scene(0, "train", 0)
    truth = json.loads((written / "notes" / "scenes.json").read_text())["v_shapes_train_0000"]
    with av.open(str(written / "videos" / "v_shapes_train_0000.mp4")) as container:
        (stream,) = container.streams.video
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    expected = list(video_frames(scene, 64, 10))
    assert len(shown) == len(expected) == truth["frames"]
    for (shown_s, picture), (wanted_s, drawn) in zip(shown, expected, strict=True):
        assert shown_s == pytest.approx(wanted_s, abs=1e-3)
        assert np.abs(picture.astype(int) - drawn).mean() < 6  # chroma is at half the resolution


@pytest.mark.parametrize("odd", ["rate", "tone_hz", "width"])
def test_a_few_videos_have_sound_or_odd_rates_and_sizes(odd, tmp_path):
    usual = {"rate": None, "tone_hz": None, "width": 1.0}
    seed = next(s for s in range(1000) if getattr(video_scene(s, "test", 0), odd) != usual[odd])
    scene = video_scene(seed, "test", 0)
    videos(tmp_path, seed=seed, counts={"test": 1}, size_px=128)
    ((video_id, truth),) = json.loads((tmp_path / "notes" / "scenes.json").read_text()).items()
    with av.open(str(tmp_path / "videos" / f"{video_id}.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (truth["width_px"], truth["height_px"])
        assert stream.average_rate == (scene.rate or 10)
        assert [s.codec_context.name for s in container.streams.audio] == ["aac"] * truth["sound"]
        assert stream.duration and stream.time_base
        assert float(stream.duration * stream.time_base) == pytest.approx(truth["duration_s"], abs=0.01)
        assert float(stream.duration * stream.time_base) > scene.segments[-1].end_s
        assert (odd == "tone_hz") <= truth["sound"]


def test_the_ground_truth_has_a_box_for_whatever_is_in_a_frame(written):
    table = pq.read_table(written / "notes" / "boxes.parquet")
    assert table.schema.equals(BOXES)
    rows = table.to_pylist()
    assert [(r["video_id"], r["frame_index"]) for r in rows] == sorted((r["video_id"], r["frame_index"]) for r in rows)
    truth = json.loads((written / "notes" / "scenes.json").read_text())
    for row in rows:
        video = truth[row["video_id"]]
        assert row["timestamp_s"] == pytest.approx(row["frame_index"] / video["fps"])
        assert 0 <= row["x0"] < row["x1"] <= video["width_px"] and 0 < row["visible"] <= 1 + 1e-6
        assert row["object_id"] in {o["id"] for o in video["objects"]}
    for video_id, video in truth.items():
        for segment in video["segments"]:
            ended = [r for r in rows if r["video_id"] == video_id and abs(r["timestamp_s"] - segment["end_s"]) < 0.11]
            assert bool(ended) == (segment["facts"]["event"] != "leaves")


def test_no_file_is_left_half_written(written):
    assert not list(written.rglob("*.part"))


def test_splits_and_sizes_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"counts: found \{'dev': 1\}, expected numbers, 0 or more, for train, val, test"
    ):
        pictures(tmp_path, counts={"dev": 1})
    with pytest.raises(ValueError, match="size_px: found 99, expected an even number"):
        videos(tmp_path, size_px=99)


@pytest.mark.parametrize("kind", ["times", "first"])
def test_long_videos_of_several_moments_have_their_captions_and_ground_truth(tmp_path, kind):
    options = {"seed": 0, "minutes": 0.75, "age_s": 8.0, "size_px": 32, "fps": 2, "captions_per_segment": 5}
    (video,) = write_long_videos(tmp_path / "m", tmp_path / "a", count=1, workers=1, kind=kind, **options)
    entry = json.loads((tmp_path / "a/val_2.json").read_text())[video]
    truth = json.loads((tmp_path / "a/scenes.json").read_text())[video]
    last = truth["segments"][-1]
    assert last["kind"] == entry["kinds"][-1] == kind
    assert {read_facts(caption).event for caption in entry["sentences"][-5:]} == {last["facts"]["event"]}
    seen = [one for one in truth["objects"] if one["id"].startswith("shown")]
    if kind == "times":
        assert last["facts"]["event"] == f"returns_{len(seen[0]['shown']) - 1}"  # the last time is the return
    else:
        first, second = sorted(seen, key=lambda one: one["shown"][0]["from_s"])
        expected = [{"colour": one["colour"], "shape": one["shape"], "look": ""} for one in (first, second)]
        assert last["facts"]["things"] == expected
    assert (tmp_path / f"m/{video}.mp4").stat().st_size > 1000


def test_long_videos_end_with_what_comes_back_or_in_so_long_after_the_evidence(tmp_path):
    options = {"seed": 0, "minutes": 0.5, "age_s": 8.0, "size_px": 32, "fps": 5, "captions_per_segment": 2}
    ids = write_long_videos(tmp_path / "media", tmp_path / "annotations", count=2, workers=1, **options)
    entries = json.loads((tmp_path / "annotations/val_2.json").read_text())
    truth = json.loads((tmp_path / "annotations/scenes.json").read_text())
    assert list(entries) == list(truth) == ids
    for video in ids:
        entry, (*_, last) = entries[video], truth[video]["segments"]
        assert entry["duration"] == 30.0 and entry["kinds"][-2:] == ["before", "before"]
        assert read_facts(entry["sentences"][-1]).event == last["facts"]["event"]
        (shown,) = [one for one in truth[video]["objects"] if one["id"] == "shown"]
        assert last["start_s"] - 9 < shown["shown"][0]["to_s"] < last["start_s"] - 8 + 0.1
        with av.open(str(tmp_path / f"media/{video}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 150
    again = write_long_videos(tmp_path / "more/media", tmp_path / "more/annotations", count=1, workers=1, **options)
    assert again == ids[:1]
    assert (tmp_path / f"more/media/{ids[0]}.mp4").read_bytes() == (tmp_path / f"media/{ids[0]}.mp4").read_bytes()
