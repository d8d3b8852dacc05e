"""The captioner: a mapper in front of a decoder, its loss, its files.

S segments   C captions   P prefix tokens   L caption tokens   D width of the decoder
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pipeline.baselines import BaselineConfig
from pipeline.captioner.mapper import Mapper, MapperConfig, build_mapper
from pipeline.captioner.memory import MemoryConfig, Moments
from pipeline.files import strict_json, weights
from pipeline.files.aside import aside, write_text
from pipeline.language.decoder import load_decoder, save_decoder
from pipeline.process.terminal import printable

WEIGHTS_FILE = "mapper.safetensors"
CONFIG_FILE = "config.json"
FORMAT = 2  # of the config and the meaning of its keys; files of the earliest revisions do not state one
# What earlier revisions did, which did not write the key yet.
_EARLIER_MEMORY = {
    "keyframes": 0,
    "other_side_bias": -0.5,
    "likeness_scale": 30.0,
    "side_mark_length": 6.0,
    "write_below": None,
    "usual_keys": None,
    "match_features": False,
    "excess_unit": 5.0,
}
DECODER_FOLDER = "decoder"  # only if the decoder was trained too


@dataclass(frozen=True)
class CaptionerConfig:
    mapper: MapperConfig
    memory: MemoryConfig | None
    baseline: BaselineConfig | None  # the frames it sees without memory

    @property
    def scope(self) -> str:
        """The frames it sees, an argument of make_examples: video | past | segment."""
        if self.memory:
            return self.memory.scope
        return self.baseline.kind.scope if self.baseline else "segment"


class Captioner(nn.Module):
    def __init__(self, config: CaptionerConfig, mapper: Mapper, decoder: Any) -> None:
        super().__init__()
        self.config = config
        self.mapper = mapper
        self.decoder = decoder  # a Hugging Face causal LM

    def prefixes(self, embeddings: Tensor, moments: Moments, real: Tensor) -> Tensor:
        """Prefixes of the segments of a batch.

        Args:
            embeddings: [B, T, E], sequences padded at the end.
            moments: [B, R] each, padded at the end.
            real: [B, R] bool, False for padding.

        Returns:
            [S, P, D], segments in the order of the True entries of `real`.
        """
        return self.mapper(embeddings, moments)[real]

    def token_log_probs(
        self, prefixes: Tensor, tokens: Tensor, lengths: Tensor, counts: Tensor | None = None
    ) -> Tensor:
        """Log-probability of each caption token, 0 after a caption's end.

        Args:
            prefixes: [S, P, D].
            tokens: [C, L] int64, any id after a caption's end: GPT-2 has no padding token, so lengths do the masking.
            lengths: [C].
            counts: [S] captions of each prefix, in order; None: one, C = S.

        Returns:
            [C, L] float32.
        """
        cached: dict[str, Any] = {"use_cache": False}
        prefixes = prefixes.to(self.decoder.get_input_embeddings().weight.dtype)
        if counts is not None:
            if prefixes.shape[1] > 1 and _keeps_keys_and_values(self.decoder.config):
                # A prefix without its last token goes through the decoder once for all of its captions.
                cache = self.decoder(inputs_embeds=prefixes[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
                cache.batch_repeat_interleave(counts)
                prefixes, cached = prefixes[:, -1:], {"use_cache": True, "past_key_values": cache}
            prefixes = prefixes.repeat_interleave(counts, dim=0)
        # A causal decoder never looks right, so padding on the right needs no attention mask.
        words = self.decoder.get_input_embeddings()(tokens[:, :-1])  # [C, L-1, D]
        inputs = torch.cat([prefixes, words], dim=1)
        # Logits at caption positions only: with the vocabulary, they are the largest tensor of the step.
        logits = self.decoder(inputs_embeds=inputs, logits_to_keep=tokens.shape[1], **cached).logits
        log_probs = -F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        return log_probs.masked_fill(torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None], 0.0)


def _keeps_keys_and_values(decoder_config: Any) -> bool:
    """Whether a decoder's cache holds only keys and values. States of linear attention cannot be shared by captions."""
    layers = DynamicCache(config=decoder_config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def build_captioner(config: CaptionerConfig, decoder: Any, pretrained: dict[str, Tensor] | None = None) -> Captioner:
    """A captioner with a fresh mapper, or one that continues `pretrained` weights.

    Raises ValueError if the pretrained weights do not match the mapper. They may lack only the memory's parameters and
    the marks of several frames, which pretraining does not train.
    """
    mapper = build_mapper(config.mapper, config.memory, config.baseline)
    if pretrained is not None:
        try:
            missing, unexpected = mapper.load_state_dict(pretrained, strict=False)
        except RuntimeError as error:
            raise ValueError(
                f"the pretrained mapper does not match (its sizes differ); run `dvc repro pretrain`: {error}"
            ) from None
        others = [name for name in missing if ".memory." not in name and name != "marks"]
        if others or unexpected:
            raise ValueError(f"the pretrained mapper does not match: missing {others}, unexpected {unexpected}")
        if missing:
            mapper.begin_memory()
    return Captioner(config, mapper, decoder)


def save_captioner(folder: Path, captioner: Captioner, tokenizer: Any | None) -> None:
    """Write a captioner's folder: config, mapper weights and, given a tokenizer, the decoder with it.

    Pass None for a frozen decoder, which need not be saved again. Replaces an existing folder.
    """
    state = {name: value.detach().contiguous().cpu() for name, value in captioner.mapper.state_dict().items()}
    with aside(folder) as written:
        written.mkdir()
        save_file(state, written / WEIGHTS_FILE)
        write_text(written / CONFIG_FILE, json.dumps({"format": FORMAT, **asdict(captioner.config)}, indent=2) + "\n")
        if tokenizer is not None:
            save_decoder(written / DECODER_FOLDER, captioner.decoder, tokenizer)


def load_captioner(
    folder: Path,
    decoder_folder: Path,
    config: CaptionerConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Captioner, Any]:
    """The captioner of a folder and its tokenizer, on the CPU, in eval mode.

    Args:
        decoder_folder: the decoder to use where the folder has none of its own.
        config: build this captioner from the folder's weights instead of the saved one (for fine-tuning).
        dtype: the decoder's; see `load_decoder`.

    Raises ValueError if there is no captioner, naming the command that makes one.
    """
    saved, shapes = load_config(folder), weights.shapes_of(folder / WEIGHTS_FILE)
    sketch = partial(build_mapper, saved.mapper, saved.memory, saved.baseline)
    path = folder / CONFIG_FILE
    weights.check(weights.sketch(sketch, shapes, layers=saved.mapper.layers, where=path), shapes, path)
    own = folder / DECODER_FOLDER
    decoder, tokenizer = load_decoder(own if own.exists() else decoder_folder, dtype=dtype)
    if (width := decoder.get_input_embeddings().embedding_dim) != saved.mapper.decoder_width:
        raise ValueError(f"{path}: decoder_width is {saved.mapper.decoder_width}, its decoder's is {width}")
    return build_captioner(config or saved, decoder, weights.read(folder / WEIGHTS_FILE)).eval(), tokenizer


def load_config(folder: Path) -> CaptionerConfig:
    """A captioner's config, whichever revision wrote it.

    Raises ValueError if there is none, or if something that this revision needs is missing.
    """
    path = folder / CONFIG_FILE
    try:
        values = strict_json.load(path)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no trained captioner; run `dvc repro`") from None
    found = values.get("format", 0) if isinstance(values, dict) else 0
    if not isinstance(found, int) or found > FORMAT:
        raise ValueError(f"{path}: format {found!r}; this revision reads up to {FORMAT}: update it")
    if isinstance(values, dict) and "baseline_frame" in values:
        frame = values.pop("baseline_frame")
        values["baseline"] = frame and {"frames": frame, "count": 1}
    if isinstance(values, dict) and isinstance(values.get("memory"), dict):
        values["memory"] = {**_EARLIER_MEMORY, **values["memory"]}
    try:
        return TypeAdapter(CaptionerConfig).validate_python(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        problem = printable("; ".join(problems))
        raise ValueError(f"{path} is not a captioner's config that this revision can read: {problem}") from None
