"""What the benches of training share: our step at the prior report's setting, on random weights and random frames."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.captioner.mapper import MapperConfig, TransformerMapper
from pipeline.captioner.memory import MemoryConfig, Moments
from pipeline.captioner.model import Captioner, CaptionerConfig
from pipeline.captioner.training import set_trainable
from pipeline.device import autocast

K, HEADS, CLIP_TOKENS, PREFIX_TOKENS, EMBEDDING_WIDTH = 32, 8, 10, 10, 512
CAPTION_TOKENS = 20


def report_mapper(layers: int, width: int) -> MapperConfig:
    return MapperConfig("transformer", layers, HEADS, width, CLIP_TOKENS, PREFIX_TOKENS, EMBEDDING_WIDTH, width)


def report_captioner(config: MapperConfig, decoder: GPT2LMHeadModel, gradient: Any) -> Captioner:
    """With memory in the two layers of the mapper's middle."""
    middle = config.layers // 2
    memory = MemoryConfig(
        (middle, middle + 1),
        K,
        64_000,
        "joint",
        "none",
        "segment",
        gradient,
        0,
        -0.5,
        30.0,
        6.0,
        None,
        None,
        False,
        5.0,
    )
    return Captioner(CaptionerConfig(config, memory, None), TransformerMapper(config, memory), decoder)


def random_gpt2(layers: int, width: int, vocabulary: int = 50257) -> GPT2LMHeadModel:
    """A GPT-2 with heads as wide as the published one's, in which no token ends a caption."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_layer=layers,
            n_embd=width,
            n_head=max(1, width // 64),
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def time_finetuning(
    captioner: Captioner, lengths: np.ndarray, precision: str, at_once: int, steps: int
) -> tuple[float, float]:
    """Seconds of a fine-tuning step on all segments, and the FLOPs of its linear layers.

    Args:
        lengths: frames of each segment.
        precision: fp32 | bf16.
        at_once: segments in one pass; the passes' gradients add up to the step.
    """
    device = next(captioner.parameters()).device
    set_trainable(captioner, "frozen")
    optimizer = torch.optim.AdamW(captioner.mapper.parameters(), lr=2e-5)
    parts = []
    for some in torch.from_numpy(np.sort(lengths)).split(at_once):  # alike in length, as plan_batches makes them
        frames = torch.randn(len(some), int(some.max()), EMBEDDING_WIDTH, device=device)
        end = some[:, None].to(device) - 1
        parts.append((frames, Moments(end, torch.zeros_like(end)), torch.ones_like(end, dtype=torch.bool)))

    def step() -> None:
        for frames, moments, real in parts:
            with autocast(precision, device):
                loss(captioner, captioner.prefixes(frames, moments, real), captions(len(frames), device)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return median_s(step, steps), flops_of(captioner, int(lengths.sum()), len(lengths))


def loss(captioner: Captioner, prefixes: Tensor, tokens: Tensor, *, everywhere: bool = False) -> Tensor:
    """Of captions [C, L], as many of each prefix; `everywhere`: with logits at the prefix too, as ClipCap does it."""
    if not everywhere:
        lengths = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        of_each = len(tokens) // len(prefixes)
        counts = torch.full((len(prefixes),), of_each, device=tokens.device) if of_each > 1 else None
        return -captioner.token_log_probs(prefixes, tokens, lengths, counts).mean()
    words = captioner.decoder.get_input_embeddings()(tokens[:, :-1])
    logits = captioner.decoder(inputs_embeds=torch.cat([prefixes, words], dim=1)).logits
    return nn.functional.cross_entropy(logits[:, prefixes.shape[1] - 1 :].flatten(0, 1), tokens.flatten())


def captions(count: int, device: torch.device) -> Tensor:
    return torch.randint(0, 50_000, (count, CAPTION_TOKENS), device=device)


def flops_of(captioner: Captioner, frames: int, segments: int, of_each: int = 1) -> float:
    """Of the linear layers of a step: what is stored of all frames, the segments' last frames, the decoder.

    Args:
        of_each: captions of a segment; several of them share the prefix's way through the decoder, but for its last
            token.
    """
    config = captioner.mapper.config
    per_layer = 2 * config.tokens * 8 * config.width**2  # queries, keys, values, output; a feed-forward twice as wide
    projection = 2 * config.embedding_width * config.clip_tokens * config.width
    memory = captioner.config.memory
    stored = 0.0
    if memory:
        below = max(memory.layers) - 1
        stores = 2 * config.tokens * 2 * config.width**2
        stored = frames * (projection + below * per_layer + stores)
        stored *= 3 if memory.gradient == "through" else 1
    recalled = 3 * segments * (projection + config.layers * per_layer)
    decoder = captioner.decoder.config
    shared = PREFIX_TOKENS - 1 if of_each > 1 else 0
    positions = shared + of_each * (PREFIX_TOKENS - shared + CAPTION_TOKENS - 1)
    # Frozen: forward, and backward for the activations only.
    blocks = 2 * positions * 12 * decoder.n_layer * decoder.n_embd**2
    words = 2 * of_each * CAPTION_TOKENS * decoder.vocab_size * decoder.n_embd
    return stored + recalled + 2 * segments * (blocks + words)


def matmul_rate(dtype: torch.dtype, device: torch.device, side: int = 2048) -> float:
    """FLOP/s of a product of square matrices."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_s(lambda: a @ b, 9)


def median_s(work: Callable[[], object], times: int) -> float:
    """Seconds that `work` takes, after once for warming up; what it left to a GPU is waited for."""

    def timed() -> float:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    timed()
    return statistics.median(timed() for _ in range(times))
