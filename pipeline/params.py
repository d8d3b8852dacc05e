"""params.yaml as one frozen object per section, checked before anything runs.

No field has a default: DVC cannot see a default, so a number that is not in the file would change results
without a rerun. What each key means stands beside it in params.yaml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

PARAMS_FILE = Path("params.yaml")

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Split = Literal["train", "val", "test"]
Dataset = Literal["coco", "activitynet"]
Precision = Literal["auto", "fp32", "bf16"]
DecoderMode = Literal["frozen", "full", "lora"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)  # strict: no "3" for 3, no 1 for true


class EngineParams(Section):
    kind: Literal["local", "ray"]
    address: str | None
    cores: Positive


class DownloadParams(Section):
    source: Literal["shapes", "directory", "youtube", "huggingface", "coco"]
    format: Literal["coco", "activitynet"]
    folder: str
    media: dict[Split, str]
    annotations: dict[Split, list[str]]
    videos: dict[Split, Count | None]
    segments: Literal["all", "initial"]
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _has_every_split(self) -> "DownloadParams":
        for name in ("media", "annotations", "videos"):
            missing = {"train", "val", "test"} - set(getattr(self, name))
            if missing:
                raise ValueError(f"{name} needs the keys train, val and test; missing: {', '.join(sorted(missing))}")
        if self.source == "shapes" and None in self.videos.values():
            raise ValueError("videos: source shapes renders a number of videos per split, not null")
        if self.source == "coco" and self.format != "coco":
            raise ValueError(f"format: source coco has captions in format 'coco', found {self.format!r}")
        return self


class ShapesParams(Section):
    size_px: Annotated[int, Field(ge=96, multiple_of=2)]
    fps: PositiveFloat
    captions_per_picture: Positive
    captions_per_segment: dict[Split, Positive]


class YoutubeParams(Section):
    url: Annotated[str, Field(pattern=r"\{id\}")]
    max_height_px: Positive
    cookies: str | None
    proxy: str | None
    workers: Positive
    videos_per_hour: PositiveFloat | None
    retries: Count
    timeout_s: PositiveFloat
    backoff_s: PositiveFloat
    max_backoff_s: PositiveFloat


class HuggingfaceParams(Section):
    repo: str
    revision: str
    archives: list[str]


class CocoParams(Section):
    pictures: str
    annotations: str
    karpathy: str
    md5: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None]
    retries: Count
    timeout_s: PositiveFloat
    backoff_s: PositiveFloat


class FramesParams(Section):
    fps: PositiveFloat
    short_side_px: Annotated[int, Field(ge=16)]
    jpeg_quality: Annotated[int, Field(ge=2, le=31)]
    shards: Positive


class EncoderParams(Section):
    source: Literal["builtin", "open_clip"]
    model: str
    pretrained: str


class DecoderParams(Section):
    source: Literal["builtin", "huggingface"]
    name: str


class BuiltinParams(Section):
    image_px: Annotated[int, Field(ge=32, multiple_of=32)]
    embedding_width: Positive
    vision_width: Positive
    text_width: Positive
    encoder_steps: Positive
    encoder_batch: Positive
    encoder_lr: PositiveFloat
    vocabulary: Annotated[int, Field(ge=300)]  # 256 bytes come first
    decoder_width: Positive
    decoder_layers: Positive
    decoder_heads: Positive
    decoder_steps: Positive
    decoder_batch: Positive
    decoder_lr: PositiveFloat

    @model_validator(mode="after")
    def _heads_divide(self) -> "BuiltinParams":
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is not a multiple of decoder_heads {self.decoder_heads}"
            )
        return self


class BackbonesParams(Section):
    encoder: EncoderParams
    decoder: DecoderParams
    builtin: BuiltinParams


class EmbedParams(Section):
    batch_size: Positive
    precision: Precision


class MapperParams(Section):
    kind: Literal["transformer", "mlp"]
    layers: Positive
    heads: Positive
    width: Positive
    clip_tokens: Positive
    prefix_tokens: Positive

    @model_validator(mode="after")
    def _heads_divide(self) -> "MapperParams":
        if self.kind == "transformer" and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class LoraParams(Section):
    rank: Positive
    alpha: Positive
    dropout: Fraction


class TrainingParams(Section):
    """What `pretrain` and `finetune` share."""

    decoder: DecoderMode
    epochs: Positive
    batch_size: Positive
    captions_drawn: Positive | None
    optimizer: Literal["adamw", "muon"]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Count
    patience: Positive
    precision: Precision
    devices: Positive
    max_caption_tokens: Annotated[int, Field(ge=2)]


class PretrainParams(TrainingParams):
    pass


class FinetuneParams(TrainingParams):
    baseline_frame: Literal["last", "first", "middle", "mean"]


class MemoryParams(Section):
    enabled: bool
    layers: Annotated[list[Positive], Field(min_length=1)]
    k: Positive
    max_entries: Positive
    gate: Literal["joint", "sigmoid"]
    time: Literal["age", "none"]
    scope: Literal["video", "segment"]
    gradient: Literal["through", "detached"]
    keyframes: Count


class CaptionParams(Section):
    split: Split
    method: Literal["beam", "sample"]
    beams: Positive
    temperature: PositiveFloat
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Positive
    length_penalty: float
    index: Literal["exact", "approximate"]
    batch_size: Positive
    precision: Precision


class Params(Section):
    seed: Count
    device: Literal["auto", "cpu", "cuda", "mps"]
    engine: EngineParams
    download: dict[Dataset, DownloadParams]
    shapes: ShapesParams
    youtube: YoutubeParams
    huggingface: HuggingfaceParams
    coco: CocoParams
    frames: FramesParams
    backbones: BackbonesParams
    embed: EmbedParams
    mapper: MapperParams
    lora: LoraParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    memory: MemoryParams
    caption: CaptionParams


def _misfits(sections: dict[str, Any]) -> list[str]:
    """What one section alone cannot know. Only looks at sections that are right in themselves."""
    problems = []
    for dataset, download in sections.get("download", {}).items():
        if download.source == "shapes" and download.format != dataset:
            problems.append(f"download.{dataset}.format: source shapes writes {dataset!r}, found {download.format!r}")
    if "download" in sections and (missing := {"coco", "activitynet"} - set(sections["download"])):
        problems.append(f"download: needs the datasets coco and activitynet; missing: {', '.join(sorted(missing))}")
    memory, mapper = sections.get("memory"), sections.get("mapper")
    if memory and memory.layers != sorted(set(memory.layers)):
        problems.append(f"memory.layers: found {memory.layers}, wanted ascending and each once")
    if memory and mapper:
        if memory.enabled and mapper.kind != "transformer":
            problems.append("memory.enabled: memory lives in attention layers, so it needs mapper.kind: transformer")
        if memory.enabled and (outside := [layer for layer in memory.layers if layer > mapper.layers]):
            problems.append(f"memory.layers: found {outside}, but the mapper has layers 1 to {mapper.layers}")
        per_frame = mapper.clip_tokens + mapper.prefix_tokens
        if memory.max_entries < per_frame:
            problems.append(f"memory.max_entries: {memory.max_entries} holds not even one frame of {per_frame} tokens")
    return problems


def load_params(path: Path = PARAMS_FILE, changes: Mapping[str, Any] | None = None) -> Params:
    """Read and check a params file, in it `changes`: {"memory.k": 32} is what `dvc exp run -S memory.k=32` changes.

    Raises ValueError that lists every problem at once: the key, what was found, what was expected.
    """
    try:
        values = YAML(typ="safe").load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run from the repository's root, or copy one from profiles/") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{path}, line {line}: not YAML: {error.problem}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted sections such as `frames:`, found {type(values).__name__}")
    for key, value in (changes or {}).items():
        *outer, last = key.split(".")
        inner: Any = values
        for name in outer:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            raise ValueError(f"{path} has no {key} to change")
        inner[last] = value
    problems: list[str] = []
    sections: dict[str, Any] = {}
    for name, field in Params.model_fields.items():
        if name not in values:
            problems.append(f"{name}: missing; every key must be present")
            continue
        try:
            kind: Any = Annotated[field.annotation, field]
            sections[name] = TypeAdapter(kind).validate_python(values[name])
        except ValidationError as error:
            problems += [_sentence(name, problem) for problem in error.errors()]
    problems += [
        f"{name}: unknown section; remove it or correct its spelling"
        for name in values.keys() - sections.keys() - Params.model_fields.keys()
    ]
    problems += _misfits(sections)
    if problems:
        raise ValueError(f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Params(**sections)


def _sentence(section: str, problem: Any) -> str:
    key = ".".join(str(part) for part in (section, *problem["loc"]))
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; every key must be present"
        case "value_error":  # from our own validators
            return f"{key}: {problem['ctx']['error']}"
        case _:
            message = problem["msg"]
            return f"{key}: found {problem['input']!r}; {message[0].lower()}{message[1:]}"
