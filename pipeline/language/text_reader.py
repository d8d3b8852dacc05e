"""A language model that only reads: any of Hugging Face's, causal or masked, without its head."""

import math
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from pipeline.files import weights
from pipeline.language.decoder import CONFIG_FILE, WEIGHTS, _refuse_strangers

POOLER = "pooler."  # of masked models: not used here, and often not there


def load_text_reader(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder, on the CPU, in float32 and eval mode; as safely as `load_decoder`.

    Raises ValueError if something is missing or does not fit.
    """
    path, files = folder / CONFIG_FILE, sorted(folder.glob(WEIGHTS))
    if not path.is_file() or not files:
        raise ValueError(f"{folder} holds no {CONFIG_FILE} with {WEIGHTS}")
    _refuse_strangers(folder, weights.read_object(path))
    shapes = weights.shapes_of(*files)
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        layers = int(getattr(config, "num_hidden_layers", 0))
    except (OSError, *weights.MISFITS) as error:
        raise ValueError(f"{path} is not the config of a language model: {weights.short(error)}") from None
    sketch = weights.sketch(lambda: AutoModel.from_config(config), shapes, layers=layers, where=path)
    wanted = sum(p.numel() for name, p in sketch.named_parameters() if not name.startswith(POOLER))
    if wanted > (there := sum(map(math.prod, shapes.values()))):
        raise ValueError(
            f"{path} describes a model of {wanted:,} weights, {folder} has {there:,}; they belong to another model"
        )
    logging.disable_progress_bar()
    try:
        return read_text_reader(str(folder), local_files_only=True)
    except (OSError, *weights.MISFITS) as error:
        raise ValueError(f"{folder} cannot be loaded as a language model: {weights.short(error)}") from None


def read_text_reader(name: str, *, local_files_only: bool) -> tuple[Any, Any]:
    """The same by name or folder. Only safetensors are read, and no code of the model's runs.

    Raises ValueError if weights are missing.
    """
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local_files_only}
    tokenizer = AutoTokenizer.from_pretrained(name, **safe)
    loaded: Any = AutoModel.from_pretrained(name, use_safetensors=True, output_loading_info=True, **safe)
    model, found = loaded
    if missing := sorted(key for key in found["missing_keys"] if not key.startswith(POOLER)):  # they would be random
        raise ValueError(f"{name} has no weights for {missing[0]} and {len(missing) - 1} others")
    return model.float().eval(), tokenizer
