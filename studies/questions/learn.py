"""Train one of the study's models, once for each seed.

Reads studies/questions/params.yaml, data/questions/, data/*/embeddings/ (of a model of captions
studies/questions/captions/ instead), models/decoder/ (what a question's words mean) and models/encoder/ (what they look
like). Writes studies/questions/models/MODEL/seed-N/, with the curves and how long it took.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipeline.answerer.examples import Example, asked, make_examples, read_texts, word_looks
from pipeline.answerer.reader import Reader, ReaderConfig
from pipeline.answerer.training import save_reader, train_reader
from pipeline.dataset.questions.question import from_table
from pipeline.features.embeddings import embedding_width
from pipeline.files.aside import aside, write_text
from pipeline.language.decoder import load_decoder
from pipeline.params import load_params
from pipeline.scoring.answer_files import read_answer_list
from pipeline.training import loop
from pipeline.training.loop import Optimization, unfinished
from stages import EPOCHS, run
from studies.questions.settings import (
    ANSWER_LIST,
    CAPTIONS,
    DECODER,
    EMBEDDINGS,
    ENCODER,
    FILE,
    MODELS,
    PICTURE_EMBEDDINGS,
    QUESTIONS,
    Study,
    load_study,
)
from studies.questions.videos import read_captions, read_videos


def main(model: str) -> None:
    study = load_study()
    study.model(model)
    for seed in study.seeds:
        print(learn(study, model, seed, MODELS / model / f"seed-{seed}"), flush=True)


def learn(study: Study, name: str, seed: int, out: Path) -> str:
    """Returns the closing line."""
    device = load_params().device
    answers = read_answer_list(ANSWER_LIST)
    settings = (study.learn, study.model(name), seed)
    inputs = [QUESTIONS, ANSWER_LIST, EMBEDDINGS, PICTURE_EMBEDDINGS, DECODER, ENCODER]
    inputs = [path for path in [*inputs, *([CAPTIONS] if study.model(name).way == "captions" else [])] if path.exists()]
    with unfinished(f"questions-{name}", Path(__file__), settings, inputs) as work:
        captions = study.model(name).way == "captions"
        examples = read_examples(["train", "val"], answers, work / "embeddings", captions=captions)
        watching = study.watching(name)
        torch.manual_seed(seed)
        reader = Reader(reader_config(study, name, examples["train"], len(answers)))
        began = time.process_time()
        outcome = train_reader(
            reader,
            watching,
            examples["train"],
            examples["val"],
            replace(Optimization.of(study.learn, seed=seed, device=device), epochs=study.epochs(name)),
            glimpses=study.model(name).glimpses,
            val_glimpses=study.main_count(name),
            grid=study.learn.grid,
            evidence_loss=study.learn.evidence_loss,
            name=f"learn {name}, seed {seed}",
            work=work,
            params_file=FILE,
        )
        loop.exit_if_helper()
        seconds = time.process_time() - began
        with aside(out) as written:
            save_reader(written, reader, watching, answers)
            write_text(written / "training.json", json.dumps({"cpu_seconds": seconds, "epochs": outcome.epochs}) + "\n")
        loop.finish(work, out / "curves")
    return (
        f"learn {name}, seed {seed}: {outcome.epochs} epochs, {seconds:.0f} CPU seconds; best epoch "
        f"{outcome.best_epoch + 1}, validation loss {outcome.best_loss:.4f}"
    )


def read_examples(
    splits: list[str], answers: list[str], copy: Path | None = None, *, captions: bool = False
) -> dict[str, list[Example]]:
    """By split. captions: with the words of our captions in the place of frames."""
    questions = [one for one in from_table(pq.read_table(QUESTIONS)) if one.split in splits]
    model, tokenizer = load_decoder(DECODER)
    ids = {one.video_id for one in questions}
    videos = read_captions(ids, model, tokenizer) if captions else read_videos(ids, copy)
    look = None if captions else word_looks(ENCODER, "cpu")
    texts = read_texts([text for one in questions for text in asked(one)], model, tokenizer, look)
    return {
        split: make_examples([one for one in questions if one.split == split], videos, texts, answers)
        for split in splits
    }


def reader_config(study: Study, name: str, examples: list[Example], answers: int) -> ReaderConfig:
    if not examples:
        raise ValueError(f"{QUESTIONS} has no training questions about videos with frames")
    learn = study.learn
    return ReaderConfig(
        embedding_width=embedding_width({examples[0].video_id: examples[0].video}),
        text_width=examples[0].targets[0].texts[0].states.shape[-1],
        width=learn.width,
        heads=learn.heads,
        layers=learn.layers,
        frame_layers=learn.frame_layers,
        k=learn.k if study.model(name).way in ("memory", "captions") else None,
        timed=study.watching(name).timed,
        answers=answers,
    )


if __name__ == "__main__":
    run(kept=EPOCHS, takes="model")
