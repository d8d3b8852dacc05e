"""Fetch the encoder and the decoder, or train the built-in pair.

Built-in: reads the pictures and captions of data/pictures (train to learn from, val to measure) and the training
captions of data/videos. Writes models/encoder/ (open_clip's local format) and models/decoder/ (Hugging Face's).
A model that is already there and matches params.yaml is kept, so a fetched one needs the network only once.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pipeline.backbones import provided
from pipeline.backbones.training_data import read_captions, read_pictures
from pipeline.device import choose_device
from pipeline.language.decoder import refuse_too_long
from pipeline.params import Params, load_params
from stages import run

ENCODER = Path("models/encoder")
DECODER = Path("models/decoder")
FRAMES = Path("data/pictures/frames")
SEGMENTS = {dataset: Path(f"data/{dataset}/segments.parquet") for dataset in ("pictures", "videos")}


def main() -> None:
    params = load_params()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:  # each trains on one thread
        decoder = other.submit(make_decoder, params)
        encoder = make_encoder(params)
        print(f"backbones: encoder {encoder}; decoder {decoder.result()}")
    refuse_too_long(DECODER, *params.longest_row())


def make_encoder(params: Params) -> str:
    chosen, builtin = params.backbones.encoder, params.backbones.builtin
    if chosen.source == "open_clip":
        return provided.fetched_encoder(ENCODER, chosen)
    pictures = {split: read_pictures(SEGMENTS["pictures"], FRAMES, split) for split in ("train", "val")}
    if not pictures["train"]:
        raise ValueError("data/pictures has no training pictures with captions, which the built-in encoder learns from")
    settings = builtin.encoder_settings() | {"seed": params.seed}
    return provided.trained_encoder(ENCODER, pictures, settings, choose_device(params.device))


def make_decoder(params: Params) -> str:
    chosen, builtin = params.backbones.decoder, params.backbones.builtin
    if chosen.source == "huggingface":
        adapts = "lora" in (params.pretrain.decoder, params.finetune.decoder)
        return provided.fetched_decoder(DECODER, chosen, params.lora if adapts else None)
    captions = {split: read_captions(SEGMENTS.values(), split) for split in ("train", "val")}
    settings = builtin.decoder_settings() | {"seed": params.seed}
    return provided.trained_decoder(DECODER, captions, settings, choose_device(params.device))


if __name__ == "__main__":
    run(kept="a model that is complete")
