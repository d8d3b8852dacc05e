import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import stages.download
import stages.frames
from pipeline.dataset import annotations, ledger, verdict
from pipeline.dataset.annotations import Annotation, Caption
from pipeline.dataset.segments import Segment, expected_segments, from_table
from pipeline.dataset.sources import directory
from pipeline.dataset.sources.subset import fetch_subset
from pipeline.dataset.verdict import Row
from pipeline.features import shards


def activitynet(*ids: str, sentences=("a dog runs", "it barks")) -> str:
    times = [[0, 1], [1, 2]]
    return json.dumps({i: {"duration": 2.0, "timestamps": times, "sentences": list(sentences)} for i in ids})


def own_folder(root: Path, make_video, **media: list[str]) -> Path:
    """A user's folder: media/{split} of videos, and an annotation file that names them and one that is gone."""
    own = root / "own"
    for split, ids in media.items():
        (own / split).mkdir(parents=True)
        for number, video_id in enumerate(ids):
            name = video_id.removeprefix("v_") if number % 2 else video_id
            shutil.copy(make_video("a.mp4"), own / split / f"{name}.MP4")
        (own / f"{split}.json").write_text(activitynet(*ids))
    return own


def directory_params(own: Path, **splits: int | None) -> dict[str, object]:
    names = ("train", "val", "test")
    return {
        "download.videos.source": "directory",
        "download.videos.folder": str(own),
        "download.videos.media": {split: split for split in names},
        "download.videos.annotations": {split: [f"{split}.json"] if split in splits else [] for split in names},
        "download.videos.limit": {split: splits.get(split) for split in names},
        "download.videos.max_failed_fraction": 0.5,
    }


