"""studies/attend/params.yaml, checked, and where this study's files lie."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.params import (
    Count,
    Fraction,
    Positive,
    PositiveFloat,
    Section,
    Split,
    TrainingParams,
    heads_divide,
    load_study_params,
)

FILE = Path("studies/attend/params.yaml")
NET = Path("studies/attend/models/net")
CELLS = Path("studies/attend/cells")
OUT = Path("studies/attend/out")
METRICS = Path("metrics/attend")

Kind = Literal["none", "temporal", "spatial", "space-time"]
KINDS: tuple[Kind, ...] = ("none", "temporal", "spatial", "space-time")
Method = Literal["gradcam", "gradcam++", "hirescam", "attention"]


class NetParams(Section):
    source: Literal["builtin", "torchvision"]
    name: str
    weights: str | None
    width: Positive
    steps: Positive
    batch_size: Positive
    learning_rate: PositiveFloat


class CellsParams(Section):
    layer: str
    every: Positive
    size_px: Annotated[int, Field(ge=16, le=1024)]
    window: Positive
    stride: Positive
    align: Annotated[list[Positive | None], Field(min_length=3, max_length=3)]
    batch_size: Positive

    @model_validator(mode="after")
    def _leaves_no_gap(self) -> "CellsParams":
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} is longer than window {self.window}: frames between would be lost")
        return self


class LearnParams(TrainingParams):
    seeds: Annotated[list[Count], Field(min_length=1)]
    rnn: Literal["lstm", "gru"]
    width: Positive
    heads: Positive
    min_count: Positive
    teacher_forcing: Annotated[float, Field(ge=0, le=1)]
    dropout: Fraction
    noise: Annotated[float, Field(ge=0, le=10)]
    captions_drawn: Positive | None
    grounding: Annotated[float, Field(ge=0, le=100)]

    @model_validator(mode="after")
    def _heads_divide(self) -> "LearnParams":
        heads_divide(self.width, self.heads)
        return self


class CaptionParams(Section):
    split: Split
    beams: Positive
    max_tokens: Annotated[int, Field(ge=2, le=1000)]
    length_penalty: float
    batch_size: Positive


class FloorsParams(Section):
    constant: Annotated[str, Field(min_length=1)] | None


class ExplainParams(Section):
    attention: Kind
    methods: Annotated[list[Method], Field(min_length=1)]
    segments: Positive
    videos: Count
    visible: Annotated[float, Field(ge=0, le=1)]


class Attend(Section):
    net: NetParams
    cells: CellsParams
    learn: LearnParams
    caption: CaptionParams
    floors: FloorsParams
    explain: ExplainParams


def load_attend(path: Path = FILE) -> Attend:
    return load_study_params(path, Attend)
