"""Fetch the encoder and the decoder, or train the built-in pair.

Built-in: reads the pictures and captions of data/pictures (train to learn from, val to measure) and the training
captions of data/videos. Writes models/encoder/ (open_clip's local format) and models/decoder/ (Hugging Face's).
A model that is already there and matches params.yaml is kept, so a fetched one needs the network only once.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pipeline.backbones import fetched, small_clip, small_gpt2, training_data
from pipeline.backbones.kept import keep_or_make, request
from pipeline.device import choose_device
from pipeline.features.encoder import save_encoder
from pipeline.language.decoder import refuse_too_long, save_decoder
from pipeline.params import Params, load_params
from pipeline.process import progress
from pipeline.process.terminal import printable
from stages import run

ENCODER = Path("models/encoder")
DECODER = Path("models/decoder")
FRAMES = Path("data/pictures/frames")
PACKAGES = ("torch", "open_clip_torch", "transformers", "tokenizers")  # whose versions a training depends on
SEGMENTS = {dataset: Path(f"data/{dataset}/segments.parquet") for dataset in ("pictures", "videos")}


def main() -> None:
    params = load_params()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:  # each trains on one thread
        decoder = other.submit(make_decoder, params)
        encoder = make_encoder(params)
        print(f"backbones: encoder {encoder}; decoder {decoder.result()}")
    refuse_too_long(DECODER, *params.longest_row())


def make_encoder(params: Params) -> str:
    chosen = params.backbones.encoder
    if chosen.source == "open_clip":

        def fetch(folder: Path) -> str:
            progress.begin_hub_download(f"encoder {printable(chosen.model)}")
            activation = fetched.fetch_encoder(folder, chosen.model, chosen.pretrained, chosen.activation)
            return f"{chosen.model} {chosen.pretrained} fetched (activation: {activation})"

        return keep_or_make(ENCODER, request(fetched, chosen.model_dump(), file=chosen.pretrained), fetch)

    pictures = {split: training_data.read_pictures(SEGMENTS["pictures"], FRAMES, split) for split in ("train", "val")}
    if not pictures["train"]:
        raise ValueError("data/pictures has no training pictures with captions, which the built-in encoder learns from")
    settings = params.backbones.builtin.encoder_settings() | {"seed": params.seed}

    def make(folder: Path) -> str:
        device = choose_device(params.device)
        made = small_clip.train_encoder(pictures["train"], pictures["val"], **settings, device=device)
        save_encoder(folder, made.config, made.model)
        return (
            f"trained on {len(pictures['train'])} pictures, loss {made.loss:.3f}, "
            f"finds the caption of {made.top1:.0%} of {len(pictures['val'])} held-out ones"
        )

    data = training_data.digest_of_pictures(pictures)
    return keep_or_make(ENCODER, request(small_clip, settings, data=data, packages=PACKAGES), make)


def make_decoder(params: Params) -> str:
    chosen = params.backbones.decoder
    if chosen.source == "huggingface":

        def fetch(folder: Path) -> str:
            progress.begin_hub_download(f"decoder {printable(chosen.name)}")
            adapts = "lora" in (params.pretrain.decoder, params.finetune.decoder)
            fetched.fetch_decoder(folder, chosen.name, params.lora if adapts else None)
            return f"{chosen.name} fetched"

        return keep_or_make(DECODER, request(fetched, chosen.model_dump(), file=chosen.name), fetch)

    captions = {split: training_data.read_captions(SEGMENTS.values(), split) for split in ("train", "val")}
    settings = params.backbones.builtin.decoder_settings() | {"seed": params.seed}

    def make(folder: Path) -> str:
        device = choose_device(params.device)
        made = small_gpt2.train_decoder(captions["train"], captions["val"], **settings, device=device)
        save_decoder(folder, made.model, made.tokenizer)
        return (
            f"trained on {sum(map(len, captions['train']))} captions, loss {made.loss:.3f}, "
            f"perplexity {made.perplexity:.2f} on {sum(map(len, captions['val']))} held-out ones"
        )

    data = training_data.digest_of_captions(captions)
    return keep_or_make(DECODER, request(small_gpt2, settings, data=data, packages=PACKAGES), make)


if __name__ == "__main__":
    run(kept="a model that is complete")