def outs(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


def noting(calls: list[str], function: Callable[..., Any], name: Callable[[Any], str] = str) -> Callable[..., Any]:
    """The function, noting the name of its first argument at every call."""

    def noted(first, *args, **kw):
        calls.append(name(first))
        return function(first, *args, **kw)

    return noted


def test_a_folder_of_videos_becomes_a_dataset(make_video, workspace, tmp_path, capsys):
    own = own_folder(tmp_path, make_video, train=["v_a", "v_b", "v_broken", "v_empty"], val=["v_c"])
    (own / "train" / "v_broken.MP4").write_bytes(b"not a video" * 99)
    (own / "train" / "v_a.srt").write_text("subtitles")
    content = json.loads(activitynet("v_a", "v_b", "v_broken", "v_empty", "v_gone", "../../etc/passwd"))
    content["v_a"]["timestamps"][1] = [1, 99]
    content["v_empty"]["sentences"] = [" ", ""]
    (own / "train.json").write_text(json.dumps(content))
    data = workspace(directory_params(own, train=None, val=None)) / "data" / "videos"
    stages.download.main("videos")
    rows = ledger.read(data / "ledger.parquet")
    assert {video_id: (row.status, row.reason) for video_id, row in rows.items()} == {
        "../../etc/passwd": ("refused", ledger.refusal("../../etc/passwd")),
        "v_a": ("ok", "ends past the video's end, cut (1)"),
        "v_b": ("ok", None),
        "v_broken": ("corrupt", "text, not a video"),
        "v_c": ("ok", None),
        "v_empty": ("ok", "no captions left; empty caption dropped (2)"),
        "v_gone": ("missing", f"no file of that name in {own / 'train'}"),
    }
    segments = from_table(pq.read_table(data / "segments.parquet"))
    assert [f"{segment.segment_id} {segment.split}" for segment in segments] == [
        *("v_a#0 train", "v_a#1 train", "v_b#0 train", "v_b#1 train", "v_c#0 val", "v_c#1 val")
    ]
    assert sorted(path.name for path in (data / "media").iterdir()) == [
        "v_a.mp4", "v_b.mp4", "v_broken.mp4", "v_c.mp4", "v_empty.mp4"
    ]  # fmt: skip
    assert (data / "annotations" / "train.json").read_bytes() == (own / "train.json").read_bytes()
    assert capsys.readouterr().out == (
        "download videos: videos: 4 ok, 1 corrupt, 1 missing, 1 refused; 6 segments of 12 expected, 6 captions; "
        "empty caption dropped: 2, ends past the video's end, cut: 1\n"
    )


def test_a_segment_that_the_file_is_too_short_for_is_asked_for_all_the_same(make_video, workspace, tmp_path):
    own = own_folder(tmp_path, make_video, train=["v_a"])  # of 2 s
    entry = {"duration": 9, "timestamps": [[0, 8], [0, 9], [5, 9]], "sentences": ["a dog", "a cat", "a bird"]}
    (own / "train.json").write_text(json.dumps({"v_a": entry}))
    data = workspace(directory_params(own, train=None)) / "data" / "videos"
    stages.download.main("videos")
    table = pq.read_table(data / "segments.parquet")
    assert expected_segments(table, "train") == 3
    rows = [(row["segment_id"], row["start_s"], row["end_s"], row["captions"]) for row in table.to_pylist()]
    assert rows == [("v_a#0", 0, 2, ["a dog"]), ("v_a#1", 0, 2, ["a cat"])]
    (own / "train.csv").write_text('video_id,caption\nv_a,"a dog, running"\nv_a,it runs\n')
    values = directory_params(own, train=None) | {"download.videos.format": "csv"}
    workspace(values | {"download.videos.annotations": {"train": ["train.csv"], "val": [], "test": []}})
    stages.download.main("videos")
    (row,) = pq.read_table(data / "segments.parquet").to_pylist()
    assert (row["segment_id"], row["end_s"], row["captions"]) == ("v_a#0", 2, ["a dog, running", "it runs"])


def test_any_history_of_the_folder_ends_as_a_clean_run(make_video, workspace, tmp_path):
    own = own_folder(tmp_path, make_video, train=["v_a", "v_b", "v_c", "v_d"])
    data = workspace(directory_params(own, train=None)) / "data" / "videos"
    stages.download.main("videos")
    kept = (data / "media" / "v_a.mp4").lstat().st_ino
    (own / "train" / "b.MP4").write_bytes(make_video("d.mkv").read_bytes())  # replaced
    shutil.move(own / "train" / "v_c.MP4", own / "train" / "v_c.mkv")  # renamed
    (own / "train" / "d.MP4").unlink()  # removed
    (data / "media" / "stale.mp4").touch()
    (data / "media" / ".partial").mkdir()
    (data / ".rendered").mkdir()
    stages.download.main("videos")
    assert (data / "media" / "v_a.mp4").lstat().st_ino == kept
    after = outs(data)
    shutil.rmtree(data)
    stages.download.main("videos")
    assert after == outs(data)


def test_a_file_replaced_before_a_kill_is_not_taken_for_the_old_one(make_video, workspace, tmp_path, monkeypatch):
    own = own_folder(tmp_path, make_video, train=["v_a"])
    data = workspace(directory_params(own, train=None)) / "data" / "videos"
    stages.download.main("videos")
    content = bytearray((own / "train" / "v_a.MP4").read_bytes())
    content[-1] ^= 1  # of the same length
    (own / "train" / "v_a.MP4").write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stages.download.main("videos")
    stages.download.main("videos")
    assert ledger.read(data / "ledger.parquet")["v_a"].sha256 == verdict.sha256_of(own / "train" / "v_a.MP4")


def test_a_folder_without_one_usable_video_is_an_error_that_says_why(make_video, workspace, tmp_path):
    own = own_folder(tmp_path, make_video, train=["v_a"])
    (own / "train.json").write_text(activitynet("v_x", "v_y"))
    workspace(directory_params(own, train=None))
    with pytest.raises(
        ValueError, match=r"no video is usable: 2 missing \(no file of that name in .*train\); data/video"
    ):
        stages.download.main("videos")


def test_videos_are_links_and_only_one_that_changed_is_examined_again(make_video, workspace, tmp_path, monkeypatch):
    own = own_folder(tmp_path, make_video, train=["v_a", "v_b", "v_c"])
    data = workspace(directory_params(own, train=None)) / "data" / "videos"
    stages.download.main("videos")
    for video_id, name in (("v_a", "v_a"), ("v_b", "b"), ("v_c", "v_c")):
        path = data / "media" / f"{video_id}.mp4"
        assert path.is_symlink() and path.resolve() == (own / "train" / f"{name}.MP4").resolve()
    hashed: list[str] = []
    examined: list[str] = []
    sha256_of, examine = verdict.sha256_of, verdict.examine
    monkeypatch.setattr(verdict, "sha256_of", noting(hashed, sha256_of, lambda path: path.stem))
    monkeypatch.setattr(verdict, "examine", noting(examined, examine))
    stages.download.main("videos")
    assert (hashed, examined) == ([], [])
    os.utime(own / "train" / "b.MP4", ns=(0, 0))  # touched
    content = bytearray((own / "train" / "v_c.MP4").read_bytes())
    content[-1] ^= 1  # of the same length
    (own / "train" / "v_c.MP4").write_bytes(content)
    stages.download.main("videos")
    assert "b" in hashed and "v_a" not in hashed and examined == ["v_c"]
    hashed.clear()
    stages.download.main("videos")
    assert hashed == []


def test_what_was_examined_before_a_kill_is_not_examined_again(make_video, workspace, tmp_path, monkeypatch):
    own = own_folder(tmp_path, make_video, train=["v_a", "v_b", "v_c", "v_d"])
    data = workspace(directory_params(own, train=None)) / "data" / "videos"
    examine = verdict.examine
    examined: list[str] = []

    def killed_at_the_third(video_id, *args, **kw):
        if len(examined) == 2:
            raise KeyboardInterrupt
        examined.append(video_id)
        return examine(video_id, *args, **kw)

    monkeypatch.setattr(directory, "cores", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(verdict, "examine", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            stages.download.main("videos")
        for thread in threading.enumerate():  # a kill would not leave it
            if thread.name.startswith("ThreadPoolExecutor"):
                thread.join()
    with (data / ".ledger.jsonl").open("a") as file:
        file.write('{"video_id": "v_')  # the kill cut a line
    again: list[str] = []
    monkeypatch.setattr(verdict, "examine", noting(again, examine))
    stages.download.main("videos")
    assert sorted(examined + again) == ["v_a", "v_b", "v_c", "v_d"]
    after = outs(data)
    shutil.rmtree(data)
    stages.download.main("videos")
    assert after == outs(data)


def test_too_many_failures_stop_the_stage_which_says_what_failed_and_what_to_do(make_video, workspace, tmp_path):
    own = own_folder(tmp_path, make_video, train=["v_a"])
    (own / "train.json").write_text(activitynet("v_a", "v_x", "v_y"))
    values = directory_params(own, train=None)
    data = workspace(values | {"download.videos.max_failed_fraction": 0.6}) / "data" / "videos"
    expected = (
        r"2 of 3 videos failed, 66.7%; download.videos.max_failed_fraction in params.yaml allows 60.0%: 2 missing "
        r"\(no file of that name in .*\); data/videos/ledger.parquet has .* To go on without them, raise max_f"
    )
    with pytest.raises(ValueError, match=expected) as raised:
        stages.download.main("videos")
    assert "make retry" not in str(raised.value)  # another try would not bring them
    assert len(ledger.read(data / "ledger.parquet")) == 3 and not (data / "segments.parquet").exists()
    (tmp_path / "params.yaml").write_text((tmp_path / "params.yaml").read_text().replace("n: 0.6", "n: 0.7"))
    stages.download.main("videos")
    table = pq.read_table(data / "segments.parquet")
    assert (table.num_rows, expected_segments(table, "train"), expected_segments(table, "val")) == (2, 6, 0)


@pytest.mark.parametrize("video_id", ["../../evil", "/etc/passwd", ".hidden", "a\\..\\b"])
def test_an_id_that_must_not_become_a_file_name_touches_nothing(make_video, workspace, tmp_path, video_id):
    own = own_folder(tmp_path, make_video, train=["v_a"])
    (own / "train.json").write_text(activitynet("v_a", video_id))
    data = workspace(directory_params(own, train=None)) / "data" / "videos"

    def others() -> set[Path]:
        return {path for path in tmp_path.rglob("*") if data not in path.parents}

    before = others()
    stages.download.main("videos")
    assert ledger.read(data / "ledger.parquet")[video_id].status == "refused"
    assert [path.name for path in (data / "media").iterdir()] == ["v_a.mp4"]
    assert others() - {data, data.parent} <= before


def test_files_are_called_what_people_call_them(make_video, workspace, tmp_path):
    names = ["holiday (1) [HD]", "-rf", "50%d", "$HOME", "~x", "a;b&c", "it's", "日本", "Cafe\u0301", "a#1", "x.zip"]
    own = own_folder(tmp_path, make_video, train=names)
    content = json.loads(activitynet(*names))
    content["Caf\u00e9"] = content.pop("Cafe\u0301")  # as a caption file has it, but a Mac's disk does not
    (own / "train.json").write_text(json.dumps(content))
    data = workspace(directory_params(own, train=None)) / "data" / "videos"
    stages.download.main("videos")
    rows = ledger.read(data / "ledger.parquet")
    assert {video_id: (row.status, row.reason) for video_id, row in rows.items()} == dict.fromkeys(
        content, ("ok", None)
    )
    stages.frames.main("videos")
    assert set(shards.index(data / "frames")) == set(content)


def test_a_file_that_is_skipped_and_one_that_is_no_video_are_named(make_video, workspace, tmp_path, capsys):
    own = own_folder(tmp_path, make_video, train=["v_a", "v_b", "v_c", "v_d"])
    media = own / "train"
    (media / "more").mkdir()
    shutil.copy(make_video("short.mp4", seconds=0.3), media / "more" / "v_a.mkv")
    (media / "b.MP4").rename(media / "b.m4a")
    (media / "elsewhere").symlink_to(tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    (media / "v_c.MP4").rename(tmp_path / "disk" / "c.MP4")
    (tmp_path / "disk" / "back").symlink_to(media)  # around in a circle
    (media / "d.MP4").unlink()
    (media / "d.MP4").symlink_to("nowhere")
    data = workspace(directory_params(own, train=None)) / "data" / "videos"
    stages.download.main("videos")
    rows = ledger.read(data / "ledger.parquet")
    only = f"under that name {media} has only {{}}: not a video's ending, or a broken link"
    assert {video_id: (row.status, row.reason) for video_id, row in rows.items()} == {
        "v_a": ("ok", "skipped: more/v_a.mkv"),
        "v_b": ("missing", only.format("b.m4a")),
        "v_c": ("ok", None),
        "v_d": ("missing", only.format("d.MP4")),
    }
    assert "several files share a name; one was taken (the ledger says which were skipped): 1" in (
        capsys.readouterr().out
    )


def test_a_picture_whose_name_is_too_long_is_a_row_with_a_reason(workspace, tmp_path, make_video):
    (tmp_path / "own" / "train").mkdir(parents=True)
    shutil.copy(make_video("p.png", "64x48", "10", 0.1), tmp_path / "own" / "train" / "good.png")
    names = ["good.png", f"{'x' * 300}.png", f"{'y' * 300}/y.png", f"z.{'z' * 300}"]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "caption": "a picture"} for number in range(len(names))],
    }
    (tmp_path / "own" / "train.json").write_text(json.dumps(content))
    values = directory_params(tmp_path / "own", train=None)
    values = {key.replace("download.videos", "download.pictures"): value for key, value in values.items()}
    data = workspace(values | {"download.pictures.max_failed_fraction": 0.9}) / "data" / "pictures"
    stages.download.main("pictures")
    rows = ledger.read(data / "ledger.parquet")
    assert {video_id[:4]: (row.status, row.reason) for video_id, row in rows.items()} == {
        "good": ("ok", None),
        "xxxx": ("refused", "an id that cannot be a file's name: its length is not 1 to 200 bytes"),
        "y": ("missing", "its file_name is not valid (File name too long)"),
        "z": ("missing", "its file_name is not valid (File name too long)"),
    }


def test_a_split_of_which_nothing_is_left_is_said_before_anything_is_trained(make_video, workspace, tmp_path):
    own = own_folder(tmp_path, make_video, train=["v_a"], val=["v_b"])
    shutil.copytree(own / "val", own / "test")
    shutil.copy(own / "val.json", own / "test.json")
    workspace(directory_params(own, train=None, val=None, test=None))
    assert annotations.choose_splits({"val": ["v_b"], "test": ["v_b"]})[0] == {"v_b": "test"}
    expected = r"no video of split 'val' \(.*val.json\) is usable: its files name no videos, or only videos that"
    with pytest.raises(ValueError, match=expected):
        stages.download.main("videos")
    (own / "val.json").write_text(activitynet("v_none"))
    expected = r"no video of split 'val' .* is usable: 1 missing \(no file of that name in .*; or take the file out of "
    with pytest.raises(ValueError, match=expected + "download.videos.annotations.val in params.yaml"):
        stages.download.main("videos")


def test_files_that_git_does_not_have_are_told_apart_in_a_temporary_experiment(workspace, tmp_path, monkeypatch):
    values = directory_params(Path("data/own/videos"), train=None)
    folder = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "x"
    folder.mkdir(parents=True)
    shutil.copy(workspace(values) / "params.yaml", folder)
    with pytest.raises(
        ValueError, match=r"own/videos/train.json: no such file; download.\*.annotations in params.yaml"
    ):
        stages.download.main("videos")
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"train.json: not in this experiment's folder, .* an absolute path"):
        stages.download.main("videos")


