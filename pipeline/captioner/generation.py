"""Captioning: a batch's captions, by beam search or drawn.

S segments   P prefix tokens   D width of the decoder
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.captioner.mapper import Recalled
from pipeline.captioner.memory import MemoryConfig, Moments
from pipeline.captioner.model import Captioner
from pipeline.captioner.sequences import Batch, Example, collate, pad_tokens, plan_batches
from pipeline.captioner.streaming import stream_segments
from pipeline.language.beam import beam_search
from pipeline.scoring.caption_table import Retrieved

MAX_RETRIEVED = 16  # frames recorded per head: those that it attends to most


@dataclass(frozen=True)
class Generated:
    caption: str
    log_prob: float  # of the caption and its end token, nats
    retrieved: tuple[Retrieved, ...] = ()  # by layer, head, and weight, largest first


def caption_examples(
    captioner: Captioner, tokenizer: Any, examples: Sequence[Example], *, batch_size: int, **options: Any
) -> Iterator[dict[str, Generated]]:
    """Captions of the examples' segments by segment_id, batch by batch; arguments as for `caption_batch`."""
    device = next(captioner.parameters()).device
    for batch in plan_batches(examples, batch_size, seed=None):
        together = collate([examples[i] for i in batch]).to(device)
        yield caption_batch(captioner, tokenizer, together, **options)


@torch.inference_mode()
def caption_batch(captioner: Captioner, tokenizer: Any, batch: Batch, **options: Any) -> dict[str, Generated]:
    """Captions of a batch's segments by segment_id.

    Args:
        options: as for `caption_prefixes`.
    """
    prefixes, retrieved = recall(captioner, batch)
    captions = caption_prefixes(captioner, tokenizer, prefixes, **options)
    return {
        segment.segment_id: replace(one, retrieved=seen)
        for segment, one, seen in zip(batch.segments, captions, retrieved, strict=True)
    }


@torch.inference_mode()
def caption_prefixes(
    captioner: Captioner,
    tokenizer: Any,
    prefixes: Tensor,
    *,
    method: str,
    beams: int,
    temperature: float,
    top_p: float,
    max_tokens: int,
    length_penalty: float,
) -> list[Generated]:
    """A caption for each prefix [S, P, D].

    Args:
        method: beam (beams, length_penalty) | sample (temperature, top_p).
        max_tokens: of a caption, its end token included.
    """
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
    # The model's log-probability of the caption and its end token: not divided by a length penalty, and with the end
    # token even where max_tokens cut the caption off.
    tokens, lengths = pad_tokens([[*caption, end] for caption in captions])
    log_probs = captioner.token_log_probs(prefixes, tokens.to(prefixes.device), lengths.to(prefixes.device)).sum(-1)
    return [Generated(text, log_prob) for text, log_prob in zip(texts, log_probs.tolist(), strict=True)]


def recall(captioner: Captioner, batch: Batch) -> tuple[Tensor, list[tuple[Retrieved, ...]]]:
    """Prefixes [S, P, D] of a batch's segments, and what each retrieved from the memory.

    Sequences that the memory cannot hold whole are streamed, so that they take no more memory however long they are.
    """
    mapper = captioner.mapper.with_memory
    if mapper is None:
        return captioner.prefixes(batch.embeddings, batch.moments, batch.real), [()] * len(batch.segments)
    assert mapper.memory
    prefixes: list[Tensor] = []
    retrieved = []
    if holds(mapper.memory, mapper.config.tokens, batch.embeddings.shape[1]):
        whole = mapper.recalled(batch.embeddings, batch.moments)
        for b, r in batch.real.nonzero().tolist():
            prefixes.append(whole.prefixes[b, r])
            retrieved.append(most_retrieved(whole, b, r, int(batch.moments.frame[b, r]), batch.begins[b]))
        return torch.stack(prefixes), retrieved
    for b, real in enumerate(batch.real):
        moments = Moments(batch.moments.frame[b : b + 1, real], batch.moments.segment_start[b : b + 1, real])
        streamed = stream_segments(mapper, batch.embeddings[b : b + 1], moments)
        for segment, frame in zip(streamed, moments.frame[0].tolist(), strict=True):
            prefixes.append(segment.prefixes[0, 0])
            retrieved.append(most_retrieved(segment, 0, 0, frame, batch.begins[b]))
    return torch.stack(prefixes), retrieved


def holds(memory: MemoryConfig, tokens: int, frames: int) -> bool:
    """Whether a memory can hold all these frames, of so many tokens each, at once."""
    return frames <= memory.capacity(tokens)


def most_retrieved(recalled: Recalled, b: int, r: int, frame: int, begins: int) -> tuple[Retrieved, ...]:
    """What segment [b, r] retrieved. It ends with `frame` of a sequence that starts at frame `begins` of its video."""
    found = []
    for layer, attended in sorted(recalled.attended.items()):
        # [H, T]; later frames are those of other segments
        paid = attended[b, :, r, : frame if recalled.frames is None else len(recalled.frames)]
        weights, frames = paid.topk(min(MAX_RETRIEVED, paid.shape[1]))
        for head, of_head in enumerate(zip(weights.tolist(), frames.tolist(), strict=True), start=1):
            for weight, at in zip(*of_head, strict=True):
                if weight > 0:
                    which = at if recalled.frames is None else int(recalled.frames[at])
                    found.append(Retrieved(layer, head, begins + which, weight))
    return tuple(found)


def sample(
    decoder: Any, prefixes: Tensor, *, end: int, temperature: float, top_p: float, max_tokens: int
) -> list[list[int]]:
    """Token ids of a sampled caption for each prefix [S, P, D], without the end token."""
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
    # The end token also pads: a caption ends before the first one.
    return [row[: row.index(end)] if end in row else row for row in rows]
