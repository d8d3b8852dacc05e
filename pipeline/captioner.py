"""The captioner: a mapper in front of a decoder, its loss, its files.

S segments   C captions   P prefix tokens   L caption tokens   D width of the decoder
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pipeline.decoder import load_decoder, save_decoder
from pipeline.mapper import Mapper, MapperConfig, TransformerMapper, build_mapper
from pipeline.memory import MemoryConfig, Moments

WEIGHTS_FILE = "mapper.safetensors"
CONFIG_FILE = "config.json"
DECODER_FOLDER = "decoder"  # only there if the decoder was trained too


@dataclass(frozen=True)
class CaptionerConfig:
    mapper: MapperConfig
    memory: MemoryConfig | None
    baseline_frame: str | None  # what a model without memory sees of a segment: last | first | middle | mean

    @property
    def scope(self) -> str | None:
        return self.memory.scope if self.memory else None


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
            [S, P, D], segments in the order of `real`'s True entries.
        """
        return self.mapper(embeddings, moments)[real]

    def token_log_probs(
        self, prefixes: Tensor, tokens: Tensor, lengths: Tensor, counts: Tensor | None = None
    ) -> Tensor:
        """Log-probability of each caption token, 0 behind a caption's end.

        Args:
            prefixes: [S, P, D].
            tokens: [C, L] int64, any id behind a caption's end: GPT-2 has no padding token, so the length masks.
            lengths: [C].
            counts: [S] captions of each prefix, in order; None: one, C = S.

        Returns:
            [C, L] float32.
        """
        how: dict[str, Any] = {"use_cache": False}
        if counts is not None:
            if prefixes.shape[1] > 1 and _keeps_keys_and_values(self.decoder.config):
                # All of a prefix but its last token goes through the decoder once for all of its captions.
                cache = self.decoder(inputs_embeds=prefixes[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
                cache.batch_repeat_interleave(counts)
                prefixes, how = prefixes[:, -1:], {"use_cache": True, "past_key_values": cache}
            prefixes = prefixes.repeat_interleave(counts, dim=0)
        # A causal decoder never looks right, so padding on the right needs no attention mask.
        words = self.decoder.get_input_embeddings()(tokens[:, :-1])  # [C, L-1, D]
        inputs = torch.cat([prefixes.to(words.dtype), words], dim=1)
        # Logits at caption positions only: the vocabulary makes them the widest tensor of the step.
        logits = self.decoder(inputs_embeds=inputs, logits_to_keep=tokens.shape[1], **how).logits
        log_probs = -F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        return log_probs.masked_fill(torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None], 0.0)


def _keeps_keys_and_values(decoder_config: Any) -> bool:
    """Whether that is all a decoder keeps of earlier tokens: the states of linear attention cannot be repeated."""
    layers = DynamicCache(config=decoder_config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def build_captioner(config: CaptionerConfig, decoder: Any, pretrained: dict[str, Tensor] | None = None) -> Captioner:
    """A captioner with a fresh mapper, or one that continues `pretrained` weights.

    Raises ValueError if the pretrained weights are another mapper's. Only the memory's own parameters, which
    pretraining never had, may be missing from them.
    """
    mapper = build_mapper(config.mapper, config.memory)
    if pretrained is not None:
        try:
            missing, unexpected = mapper.load_state_dict(pretrained, strict=False)
        except RuntimeError as error:
            raise ValueError(f"the pretrained mapper has other sizes; run `dvc repro pretrain`: {error}") from None
        others = [name for name in missing if ".memory." not in name]
        if others or unexpected:
            raise ValueError(f"the pretrained mapper is another one: lacks {others}, has besides {unexpected}")
        if missing and isinstance(mapper, TransformerMapper):
            mapper.begin_memory()
    return Captioner(config, mapper, decoder)


def save_captioner(folder: Path, captioner: Captioner, tokenizer: Any | None) -> None:
    """Write a captioner's folder: config, mapper weights and, given a tokenizer, the decoder with it.

    A decoder that was frozen is not saved again: pass None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous().cpu() for name, value in captioner.mapper.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(captioner.config), indent=2) + "\n")
    if tokenizer is not None:
        save_decoder(folder / DECODER_FOLDER, captioner.decoder, tokenizer)


def load_captioner(folder: Path, decoder_folder: Path, config: CaptionerConfig | None = None) -> tuple[Captioner, Any]:
    """The captioner of a folder and its tokenizer, on the CPU, in eval mode.

    Args:
        decoder_folder: the decoder to use where the folder has none of its own.
        config: build this captioner from the folder's weights rather than the one that was saved (to fine-tune).

    Raises ValueError if there is no captioner, naming the command that makes one.
    """
    config = config or load_config(folder)
    own = folder / DECODER_FOLDER
    decoder, tokenizer = load_decoder(own if own.exists() else decoder_folder)
    return build_captioner(config, decoder, load_file(folder / WEIGHTS_FILE)).eval(), tokenizer


def load_config(folder: Path) -> CaptionerConfig:
    try:
        values = json.loads((folder / CONFIG_FILE).read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no trained captioner; run `dvc repro`") from None
    memory = values["memory"]
    return CaptionerConfig(
        mapper=MapperConfig(**values["mapper"]),
        memory=MemoryConfig(**{**memory, "layers": tuple(memory["layers"])}) if memory else None,
        baseline_frame=values["baseline_frame"],
    )
