"""The whole pipeline through the real dvc command, at a tiny size."""

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline import predict
from pipeline.captioner import familiarity
from tests.conftest import write_params
from tests.tiny import TINY

STAGES = [
    "download@pictures",
    "download@videos",
    "frames@pictures",
    "frames@videos",
    "backbones",
    "embed@pictures",
    "embed@videos",
    "pretrain",
    "finetune",
    "caption",
    "evaluate",
]


class Project:
    """A clone of this repository with a params file of its own, committed."""

    def __init__(self, folder: Path, values: dict, python: Path) -> None:
        """python: the folder of a `python` that runs stages without importing everything again (tests/forking.py)."""
        self.folder, self.python = folder, python
        files = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
        )
        for name in files.stdout.splitlines():
            if Path(name).is_file() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(name, folder / name)
        write_params(folder / "params.yaml", folder / "params.yaml", values)
        self.git("init", "-q", "-b", "main")
        self.commit()

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "state", "--allow-empty")

    def dvc(self, *arguments: str, forked: bool = False) -> str:
        """Standard output; fails with everything that was printed."""
        done = self.run(*arguments, python=self.python if forked else Path(sys.executable).parent)
        assert done.returncode == 0, f"dvc {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *arguments: str, python: Path = Path(sys.executable).parent) -> "subprocess.CompletedProcess[str]":
        names = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        path = f"{python}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            # One thread each: torch's threads of two runs at once would mostly wait for one another.
            env={**os.environ, **names, "PATH": path, "OMP_NUM_THREADS": "1"},
        )

    def metrics(self) -> dict[str, float]:
        return json.loads((self.folder / "metrics/captions.json").read_text())


def ran(output: str) -> list[str]:
    return re.findall(r"^Running stage '(.*)':", output, flags=re.MULTILINE)


