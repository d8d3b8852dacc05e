"""Videos in an LMDB: as ClipBERT packs them, as `python -m pipeline.pack` does, and as a source of `download`."""

import shutil
import sys
from pathlib import Path

import pytest

import stages.download
from pipeline import pack
from pipeline.dataset import ledger
from pipeline.dataset.sources.lmdb import opened
from tests.dataset.test_sources import activitynet, directory_params, outs

lmdb = pytest.importorskip("lmdb")


def put(folder: Path, **values: bytes) -> None:
    """As ClipBERT's src/preprocessing/lmdb_utils.py writes: the file's bytes under its stem."""
    with lmdb.open(str(folder), map_size=1 << 30) as store, store.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)


def held(folder: Path) -> dict[str, bytes]:
    with opened(folder) as store, store.begin() as transaction:
        return {key.decode(): bytes(value) for key, value in transaction.cursor()}


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments: object) -> str:
        """What it prints, or the error."""
        monkeypatch.setattr("sys.argv", ["pack", *map(str, arguments)])
        try:
            pack.main()
        except SystemExit as ended:
            return str(ended.code)
        return capsys.readouterr().out

    return command


def test_a_store_becomes_a_dataset_as_a_folder_does(make_video, workspace, tmp_path):
    own, video = tmp_path / "own", make_video("a.mp4").read_bytes()
    (own / "train").mkdir(parents=True)
    put(own / "train", v_a=video, b=make_video("b.mkv").read_bytes(), v_broken=b"no video" * 99)
    (own / "train.json").write_text(activitynet("v_a", "v_b", "v_broken", "v_gone"))
    params = directory_params(own, train=None) | {"download.videos.max_failed_fraction": 0.6}
    data = workspace(params) / "data" / "videos"
    stages.download.main("videos")
    rows = ledger.read(data / "ledger.parquet")
    assert {video_id: row.status for video_id, row in rows.items()} == {
        "v_a": "ok", "v_b": "ok", "v_broken": "corrupt", "v_gone": "missing"
    }  # fmt: skip
    assert rows["v_gone"].reason == f"no such key in {own / 'train'}"
    assert sorted(path.name for path in (data / "media").iterdir()) == ["v_a.mp4", "v_b.mkv"]
    assert (data / "media/v_a.mp4").read_bytes() == video
    first, there = outs(data), (data / "media/v_a.mp4").stat().st_ino
    stages.download.main("videos")
    assert outs(data) == first and (data / "media/v_a.mp4").stat().st_ino == there  # not copied again
    put(own / "train", v_a=make_video("c.mp4", "32x32").read_bytes())  # another video under the same key
    stages.download.main("videos")
    assert (data / "media/v_a.mp4").read_bytes() == make_video("c.mp4", "32x32").read_bytes()


def test_what_is_no_store_or_which_of_two_keys_is_unclear_is_said(make_video, workspace, tmp_path):
    own = tmp_path / "own"
    (own / "train").mkdir(parents=True)
    put(own / "train", **{"x/v_a.mp4": make_video("a.mp4").read_bytes(), "y/v_a.mp4": b"1", "v_b": b"text"})
    (own / "train.json").write_text(activitynet("v_a", "v_b"))
    workspace(directory_params(own, train=None))
    with pytest.raises(ValueError, match=r"'x/v_a.mp4', 'y/v_a.mp4' in .*: which of them it is is not clear"):
        stages.download.main("videos")
    (own / "train/data.mdb").write_bytes(b"no store" * 9999)
    with pytest.raises(ValueError, match=r"own/train: not an LMDB that can be opened"):
        stages.download.main("videos")


def test_one_split_in_a_store_and_another_in_a_folder_are_refused(make_video, workspace, tmp_path):
    own = tmp_path / "own"
    for split in ("train", "val"):
        (own / split).mkdir(parents=True)
        (own / f"{split}.json").write_text(activitynet(f"v_{split}"))
    put(own / "train", v_train=make_video("a.mp4").read_bytes())
    workspace(directory_params(own, train=None, val=None))
    with pytest.raises(ValueError, match=r"own/train is an LMDB, .*own/val is none; download.\*.media needs one kind"):
        stages.download.main("videos")


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ValueError, match=r"is an LMDB: pip install -r requirements-lmdb.txt"):
        opened(tmp_path)


def test_packing_adds_to_a_store_and_no_two_files_share_a_key(make_video, tmp_path, run):
    folder, store = tmp_path / "videos", tmp_path / "packed"
    (folder / "more").mkdir(parents=True)
    for name in ("a.mp4", "more/a.mp4"):
        shutil.copy(make_video("a.mp4"), folder / name)
    (folder / "notes.txt").write_text("no video")
    assert run(folder, store) == f"pack: 2 files written, 0 were there already, see {store}/data.mdb\n"
    video = make_video("a.mp4").read_bytes()
    assert held(store) == {"a": video, "more/a": video}
    (folder / "b.mp4").write_bytes(b"b")
    assert run(folder, store).startswith("pack: 1 files written, 2 were there already")
    (folder / "a.mp4").write_bytes(b"other")
    assert f"{store} has another file than {folder}/a.mp4 under 'a'; to replace it: --force" in run(folder, store)
    assert held(store)["a"] == video
    assert run(folder, store, "--force").startswith("pack: 1 files written")
    assert held(store)["a"] == b"other"
    (folder / "a.webm").write_bytes(b"a")
    assert f"{folder}/a.mp4 and {folder}/a.webm would have the same key" in run(folder, store)


def test_what_cannot_be_packed_is_said_in_a_line(tmp_path, run):
    assert run(tmp_path / "gone", tmp_path / "packed") == f"pack: {tmp_path}/gone: no such folder"
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "packed") == f"pack: {tmp_path}/empty has no videos"
