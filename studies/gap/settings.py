"""studies/gap/params.yaml, checked, and where the study keeps what it makes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.chat.settings import AskingParams, check_address
from pipeline.params import Count, HttpAddress, Positive, PositiveFloat, Section, Split, load_study_params

FILE = Path("studies/gap/params.yaml")
MODELS, OUT = Path("studies/gap/models"), Path("studies/gap/out")
METRICS = Path("metrics/gap")

COCA, RANDOM_COCA = MODELS / "coca", MODELS / "coca-random"
RANDOM_ENCODER = MODELS / "encoder-random"
STEPS = OUT / "steps.npz"  # embeddings of held-out pairs along the training, an array [2, pairs, E] a step
DESCRIBED = OUT / "described"  # shards
DESCRIBING = OUT / "describing.jsonl"  # what describing each video took
CAPTIONS = OUT / "captions.parquet"
EVIDENCE = OUT / "evidence.parquet"
PAIRS = OUT / "pairs"
COST = METRICS / "cost.json"  # of a caption
JOURNAL = Path("studies/gap/journal.jsonl")  # what a server replied

ENCODER = Path("models/encoder")
FRAMES = Path("data/videos/frames")
EMBEDDINGS = Path("data/videos/embeddings")
PICTURES = Path("data/pictures/frames")
SEGMENTS = {dataset: Path(f"data/{dataset}/segments.parquet") for dataset in ("pictures", "videos")}

Level = Literal["frame", "segment", "video"]


class CocaParams(Section):
    source: Literal["builtin", "open_clip"]
    model: str
    pretrained: str
    image_px: Positive
    patch_px: Positive
    width: Positive
    vision_layers: Positive
    text_layers: Positive
    decoder_layers: Positive
    heads: Positive
    queries: Positive
    steps: Positive
    batch: Positive
    learning_rate: PositiveFloat
    caption_weight: Annotated[float, Field(ge=0, le=1000)]
    held_out: Annotated[int, Field(ge=2, le=5000)]


class DescribeParams(Section):
    frames: Literal["uniform", "every_s", "cuts"]
    every_s: PositiveFloat
    count: Positive
    videos: dict[Split, Count]
    beams: Positive
    max_tokens: Annotated[int, Field(ge=2, le=1000)]
    length_penalty: Annotated[float, Field(ge=-10, le=10)]
    batch_size: Positive
    shards: Positive


class SummariseParams(Section):
    split: Split
    per: Literal["segment", "video"]
    keep: Literal["all", "distinct", "diverse", "clusters"]
    count: Positive
    method: Literal["t5", "template", "huggingface", "server"]
    name: str
    prompt: str
    beams: Positive
    max_new_tokens: Positive
    batch_size: Positive
    width: Positive
    layers: Positive
    heads: Positive
    vocabulary: Annotated[int, Field(ge=300, le=100_000)]
    steps: Positive
    batch: Positive
    learning_rate: PositiveFloat


class ServerParams(AskingParams):
    base_url: HttpAddress
    allow_http: bool

    @model_validator(mode="after")
    def _is_safe(self) -> "ServerParams":
        check_address(self.base_url, allow_http=self.allow_http)
        return self


class GapParams(Section):
    draws: Count
    loss_pairs: Annotated[int, Field(ge=2, le=50_000)]
    levels: Annotated[list[Level], Field(min_length=1)]


class CausesParams(Section):
    steps: Positive
    batch: Positive
    learning_rate: PositiveFloat
    temperatures: Annotated[list[PositiveFloat], Field(min_length=1)]
    seeds: Annotated[list[Count], Field(min_length=1)]
    facts: Annotated[list[Annotated[int, Field(ge=1, le=4)]], Field(min_length=1)]
    held_out: Annotated[int, Field(ge=2, le=5000)]


class DecoderParams(Section):
    steps: Positive
    batch: Positive
    learning_rate: PositiveFloat
    prefix_tokens: Positive
    beams: Positive
    max_tokens: Annotated[int, Field(ge=2, le=1000)]


class GapStudy(Section):
    coca: CocaParams
    describe: DescribeParams
    summarise: SummariseParams
    server: ServerParams
    gap: GapParams
    causes: CausesParams
    decoder: DecoderParams


def load_study(path: Path = FILE) -> GapStudy:
    return load_study_params(path, GapStudy)
