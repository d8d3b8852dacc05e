"""params.yaml as one frozen object per section, checked before anything runs.

No field has a default: DVC cannot see a default, so a number that is not in the file would change results
without a rerun. What each key means stands beside it in params.yaml.
"""

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.baselines import BaselineConfig, BaselineName, FrameCount
from pipeline.process.terminal import printable

PARAMS_FILE = Path("params.yaml")
# Shortens a wrong value in a message: with aliases, half a kilobyte of YAML can be a value of gigabytes.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 100, 100

BUILTIN_POSITIONS = 128  # of the built-in decoder: prefix plus caption
ENCODER_HEAD_WIDTH = 32  # of the built-in encoder
MAX_COUNT = 2**31 - 1  # largest count: programs outside Python use 32 bits
Positive = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]  # longest wait: sockets and sleep() overflow above
SLOWEST_FPS = 0.001
PerSecond = Annotated[float, Field(ge=SLOWEST_FPS, le=1000)]  # frames
Fraction = Annotated[float, Field(ge=0, lt=1)]
HttpAddress = Annotated[str, Field(pattern="^https?://")]
Split = Literal["train", "val", "test"]
Dataset = Literal["pictures", "videos"]  # pictures to pretrain on, videos to fine-tune on
BUILTIN_FORMATS: dict[Dataset, str] = {"pictures": "coco", "videos": "activitynet"}  # formats of their annotations
Precision = Literal["auto", "fp32", "bf16"]
DecoderMode = Literal["frozen", "full", "lora"]


class Section(BaseModel):
    # strict: no "3" for 3, no 1 for true
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


def heads_divide(width: int, heads: int) -> None:
    """Raises ValueError if attention of this width cannot have so many heads."""
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")


class EngineParams(Section):
    kind: Literal["local", "ray"]
    address: str | None
    cores: Positive


class DownloadParams(Section):
    source: Literal["shapes", "directory", "youtube", "huggingface", "coco"]
    format: Literal["auto", "activitynet", "coco", "csv", "msrvtt", "msvd", "vatex", "flickr8k"]
    folder: str
    media: dict[Split, str]
    annotations: dict[Split, list[str]]
    limit: dict[Split, Count | None]
    segments: Literal["all", "initial"]
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _has_every_split(self) -> "DownloadParams":
        for name in ("media", "annotations", "limit"):
            missing = {"train", "val", "test"} - set(getattr(self, name))
            if missing:
                raise ValueError(f"{name} needs the keys train, val and test; missing: {', '.join(sorted(missing))}")
        if self.source == "shapes" and None in self.limit.values():
            raise ValueError("limit: source shapes renders a number per split, not null")
        if self.source == "coco" and self.format != "coco":
            raise ValueError(f"format: source coco has captions in format 'coco', found {self.format!r}")
        return self


class ShapesParams(Section):
    size_px: Annotated[int, Field(ge=96, le=4096, multiple_of=2)]
    fps: PerSecond
    captions_per_picture: Positive
    captions_per_segment: dict[Split, Positive]


class YoutubeParams(Section):
    url: Annotated[str, Field(pattern=r"\{id\}")]
    max_height_px: Positive
    cookies: str | None
    proxy: str | None
    workers: Positive
    videos_per_hour: Annotated[float, Field(ge=0.001, le=1e6)] | None
    retries: Count
    timeout_s: Seconds
    max_file_gb: PositiveFloat
    max_page_mb: PositiveFloat
    max_minutes: PositiveFloat
    backoff_s: Seconds
    max_backoff_s: Seconds


class HuggingfaceParams(Section):
    repo: str
    revision: str
    archives: list[str]
    max_file_gb: PositiveFloat
    max_page_mb: PositiveFloat


class CocoParams(Section):
    pictures: HttpAddress
    annotations: HttpAddress
    karpathy: HttpAddress
    md5: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None]
    retries: Count
    timeout_s: Seconds
    backoff_s: Seconds
    max_file_gb: PositiveFloat
    max_captions_gb: PositiveFloat


class SamplingParams(Section):
    fps: PerSecond
    short_side_px: Annotated[int, Field(ge=16, le=8192)]
    jpeg_quality: Annotated[int, Field(ge=2, le=31)]


class FramesParams(SamplingParams):
    shards: Positive


class EncoderParams(Section):
    source: Literal["builtin", "open_clip"]
    model: str
    pretrained: str
    activation: Literal["auto", "gelu", "quick_gelu"]


class DecoderParams(Section):
    source: Literal["builtin", "huggingface"]
    name: str


