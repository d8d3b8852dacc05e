"""Fetch the encoder and the decoder, or train the built-in pair.

Built-in: reads the pictures and captions of data/coco (train to learn, val to say how well) and the training
captions of data/activitynet. Writes models/encoder/ (open_clip's local format) and models/decoder/ (Hugging Face's).
What is already there as asked for is kept, so that what was fetched once never needs the network again.
"""

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline import backbones, shards
from pipeline.backbones import Picture, keep_or_make
from pipeline.decoder import save_decoder
from pipeline.device import choose_device
from pipeline.imports import code_fingerprint
from pipeline.params import Params, load_params
from stages import run

ENCODER = Path("models/encoder")
DECODER = Path("models/decoder")
FRAMES = Path("data/coco/frames")
SEGMENTS = {dataset: Path(f"data/{dataset}/segments.parquet") for dataset in ("coco", "activitynet")}


def main() -> None:
    params = load_params()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:  # each trains on one core
        decoder = beside.submit(make_decoder, params)
        encoder = make_encoder(params)
        print(f"backbones: encoder {encoder}; decoder {decoder.result()}")


def make_encoder(params: Params) -> str:
    chosen, builtin = params.backbones.encoder, params.backbones.builtin
    if chosen.source == "open_clip":

        def fetch(folder: Path) -> str:
            backbones.fetch_encoder(folder, chosen.model, chosen.pretrained)
            return f"{chosen.model} {chosen.pretrained} fetched"

        return keep_or_make(ENCODER, asked(chosen.model_dump(), file=chosen.pretrained), fetch)

    pictures = {split: read_pictures(split) for split in ("train", "val")}
    settings: dict[str, Any] = {
        "image_px": builtin.image_px,
        "embedding_width": builtin.embedding_width,
        "vision_width": builtin.vision_width,
        "text_width": builtin.text_width,
        "steps": builtin.encoder_steps,
        "batch_size": builtin.encoder_batch,
        "learning_rate": builtin.encoder_lr,
        "seed": params.seed,
    }

    def make(folder: Path) -> str:
        device = choose_device(params.device)
        made = backbones.train_encoder(pictures["train"], pictures["val"], **settings, device=device)
        backbones.save_encoder(folder, made.config, made.model)
        return (
            f"trained on {len(pictures['train'])} pictures, loss {made.loss:.3f}, "
            f"finds the caption of {made.top1:.0%} of {len(pictures['val'])} held-out ones"
        )

    seen = hashlib.sha256()
    for split in pictures:
        for picture in pictures[split]:
            seen.update(hashlib.sha256(picture.jpeg).digest() + json.dumps(picture.captions).encode())
    return keep_or_make(ENCODER, asked(settings, data=seen.hexdigest()), make)


def make_decoder(params: Params) -> str:
    chosen, builtin = params.backbones.decoder, params.backbones.builtin
    if chosen.source == "huggingface":

        def fetch(folder: Path) -> str:
            backbones.fetch_decoder(folder, chosen.name)
            return f"{chosen.name} fetched"

        return keep_or_make(DECODER, asked(chosen.model_dump()), fetch)

    captions = {split: read_captions(split) for split in ("train", "val")}
    settings: dict[str, Any] = {
        "vocabulary": builtin.vocabulary,
        "width": builtin.decoder_width,
        "layers": builtin.decoder_layers,
        "heads": builtin.decoder_heads,
        "steps": builtin.decoder_steps,
        "batch_size": builtin.decoder_batch,
        "learning_rate": builtin.decoder_lr,
        "seed": params.seed,
    }

    def make(folder: Path) -> str:
        device = choose_device(params.device)
        made = backbones.train_decoder(captions["train"], captions["val"], **settings, device=device)
        save_decoder(folder, made.model, made.tokenizer)
        return (
            f"trained on {sum(map(len, captions['train']))} captions, loss {made.loss:.3f}, "
            f"perplexity {made.perplexity:.2f} on {sum(map(len, captions['val']))} held-out ones"
        )

    seen = hashlib.sha256(json.dumps(captions).encode()).hexdigest()
    return keep_or_make(DECODER, asked(settings, data=seen), make)


def asked(settings: dict[str, Any], *, data: str | None = None, file: str | None = None) -> dict[str, Any]:
    """The request: another one, and the model is made again."""
    code = code_fingerprint(Path(backbones.__file__))
    if file is not None and Path(file).is_file():
        with Path(file).open("rb") as opened:
            data = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"settings": settings, "code": code, "data": data}


def read_pictures(split: str) -> list[Picture]:
    """The first frame of every video of the split that has one, with all its captions."""
    table = pq.read_table(SEGMENTS["coco"], filters=[("split", "=", split)], columns=["video_id", "captions"])
    captions: dict[str, list[str]] = {}
    for row in table.to_pylist():
        captions.setdefault(row["video_id"], []).extend(row["captions"])
    there = [video_id for video_id, entry in shards.index(FRAMES).items() if entry.rows and captions.get(video_id)]
    if not there and split == "train":
        raise ValueError("data/coco has no training pictures with captions, which the built-in encoder learns from")
    return [
        Picture(frames["jpeg"][0].as_py(), tuple(captions[video_id]))
        for video_id, frames in shards.iterate(FRAMES, there, columns=["jpeg"])
    ]


def read_captions(split: str) -> list[tuple[str, ...]]:
    """The captions of every segment of the split, of both datasets."""
    return [
        tuple(row["captions"])
        for path in SEGMENTS.values()
        for row in pq.read_table(path, filters=[("split", "=", split)], columns=["captions"]).to_pylist()
        if row["captions"]
    ]


if __name__ == "__main__":
    run()