def test_a_media_folder_that_is_not_there_is_named(make_video, workspace, tmp_path):
    own = own_folder(tmp_path, make_video, train=["v_a"])
    shutil.rmtree(own / "train")
    workspace(directory_params(own, train=None))
    with pytest.raises(ValueError, match=r"own/train: no such folder; download.*folder and .media in params.yaml"):
        stages.download.main("videos")


def zipped_folder(root: Path, make_video) -> Path:
    """MSR-VTT as it is published: clips in two zips, captions in a third."""
    own = own_folder(root, make_video, train=["a", "b"], test=["c"])
    for split, ids in {"train": "ab", "test": "c"}.items():
        with zipfile.ZipFile(own / split / f"{split}_videos.zip", "w") as archive:
            for id in ids:
                archive.write(own / split / f"{id}.MP4", f"TrainVal/{id}.mp4")
                (own / split / f"{id}.MP4").unlink()
    with zipfile.ZipFile(own / "captions.zip", "w") as archive:
        for split in ("train", "test"):
            archive.write(own / f"{split}.json", f"deep/{split}.json")
            (own / f"{split}.json").unlink()
    return own


def zipped_params(own: Path) -> dict[str, object]:
    names = {split: [f"captions.zip/deep/{split}.json"] for split in ("train", "test")}
    return directory_params(own, train=None, test=None) | {"download.videos.annotations": names | {"val": []}}


