"""Which command makes a missing file, found in the `outs` of dvc.yaml."""

import re
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.imports import ROOT

_PIPELINES = ("dvc.yaml", "studies/*/dvc.yaml")


def maker(path: Path | str) -> str | None:
    """The command that makes a file or folder of the project; None if no stage does."""
    for file in (found for pattern in _PIPELINES for found in sorted(ROOT.glob(pattern))):
        study = "" if file.parent == ROOT else f"{file.relative_to(ROOT).as_posix()}:"
        for stage, out in _outs(file):
            # ${key} and ${item}: what a stage is repeated for.
            parts = re.split(r"\$\{\w+\}", out)
            found = re.match(r"(\w[\w.-]*)".join(map(re.escape, parts)) + "(/|$)", str(path))
            if found:
                return f"dvc repro {study}{stage}" + (f"@{found[1]}" if len(parts) > 1 else "")
    return None


def _outs(file: Path) -> Iterator[tuple[str, str]]:
    for name, stage in YAML(typ="safe").load(file.read_text(encoding="utf-8"))["stages"].items():
        one = stage.get("do", stage)
        for out in (*one.get("outs", ()), *one.get("metrics", ())):
            yield name, out if isinstance(out, str) else next(iter(out))
