"""Reads a run for the report: the workspace, a git revision or an experiment, or any captioner's table of scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from pipeline.files.revision import at_revision
from pipeline.scoring.caption_table import Retrieved, read_retrieved
from pipeline.scoring.segment_scores import read_scores

SCORES = "metrics/segments.parquet"
CORPUS = "metrics/captions.json"
RETRIEVED = "data/retrieved.parquet"  # only of a system with a memory
PARAMS = "params.yaml"
FILES = (SCORES, CORPUS, PARAMS)


@dataclass(frozen=True)
class Run:
    name: str  # as it was typed
    scores: pd.DataFrame  # metrics/segments.parquet
    corpus: Mapping[str, float]  # metrics/captions.json
    retrieved: Mapping[str, Sequence[Retrieved]]  # data/retrieved.parquet, by segment_id; empty without one
    params: Mapping[str, Any]  # params.yaml, flat: "memory.k" -> 128


def read_run(name: str) -> Run:
    """Read a git revision, an experiment, the `workspace`, or a file of segments' scores (a name in .parquet).

    Raises ValueError if a file is missing.
    """
    if name.endswith(".parquet"):
        return _of_file(name)
    with at_revision(None if name == "workspace" else name, *FILES, optional=[RETRIEVED]) as root:
        if absent := [file for file in FILES if not (root / file).is_file()]:
            raise ValueError(f"{name}: {', '.join(absent)} not found; run it: dvc repro")
        return Run(
            name,
            pd.read_parquet(root / SCORES),
            json.loads((root / CORPUS).read_text(encoding="utf-8")),
            read_retrieved(root / RETRIEVED),
            dict(_flat(YAML(typ="safe").load(root / PARAMS))),
        )


def _of_file(name: str) -> Run:
    """Of a captioner that is no run of the main pipeline: it has neither a corpus's scores nor params here."""
    return Run(name, read_scores(name), {}, {}, {})


def changed(runs: list[Run]) -> dict[str, list[Any]]:
    """The params that differ between runs that have any, with their values in the order of the runs."""
    names = dict.fromkeys(name for run in runs for name in run.params)
    values = {name: [run.params.get(name) for run in runs] for name in names}
    known = [i for i, run in enumerate(runs) if run.params]
    return {name: own for name, own in values.items() if any(own[i] != own[known[0]] for i in known)}


def _flat(section: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    flat = []
    for name, value in section.items():
        flat += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return flat
