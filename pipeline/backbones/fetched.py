"""Pretrained encoders and decoders: open_clip's and Hugging Face's."""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from safetensors.torch import save_file

from pipeline.features.encoder import load_encoder, save_encoder
from pipeline.language.decoder import read_pretrained, refuse_unfit, save_decoder, with_adapters
from pipeline.params import LoraParams

OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")  # stored beside the weights in OpenAI's files


def fetch_encoder(folder: Path, model: str, pretrained: str, activation: str) -> str:
    """Write open_clip's `model` with `pretrained` weights (a tag of it, or a checkpoint file) into `folder`.

    Args:
        activation: auto | gelu | quick_gelu, what the weights were trained with. auto: what the model's name or the tag
            says; for a file, quick_gelu if it is one that OpenAI published.

    Returns the activation, which the folder's config also records. Raises ValueError for a name or a file that
    open_clip does not know. Checkpoints are read without unpickling objects.
    """
    import open_clip

    _refuse_unknown(model, pretrained)
    config = open_clip.get_model_config(model)
    assert config is not None
    tag = open_clip.get_pretrained_cfg(model, pretrained) or {}
    openai = not tag and _is_torchscript(Path(pretrained))
    quick = bool(config.get("quick_gelu") or tag.get("quick_gelu") or openai)
    if activation != "auto":
        quick = activation == "quick_gelu"
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder / "unpacked.safetensors"
    try:
        if openai:
            state = torch.jit.load(pretrained, map_location="cpu").state_dict()  # its code is not run
            save_file({name: value.float() for name, value in state.items() if name not in OPENAI_SIZES}, unpacked)
        weights = str(unpacked) if openai else pretrained
        # The activation has no weights, so only the config says which one it is.
        loaded = open_clip.create_model(model, weights, require_pretrained=True, weights_only=True)
    except (RuntimeError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"backbones.encoder: {model} with {pretrained} could not be loaded: {error}") from error
    unpacked.unlink(missing_ok=True)
    save_encoder(folder, config | {"quick_gelu": quick}, loaded)
    del loaded
    _refuse_wrong_width(folder)
    return "quick_gelu" if quick else "gelu"


def _refuse_unknown(model: str, pretrained: str) -> None:
    """Raises ValueError for a model, or a tag or file of it, that open_clip does not know."""
    import open_clip

    if model not in open_clip.list_models():
        near = ", ".join(_similar_names(model, open_clip.list_models()))
        raise ValueError(f"backbones.encoder.model: open_clip has no {model!r}; similar names: {near}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise ValueError(
            f"backbones.encoder.pretrained: {pretrained!r} is neither a file nor a tag of {model}; "
            f"its tags: {', '.join(tags) or 'none'}"
        )


def _similar_names(name: str, names: Sequence[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, names, n=5, cutoff=0.3)


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, the format in which only OpenAI published CLIP weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def _refuse_wrong_width(folder: Path) -> None:
    """Raises ValueError unless the folder's encoder makes embeddings of the width that its config states."""
    encoder = load_encoder(folder, device=torch.device("cpu"), dtype=torch.float32)
    side = encoder.preprocess.side
    pixels = encoder.preprocess.normalised(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    with torch.inference_mode():
        found = encoder.visual(pixels)
    shape = list((found[0] if isinstance(found, tuple) else found).shape)
    if shape != [1, encoder.width]:
        raise ValueError(
            f"backbones.encoder: its image tower gives {shape} for a picture, expected {[1, encoder.width]}"
        )


def fetch_decoder(folder: Path, name: str, lora: LoraParams | None = None) -> None:
    """Write the causal language model `name` (from the Hugging Face hub, or a folder) and its tokenizer into `folder`.

    Safetensors only, and none of the repository's code is run. Raises ValueError if it cannot be loaded that way, or is
    unfit for captioning (or, given `lora`, for adapters).
    """
    try:
        model, tokenizer = read_pretrained(name, local_files_only=Path(name).is_dir())
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"backbones.decoder.name: {name!r} could not be loaded: {error}") from error
    refuse_unfit(model.eval(), f"backbones.decoder.name: {name!r}")
    save_decoder(folder, model, tokenizer)
    if lora is not None:
        with_adapters(model, lora)
