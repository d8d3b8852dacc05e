"""Train the captioner with one kind of attention: `python -m studies.attend.learn none|temporal|spatial|space-time`.

Reads data/videos/segments.parquet, studies/attend/cells/ and the section learn of studies/attend/params.yaml. With
grounding also the built-in dataset's scenes.json and boxes.parquet, and of params.yaml cells.size_px and
explain.visible. Writes studies/attend/models/KIND/, in it seed-N/ for each seed: captioner.json, captioner.safetensors,
vocabulary.json, and curves/ of the losses. A run that is killed goes on from its last whole epoch.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

import stages
from pipeline.dataset.segments import from_table
from pipeline.device import choose_device, keep_freed_memory
from pipeline.features.embeddings import VideoEmbeddings, read_embeddings
from pipeline.files.aside import aside, write_text
from pipeline.params import TrainingParams, load_params
from pipeline.training import loop
from pipeline.training.batches import ExampleData
from pipeline.training.loop import Optimization, unfinished
from studies.attend.cells import shape_of
from studies.attend.examples import Example, Examples, make_examples, plan_batches, to_batch
from studies.attend.grounding import Grounds, grounds_of
from studies.attend.model import AttendingCaptioner, Config
from studies.attend.settings import CELLS, KINDS, Attend, load_attend
from studies.attend.training import AttendTraining
from studies.attend.truth import BOXES, SCENES, read_world
from studies.attend.vocabulary import UNKNOWN, Vocabulary

SEGMENTS = Path("data/videos/segments.parquet")
MODELS = Path("studies/attend/models")
VOCABULARY, CONFIG, WEIGHTS = "vocabulary.json", "captioner.json", "captioner.safetensors"
MEASURED = 512  # segments of which the channels' mean and standard deviation are taken


def main(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"attention: found {kind!r}; expected one of {', '.join(KINDS)}")
    keep_freed_memory()
    attend = load_attend()
    for seed in attend.learn.seeds:
        print(learn(kind, attend, seed, MODELS / kind / f"seed-{seed}"), flush=True)


def learn(kind: str, attend: Attend, seed: int, out: Path) -> str:
    """Train with one seed and write the captioner; returns what to say of it."""
    started, own = time.process_time(), attend.learn
    segments = from_table(pq.read_table(SEGMENTS))
    h, w, channels = shape_of(CELLS)
    settings, inputs = (kind, own, seed, attend.cells.size_px, attend.explain.visible), [SEGMENTS, CELLS]
    if own.grounding:
        inputs += [path for path in (SCENES, BOXES) if path.is_file()]
    with unfinished(f"attend-{kind}", Path(__file__), settings, inputs) as work:
        videos = read_cells((one.video_id for one in segments), work / "cells")
        examples = make_examples(segments, videos)
        train, val = ([one for one in examples if one.segment.split == split] for split in ("train", "val"))
        captions = sorted({caption for one in (*train, *val) for caption in one.segment.captions})
        vocabulary = Vocabulary.of((text for one in train for text in one.segment.captions), own.min_count)
        token_ids = {caption: vocabulary.encode(caption) for caption in captions}
        unknown = sum(UNKNOWN in ids for ids in token_ids.values())
        grounds = read_grounds(kind, attend, train, vocabulary, (h, w))

        torch.manual_seed(seed)
        config = Config(
            kind,  # type: ignore[arg-type]
            places=h * w,
            channels=channels,
            vocabulary=len(vocabulary),
            **own.model_dump(include={"rnn", "width", "heads", "dropout", "noise"}),
        )
        captioner = AttendingCaptioner(config)
        captioner.mean, captioner.std = measure(train, h * w)
        optimization = Optimization.of(
            TrainingParams(**own.model_dump(include=set(TrainingParams.model_fields))),
            seed=seed,
            device=load_params().device,
        )
        data = ExampleData(
            train,
            val,
            plan=lambda some, epoch: plan_batches(some, own.batch_size, epoch),
            collate=lambda some: Examples(tuple(one.segment for one in some), to_batch(some, h * w) if some else None),
            seed=seed,
        )
        module = AttendTraining(
            captioner,
            token_ids,
            optimization,
            steps=own.epochs * data.steps_per_epoch() if train else 1,
            captions_drawn=own.captions_drawn,
            teacher_forcing=own.teacher_forcing,
            grounding=own.grounding,
            grounds=grounds,
        )
        outcome = loop.train(module, data, optimization, name=f"attend {kind}", work=work)
        loop.exit_if_helper()
        save(out, captioner, vocabulary, time.process_time() - started)
        loop.finish(work, out / "curves")
    return (
        f"learn {kind}, seed {seed}: {len(train)} training segments, {len(vocabulary)} words, {unknown} captions with "
        f"others; best of {outcome.epochs} epochs {outcome.best_epoch + 1}, validation loss {outcome.best_loss:.4f}"
    )


def read_grounds(
    kind: str, attend: Attend, train: Sequence[Example], vocabulary: Vocabulary, shape: tuple[int, int]
) -> dict[str, Grounds]:
    """Where attention should be, by segment_id; empty where it does not learn that. Says so where it cannot."""
    if not attend.learn.grounding or kind == "none":
        return {}
    world = read_world()
    if world is None:
        print(
            f"learn {kind}: learn.grounding {attend.learn.grounding:g} teaches nothing, for {BOXES} and "
            f"{SCENES.name} are not both there: only the built-in dataset says where things are",
            flush=True,
        )
        return {}
    side, visible = attend.cells.size_px, attend.explain.visible
    return grounds_of(train, vocabulary, world, kind=kind, shape=shape, side=side, visible=visible)


def read_cells(video_ids: "Sequence[str] | object", copy: Path | None = None) -> dict[str, VideoEmbeddings]:
    """The videos' cells, [T, P * C], to be read from a flat copy. Raises ValueError naming a video without."""
    try:
        return read_embeddings(CELLS, video_ids, copy, column="cells")  # type: ignore[arg-type]
    except KeyError as error:
        raise ValueError(f"{error.args[0]}: make its cells with: python -m studies.attend.cells") from None


def measure(train: Sequence[Example], places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, [C] each."""
    every = max(1, len(train) // MEASURED)
    found = [to_batch([one], places).cells.flatten(0, 2) for one in train[::every]]
    together = torch.cat(found)
    return together.mean(0), together.std(0).clamp(min=1e-3)


def save(out: Path, captioner: AttendingCaptioner, vocabulary: Vocabulary, cpu_s: float) -> None:
    with aside(out) as folder:
        folder.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in captioner.state_dict().items()}, folder / WEIGHTS)
        vocabulary.save(folder / VOCABULARY)
        write_text(folder / CONFIG, json.dumps(captioner.config.as_json() | {"cpu_s": round(cpu_s)}, indent=2) + "\n")


def load(folder: Path, device: str) -> tuple[AttendingCaptioner, Vocabulary]:
    """The captioner of a seed's folder, in eval mode. Raises ValueError if it is not there."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no captioner; train it with: dvc repro studies/attend/dvc.yaml")
    config = json.loads((folder / CONFIG).read_text())
    config.pop("cpu_s")
    captioner = AttendingCaptioner(Config(**config))
    captioner.load_state_dict(load_file(folder / WEIGHTS))
    return captioner.to(choose_device(device)).eval(), Vocabulary.load(folder / VOCABULARY)


if __name__ == "__main__":
    stages.run(kept=stages.EPOCHS, takes="attention")