class BuiltinParams(Section):
    image_px: Annotated[int, Field(ge=32, le=4096, multiple_of=32)]
    embedding_width: Positive
    vision_width: Positive
    text_width: Positive
    text_layers: Positive
    encoder_steps: Positive
    encoder_batch: Positive
    encoder_lr: PositiveFloat
    encoder_swaps: Positive
    vocabulary: Annotated[int, Field(ge=300, le=MAX_COUNT)]  # includes the 256 bytes
    decoder_width: Positive
    decoder_layers: Positive
    decoder_heads: Positive
    decoder_steps: Positive
    decoder_batch: Positive
    decoder_lr: PositiveFloat

    def encoder_settings(self) -> dict[str, Any]:
        """Arguments of pipeline.backbones.small_clip.train_encoder."""
        names = ("image_px", "embedding_width", "vision_width", "text_width", "text_layers")
        return {name: getattr(self, name) for name in names} | {
            "swaps": self.encoder_swaps,
            "steps": self.encoder_steps,
            "batch_size": self.encoder_batch,
            "learning_rate": self.encoder_lr,
        }

    def decoder_settings(self) -> dict[str, Any]:
        """Arguments of pipeline.backbones.small_gpt2.train_decoder."""
        return {
            "vocabulary": self.vocabulary,
            "width": self.decoder_width,
            "layers": self.decoder_layers,
            "heads": self.decoder_heads,
            "steps": self.decoder_steps,
            "batch_size": self.decoder_batch,
            "learning_rate": self.decoder_lr,
        }

    @model_validator(mode="after")
    def _heads_divide(self) -> "BuiltinParams":
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is not a multiple of decoder_heads {self.decoder_heads}"
            )
        if self.text_width % (heads := max(self.text_width // ENCODER_HEAD_WIDTH, 1)):
            raise ValueError(f"text_width {self.text_width} is not a multiple of {heads}, the number of its heads")
        return self


class BackbonesParams(Section):
    encoder: EncoderParams
    decoder: DecoderParams
    builtin: BuiltinParams


class EmbedParams(Section):
    every: Annotated[int, Field(ge=1, le=1000)]
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
        if self.kind == "transformer":
            heads_divide(self.width, self.heads)
        return self


class LoraParams(Section):
    rank: Positive
    alpha: Positive
    dropout: Fraction


class TrainingParams(Section):
    """Settings of the training loop, whatever it trains."""

    epochs: Positive
    batch_size: Positive
    optimizer: Literal["adamw", "muon"]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0, le=1e9)]
    gradient_clip: PositiveFloat
    warmup_steps: Count
    patience: Positive
    precision: Precision
    devices: Positive


class CaptionerTrainingParams(TrainingParams):
    """Settings that `pretrain` and `finetune` share."""

    decoder: DecoderMode
    captions_drawn: Positive | None
    max_caption_tokens: Annotated[int, Field(ge=2, le=MAX_COUNT)]


class PretrainParams(CaptionerTrainingParams):
    pass


class FinetuneParams(CaptionerTrainingParams):
    age_rate_factor: Annotated[float, Field(ge=0, le=1)]


class BaselineParams(Section):
    frames: BaselineName
    count: FrameCount


class MemoryParams(Section):
    enabled: bool
    layers: Annotated[list[Positive], Field(min_length=1)]
    k: Positive
    max_entries: Positive
    gate: Literal["joint", "sigmoid"]
    time: Literal["segment", "age", "none"]
    scope: Literal["video", "segment"]
    gradient: Literal["through", "detached"]
    keyframes: Count
    other_side_bias: Annotated[float, Field(ge=-100, le=0)]
    likeness_scale: PositiveFloat
    side_mark_length: Annotated[float, Field(ge=0, le=1e9)]
    write_below: Annotated[float, Field(gt=-1, le=1)] | None
    usual_keys: Positive | None
    match_features: bool
    excess_unit: PositiveFloat
    distractors: Count
    fewest_distractors: Positive
    distractor_share: Annotated[float, Field(ge=0, le=1)]
    distractors_begin: Annotated[float, Field(ge=0, le=1)]
    distractors_full: Annotated[float, Field(ge=0, le=1)]
    key_loss: Annotated[float, Field(ge=0, le=1000)]
    key_loss_segments: Positive
    key_loss_frames: Count


