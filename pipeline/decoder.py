"""The decoder: a Hugging Face causal language model and its tokenizer, in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

CONFIG_FILE = "config.json"
WEIGHTS = "*.safetensors"


def load_decoder(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder, on the CPU, in eval mode. ValueError if something is missing.

    Nothing is fetched, no code of the folder runs, and weights are read as safetensors only.
    """
    if not (folder / CONFIG_FILE).is_file() or not any(folder.glob(WEIGHTS)):
        raise ValueError(f"{folder} holds no {CONFIG_FILE} with {WEIGHTS}; make it with: dvc repro backbones")
    logging.disable_progress_bar()
    model, tokenizer = read_pretrained(str(folder), local_files_only=True)
    return model.eval(), tokenizer


def read_pretrained(name: str, *, local_files_only: bool) -> tuple[Any, Any]:
    """(model, tokenizer) by name or folder. ValueError if the tokenizer has no end token."""
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local_files_only}
    tokenizer = AutoTokenizer.from_pretrained(name, **safe)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{name}: its tokenizer has no end token, which a caption must end with")
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", use_safetensors=True, **safe)
    return model, tokenizer


def save_decoder(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write `folder` as `load_decoder` reads it."""
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tokenize(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each caption, the end token last: 1 to `max_tokens` of them, longer captions are cut.

    Lists and not a padded tensor: GPT-2 has no padding token and its id 0 is '!', so lengths are what masks.
    """
    if not captions:
        return []
    ids = tokenizer(list(captions), add_special_tokens=False)["input_ids"]
    return [[*row[: max_tokens - 1], tokenizer.eos_token_id] for row in ids]
