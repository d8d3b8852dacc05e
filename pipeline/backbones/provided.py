"""The encoder and the decoder of a run: fetched, or trained here, and kept until what they are made from changes.

Each function returns a line for people: how its model was made, or "kept".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.backbones import fetched, small_clip, small_gpt2, training_data
from pipeline.backbones.kept import keep_or_make, request
from pipeline.backbones.training_data import Picture
from pipeline.features.encoder import save_encoder
from pipeline.language.decoder import save_decoder
from pipeline.params import DecoderParams, EncoderParams, LoraParams
from pipeline.process import progress
from pipeline.process.terminal import printable

PACKAGES = ("torch", "open_clip_torch", "transformers", "tokenizers")  # whose versions a training depends on


def fetched_encoder(folder: Path, chosen: EncoderParams) -> str:
    def fetch(folder: Path) -> str:
        progress.begin_hub_download(f"encoder {printable(chosen.model)}")
        activation = fetched.fetch_encoder(folder, chosen.model, chosen.pretrained, chosen.activation)
        return f"{chosen.model} {chosen.pretrained} fetched (activation: {activation})"

    return keep_or_make(folder, request(fetched, chosen.model_dump(), file=chosen.pretrained), fetch)


def trained_encoder(
    folder: Path, pictures: Mapping[str, Sequence[Picture]], settings: Mapping[str, Any], device: torch.device
) -> str:
    """The built-in one. pictures: of split train to learn from, of val to measure."""

    def make(folder: Path) -> str:
        made = small_clip.train_encoder(pictures["train"], pictures["val"], **settings, device=device)
        save_encoder(folder, made.config, made.model)
        return (
            f"trained on {len(pictures['train'])} pictures, loss {made.loss:.3f}, "
            f"finds the caption of {made.top1:.0%} of {len(pictures['val'])} held-out ones"
        )

    data = training_data.digest_of_pictures(pictures)
    return keep_or_make(folder, request(small_clip, settings, data=data, packages=PACKAGES), make)


def fetched_decoder(folder: Path, chosen: DecoderParams, lora: LoraParams | None) -> str:
    """lora: the adapters that it must be able to have."""

    def fetch(folder: Path) -> str:
        progress.begin_hub_download(f"decoder {printable(chosen.name)}")
        fetched.fetch_decoder(folder, chosen.name, lora)
        return f"{chosen.name} fetched"

    return keep_or_make(folder, request(fetched, chosen.model_dump(), file=chosen.name), fetch)


def trained_decoder(
    folder: Path, captions: Mapping[str, Sequence[tuple[str, ...]]], settings: Mapping[str, Any], device: torch.device
) -> str:
    """The built-in one. captions: of each segment of split train to learn from, of val to measure."""

    def make(folder: Path) -> str:
        made = small_gpt2.train_decoder(captions["train"], captions["val"], **settings, device=device)
        save_decoder(folder, made.model, made.tokenizer)
        return (
            f"trained on {sum(map(len, captions['train']))} captions, loss {made.loss:.3f}, "
            f"perplexity {made.perplexity:.2f} on {sum(map(len, captions['val']))} held-out ones"
        )

    data = training_data.digest_of_captions(captions)
    return keep_or_make(folder, request(small_gpt2, settings, data=data, packages=PACKAGES), make)
