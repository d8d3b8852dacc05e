"""Shards made on a Ray cluster of two nodes in one machine: the same bytes as here, whatever dies."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import ledger, verdict
from pipeline.dataset.segments import Segment, to_table
from pipeline.features import engine, shards
from pipeline.features.shards import VideoRows
from pipeline.features.work import Work
from stages import embed, frames
from tests.conftest import write_params
from tests.features.test_embed import contents
from tests.random_clip import write_random_clip

ray = pytest.importorskip("ray")
SCHEMA = pa.schema([("video_id", pa.string()), ("text", pa.string())])
IDS = [f"v{i}" for i in range(12)]
MEMORY = 80 << 20  # of a node's object store, bytes


@pytest.fixture(scope="module")
def cluster():
    if " " in sys.executable:
        pytest.skip("Ray cannot start workers with a Python whose path contains a space")
    from ray.cluster_utils import Cluster

    # Tests that are no part of this module are not there for the workers to import.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster()
    add_node(cluster, num_cpus=1, include_dashboard=False)
    yield cluster
    cluster.shutdown()


def add_node(cluster, **resources):
    """Again, if need be: Ray gives a node 15 s to start its processes, and other tests may keep the machine busy."""
    for attempt in range(4):
        try:
            return cluster.add_node(object_store_memory=MEMORY, **resources)
        except Exception:
            if attempt == 3:
                raise


@pytest.fixture
def second(cluster):
    """The node beside the head, which says that it has a GPU; a test may kill it."""
    if not cluster.worker_nodes:
        add_node(cluster, num_cpus=1, num_gpus=1)
    [node] = cluster.worker_nodes
    return node


@dataclass(frozen=True)
class Say:
    """A row of each video's item."""

    def __call__(self, items, *, cores):
        return self.rows(items)

    def rows(self, items) -> Iterator[VideoRows]:
        for video_id, text in items.items():
            yield VideoRows(video_id, pa.table({"video_id": [video_id], "text": [text]}, schema=SCHEMA))


@dataclass(frozen=True)
class Hang(Say):
    """Stops in the middle of a shard on one node, where it leaves a note; on others it waits for that note.

    What it loads once, it loads into its own attributes, and leaves a file each time.
    """

    node_id: str
    note: Path

    def rows(self, items):
        if "loaded" not in vars(self):
            vars(self)["loaded"] = True
            self.note.with_name(f"loaded-{uuid4()}").touch()
        for number, made in enumerate(super().rows(items)):
            doomed = ray.get_runtime_context().get_node_id() == self.node_id
            if doomed and number == 1:
                self.note.write_text(made.video_id)
                time.sleep(600)
            while not (doomed or self.note.exists()):
                time.sleep(0.02)
            yield made


@dataclass(frozen=True)
class Fail(Say):
    def rows(self, items):
        for made in super().rows(items):
            if made.video_id == "v1":
                raise RuntimeError("its codec is not of this world")
            if made.video_id == "v2":
                os._exit(1)
            yield made


@dataclass(frozen=True)
class Where(Say):
    """Rows that say on which node they were made, and which GPU they had."""

    def rows(self, items):
        where = f"{ray.get_runtime_context().get_node_id()} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
        yield from super().rows(dict.fromkeys(items, where))


@dataclass(frozen=True)
class Refuse(Say):
    def __call__(self, items, *, cores):
        raise ValueError(f"{len(items)} videos are absent")


@dataclass(frozen=True)
class OnAFullDisk(Say):
    """What is written into the folder meets the kernel's own ENOSPC."""

    folder: Path

    def __call__(self, items, *, cores):
        def opened(aside):
            full = self.folder in aside.parents  # a worker may go on to another test
            return Path("/dev/full").open("wb", buffering=0) if full else aside.open("wb")

        shards._open = opened
        return self.rows(items)


def work(folder: Path, compute: Say = Say(), **others) -> Work:
    texts = {video_id: f"text of {video_id}" for video_id in IDS}
    return replace(Work("say", folder, SCHEMA, 4, texts, texts, compute), **others)


def on(cluster, work: Work, only=shards.WHOLE) -> shards.Update:
    return engine.update(work, only, kind="ray", address=cluster.address, cores=1)


@pytest.fixture
def local(tmp_path) -> dict[str, bytes]:
    engine.update(work(tmp_path / "local"), shards.WHOLE, kind="local", address=None, cores=1)
    return contents(tmp_path / "local")


# Four shards are made by five tasks, one of them in vain, or by an actor for each node.
@pytest.mark.parametrize(("keeps", "loads"), [("nothing", 5), ("model", 2)])
def test_a_node_killed_in_the_middle_of_a_shard_changes_nothing_but_the_time(
    cluster, second, tmp_path, local, keeps, loads
):
    def kill():
        while not note.exists():
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)

    note = tmp_path / "note"
    killer = Thread(target=kill, daemon=True)
    killer.start()
    hanging = work(tmp_path / "shards", Hang(second.node_id, note), keeps=keeps)
    done = on(cluster, hanging)
    killer.join()
    assert contents(tmp_path / "shards") == local
    assert (done.made, done.kept, done.rows) == (len(IDS), 0, len(IDS))
    assert len(list(tmp_path.glob("loaded-*"))) == loads


