"""What the report reads of a run: of the workspace, a git revision or an experiment."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from pipeline.compare import read_scores

RETRIEVED = Path("data/retrieved.parquet")
METRICS = Path("metrics/captions.json")
PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Run:
    name: str  # as it was asked for
    scores: pd.DataFrame  # metrics/segments.parquet
    corpus: Mapping[str, float]  # metrics/captions.json
    retrieved: pd.DataFrame  # data/retrieved.parquet
    params: Mapping[str, Any]  # params.yaml, flat: "memory.k" -> 128


def read_run(name: str) -> Run:
    """Raises ValueError if the run has no scores."""
    scores = read_scores(name)
    return Run(
        name,
        scores,
        json.loads(_read(name, METRICS)),
        pd.read_parquet(io.BytesIO(_read(name, RETRIEVED))),
        dict(_flat(YAML(typ="safe").load(_read(name, PARAMS)))),
    )


def changed(runs: list[Run]) -> dict[str, list[Any]]:
    """The params that are not the same in all runs, with their values in the order of the runs."""
    names = dict.fromkeys(name for run in runs for name in run.params)
    values = {name: [run.params.get(name) for run in runs] for name in names}
    return {name: of_runs for name, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}


def _read(name: str, path: Path) -> bytes:
    try:
        if name == "workspace":
            return path.read_bytes()
        import dvc.api  # takes a second, and the workspace needs none of it

        with dvc.api.open(path.as_posix(), repo=".", rev=name, mode="rb") as file:
            return file.read()
    except Exception as error:  # DVC's, git's and the system's, of a dozen kinds
        raise ValueError(f"{name}: no {path} to be had ({error})") from error


def _flat(section: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    flat = []
    for name, value in section.items():
        flat += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return flat