def test_videos_and_captions_are_read_out_of_zips(make_video, workspace, tmp_path, monkeypatch, capsys):
    own = zipped_folder(tmp_path, make_video)
    data = workspace(zipped_params(own)) / "data" / "videos"
    examined: list[str] = []
    monkeypatch.setattr(verdict, "examine", noting(examined, verdict.examine))
    stages.download.main("videos")
    stages.frames.main("videos")
    assert sorted(examined) == ["a", "b", "c"]
    assert {row.status for row in ledger.read(data / "ledger.parquet").values()} == {"ok"}
    assert shards.index(data / "frames").keys() == {"a", "b", "c"}
    assert all(path.is_symlink() for path in (data / "media").iterdir())
    first = outs(data / "frames")

    stages.download.main("videos")  # nothing has changed
    assert len(examined) == 3

    with zipfile.ZipFile(own / "train" / "train_videos.zip", "w") as archive:  # one video is another, one is gone
        archive.write(make_video("b.mp4", "96x64"), "TrainVal/a.mp4")
    shutil.copy(make_video("a.mp4"), own / "train" / "b.mp4")  # unpacked
    stages.download.main("videos")
    stages.frames.main("videos")
    assert examined[3:] == ["a"]  # the bytes of the other are those it had
    assert shards.index(data / "frames").keys() == {"a", "b", "c"} and outs(data / "frames") != first


