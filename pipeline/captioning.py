"""Captioning: a batch's captions, by beam search or drawn.

S segments   P prefix tokens   D width of the decoder
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.beam import beam_search
from pipeline.captioner import Captioner
from pipeline.mapper import TransformerMapper
from pipeline.memory import Moments
from pipeline.sequences import Batch, pad_tokens
from pipeline.streaming import stream_prefixes


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
