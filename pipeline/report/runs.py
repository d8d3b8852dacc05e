"""What the report reads of a run: of the workspace, a git revision or an experiment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from pipeline.captions import RETRIEVED_SCHEMA, Retrieved
from pipeline.revision import at_revision

SCORES = "metrics/segments.parquet"
METRICS = "metrics/captions.json"
RETRIEVED = "data/retrieved.parquet"
PARAMS = "params.yaml"
FILES = (SCORES, METRICS, RETRIEVED, PARAMS)


@dataclass(frozen=True)
class Run:
    name: str  # as it was asked for
    scores: pd.DataFrame  # metrics/segments.parquet
    corpus: Mapping[str, float]  # metrics/captions.json
    retrieved: Mapping[str, Sequence[Retrieved]]  # data/retrieved.parquet, by segment_id
    params: Mapping[str, Any]  # params.yaml, flat: "memory.k" -> 128


def read_run(name: str) -> Run:
    """Of a git revision, an experiment, or the `workspace`. Raises ValueError if it lacks a file."""
    with at_revision(None if name == "workspace" else name, *FILES) as root:
        if absent := [file for file in FILES if not (root / file).is_file()]:
            raise ValueError(f"{name}: {', '.join(absent)} not there; run it: dvc repro")
        return Run(
            name,
            pd.read_parquet(root / SCORES),
            json.loads((root / METRICS).read_text(encoding="utf-8")),
            retrieved_by_segment(root / RETRIEVED),
            dict(_flat(YAML(typ="safe").load(root / PARAMS))),
        )


def retrieved_by_segment(path: Path) -> dict[str, list[Retrieved]]:
    """What the memory gave for each segment; empty without a memory."""
    table = pd.read_parquet(path)
    found: dict[str, list[Retrieved]] = {}
    for id, *values in zip(*(table[name].tolist() for name in RETRIEVED_SCHEMA.names), strict=True):
        found.setdefault(id, []).append(Retrieved(*values))
    return found


def changed(runs: list[Run]) -> dict[str, list[Any]]:
    """The params that are not the same in all runs, with their values in the order of the runs."""
    names = dict.fromkeys(name for run in runs for name in run.params)
    values = {name: [run.params.get(name) for run in runs] for name in names}
    return {name: of_runs for name, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}


def _flat(section: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    flat = []
    for name, value in section.items():
        flat += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return flat
