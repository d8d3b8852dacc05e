"""studies/vlm/params.yaml, checked; and where the study's files lie."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML

from pipeline.chat.settings import AskingParams, Prices, check_address
from pipeline.params import Count, HttpAddress, Positive, Precision, Section, Split
from pipeline.process.terminal import printable

FILE = Path("studies/vlm/params.yaml")
OUT = Path("studies/vlm/out")  # in it a folder for each task
METRICS = Path("metrics/vlm")  # the same
JOURNAL = Path("studies/vlm/journal.jsonl")
SEGMENTS = Path("data/videos/segments.parquet")
QUESTIONS = Path("data/questions/questions.parquet")
FRAMES = Path("data/videos/frames")

Task = Literal["captions", "answers"]


class Model(Section):
    source: Literal["server", "local"]
    name: Annotated[str, Field(min_length=1)]
    base_url: HttpAddress
    allow_http: bool
    revision: str | None
    precision: Precision

    @model_validator(mode="after")
    def _is_safe(self) -> "Model":
        if self.source == "server":
            check_address(self.base_url, allow_http=self.allow_http)
        return self


class Shown(Section):
    scope: Literal["segment", "video"]
    count: Annotated[int, Field(gt=0, le=4096)]


class Asked(Section):
    split: Split
    prompt: str
    max_tokens: Positive


class Study(Section):
    model: Model
    shown: Shown
    captions: Asked
    answers: Asked
    temperature: Annotated[float, Field(ge=0, le=10)]
    seed: Count
    asking: AskingParams
    prices: Prices

    def asked(self, task: Task) -> Asked:
        return self.captions if task == "captions" else self.answers


def task_of(name: str) -> Task:
    if name not in get_args(Task):
        raise ValueError(f"found the task {name!r}; expected one of {', '.join(get_args(Task))}")
    return cast(Task, name)


def load_study(path: Path = FILE) -> Study:
    """Read and check the file. Raises ValueError that names the keys and what is wrong with them."""
    try:
        return Study(**YAML(typ="safe").load(path.read_text()))
    except ValidationError as error:
        raise ValueError("\n".join([f"{path}:", *(_sentence(dict(one)) for one in error.errors())])) from None


def _sentence(problem: Mapping[str, Any]) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "value_error":  # from our own validators, which know what must not be printed
        return f"  {name}.{problem['ctx']['error']}"
    return f"  {name}: found {printable(repr(problem['input']))}; {problem['msg']}"
