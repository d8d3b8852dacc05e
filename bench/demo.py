"""What `make demo` takes, stage by stage, and for what.

    python -m bench.demo [--folder /a/disk]       # 10 to 15 minutes on two idle cores

Runs `make demo` in a scratch clone of the last commit, with params.yaml as it is here and without the installation. A
stand-in for `python` measures every process that make and DVC start. `from_s` is when it began: some run side by side.
`imports` is what `python -m STAGE --help` takes: Python and the libraries, before anything is done. What a command of
DVC takes is without its stages. Prints a table and, as the last line, JSON. CPU seconds do not depend much on what else
the machine does, wall seconds do.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.table import show

WORK = {  # what a stage does, besides importing
    "download": "rendering",
    "frames": "decoding, JPEGs",
    "backbones": "training steps",
    "embed": "encoding",
    "pretrain": "training steps",
    "finetune": "training steps",
    "caption": "beam search",
    "evaluate": "scoring, Java",
}
# In place of `python`: runs it, and notes what it took in a file of its own. Bash 5, as it starts in a millisecond; its
# `times` prints the shell's own CPU seconds and, in a second line, those of the processes that it waited for.
STAND_IN = """#!/usr/bin/env bash
began=$EPOCHREALTIME
above=${MEASURED_ABOVE:-none}
MEASURED_ABOVE=$$ "$REAL_PYTHON" "$@"
status=$?
{ echo "$$ $above $began $EPOCHREALTIME $*"; times; } > "$MEASURED/$began-$$"
exit $status
"""
DVC = """#!/usr/bin/env bash
exec python -m dvc "$@"
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "-q", ".", str(clone)], check=True)
        shutil.copy("params.yaml", clone)
        rows = measure(clone, Path(folder, "measured"))
    show(rows)
    print(json.dumps(rows))


def measure(clone: Path, measured: Path) -> list[dict[str, Any]]:
    """Runs `make demo`; a row for each process that it started, in the order of their beginnings, and one for all.

    Args:
        measured: a folder for what the processes took.
    """
    programs = clone / ".venv/bin"
    programs.mkdir(parents=True)
    for name, text in (("python", STAND_IN), ("dvc", DVC)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (clone / ".venv/installed").touch()
    who = {f"GIT_{who}_{what}": "bench@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        **who,
        "REAL_PYTHON": sys.executable,
        "MEASURED": str(measured),
    }

    def run(*command: str) -> tuple[list[dict[str, Any]], float]:
        """What each `python -m` below a command took without those below it, and the seconds of the whole."""
        measured.mkdir()
        began = time.time()
        done = subprocess.run(command, cwd=clone, env=environment, stdout=sys.stderr, check=False)
        wall_s = time.time() - began
        if done.returncode:
            sys.exit(f"bench.demo: {' '.join(command)} exited with {done.returncode}")
        processes = sorted((taken(file.read_text(), began) for file in measured.iterdir()), key=itemgetter("from_s"))
        shutil.rmtree(measured)
        for process in processes:
            for below in processes:
                if below["above"] == process["id"]:
                    process["wall_s"] -= below["wall_s"]
                    process["own_cpu_s"] -= below["cpu_s"]
        return processes, wall_s

    processes, wall_s = run("make", "demo")
    imports: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for process in processes:
        module, *rest = process["typed"].split()
        stage = module.removeprefix("stages.")
        if module not in imports and module != "dvc":
            imports[module] = run(str(programs / "python"), "-m", module, "--help")[0][0]["cpu_s"]
        typed = " ".join(part for part in (stage, *rest) if not part.startswith("--"))
        figures = {
            "from_s": process["from_s"],
            "wall_s": process["wall_s"],
            "cpu_s": process["own_cpu_s"],
            "imports_cpu_s": imports.get(module, 0.0),
            "work_cpu_s": max(0.0, process["own_cpu_s"] - imports.get(module, 0.0)),
        }
        rounded = {name: round(value, 1) for name, value in figures.items()}
        rows.append({"run": typed[:24], **rounded, "work": WORK.get(stage, "")})
    total = {name: round(sum(row[name] for row in rows), 1) for name in ("cpu_s", "imports_cpu_s", "work_cpu_s")}
    return [*rows, {"run": "all", "from_s": 0.0, "wall_s": round(wall_s, 1), **total, "work": ""}]


def taken(text: str, start: float) -> dict[str, Any]:
    """Of the stand-in's lines: what `python -m` what was typed took, with all that it waited for."""
    process, _, children = text.splitlines()
    number, above, began, ended, _, *typed = process.split()
    cpu_s = sum(map(seconds, children.split()))
    return {
        "id": number,
        "above": above,
        "typed": " ".join(typed),
        "from_s": float(began) - start,
        "wall_s": float(ended) - float(began),
        "cpu_s": cpu_s,
        "own_cpu_s": cpu_s,
    }


def seconds(text: str) -> float:
    """Of bash's 1m2.345s."""
    minutes, rest = text.rstrip("s").split("m")
    return 60 * float(minutes) + float(rest.replace(",", "."))


if __name__ == "__main__":
    main()