def digests(folder: Path, outs: list[str]) -> dict[str, str]:
    """Of every file of these files and folders."""
    files = [path for out in outs for path in (folder / out, *(folder / out).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def project(tmp_path_factory, forking) -> Project:
    """Reproduced from nothing."""
    folder = tmp_path_factory.mktemp("project") / "a b (c) 'd"  # people's folders are called anything
    folder.mkdir()
    project = Project(folder, TINY, forking.path)
    assert sorted(ran(project.dvc("repro", forked=True))) == sorted(STAGES)
    project.commit()
    return project


def test_a_repro_ends_with_captions_and_scores_of_every_test_segment(project):
    captions = pd.read_parquet(project.folder / "data/captions.parquet")
    segments = pd.read_parquet(project.folder / "data/videos/segments.parquet")
    assert set(captions.segment_id) == set(segments[segments.split == "test"].segment_id)
    assert (captions.log_prob < 0).all()
    metrics = project.metrics()
    assert metrics["segments"] == metrics["segments.asked"] == len(captions)
    assert {"BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "facts"} <= metrics.keys()
    kinds = captions.merge(segments, on="segment_id").kind
    assert all(f"CIDEr.{kind}" in metrics for kind in kinds)


def test_a_run_by_hand_gives_the_same_bytes_and_writes_through_no_link_into_a_cache(project, forking, tmp_path):
    """Every out of DVC's run is there as a hard link to a file of other content, as DVC's cache may have it."""
    shutil.copy(project.folder / "params.yaml", tmp_path)
    locked = YAML(typ="safe").load(project.folder / "dvc.lock")["stages"]
    outs = [out["path"] for stage in STAGES for out in locked[stage]["outs"]]
    cached = tmp_path / "cached"
    cached.mkdir()
    for number, name in enumerate(digests(project.folder, outs)):
        (cached / str(number)).write_text("of an earlier run")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(cached / str(number), tmp_path / name)
    for stage in STAGES:
        running = forking.start(Path.cwd(), tmp_path, [stage.split("@")])
        assert running.wait().status == 0, f"{stage}\n{running.output}"
    assert digests(tmp_path, outs) == digests(project.folder, outs)
    assert {path.read_text() for path in cached.iterdir()} == {"of an earlier run"}


def test_the_finetuned_mapper_comes_from_the_pretrained_one(project):
    from safetensors.torch import load_file

    pretrained = load_file(project.folder / "models/pretrained/mapper.safetensors")
    finetuned = load_file(project.folder / "models/finetuned/mapper.safetensors")
    # One epoch of few steps moves weights a little; weights drawn again would not be near at all.
    for name in ("project.weight", "layers.0.feed_forward.0.weight"):
        moved = (finetuned[name] - pretrained[name]).norm() / pretrained[name].norm()
        assert 0 < moved < 0.2


def test_what_the_training_videos_are_like_is_kept_beside_the_captioner(project):
    known = familiarity.load(project.folder / "models/finetuned", 128)
    assert known is not None and known.videos == 6 and len(known.held_out) == 2 and len(known.captions) == 2


def test_a_second_repro_has_nothing_to_do(project):
    assert "Data and pipelines are up to date." in project.dvc("repro")


def test_experiments_rerun_what_they_change_and_can_be_compared(project):
    for name, *changes in (
        ("memory", "-S", "memory.k=3"),
        ("baseline", "-S", "memory.enabled=false", "-S", "caption.method=sample"),
    ):
        output = project.dvc("exp", "run", "-n", name, *changes, forked=True)
        assert ran(output) == ["finetune", "caption", "evaluate"]
    diff = project.dvc("metrics", "diff", "baseline", "memory")
    assert re.search(r"metrics.captions\.json +BLEU-1 +\d", diff)


def test_a_study_that_was_never_run_is_in_nobodys_way(project):
    for command in (["exp", "apply", "baseline"], ["checkout"], ["status"], ["metrics", "show"]):
        project.dvc(*command)
    assert not (project.folder / "studies/ablation/out").exists()


def test_every_plot_draws_what_it_says(project):
    from vl_convert import vegalite_to_svg  # what browsers and VS Code draw with, without either

    plots = json.loads(project.dvc("plots", "diff", "baseline", "memory", "--json"))["data"]
    assert plots.keys() >= {
        "loss on videos (finetune)",
        "learning rate (finetune)",
        "attention to the memory by layer and head (finetune)",
        "scores by kind",
        "CIDEr against the length of a segment",
        "lengths of the segments",
    }
    studies = list(Path("studies").glob("*/dvc.yaml"))
    of_studies = {name for file in studies for plot in YAML(typ="safe").load(file).get("plots", []) for name in plot}
    pictures = tuple(f"metrics/{file.parent.name}/" for file in studies)
    for name, drawn in plots.items():
        if name in of_studies or name.startswith(pictures):
            assert drawn == []  # it was never run
            continue
        [plot] = drawn
        svg = vegalite_to_svg(plot["content"])
        assert re.search(r'aria-roledescription="(line mark|area mark|bar)"', svg), name
        assert plot["revisions"] == (["memory"] if "memory by" in name else ["baseline", "memory"]), name


def test_the_notebook_runs_from_top_to_bottom(project):
    import nbclient
    import nbformat

    notebook = nbformat.read(project.folder / "notebooks/demo.ipynb", nbformat.NO_CONVERT)
    resources = {"metadata": {"path": str(project.folder / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    printed = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("text/html" in output.get("data", {}) for output in printed)  # its tables


def test_an_experiments_captioner_captions_a_video(project, monkeypatch, capsys):
    video = next((project.folder / "data/videos/media").glob("v_*"))
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("sys.argv", ["predict", str(video), "--variant", "baseline", "--segments", "whole", "--json"])
    with pytest.raises(SystemExit) as ended:
        predict.main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)[str(video)]["captions"][0]["log_prob"] < 0


def test_videos_are_needed_only_to_sample_them_and_the_message_says_how_to_fetch_them(project):
    frames = project.folder / "data/videos/frames"
    before = {path.name: path.read_bytes() for path in frames.iterdir()}
    shutil.rmtree(project.folder / "data/videos/media")
    assert "Data and pipelines are up to date." in project.dvc("repro")

    (frames / "shard-00000.parquet").unlink()
    done = project.run("repro", "frames@videos")
    message = re.search(r"[1-9] are missing from data/videos/media or .*; fetch .*with: dvc (.*)$", done.stderr, re.M)
    assert done.returncode and message, done.stderr
    assert ran(project.dvc(*message[1].split())) == ["download@videos"]
    assert ran(project.dvc("repro")) == ["frames@videos"]
    assert before == {path.name: path.read_bytes() for path in frames.iterdir()}
