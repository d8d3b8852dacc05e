"""Train one of the study's models, once for each seed.

Reads studies/questions/params.yaml, data/questions/, data/*/embeddings/ (of a model of captions
studies/questions/captions/ instead; for an encoder that is trained data/*/frames/ as well; where examples are made long
data/videos/annotations/scenes.json; where frames look back data/videos/segments.parquet, for its captions),
models/decoder/ (what a question's words mean, and what says answers) and models/encoder/ (what words look like). Writes
studies/questions/models/MODEL/seed-N/, with the curves and how long it took.
"""

import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from pipeline.answerer.alike import AlikeFrames
from pipeline.answerer.examples import Example, asked, make_examples, read_texts, word_looks
from pipeline.answerer.reader import OpenConfig, Reader, ReaderConfig
from pipeline.answerer.saying import Speaker
from pipeline.answerer.seeing import TrainedEncoder
from pipeline.answerer.training import LANGUAGE_MODEL, SPEAKER, save_reader, train_reader
from pipeline.answerer.watching import Watching
from pipeline.dataset.questions.question import from_table
from pipeline.dataset.segments import from_table as from_segments
from pipeline.dataset.shapes.looks import read_scenes
from pipeline.features.embeddings import embedding_width
from pipeline.features.encoder import load_encoder
from pipeline.files import weights
from pipeline.files.aside import aside, write_text
from pipeline.language.decoder import load_decoder, save_decoder
from pipeline.language.text_reader import load_text_reader, read_text_reader
from pipeline.params import load_params
from pipeline.scoring.answer_files import read_answer_list
from pipeline.training import loop
from pipeline.training.loop import Optimization, unfinished
from stages import EPOCHS, run
from studies.questions.lengthening import Others, lengthened_example
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
    SCENES,
    SEGMENTS,
    TRAINED_ENCODER,
    Longer,
    Study,
    load_study,
)
from studies.questions.videos import read_captions, read_jpegs, read_videos


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
    inputs += [CAPTIONS] if study.model(name).way == "captions" else []
    inputs += [SCENES] if study.model(name).longer else []
    inputs += [SEGMENTS] if study.looks_back(name) else []
    inputs = [path for path in inputs if path.exists()]
    # An encoder that is trained reads data/*/frames/ as well, of which the embeddings are a function.
    with unfinished(f"questions-{name}", Path(__file__), settings, inputs) as work:
        captions = study.model(name).way == "captions"
        reads = read_language_model(study.learn.language_model)
        examples = read_examples(["train", "val"], answers, reads, work / "embeddings", captions=captions)
        if study.model(name).longer:
            examples = with_longer(examples, study.learn.longer, study.epochs(name), seed)
        watching = study.watching(name)
        speaker = make_speaker(study, watching) if study.model(name).head == "open" else None
        encoder = read_encoder(ENCODER) if study.model(name).encoder == "trained" else None
        torch.manual_seed(seed)
        reader = Reader(
            reader_config(study, name, examples["train"], len(answers), speaker.config if speaker else None)
        )
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
            speaker=speaker,
            encoder=encoder,
            encoder_rate=study.learn.encoder_rate,
            alike=alike_frames(study, name, examples["train"]),
            key_loss=study.learn.key_loss,
        )
        loop.exit_if_helper()
        seconds = time.process_time() - began
        with aside(out) as written:
            save_reader(written, reader, watching, answers)
            if study.learn.language_model:
                save_decoder(written / LANGUAGE_MODEL, *reads)
            if speaker and speaker.learns:
                save_decoder(written / SPEAKER, speaker.decoder, speaker.tokenizer)
            if encoder:
                encoder.save(written / TRAINED_ENCODER, ENCODER)
            write_text(written / "training.json", json.dumps({"cpu_seconds": seconds, "epochs": outcome.epochs}) + "\n")
        loop.finish(work, out / "curves")
    return (
        f"learn {name}, seed {seed}: {outcome.epochs} epochs, {seconds:.0f} CPU seconds; best epoch "
        f"{outcome.best_epoch + 1}, validation loss {outcome.best_loss:.4f}"
    )