def test_zips_that_cannot_be_told_apart_or_read_are_named(make_video, workspace, tmp_path):
    own = zipped_folder(tmp_path, make_video)
    (own / "test" / "test_videos.zip").rename(own / "test" / "train_videos.zip")
    workspace(zipped_params(own))
    with pytest.raises(ValueError, match=r"train_videos\.zip have the same name; rename one of them"):
        stages.download.main("videos")
    (own / "test" / "train_videos.zip").rename(own / "test" / "broken.zip")
    (own / "test" / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"broken\.zip: not a zip"):
        stages.download.main("videos")
    workspace(zipped_params(own) | {"download.videos.annotations.train": ["captions.zip/none.json"]})
    with pytest.raises(ValueError, match=r"captions\.zip/none\.json: captions\.zip has no member none\.json"):
        stages.download.main("videos")


def test_caption_files_of_one_name_in_two_zips_are_refused(make_video, workspace, tmp_path):
    own = zipped_folder(tmp_path, make_video)
    for split in ("train", "test"):
        with zipfile.ZipFile(own / "captions.zip") as both, zipfile.ZipFile(own / f"{split}-captions.zip", "w") as one:
            one.writestr("captions.json", both.read(f"deep/{split}.json"))
    names = {split: [f"{split}-captions.zip/captions.json"] for split in ("train", "test")}
    workspace(zipped_params(own) | {"download.videos.annotations": names | {"val": []}})
    with pytest.raises(ValueError, match=r"captions\.json have the same name; rename one of the annotation files"):
        stages.download.main("videos")


