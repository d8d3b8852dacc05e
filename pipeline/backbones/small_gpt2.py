"""The built-in decoder: a small GPT-2, trained on captions alone.

B rows of a batch   L tokens
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.backbones.small_training import minimise, reproducible
from pipeline.device import choose_dtype
from pipeline.params import BUILTIN_POSITIONS

END = "<|endoftext|>"


@dataclass(frozen=True)
class TrainedDecoder:
    model: Any
    tokenizer: Any
    loss: float  # of the last steps, nats per token
    perplexity: float  # of held-out captions, per token


def train_decoder(
    train: Sequence[tuple[str, ...]],
    held_out: Sequence[tuple[str, ...]],
    *,
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> TrainedDecoder:
    """A small GPT-2 (Radford et al. 2019) with its own byte-level BPE.

    Args:
        train: captions, grouped by what they describe. A group stays together in a row of tokens, so that earlier text
            is relevant to what follows, as in real text. Then a prefix can steer the decoder.
    """
    tokenizer = train_tokenizer([caption for group in train for caption in group], vocabulary)
    ids = [[tokenizer(caption)["input_ids"] for caption in group] for group in train]
    end = tokenizer.eos_token_id
    bf16 = choose_dtype("auto", device) == torch.bfloat16
    with reproducible(seed):
        model = _random_gpt2(len(tokenizer), end, width=width, layers=layers, heads=heads).to(device)
        rows = _rows(ids, end, torch.Generator().manual_seed(seed))

        def loss() -> Tensor:
            tokens = torch.tensor([next(rows) for _ in range(batch_size)], device=device)  # [B, L]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(tokens[:, :-1], use_cache=False).logits  # [B, L-1, vocabulary]
            return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

        final = minimise(model, loss, steps, learning_rate, name="decoder")
        model.eval()
        captions = [tokenizer(caption)["input_ids"] for group in held_out for caption in group]
        perplexity = _perplexity(model, captions, end)
    return TrainedDecoder(model.cpu(), tokenizer, final, perplexity)


def _random_gpt2(vocabulary: int, end: int, *, width: int, layers: int, heads: int) -> Any:
    """Without dropout: a training of about a minute repeats no caption often enough to memorise it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=BUILTIN_POSITIONS,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=end,
            eos_token_id=end,
        )
    )


def train_tokenizer(captions: Sequence[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # So that a word at a caption's start is the same token as within it.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, model_max_length=BUILTIN_POSITIONS
    )


def _rows(groups: Sequence[Sequence[list[int]]], end: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless rows of BUILTIN_POSITIONS tokens, cut from the groups in random order."""
    stream = [end]
    while True:
        for group in torch.randperm(len(groups), generator=generator).tolist():
            for caption in torch.randperm(len(groups[group]), generator=generator).tolist():
                stream += [*groups[group][caption], end]
            while len(stream) >= BUILTIN_POSITIONS:
                yield stream[:BUILTIN_POSITIONS]
                stream = stream[BUILTIN_POSITIONS:]


@torch.inference_mode()
def _perplexity(model: Any, captions: Sequence[list[int]], end: int) -> float:
    """Per token, the end token included; every caption by itself, as the captioner will generate it."""
    total, count = 0.0, 0
    for start in range(0, len(captions), 256):
        batch = [[end, *ids[: BUILTIN_POSITIONS - 2], end] for ids in captions[start : start + 256]]
        longest = max(map(len, batch))
        tokens = torch.tensor([row + [end] * (longest - len(row)) for row in batch], device=model.device)  # [B, L]
        real = torch.tensor([[i < len(row) for i in range(1, longest)] for row in batch], device=model.device)
        logits = model(tokens[:, :-1], use_cache=False).logits
        losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")  # [B, L-1]
        total += losses[real].double().sum().item()
        count += int(real.sum())
    return float(np.exp(total / max(count, 1)))
