"""dvc.yaml against the code: DVC says "up to date" about whatever its deps do not name."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from pipeline.imports import code_fingerprint, imported_files

ROOT = Path.cwd()


@pytest.fixture(scope="module")
def stages():
    with Repo(".") as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


def modules_named(stage) -> set[Path]:
    """The project's Python files that the stage's deps name, a folder standing for all in it."""
    files: set[Path] = set()
    for dep in stage.deps:
        path = Path(dep.fs_path)
        files |= set(path.rglob("*.py")) if path.is_dir() else {path} if path.suffix == ".py" else set()
    return files


def module_of(stage) -> Path:
    return ROOT / (stage.cmd.split()[2].replace(".", "/") + ".py")


def test_every_stage_names_exactly_the_modules_it_imports(stages):
    for name, stage in stages.items():
        assert modules_named(stage) == imported_files(module_of(stage)), f"deps of {name} in dvc.yaml"


def test_changing_the_memory_reaches_finetune_caption_and_evaluate_only(stages):
    readers = {
        name
        for name, stage in stages.items()
        for dep in stage.deps
        if getattr(dep, "params", None) and any(key.split(".")[0] == "memory" for key in dep.params)
    }
    assert readers == {"finetune"}
    assert downstream(stages, "finetune") == {"finetune", "caption", "evaluate"}


def test_changing_the_frame_rate_reaches_frames_and_all_that_follows(stages):
    assert downstream(stages, "frames@activitynet") == {
        "frames@activitynet",
        "embed@activitynet",
        "finetune",
        "caption",
        "evaluate",
    }


def downstream(stages, name: str) -> set[str]:
    reached = {name}
    while True:
        outs = {out.fs_path for stage in reached for out in stages[stage].outs}
        more = {other for other, stage in stages.items() if any(dep.fs_path in outs for dep in stage.deps)}
        if more <= reached:
            return reached
        reached |= more


def test_no_two_stages_write_the_same_place(stages):
    outs = [out.fs_path for stage in stages.values() for out in stage.outs]
    assert len(outs) == len(set(outs))


@pytest.fixture
def project(tmp_path):
    for name, text in {
        "pipeline/__init__.py": "",
        "pipeline/a.py": "import numpy\nfrom pipeline.b import f\n",
        "pipeline/b.py": "def f():\n    from pipeline.deep import c\n    return c\n",
        "pipeline/deep/__init__.py": "",
        "pipeline/deep/c.py": "",
        "pipeline/unused.py": "",
        "stages/__init__.py": "",
        "stages/go.py": "import pipeline.a\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_imports_are_followed_through_modules_packages_and_functions(project):
    found = {str(path.relative_to(project)) for path in imported_files(project / "stages/go.py", project)}
    assert found == {
        "stages/__init__.py",
        "stages/go.py",
        "pipeline/__init__.py",
        "pipeline/a.py",
        "pipeline/b.py",
        "pipeline/deep/__init__.py",
        "pipeline/deep/c.py",
    }


def test_the_code_fingerprint_changes_with_an_imported_file_and_with_no_other(project):
    before = code_fingerprint(project / "stages/go.py", project)
    (project / "pipeline/unused.py").write_text("x = 1\n")
    assert code_fingerprint(project / "stages/go.py", project) == before
    (project / "pipeline/deep/c.py").write_text("x = 1\n")
    assert code_fingerprint(project / "stages/go.py", project) != before


def test_a_relative_import_is_refused(project):
    (project / "pipeline/b.py").write_text("from .deep import c\n")
    with pytest.raises(ValueError, match=r"b\.py:1: relative import"):
        imported_files(project / "stages/go.py", project)