def test_a_zip_that_changed_before_a_kill_is_compared_again(make_video, workspace, tmp_path, monkeypatch):
    own = zipped_folder(tmp_path, make_video)
    data = workspace(zipped_params(own)) / "data" / "videos"
    stages.download.main("videos")
    before = ledger.read(data / "ledger.parquet")["a"].sha256
    path = own / "train" / "train_videos.zip"
    other = bytearray(make_video("a.mp4").read_bytes())
    other[-1] ^= 1  # as long as it was
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("TrainVal/a.mp4", bytes(other))
        archive.write(make_video("a.mp4"), "TrainVal/b.mp4")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(verdict, "sha256_of", killed)
        with pytest.raises(KeyboardInterrupt):
            stages.download.main("videos")
    stages.download.main("videos")
    assert ledger.read(data / "ledger.parquet")["a"].sha256 != before
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(bytes(other[100:150]))] ^= 1
    path.write_bytes(damaged)
    stages.download.main("videos")
    row = ledger.read(data / "ledger.parquet")["a"]
    assert (row.status, row.reason) == ("corrupt", "cannot be unpacked (Bad CRC-32 for file 'TrainVal/a.mp4')")


def test_annotation_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(folder)
    with pytest.raises(ValueError, match=r"b/x.json and .*a/x.json have the same name; rename one"):
        directory.put_all([tmp_path / "a" / "x.json", tmp_path / "b" / "x.json"], tmp_path / "out")


def test_coco_finds_pictures_by_file_name_and_nothing_outside_the_folder(tmp_path):
    (tmp_path / "train" / "deep").mkdir(parents=True)
    (tmp_path / "train" / "deep" / "1.jpg").touch()
    (tmp_path / "secret.jpg").touch()
    folder = tmp_path / "train"
    assert directory.find("1", folder, {}, "deep/1.jpg") == (folder / "deep" / "1.jpg", None)
    for name, expected in {
        "../secret.jpg": f"its file_name leads out of {folder}",
        str(tmp_path / "secret.jpg"): f"its file_name leads out of {folder}",
        "deep": f"no file of that name in {folder}",
        "none.jpg": f"no file of that name in {folder}",
        f"{'x' * 300}/secret.jpg": "its file_name is not valid (File name too long)",
    }.items():
        assert directory.find("secret", folder, {}, name) == (None, expected)


