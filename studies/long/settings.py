"""studies/long/params.yaml, checked, and where this study's files lie."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline.params import PARAMS_FILE, Count, Params, Positive, Section, load_params, load_study_params

FILE = Path("studies/long/params.yaml")
MODELS = Path("studies/long/models")  # a folder for each captioner
METRICS = Path("metrics/long")
TRAINING = "training.json"  # in a captioner's folder: CPU seconds
RUN = "run"  # the main pipeline's own captioner

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]  # of a folder and of a DVC stage


class Measuring(Section):
    seconds: Annotated[list[Count], Field(min_length=1)]
    seed: Count


class Long(Section):
    captioners: dict[Name, dict[str, Any]]
    entries: dict[Name, Positive]
    measuring: Measuring


def load_long(path: Path = FILE) -> Long:
    """Read and check the file. Raises ValueError that names each key that is wrong."""
    long = load_study_params(path, Long)
    for section in ("captioners", "entries"):
        if RUN in getattr(long, section):
            raise ValueError(f"{path}: {section}: {RUN} is what models/finetuned is called; choose another name")
    if twice := sorted(long.captioners.keys() & long.entries):
        raise ValueError(f"{path}: entries: {twice[0]} is one of captioners, too; choose another name")
    return long


def params_of(long: Long, name: str) -> Params:
    """params.yaml as this captioner has it. Raises ValueError that names what cannot be."""
    if name not in long.captioners:
        raise ValueError(f"{FILE} has no captioner {name!r}; it has {', '.join(long.captioners)}")
    try:
        params = load_params(PARAMS_FILE, long.captioners[name])
    except ValueError as error:
        raise ValueError(f"as {FILE} changes it for captioner {name}, {error}") from None
    if params.finetune.devices > 1:  # each process of that would start this whole program again
        raise ValueError(f"{PARAMS_FILE}: finetune.devices: found {params.finetune.devices}, this study takes 1")
    return params