def test_a_model_that_gains_by_it_goes_to_the_gpus_alone(cluster, second, tmp_path):
    on(cluster, work(tmp_path / "shards", Where(), keeps="gpu model"))
    made_at = {text for _, rows in shards.iterate(tmp_path / "shards") for text in rows["text"].to_pylist()}
    assert made_at == {f"{second.node_id} 0"}


def test_videos_that_always_fail_are_named_and_all_other_shards_are_made(cluster, tmp_path, local, monkeypatch):
    monkeypatch.setattr("pipeline.features.engine_ray.ATTEMPTS", 1)
    with pytest.raises(ValueError) as raised:
        on(cluster, work(tmp_path / "shards", Fail()))
    message = str(raised.value).splitlines()
    bad = {shards.shard_of(video_id, 4) for video_id in ("v1", "v2")}
    assert message[0] == f"{len(bad)} shards could not be made because of"
    assert message[1] == "  v1: RuntimeError: its codec is not of this world"
    assert message[2].startswith("  v2: its process or node died 2 times")
    assert len(message) == 4 and message[3].startswith("All others are done.")
    good = {f"shard-{number:05d}.parquet" for number in range(4) if number not in bad}
    assert contents(tmp_path / "shards") == {name: local[name] for name in good}
    assert on(cluster, work(tmp_path / "shards")).made == sum(shards.shard_of(i, 4) in bad for i in IDS)
    assert contents(tmp_path / "shards") == local


def test_a_disk_that_is_full_ends_the_run_and_leaves_the_shards_that_are_there(cluster, tmp_path, local):
    on(cluster, work(tmp_path / "shards"))
    texts = dict.fromkeys(IDS, "another text")
    with pytest.raises(shards.DiskFull, match=r"no space left on the disk for .* is intact"):
        on(cluster, work(tmp_path / "shards", OnAFullDisk(tmp_path), items=texts, fingerprints=texts))
    assert contents(tmp_path / "shards") == local


def test_what_the_work_refuses_is_said_before_anything_is_touched(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"^12 videos are absent$"):
        on(cluster, work(tmp_path / "shards", Refuse()))
    assert not (tmp_path / "shards").exists()


def test_more_cores_than_any_node_has_are_refused(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"no node of the cluster has 99 cores: lower engine.cores in params.yaml"):
        engine.update(work(tmp_path / "shards"), shards.WHOLE, kind="ray", address=cluster.address, cores=99)


def test_a_node_without_this_folder_is_not_taken_for_a_video_that_fails(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"a node of the cluster cannot work: .*No such file.*elsewhere"):
        on(cluster, work(tmp_path / "shards"))


def test_a_python_that_ray_cannot_start_is_refused_rather_than_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/home/me/my videos/.venv/bin/python")
    with pytest.raises(ValueError, match=r"whose path contains a space \(/home/me/my videos.*engine.kind: local"):
        engine.update(work(tmp_path / "shards"), shards.WHOLE, kind="ray", address=None, cores=1)


def test_without_ray_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pipeline.features.engine_ray", raising=False)
    monkeypatch.delattr("pipeline.features.engine_ray", raising=False)
    with pytest.raises(ValueError, match=r"pip install -r requirements-ray.txt"):
        engine.update(work(tmp_path / "shards"), shards.WHOLE, kind="ray", address=None, cores=1)


def test_frames_and_embeddings_made_on_a_cluster_have_the_bytes_of_those_made_here(
    cluster, second, workspace, make_video
):
    folder = workspace({"frames.shards": 3, "embed.batch_size": 8, "embed.every": 2, "device": "cpu"})
    videos = folder / "data/videos/media"
    videos.mkdir(parents=True)
    for number in range(5):
        (videos / f"v{number}.mp4").symlink_to(make_video(f"{number}.mp4", seconds=0.5 + number / 2))
    (videos / "v5.mp4").write_bytes(b"no video")
    rows = [replace(verdict.examine(path.stem, path), status="ok") for path in videos.iterdir()]
    ledger.write(folder / "data/videos/ledger.parquet", rows)
    segments = [Segment(f"{row.video_id}#0", row.video_id, "train", 0, 1, ("a",), None) for row in rows]
    pq.write_table(to_table(segments), folder / "data/videos/segments.parquet")
    write_random_clip(embed.ENCODER, 24)
    outs = [folder / "data/videos" / name for name in ("frames", "embeddings")]
    frames.main("videos")
    embed.main("videos")
    here = [contents(out) for out in outs]
    for out in outs:
        for path in out.iterdir():
            path.unlink()
    values = {"engine.kind": "ray", "engine.address": cluster.address}
    write_params(folder / "params.yaml", folder / "params.yaml", values)
    root = Path(frames.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "stages.frames", "videos"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "v5: no frame decodes" in done.stdout
    embed.main("videos")
    assert [contents(out) for out in outs] == here
