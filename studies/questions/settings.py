"""studies/questions/params.yaml, checked; and where the study's files lie."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.answerer.watching import Watching
from pipeline.params import Count, Positive, Section, Split, TrainingParams, heads_divide, load_study_params

FILE = Path("studies/questions/params.yaml")
FOLDER = Path("data/questions")
QUESTIONS, ANSWER_LIST, DROPPED = FOLDER / "questions.parquet", FOLDER / "ans2label.json", FOLDER / "dropped.json"
MODELS = Path("studies/questions/models")  # a folder for each model, in it one for each seed
OUT = Path("studies/questions/out")  # the same, of answers
METRICS = Path("metrics/questions")
LONG = Path("studies/questions/long/answers.parquet")
CAPTIONS = Path("studies/questions/captions")  # a folder for each split
CAPTION_COST = CAPTIONS / "cost.json"  # of one, the mean
PICTURE_EMBEDDINGS, PICTURE_FRAMES = Path("data/pictures/embeddings"), Path("data/pictures/frames")
SCENES = Path("data/videos/annotations/scenes.json")
SEGMENTS = Path("data/videos/segments.parquet")
EMBEDDINGS, FRAMES = Path("data/videos/embeddings"), Path("data/videos/frames")
DECODER, ENCODER = Path("models/decoder"), Path("models/encoder")
TRAINED_ENCODER = "encoder"  # beside a reader: the encoder that was trained with it


class Ask(Section):
    source: Literal["shapes", "files"]
    per_video: dict[Split, Count]
    pictures: bool
    files: dict[Split, list[str]]
    list_size: Positive
    list_file: str | None

    @model_validator(mode="after")
    def _has_every_split(self) -> "Ask":
        for name in ("per_video", "files"):
            if missing := {"train", "val", "test"} - set(getattr(self, name)):
                raise ValueError(f"{name} needs the keys train, val and test; missing: {', '.join(sorted(missing))}")
        if self.source == "files" and not self.files["train"]:
            raise ValueError("files.train: source files needs a file of training questions")
        return self


class Longer(Section):
    seconds: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    empty: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _in_order(self) -> "Longer":
        if self.seconds[0] > self.seconds[1]:
            raise ValueError(f"seconds: found {self.seconds}; expected the least first, then the most")
        return self


class Learn(TrainingParams):
    width: Positive
    heads: Positive
    layers: Positive
    frame_layers: Count
    k: Positive | None
    write_below: Annotated[float, Field(gt=-1, le=1)] | None
    oldest_s: Annotated[float, Field(gt=0)] | None
    frames: Positive
    step: Positive
    grid: Literal["ends", "centres", "clipbert"]
    evidence_loss: Annotated[float, Field(ge=0)]
    key_loss: Annotated[float, Field(ge=0)]
    longer: Longer
    prefix: Positive
    max_tokens: Positive
    encoder_rate: Annotated[float, Field(gt=0)]
    language_model: str | None
    decoder: Literal["frozen", "full"]

    @model_validator(mode="after")
    def _heads_divide(self) -> "Learn":
        heads_divide(self.width, self.heads)
        return self


class Model(Section):
    way: Literal["blind", "frame", "sparse", "memory", "captions"]
    fusion: Literal["mean", "max", "lse", "joint"]
    glimpses: Positive
    epochs: Positive | None
    head: Literal["list", "open"]
    encoder: Literal["frozen", "trained"]
    longer: bool

    @model_validator(mode="after")
    def _has_frames_to_put_in(self) -> "Model":
        if self.longer and (self.way == "captions" or self.encoder == "trained"):
            raise ValueError(
                f"longer: found true with way {self.way} and encoder {self.encoder}; expected false: it is embeddings "
                "of frames that are put in"
            )
        return self

    @model_validator(mode="after")
    def _glimpses_are_seen(self) -> "Model":
        if self.encoder == "trained" and self.way not in ("frame", "sparse"):
            raise ValueError(
                f"encoder: found trained with way {self.way}; expected frozen: an encoder is trained on glimpses (way "
                "sparse or frame), and a memory of every frame would need every frame's gradient"
            )
        return self


class Answer(Section):
    split: Split
    glimpses: Annotated[list[Positive], Field(min_length=1)]
    main: Positive
    batch_size: Positive

    @model_validator(mode="after")
    def _main_is_one(self) -> "Answer":
        if self.main not in self.glimpses:
            raise ValueError(f"main: found {self.main}; expected one of glimpses, {self.glimpses}")
        return self


class Long(Section):
    models: list[str]
    minutes: Annotated[list[Count], Field(min_length=1)]
    glimpses: Annotated[list[Positive], Field(min_length=1)]
    per_kind: Positive
    seed: Count


class Study(Section):
    seeds: Annotated[list[Count], Field(min_length=1)]
    ask: Ask
    learn: Learn
    models: dict[str, Model]  # once loaded with those of caption_models, for which DVC has stages of their own
    caption_models: dict[str, Model]
    together: dict[str, Annotated[list[str], Field(min_length=2)]]
    answer: Answer
    long: Long

    def model(self, name: str) -> Model:
        if name not in self.models:
            raise ValueError(f"{FILE} has no model {name!r}; it has {', '.join(self.models)}")
        return self.models[name]

    def watching(self, name: str) -> Watching:
        model = self.model(name)
        if model.way == "captions":  # a memory, of words
            return Watching("memory", model.fusion, 1, 1)
        frames = 1 if model.way == "frame" else self.learn.frames
        below = self.learn.write_below if model.way == "memory" else None
        return Watching(model.way, model.fusion, frames, self.learn.step, below)

    def looks_back(self, name: str) -> bool:
        """Whether frames of a model look back at others."""
        return self.learn.frame_layers > 0 and self.watching(name).timed and self.model(name).way != "captions"

    def epochs(self, name: str) -> int:
        return self.model(name).epochs or self.learn.epochs

    def counts(self, name: str) -> list[int]:
        """With how many glimpses a model answers."""
        return self.answer.glimpses if self.model(name).way == "sparse" else [1]

    def main_count(self, name: str) -> int:
        if name in self.together:
            return 1
        return self.answer.main if self.model(name).way == "sparse" else 1

    def parts(self, name: str) -> list[str]:
        """The models that answer as this one: it alone, or those of `together`."""
        return self.together.get(name, [name])


def load_study(path: Path = FILE) -> Study:
    """Raises ValueError that names the key and what is wrong with it."""
    study = load_study_params(path, Study)
    if both := study.models.keys() & study.caption_models.keys():
        raise ValueError(f"{path}: models and caption_models both have {', '.join(sorted(both))}")
    for section, models in (("models", study.models), ("caption_models", study.caption_models)):
        for name, model in models.items():
            if (model.way == "captions") != (section == "caption_models"):
                raise ValueError(f"{path}: {section}.{name}: way captions belongs in caption_models, others in models")
    if study.long.models and study.ask.source != "shapes":
        raise ValueError(f"{path}: long.models: only the built-in videos (ask.source: shapes) can be made long; set []")
    for name, model in study.models.items():
        if model.longer and study.ask.source != "shapes":
            raise ValueError(
                f"{path}: models.{name}.longer: only the built-in videos (ask.source: shapes) can be made long; "
                "set false"
            )
    for name in study.long.models:
        if name not in study.models:
            raise ValueError(f"{path}: long.models: found {name!r}; expected some of models, {', '.join(study.models)}")
        model = study.models[name]
        if (model.head, model.encoder) != ("list", "frozen"):
            raise ValueError(
                f"{path}: long.models: {name} has head {model.head} and encoder {model.encoder}; "
                "expected list and frozen"
            )
    for name, parts in study.together.items():
        if name in study.models:
            raise ValueError(f"{path}: together.{name}: there is a model of that name; choose another")
        for part in parts:
            if study.models.get(part, study.caption_models.get(part)) is None:
                raise ValueError(f"{path}: together.{name}: found {part!r}, which is none of the models")
    if "long" in study.models.keys() | study.caption_models.keys() | study.together.keys():
        raise ValueError(f"{path}: long is the name of {METRICS}/long.json; choose another")
    return study.model_copy(update={"models": study.models | study.caption_models})
