"""frames and embed as several machines run them, under the real dvc: parts of the shards, and a remote between clones.

The repository is a cut of this one: of dvc.yaml the two stages on the videos; what they read no stage has made.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipeline.dataset import ledger, verdict
from pipeline.dataset.segments import Segment, to_table
from stages import embed, frames
from tests.conftest import write_params
from tests.features.test_embed import contents
from tests.random_clip import write_random_clip

STAGES = ("frames@videos", "embed@videos")
OUTS = ("data/videos/frames", "data/videos/embeddings")


class Clone:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, **variables: str) -> str:
        """python -m ...: standard output; fails with everything that was printed."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables},
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def contents(self) -> list[dict[str, bytes]]:
        return [contents(self.folder / out) for out in OUTS]


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_video) -> Clone:
    """Its shards made by two parts of each stage, then committed to dvc and git."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("pipeline", "stages", "studies"):  # a study that was never run, too
        shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore"):
        shutil.copy(name, folder / name)
    (folder / ".gitignore").write_text("__pycache__/\n/data/*/media/\n")
    values = {"frames.fps": 2, "frames.shards": 4, "embed.batch_size": 8, "device": "cpu"}
    write_params(folder / "params.yaml", Path("params.yaml"), values)
    cut_pipeline(folder / "dvc.yaml")
    data = folder / "data/videos"
    (data / "media").mkdir(parents=True)
    for number in range(6):
        shutil.copy(make_video(f"{number}.mp4", seconds=0.5 + number / 2), data / f"media/v{number}.mp4")
    rows = [verdict.examine(path.stem, path) for path in (data / "media").iterdir()]
    ledger.write(data / "ledger.parquet", rows)
    segments = [Segment(f"{row.video_id}#0", row.video_id, "train", 0, 1, ("a",), None) for row in rows]
    pq.write_table(to_table(segments), data / "segments.parquet")
    write_random_clip(folder / "models/encoder", 24)
    clone = Clone(folder)
    clone.git("init", "-q", "-b", "main")
    for stage in ("frames", "embed"):
        for part in ("2/2", "1/2"):
            clone.run(f"stages.{stage}", "videos", "--shards", part)
    clone.run("dvc", "commit", "-q", "-f", *STAGES)
    clone.git("add", "-A")
    clone.git("commit", "-qm", "state")
    return clone


def cut_pipeline(path: Path) -> None:
    yaml = YAML()
    stages = yaml.load(Path("dvc.yaml").read_text())["stages"]
    cut = {name: {**stages[name], "foreach": ["videos"]} for name in ("frames", "embed")}
    with path.open("w") as file:
        yaml.dump({"stages": cut}, file)


def test_what_parts_have_made_dvc_accepts_and_finds_nothing_left_to_do(made):
    assert "Data and pipelines are up to date." in made.run("dvc", "repro")


def test_parts_together_make_the_bytes_of_one_run(made, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "whole", ignore=shutil.ignore_patterns(".dvc", "frames", "embeddings"))
    monkeypatch.chdir(tmp_path / "whole")
    frames.main("videos")
    embed.main("videos")
    assert Clone(tmp_path / "whole").contents() == made.contents()


def test_a_part_of_embed_waits_for_all_parts_of_frames(made, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "half", ignore=shutil.ignore_patterns(".dvc", "frames", "embeddings"))
    monkeypatch.chdir(tmp_path / "half")
    frames.main("videos", "1/2")
    with pytest.raises(ValueError, match=r"frames holds 2 shards, params.yaml has frames.shards: 4; make them with"):
        embed.main("videos", "1/2")


@pytest.fixture
def bucket():
    """(url, environment) of a bucket behind a real S3 API on the loopback interface."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    account = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in account.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="shards")
        yield endpoint
    server.stop()


def test_a_fresh_clone_pulls_what_another_pushed_and_has_nothing_to_do(made, bucket, tmp_path):
    made.run("dvc", "remote", "add", "-f", "-d", "storage", "s3://shards/project")
    made.run("dvc", "remote", "modify", "storage", "endpointurl", bucket)
    made.git("commit", "-qam", "remote")
    made.run("dvc", "push", "-q")
    subprocess.run(["git", "clone", "-q", str(made.folder), str(tmp_path / "clone")], check=True)
    clone = Clone(tmp_path / "clone")
    assert not any((clone.folder / out).exists() for out in OUTS)
    clone.run("dvc", "pull", "-q")
    assert clone.contents() == made.contents()
    assert "Data and pipelines are up to date." in clone.run("dvc", "repro")
