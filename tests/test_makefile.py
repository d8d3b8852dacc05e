"""The real make, in a folder with an unfriendly name, with a stub in place of Python and of what it would install."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path.cwd()
STUB = """#!/usr/bin/env bash
# A Python that makes environments of itself and installs nothing.
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m uv") mkdir -p "$UV_CACHE_DIR" && touch "$UV_CACHE_DIR/package" && echo "uv $*" >> output ;;
    "-c "*) exec "{python}" "$@" ;;
esac
"""

DVC = """#!/usr/bin/env bash
# Notes what it is asked for. What is to run beside another command waits until that has begun as well, or fails.
echo "begin $*" >> output
case "$*" in *--temp*) echo "Reproducing experiment" ;; *"$REFUSED"*) echo "boom"; exit 1 ;; esac
case "$*" in *--single-item* | "exp run"* | *" exp run"*)
    for _ in {1..3000}; do
        (($(grep -cE '^begin .*(--single-item|exp run)' output) % 2)) || break
        sleep 0.1
    done
esac
(($(grep -cE '^begin .*(--single-item|exp run)' output) % 2)) && exit 1
echo "end $*" >> output
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """What of the project make needs, in a folder such as people have, in one that holds files of others."""
    folder = tmp_path / "a b (c) 'd" / 'e "f" $g'
    folder.mkdir(parents=True)
    for name in ("Makefile", *(path.name for path in ROOT.glob("requirements*"))):
        shutil.copy(ROOT / name, folder)
    for name in ("bench", "docs", "pipeline", "stages", "studies/ablation", "tests"):
        (folder / name / "__pycache__").mkdir(parents=True)
    stub = tmp_path / "bin" / "stub python"
    stub.parent.mkdir()
    stub.write_text(STUB.replace("{python}", sys.executable))
    stub.chmod(0o755)
    return folder


def make(clone: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if "venv" not in part)
    return subprocess.run(
        ["make", *arguments], cwd=clone, capture_output=True, text=True, env={**os.environ, "PATH": path, **environment}
    )


def test_in_a_folder_of_any_name_make_does_its_work_and_touches_nothing_outside(clone, tmp_path):
    # The words of the folder's name, as a shell would take them apart, and what lies beside it.
    words = [tmp_path / "a", *(clone.parent / name for name in ("b", "c", "(c)", "e", "f", "$g"))]
    foreign = [folder / "keep" for folder in (*words, clone / "data/own/__pycache__")]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    stub = f"PYTHON={tmp_path}/bin/stub python"
    for target in ("help", ".venv/bin/python", ".venv/installed", ".venv/installed-dev", "lock", "clean"):
        done = make(clone, target, stub)
        assert done.returncode == 0, f"{target}: {done.stdout}{done.stderr}"
        assert all(path.read_text() == "mine" for path in foreign), target
        assert (clone / ".venv").exists() == (target not in ("help", "clean")), target
        assert not (clone / ".venv/uv-cache").exists()
    assert len((clone / "output").read_text().splitlines()) == 2 + 7  # two sets installed, seven pinned
    assert not list(clone.glob("[!d]*/__pycache__"))
    left = {path.name for path in clone.parent.iterdir()} | {path.name for path in tmp_path.iterdir()}
    assert left == {clone.name, clone.parent.name, "bin", *(folder.name for folder in words)}


@pytest.fixture
def installed(clone) -> Path:
    """The same with a git history and an environment, whose dvc and python are stubs."""
    who = ["-c", "user.name=me", "-c", "user.email=me"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run(["git", *who, *command], cwd=clone, check=True)
    (clone / ".venv/bin").mkdir(parents=True)
    for name, text in (("dvc", DVC), ("python", "#!/bin/sh\n")):
        (clone / ".venv/bin" / name).write_text(text)
        (clone / ".venv/bin" / name).chmod(0o755)
    (clone / ".venv/installed").touch()
    return clone


def test_the_demo_runs_side_by_side_what_needs_nothing_of_each_other(installed):
    done = make(installed, "demo", REFUSED="nothing")
    assert done.returncode == 0, done.stderr
    noted = (installed / "output").read_text().splitlines()
    commands = [line.removeprefix("begin ") for line in noted if line.startswith("begin ")]
    at = {command: (noted.index(f"begin {command}"), noted.index(f"end {command}")) for command in commands}
    pairs = [
        ("repro --single-item frames@videos", "repro --single-item frames@pictures backbones"),
        ("repro --single-item embed@videos", "repro --single-item embed@pictures pretrain"),
        ("exp run --temp -n baseline -S memory.enabled=false", "exp run -n memory -S memory.enabled=true"),
    ]
    before = at["repro download@pictures download@videos"][1]
    for pair in pairs:
        begun, ended = zip(*(times for command, times in at.items() if command.endswith(pair)), strict=True)
        assert len(begun) == 2 and before < min(begun) and max(begun) < min(ended), noted
        before = max(ended)
    assert before < at["metrics diff baseline memory"][0]


def test_the_demo_shows_what_failed_beside_what_is_shown_and_ends(installed):
    done = make(installed, "demo", REFUSED="embed@videos")
    assert done.returncode and "boom" in done.stderr and "boom" not in done.stdout
    noted = (installed / "output").read_text()
    assert "end --wait-for-lock repro --single-item embed@pictures pretrain" in noted
    assert "-n baseline" not in noted and "-n memory" not in noted


@pytest.mark.parametrize("target", ["demo", "test", "ablation", "retry"])
def test_without_git_history_one_line_says_what_to_type_and_nothing_is_installed(clone, tmp_path, target):
    stub = f"PYTHON={tmp_path}/bin/stub python"
    done = make(clone, target, stub)
    assert done.returncode and not (clone / ".venv").exists()
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    identity = {f"GIT_{who}_{what}": "me" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = error.partition("type here: ")[2]
    subprocess.run(["bash", "-c", command], cwd=clone, env={**os.environ, **identity}, capture_output=True, check=True)
    assert make(clone, "history").returncode == 0
    dry = make(clone, "--dry-run", target, stub)
    assert dry.returncode == 0 and ("dvc" in dry.stdout or "pytest" in dry.stdout)


def test_no_recipe_removes_by_an_absolute_path_or_by_a_variable():
    removed = re.findall(
        r"\brm\b[^;&|\n]*", "\n".join(path.read_text() for path in (ROOT / "Makefile", ROOT / ".ci/run"))
    )
    assert removed
    for command in removed:
        assert not re.search(r"(?<=\s)[\"']?[/~]|\$", command), command


def test_the_first_python_that_works_is_taken(clone, tmp_path):
    # As pyenv's of a version that is not activated: it is on the path and fails.
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3", "python"):
        shim = tmp_path / "bin" / name
        shim.write_text("#!/bin/sh\nexit 127\n")
        shim.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    refused = make(clone, ".venv/bin/python", PATH=path)
    assert refused.returncode != 0
    assert "found no Python 3.11 to 3.14" in refused.stderr and "make PYTHON=" in refused.stderr
    shutil.copy(tmp_path / "bin/stub python", tmp_path / "bin/python3.13")
    assert make(clone, ".venv/bin/python", PATH=path).returncode == 0
    assert (clone / ".venv/bin/python").exists()


def test_a_python_that_was_named_and_does_not_work_is_not_replaced_by_another(clone):
    done = make(clone, ".venv/bin/python", "PYTHON=/nowhere/python3.12")
    assert done.returncode != 0
    assert "tried /nowhere/python3.12;" in done.stderr
    assert not (clone / ".venv").exists()
