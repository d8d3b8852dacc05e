"""studies/vlm/params.yaml, checked; and where the study's files lie."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML

from pipeline.params import Count, HttpAddress, Positive, PositiveFloat, Precision, Seconds, Section, Split
from pipeline.process.terminal import printable

FILE = Path("studies/vlm/params.yaml")
OUT = Path("studies/vlm/out")  # in it a folder for each task
METRICS = Path("metrics/vlm")  # the same
JOURNAL = Path("studies/vlm/journal.jsonl")
SEGMENTS = Path("data/videos/segments.parquet")
QUESTIONS = Path("data/questions/questions.parquet")
FRAMES = Path("data/videos/frames")
KEY = "VLM_API_KEY"  # a variable of its own: a key for one service must not be sent to another

Task = Literal["captions", "answers"]
Price = Annotated[float, Field(ge=0, le=1e9)] | None


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


class Asking(Section):
    workers: Annotated[int, Field(gt=0, le=1000)]
    per_hour: PositiveFloat | None
    attempts: Annotated[int, Field(gt=0, le=100)]
    timeout_s: Seconds
    backoff_s: Seconds
    max_backoff_s: Seconds
    max_reply_mb: PositiveFloat
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)]


class Prices(Section):
    currency: str
    input: Price
    output: Price

    def cost(self, tokens_in: int | None, tokens_out: int | None) -> float | None:
        """None where a price or a count is not known."""
        if self.input is None or self.output is None or tokens_in is None or tokens_out is None:
            return None
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class Study(Section):
    model: Model
    shown: Shown
    captions: Asked
    answers: Asked
    temperature: Annotated[float, Field(ge=0, le=10)]
    seed: Count
    asking: Asking
    prices: Prices

    def asked(self, task: Task) -> Asked:
        return self.captions if task == "captions" else self.answers


def check_address(url: str, *, allow_http: bool) -> None:
    """Raise ValueError for an address that would give something away."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"base_url: {printable(url)} is no address ({error})") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        # Without the address itself: what is wrong with it may be a secret.
        raise ValueError(f"base_url: found a name, a password or what follows a ? in it; a key goes into {KEY}")
    if not host:
        raise ValueError(f"base_url: {printable(url)} names no machine")
    if parts.scheme == "http" and not allow_http and not is_this_machine(host):
        raise ValueError(
            f"base_url: {printable(url)} is plain http to another machine, so that whoever is on the way reads the key "
            "and the videos; use https, or ssh -L and 127.0.0.1, or set model.allow_http: true"
        )


def is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key() -> str | None:
    """From the environment. ValueError, without the key, if it cannot be one."""
    found = os.environ.get(KEY, "").strip()
    if any(not "!" <= character <= "~" for character in found):
        raise ValueError(f"{KEY}: it has characters that no key has: a space, a line end, or not ASCII")
    return found or None


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
