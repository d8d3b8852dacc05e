"""--help of everything that can be typed: it prints help and does nothing else."""

import contextlib
import re
import runpy
import sys
from pathlib import Path

import pytest

import pipeline.__main__

COMMANDS = sorted(
    str(path.with_suffix("")).replace("/", ".").removesuffix(".__main__")
    for folder in ("bench", "docs", "pipeline", "stages", "studies")
    for path in Path(folder).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}

watched: list[str] | None = None  # what was done, while somebody watches


def watch(event: str, arguments: tuple) -> None:
    if watched is None:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in CHANGES or event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
        watched.append(f"{event} {arguments[:1]}")


@pytest.fixture(scope="module")
def audit():
    sys.addaudithook(watch)


def test_the_commands_are_found():
    assert {"stages.finetune", "pipeline.app", "pipeline.predict", "docs.figures"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_and_nothing_is_done(command, audit, monkeypatch, capsys, tmp_path):
    global watched
    modules = command, f"{command}.__main__"
    with contextlib.suppress(ImportError):  # which may write: bytecode, fonts' lists
        for name in modules:
            __import__(name)
    monkeypatch.setattr("sys.argv", [command, "--help"])
    monkeypatch.chdir(tmp_path)  # it needs no file of the project's either
    saved = {name: sys.modules.pop(name) for name in modules if name in sys.modules}  # runpy wants to load it itself
    try:
        watched = []
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
        done = watched
    finally:
        watched = None
        sys.modules.update(saved)
    printed = capsys.readouterr()
    assert not ended.value.code and not printed.err
    assert re.match(r"usage: \S", printed.out) and len(printed.out.splitlines()) > 3
    assert done == []


def test_every_command_at_the_top_is_one_of_the_installed_name():
    top = {path.stem for path in Path("pipeline").glob("[a-z]*.py") if "argparse" in path.read_text()}
    assert set(pipeline.__main__.COMMANDS) == top
