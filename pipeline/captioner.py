"""The captioner: a mapper in front of a decoder, its loss, its captions, its files.

S segments   P prefix tokens   L caption tokens   D width of the decoder
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.beam import beam_search
from pipeline.decoder import load_decoder, save_decoder
from pipeline.mapper import Mapper, MapperConfig, TransformerMapper, build_mapper
from pipeline.memory import MemoryConfig, Moments
from pipeline.sequences import Batch, pad_tokens
from pipeline.streaming import stream_prefixes

WEIGHTS_FILE = "mapper.safetensors"
CONFIG_FILE = "captioner.json"
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

    def token_log_probs(self, prefixes: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Log-probability of each caption token, 0 behind a caption's end.

        Args:
            prefixes: [S, P, D].
            tokens: [S, L] int64, any id behind a caption's end: GPT-2 has no padding token, so the length masks.
            lengths: [S].

        Returns:
            [S, L] float32.
        """
        # A causal decoder never looks right, so padding on the right needs no attention mask.
        words = self.decoder.get_input_embeddings()(tokens[:, :-1])  # [S, L-1, D]
        inputs = torch.cat([prefixes.to(words.dtype), words], dim=1)  # [S, P+L-1, D]
        # Logits at caption positions only: the vocabulary makes them the widest tensor of the step.
        logits = self.decoder(inputs_embeds=inputs, logits_to_keep=tokens.shape[1], use_cache=False).logits
        log_probs = -F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)
        return log_probs.masked_fill(torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None], 0.0)


@dataclass(frozen=True)
class Generated:
    caption: str
    log_prob: float  # of the caption and its end, nats


@torch.inference_mode()
def caption_batch(
    captioner: Captioner,
    tokenizer: Any,
    batch: Batch,
    *,
    method: str,
    beams: int,
    temperature: float,
    top_p: float,
    max_tokens: int,
    length_penalty: float,
    index: str,
) -> dict[str, Generated]:
    """Captions of a batch's segments by segment_id.

    Args:
        method: beam (beams, length_penalty) | sample (temperature, top_p).
        max_tokens: of a caption, its end included.
        index: of the memory: exact | approximate.
    """
    prefixes = prefixes_of(captioner, batch, index)
    given, end = prefixes.to(captioner.decoder.dtype), tokenizer.eos_token_id
    if method == "beam":
        captions = beam_search(
            captioner.decoder, given, end=end, beams=beams, max_tokens=max_tokens, length_penalty=length_penalty
        )
    else:
        captions = sample(
            captioner.decoder, given, end=end, temperature=temperature, top_p=top_p, max_tokens=max_tokens
        )
    texts = [" ".join(tokenizer.decode(caption).split()) for caption in captions]
    # The log-probability the model gives the caption and its end: neither divided by a length penalty, nor without
    # the end where max_tokens cut the caption off.
    tokens, lengths = pad_tokens([[*caption, end] for caption in captions])
    log_probs = captioner.token_log_probs(prefixes, tokens.to(prefixes.device), lengths.to(prefixes.device)).sum(-1)
    return {
        segment.segment_id: Generated(text, log_prob)
        for segment, text, log_prob in zip(batch.segments, texts, log_probs.tolist(), strict=True)
    }


def prefixes_of(captioner: Captioner, batch: Batch, index: str) -> Tensor:
    """Prefixes [S, P, D] of a batch's segments.

    Sequences that the memory cannot hold whole are streamed, so that they take no more memory however long they are;
    all are, for an approximate index, which only streams have.
    """
    mapper = captioner.mapper
    if not isinstance(mapper, TransformerMapper) or mapper.memory is None:
        return captioner.prefixes(batch.embeddings, batch.moments, batch.real)
    if index == "exact" and holds(mapper, batch.embeddings.shape[1]):
        return captioner.prefixes(batch.embeddings, batch.moments, batch.real)
    prefixes = []
    for embeddings, frame, start, real in zip(
        batch.embeddings, batch.moments.frame, batch.moments.segment_start, batch.real, strict=True
    ):
        moments = Moments(frame[None, real], start[None, real])
        prefixes.append(stream_prefixes(mapper, embeddings[None], moments, index=index)[0])
    return torch.cat(prefixes)


def holds(mapper: TransformerMapper, frames: int) -> bool:
    """Whether a memory holds so many frames at once."""
    assert mapper.memory is not None
    return frames * mapper.config.tokens <= mapper.memory.max_entries


def sample(
    decoder: Any, prefixes: Tensor, *, end: int, temperature: float, top_p: float, max_tokens: int
) -> list[list[int]]:
    """Token ids of a drawn caption for each prefix [S, P, D], without the end."""
    rows = decoder.generate(
        inputs_embeds=prefixes,
        attention_mask=torch.ones(prefixes.shape[:2], dtype=torch.int64, device=prefixes.device),
        eos_token_id=end,
        pad_token_id=end,
        use_cache=True,
        num_beams=1,
        do_sample=True,
        temperature=temperature,
        top_p=top_p,
        top_k=0,
        max_new_tokens=max_tokens,
    ).tolist()
    # The end token also pads: a caption is what stands before the first one.
    return [row[: row.index(end)] if end in row else row for row in rows]


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