def read_language_model(name: str | None) -> tuple[Any, Any]:
    """The one that reads questions: of a folder, of the hub, or the decoder."""
    if name is None:
        return load_decoder(DECODER)
    if Path(name).is_dir():
        return load_text_reader(Path(name))
    try:
        return read_text_reader(name, local_files_only=False)
    except (OSError, *weights.MISFITS) as error:
        why = weights.short(error)
        raise ValueError(f"{FILE}: learn.language_model: {name!r} could not be loaded: {why}") from None


def read_examples(
    splits: list[str], answers: list[str], reads: tuple[Any, Any], copy: Path | None = None, *, captions: bool = False
) -> dict[str, list[Example]]:
    """By split.

    Args:
        reads: the language model that reads questions, and its tokenizer.
        captions: with the words of our captions in the place of frames.
    """
    questions = [one for one in from_table(pq.read_table(QUESTIONS)) if one.split in splits]
    model, tokenizer = reads
    ids = {one.video_id for one in questions}
    videos = read_captions(ids, model, tokenizer) if captions else read_videos(ids, copy)
    look = None if captions else word_looks(ENCODER, "cpu")
    texts = read_texts([text for one in questions for text in asked(one)], model, tokenizer, look)
    return {
        split: make_examples([one for one in questions if one.split == split], videos, texts, answers)
        for split in splits
    }


def with_longer(examples: dict[str, list[Example]], longer: Longer, epochs: int, seed: int) -> dict[str, list[Example]]:
    """Behind the examples of each split, those of them that can be made long by videos of that split: for training
    others in every epoch, of one number.
    """
    scenes = read_scenes(SCENES)
    found = {}
    for split, own in examples.items():
        of_videos = [one for one in own if one.video_id in scenes]  # a picture has no time
        others = Others({one.video_id: one.video for one in of_videos}, scenes)
        made = []
        for epoch in range(epochs) if split == "train" else [None]:
            draws = [random.Random(f"{seed} {epoch} {one.video_id}") for one in of_videos]
            some = [
                lengthened_example(one, others, longer.seconds, longer.empty, draw)
                for one, draw in zip(of_videos, draws, strict=True)
            ]
            made.append([replace(one, epoch=epoch) for one in some if one])
        fewest = min(map(len, made))
        found[split] = [*own, *(one for some in made for one in some[:fewest])]
    return found


def alike_frames(study: Study, name: str, train: list[Example]) -> AlikeFrames | None:
    """None of a model whose frames do not look back at others, or without captions of training videos."""
    if not (study.learn.key_loss and study.looks_back(name) and SEGMENTS.exists()):
        return None
    videos = {one.video_id: one.video for one in train}
    segments = [one for one in from_segments(pq.read_table(SEGMENTS)) if one.video_id in videos]
    return AlikeFrames(segments, videos, study.learn.step) if segments else None


def read_encoder(folder: Path) -> TrainedEncoder:
    return TrainedEncoder(load_encoder(folder, device=torch.device("cpu"), dtype=torch.float32), read_jpegs)


def make_speaker(study: Study, watching: Watching) -> Speaker:
    decoder, tokenizer = load_decoder(DECODER)
    config = OpenConfig(study.learn.prefix, decoder.get_input_embeddings().weight.shape[1], study.learn.max_tokens)
    return Speaker(decoder, tokenizer, config, watching, where=str(DECODER), learns=study.learn.decoder == "full")


def reader_config(
    study: Study, name: str, examples: list[Example], answers: int, open: OpenConfig | None
) -> ReaderConfig:
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
        oldest_s=min(learn.oldest_s or math.inf, max(example.longest_s for example in examples)),
        answers=answers,
        open=open,
    )


if __name__ == "__main__":
    run(kept=EPOCHS, takes="model")