def test_real_coco_pictures_become_a_dataset(real_data, workspace, capsys):
    values = {
        "source": "directory",
        "folder": str(real_data / "coco_mini"),
        "media": {"train": "train2017", "val": "val2017", "test": "val2017"},
        "annotations": {s: [f"annotations/captions_{s}2017.json"] for s in ("train", "val")} | {"test": []},
        "limit": {"train": 30, "val": None, "test": 0},
        "max_failed_fraction": 0.4,
    }
    data = workspace({f"download.pictures.{key}": value for key, value in values.items()}) / "data" / "pictures"
    stages.download.main("pictures")
    assert capsys.readouterr().out.startswith(
        "download pictures: videos: 72 ok, 37 missing, 50 skipped; 72 segments of 109 expected, 360"
    )
    assert len(list((data / "media").iterdir())) == 72


def test_unavailable_videos_do_not_shrink_a_subset():
    ids = [f"v{i}" for i in range(40)]
    gone = set(ids[::3])
    described = {i: [Annotation(i, (Caption(0, 1, "x"), Caption(1, 2, "y")))] for i in ids}

    def fetch(video_id: str, split: str, _: Annotation):
        assert split == ("val" if video_id == "v1" else "train")
        return Row(video_id, "missing" if video_id in gone else "ok", duration_s=2.0), None

    splits = dict.fromkeys(ids, "train") | {"v1": "val"}
    found = {}
    for workers in (1, 4):
        done = fetch_subset(described, splits, {"train": 10, "val": 0}, fetch, initial=True, workers=workers, title="t")
        assert len(done.segments) == 10 and len(done.rows) == 40
        assert {row.status for row in done.rows if row.video_id == "v1"} == {"skipped"}
        found[workers] = (done.segments, done.rows)
    assert found[1] == found[4]
    larger = fetch_subset(described, splits, {"train": 15}, fetch, initial=True, workers=2, title="t").segments
    assert larger[:10] == found[1][0] and isinstance(larger[0], Segment)


@pytest.mark.parametrize("dataset", ["pictures", "videos"])
def test_the_built_in_dataset_is_rendered_as_a_folder_would_be_read(dataset, workspace, capsys):
    counts = {"train": 3, "val": 1, "test": 0 if dataset == "pictures" else 1}
    data = workspace({f"download.{dataset}.limit": counts, "shapes.size_px": 96}) / "data" / dataset
    stages.download.main(dataset)
    rows = ledger.read(data / "ledger.parquet")
    assert len(rows) == sum(counts.values()) and {row.status for row in rows.values()} == {"ok"}
    segments = from_table(pq.read_table(data / "segments.parquet"))
    assert {segment.split for segment in segments} == {split for split, count in counts.items() if count}
    if dataset == "videos":
        assert {segment.kind for segment in segments} <= {"now", "earlier", "order", "before"}
        assert (data / "annotations" / "scenes.json").is_file() and (data / "annotations" / "boxes.parquet").is_file()
    first, files = outs(data), {path: path.stat().st_ino for path in (data / "media").iterdir()}
    stages.download.main(dataset)
    assert outs(data) == first and files == {path: path.stat().st_ino for path in (data / "media").iterdir()}


def test_a_problem_is_one_line_without_a_traceback(workspace, tmp_path):
    workspace(directory_params(tmp_path, train=None))
    environment = {**os.environ, "PYTHONPATH": str(Path(stages.download.__file__).parent.parent)}
    for argument, status, message in (
        ("videos", 1, f"download videos: {tmp_path}/train.json: no such file; download.*.annotations in "),
        ("imagenet", 2, "usage: python -m stages.download [-h] {pictures,videos}\n"),
    ):
        command = [sys.executable, "-m", "stages.download", argument]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == status and done.stderr.startswith(message) and done.stderr.count("\n") == status