class GenerationParams(Section):
    method: Literal["beam", "sample"]
    beams: Positive
    temperature: Annotated[float, Field(ge=0.001, le=1000)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Positive
    length_penalty: Annotated[float, Field(ge=-10, le=10)]
    batch_size: Positive
    precision: Precision


class CaptionParams(GenerationParams):
    split: Split


class EvaluateParams(Section):
    tokenizer: Literal["ptb", "characters"]


class PredictParams(Section):
    max_height_px: Positive
    retries: Count
    timeout_s: Seconds
    max_file_gb: PositiveFloat
    max_page_mb: PositiveFloat
    max_minutes: PositiveFloat


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Device = Literal["auto", "cpu", "cuda", "mps"]


class Params(Section):
    seed: Seed
    device: Device
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
    baseline: BaselineParams
    memory: MemoryParams
    caption: CaptionParams
    evaluate: EvaluateParams
    predict: PredictParams

    def on_split(self, split: Split) -> "Params":
        """These params, captioning and scoring another split."""
        return self.model_copy(update={"caption": self.caption.model_copy(update={"split": split})})

    def longest_row(self) -> tuple[int, str]:
        """How many tokens the decoder must be able to read at once, and a phrase that explains it."""
        return _longest_row(self.mapper, self.memory, self.baseline, self.pretrain, self.finetune, self.caption)


def _longest_row(
    mapper: MapperParams,
    memory: MemoryParams,
    baseline: BaselineParams,
    pretrain: PretrainParams,
    finetune: FinetuneParams,
    caption: CaptionParams,
) -> tuple[int, str]:
    if memory.enabled:
        frames, each, why = 1 + memory.keyframes, mapper.prefix_tokens, "memory.keyframes, the last"
    else:
        seen = BaselineConfig(baseline.frames, baseline.count)
        frames, each, why = seen.prefixes, seen.length(mapper.prefix_tokens) // seen.prefixes, "baseline.count"
    longest = max(pretrain.max_caption_tokens, finetune.max_caption_tokens, caption.max_tokens)
    tokens = each * frames + longest
    explanation = (
        f"mapper.prefix_tokens {each} for each of {frames} frames ({why})"
        f" and a caption of {longest} tokens (the most of max_caption_tokens and max_tokens) are {tokens} tokens"
    )
    return tokens, explanation


class PredictionParams(Section):
    """The part of a params file that captioning a video with a trained captioner needs."""

    seed: Seed
    device: Device
    frames: SamplingParams
    embed: EmbedParams
    caption: GenerationParams
    predict: PredictParams


def embedded_fps(params: Params | PredictionParams) -> float:
    """Frames per second of a video that are embedded: those that captioners and answerers see."""
    return params.frames.fps / params.embed.every


# The section in params files of earlier revisions, which do not have it.
_EARLIER_PREDICT = {
    "max_height_px": 360,
    "retries": 3,
    "timeout_s": 30,
    "max_file_gb": 16,
    "max_page_mb": 64,
    "max_minutes": 720,
}
_EARLIER_EMBED = {"every": 1}  # keys of the section that they lack


def _misfits(sections: dict[str, Any]) -> list[str]:
    """Checks across sections. Only looks at sections that are valid by themselves."""
    problems = []
    for dataset, download in sections.get("download", {}).items():
        if download.source == "shapes" and download.format != (wanted := BUILTIN_FORMATS[dataset]):
            problems.append(f"download.{dataset}.format: source shapes writes {wanted!r}, found {download.format!r}")
    if "download" in sections and (missing := set(BUILTIN_FORMATS) - set(sections["download"])):
        problems.append(f"download: needs the datasets pictures and videos; missing: {', '.join(sorted(missing))}")
    frames, embed = sections.get("frames"), sections.get("embed")
    if frames and embed and frames.fps / embed.every < SLOWEST_FPS:
        problems.append(
            f"embed.every: {embed.every} leaves {frames.fps / embed.every:g} of frames.fps {frames.fps:g} a second, "
            f"expected at least {SLOWEST_FPS}"
        )
    memory, mapper = sections.get("memory"), sections.get("mapper")
    if memory and memory.layers != sorted(set(memory.layers)):
        problems.append(f"memory.layers: found {memory.layers}, expected ascending and each once")
    if memory and memory.write_below is not None and memory.time == "age":
        problems.append(
            "memory.write_below: where frames are left out, a stream does not know the ages of the others; "
            "set memory.time: segment or none"
        )
    if memory and memory.distractors_full < memory.distractors_begin:
        problems.append(
            f"memory.distractors_full: found {memory.distractors_full}, expected at least memory.distractors_begin"
            f" ({memory.distractors_begin})"
        )
    if memory and mapper:
        if memory.enabled and mapper.kind != "transformer":
            problems.append("memory.enabled: memory lives in attention layers, so it needs mapper.kind: transformer")
        if memory.enabled and (outside := [layer for layer in memory.layers if layer > mapper.layers]):
            problems.append(f"memory.layers: found {outside}, but the mapper has layers 1 to {mapper.layers}")
        per_frame = mapper.clip_tokens + mapper.prefix_tokens
        if memory.max_entries < per_frame:
            problems.append(f"memory.max_entries: {memory.max_entries} holds not even one frame of {per_frame} tokens")
    readers: list[Any] = [
        sections.get(name) for name in ("mapper", "memory", "baseline", "pretrain", "finetune", "caption")
    ]
    backbones = sections.get("backbones")
    if backbones and all(readers) and backbones.decoder.source == "builtin":
        tokens, explanation = _longest_row(*readers)
        if tokens > BUILTIN_POSITIONS:
            problems.append(f"{explanation}, and the built-in decoder reads {BUILTIN_POSITIONS}: lower some of these")
    return problems


def load_params(path: Path = PARAMS_FILE, changes: Mapping[str, Any] | None = None) -> Params:
    """Read and check a params file with `changes`: {"memory.k": 32} is what `dvc exp run -S memory.k=32` changes.

    Raises ValueError that lists every problem at once: the key, what was found, what was expected.
    """
    values = _read(path)
    for key, value in (changes or {}).items():
        *outer, last = key.split(".")
        inner: Any = values
        for name in outer:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            raise ValueError(f"{path} has no {key} to change")
        inner[last] = value
    if isinstance(download := values.get("download"), dict) and {"coco", "activitynet"} & download.keys():
        raise ValueError(
            f"{path}: uses the old dataset names: rename download.coco to "
            "download.pictures, download.activitynet to download.videos, and `videos` in both to `limit`"
        )
    if isinstance(old := values.get("finetune"), dict) and "baseline_frame" in old:
        frame = printable(str(old["baseline_frame"]))
        raise ValueError(
            f"{path}: uses the old baseline setting: remove "
            f"finetune.baseline_frame and add a section\n  baseline: {{frames: {frame}, count: 1}}"
        )
    sections, problems = _checked(values, Params)
    problems += _unknown(values, Params) + _misfits(sections)
    if problems:
        raise ValueError(_listed(path, problems))
    return Params(**sections)


def load_study_params(path: Path, study: type[AnySection]) -> AnySection:
    """A study's params file as its own class. Raises ValueError that lists every problem, as `load_params` does."""
    values = _read(path)
    sections, problems = _checked(values, study)
    problems += _unknown(values, study)
    if problems:
        raise ValueError(_listed(path, problems))
    return study(**sections)


def load_prediction_params(path: Path) -> PredictionParams:
    """The prediction params of a file that an earlier or later revision may have written.

    Raises ValueError listing what is missing or wrong in that part only.
    """
    needed: dict[str, Any] = {}
    for name, value in ({"predict": _EARLIER_PREDICT} | _read(path)).items():
        if name == "embed" and isinstance(value, dict):
            value = _EARLIER_EMBED | value
        field = PredictionParams.model_fields.get(name)
        if field and isinstance(value, dict) and isinstance(field.annotation, type):
            value = {key: value[key] for key in field.annotation.model_fields if key in value}
        if field:
            needed[name] = value
    sections, problems = _checked(needed, PredictionParams)
    if problems:
        raise ValueError(_listed(path, problems))
    return PredictionParams(**sections)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = YAML(typ="safe").load(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; run this in the repository's root, or copy a file from profiles/"
        ) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{path}, line {line}: not YAML: {error.problem}") from None
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{path}: YAML that cannot be read: {printable(why)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected sections such as `frames:`, found {type(values).__name__}")
    return values


def _checked(values: Mapping[str, Any], expected: type[Section]) -> tuple[dict[str, Any], list[str]]:
    """The sections of `expected` that are valid by themselves, and what is wrong with the others."""
    sections: dict[str, Any] = {}
    problems: list[str] = []
    for name, field in expected.model_fields.items():
        if name not in values:
            problems.append(f"{name}: missing; every key must be present")
            continue
        try:
            kind: Any = Annotated[field.annotation, field]
            sections[name] = TypeAdapter(kind).validate_python(values[name])
        except ValidationError as error:
            problems += [_sentence(name, problem) for problem in error.errors()]
    return sections, problems


def _unknown(values: Mapping[str, Any], expected: type[Section]) -> list[str]:
    names = values.keys() - expected.model_fields.keys()
    return [f"{printable(str(name))}: unknown section; remove it or correct its spelling" for name in names]


def _listed(path: Path, problems: list[str]) -> str:
    return f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems)


def _sentence(section: str, problem: Any) -> str:
    key = printable(".".join(str(part) for part in (section, *problem["loc"])))
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; every key must be present"
        case "value_error":  # from our own validators
            return f"{key}: {problem['ctx']['error']}"
        case _:
            message = problem["msg"]
            return f"{key}: found {printable(_REPR.repr(problem['input']))}; {message[0].lower()}{message[1:]}"
