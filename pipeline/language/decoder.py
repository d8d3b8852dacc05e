"""The decoder: a Hugging Face causal language model and its tokenizer, in one folder."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

from pipeline.files import weights
from pipeline.params import LoraParams

CONFIG_FILE = "config.json"
PROBE = 8  # tokens
SMALL = 2**28  # weights
WEIGHTS = "*.safetensors"
# Keys of a config that make transformers fetch kernels from the hub, or import readers of other weight formats.
ELSEWHERE = {"attn_implementation", "_attn_implementation", "quantization_config"}


def load_decoder(folder: Path, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder, on the CPU, in eval mode. Raises ValueError if something is missing or does not
    fit.

    Weights are float32, unless they are stored in bfloat16 and `dtype` is bfloat16. (In float16 they would overflow
    where bfloat16 and float32 do not.)

    Nothing is fetched, no code of the folder runs, and weights are read as safetensors only.
    """
    path, files = folder / CONFIG_FILE, sorted(folder.glob(WEIGHTS))
    if not path.is_file() or not files:
        raise ValueError(f"{folder} holds no {CONFIG_FILE} with {WEIGHTS}; make it with: dvc repro backbones")
    _refuse_strangers(folder, weights.read_object(path))
    shapes = weights.shapes_of(*files)
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        layers = int(getattr(config, "num_hidden_layers", 0))
    except (OSError, *weights.MISFITS) as error:
        raise ValueError(f"{path} is not the config of a language model: {weights.short(error)}") from None
    sketch = weights.sketch(lambda: AutoModelForCausalLM.from_config(config), shapes, layers=layers, where=path)
    # By count, because a file's names may differ from the model's; missing weights would be random.
    wanted, there = sum(p.numel() for p in sketch.parameters()), sum(map(math.prod, shapes.values()))
    if wanted > there:
        raise ValueError(
            f"{path} describes a model of {wanted:,} weights, {folder} has {there:,}; they belong to another model"
        )
    logging.disable_progress_bar()
    try:
        model, tokenizer = read_pretrained(str(folder), local_files_only=True)
    except (OSError, *weights.MISFITS) as error:
        raise ValueError(f"{folder} cannot be loaded as a language model: {weights.short(error)}") from None
    if not model.dtype == dtype == torch.bfloat16:
        model.float()
    return model.eval(), tokenizer


def _refuse_strangers(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError if a folder refers to another model or to code, here or on the hub."""
    if (adapter := folder / "adapter_config.json").exists():
        raise ValueError(f"{adapter}: adapters are not loaded; merge them into their model")
    waiting: list[Any] = [config]
    while waiting:
        match waiting.pop():
            case dict() as inner:
                if found := sorted(ELSEWHERE & {key for key, value in inner.items() if value}):
                    where = folder / CONFIG_FILE
                    raise ValueError(f"{where} has {found[0]}, which needs code from elsewhere; remove it")
                waiting += inner.values()
            case list() as several:
                waiting += several


def read_pretrained(name: str, *, local_files_only: bool) -> tuple[Any, Any]:
    """(model, tokenizer) by name or folder. Raises ValueError if the tokenizer has no end token."""
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local_files_only}
    tokenizer = AutoTokenizer.from_pretrained(name, **safe)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{name}: its tokenizer has no end token, which a caption must end with")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        name, dtype="auto", use_safetensors=True, output_loading_info=True, **safe
    )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):  # they would be random
        raise ValueError(f"{name} has no weights for {missing[0]} and {len(missing) - 1} others")
    return model, tokenizer


@torch.no_grad()
def refuse_unfit(decoder: Any, where: str) -> None:
    """Raises ValueError unless a decoder can be used for captioning, tried on a row of its own embeddings.

    It must take embeddings in place of words, see only what is to the left, and continue from cached keys and values.
    `where` names it in errors.
    """
    kind, words = decoder.config.model_type, decoder.get_input_embeddings().weight
    if decoder.dtype != torch.float32 and sum(p.numel() for p in decoder.parameters()) <= SMALL:
        # In half precision, the effect of the context may be lost to rounding.
        return refuse_unfit(copy.deepcopy(decoder).float(), where)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randperm(len(words), generator=generator)[:PROBE].to(words.device)
    row = words[ids][None]  # [1, L, D]
    other = torch.cat([row[:, :-1], row[:, :1]], dim=1)  # with another word at the end
    cache = DynamicCache(config=decoder.config)
    try:
        whole, changed = (
            decoder(inputs_embeds=one, use_cache=False).logits[0].float() for one in (row, other)
        )  # [L, V]
        alone = decoder(inputs_embeds=row[:, -1:], use_cache=False).logits[0, -1].float()  # [V]
        decoder(inputs_embeds=row[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        last = decoder(inputs_embeds=row[:, -1:], past_key_values=cache, use_cache=True).logits[0, -1].float()
    except weights.MISFITS as error:
        raise ValueError(f"{where}: a {kind} cannot continue a prefix: {weights.short(error)}") from None
    if (whole - changed)[:-1].norm() > 1e-3 * (whole - changed)[-1].norm():
        raise ValueError(
            f"{where}: this {kind} sees later words, so it cannot generate them; expected a causal language "
            "model (one whose config has is_decoder: false is not causal)"
        )
    # A model that forgets its context gives the same as without it.
    if (whole[-1] - last).norm() > 0.25 * (whole[-1] - alone).norm():
        raise ValueError(f"{where}: a {kind} cannot continue from cached keys and values, which captioning needs")


def refuse_too_long(folder: Path, tokens: int, what: str) -> None:
    """Raises ValueError if a row of so many tokens is too long for a folder's decoder; `what` describes the row."""
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    positions = getattr(config, "max_position_embeddings", None)  # None if positions are relative
    if positions is not None and tokens > positions:
        raise ValueError(f"{what}, and the decoder in {folder} reads {positions}: lower some of these")


def with_adapters(decoder: Any, lora: LoraParams) -> Any:
    """A decoder with LoRA adapters (peft), float32 whatever the decoder's dtype. Raises ValueError if peft cannot."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, task_type="CAUSAL_LM")
    try:
        adapted = get_peft_model(decoder, config)
        row = decoder.get_input_embeddings().weight[None, :1]
        with torch.no_grad():
            adapted(inputs_embeds=row, use_cache=False)
    except weights.MISFITS as error:
        raise ValueError(
            f"decoder: lora cannot be used with this decoder ({decoder.config.model_type}): {weights.short(error)}; "
            "set it to frozen or full"
        ) from None
    return adapted


def save_decoder(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write `folder` as `load_decoder` reads it."""
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tokenize(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each caption, the end token last: 1 to `max_tokens` of them, longer captions are cut.

    Lists and not a padded tensor: GPT-2 has no padding token, and its id 0 is '!', so lengths do the masking.
    """
    if not captions:
        return []
    ids = tokenizer(list(captions), add_special_tokens=False)["input_ids"]
    return [[*row[: max_tokens - 1], tokenizer.eos_token_id] for row in ids]
