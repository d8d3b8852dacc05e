"""Beam search: over a batch of prefixes in any Hugging Face causal language model, and in any other decoder of words.

S segments   P prefix tokens   D width of the decoder   N beams of a segment   C candidates (2N)   V vocabulary
R rows of the decoder (S * N)   H heads   T tokens   L caption tokens

The minimal cost of a search is the decoder's matrix products, R rows at a time. transformers' own cache adds to that:
it copies all keys and values into new memory twice per token, once to grow and once to reorder. Here they have room
from the start, only rows that changed place are copied, and finished segments leave the batch.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pipeline.language.top_k import top_k

LOGITS_AT_ONCE = 2**21  # logits that become log-probabilities at once


class WordByWord(Protocol):
    """A decoder as a search sees it: rows of captions so far, each with the state to go on from.

    A row is one segment before the first word. From then on a segment's beams are consecutive rows, as many of each.
    """

    def advance(self, tokens: Tensor | None) -> Tensor:
        """Append a word to every row: int64 [R]; None at the start, where there is none yet.

        Returns logits of the next word, [R, V]; log-probabilities will do as well.
        """
        ...

    def reorder(self, rows: Tensor) -> None:
        """Let row i be what row rows[i] was, int64 [R]. There may be more rows than before, or fewer.

        While there are as many, no segment has left, and rows take the place of others of their segment.
        """
        ...


class CausalLanguageModel:
    """`WordByWord` of a Hugging Face causal language model that goes on from prefixes [S, P, D]."""

    def __init__(self, model: Any, prefixes: Tensor, max_tokens: int) -> None:
        length = prefixes.shape[1]
        self.model, self.embed, self.prefixes = model, model.get_input_embeddings(), prefixes
        self.cache = roomy_cache(model.config, length + max_tokens, shared=length)

    def advance(self, tokens: Tensor | None) -> Tensor:
        inputs = self.prefixes if tokens is None else self.embed(tokens[:, None])  # [R, 1, D]
        output = self.model(inputs_embeds=inputs, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1]

    def reorder(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)  # type: ignore[arg-type]  # it is of int64


def beam_search(
    model: Any, prefixes: Tensor, *, end: int, beams: int, max_tokens: int, length_penalty: float
) -> list[list[int]]:
    """The best caption of each prefix [S, P, D] by `search`, in a causal language model.

    The model is in eval mode, prefixes are of its dtype. Settings that a decoder brings along in its generation_config
    (a repetition penalty, say) have no part in it.
    """
    decoder = CausalLanguageModel(model, prefixes, max_tokens)
    return search(decoder, end=end, beams=beams, max_tokens=max_tokens, length_penalty=length_penalty)


@dataclass(frozen=True)
class Found:
    tokens: list[int]  # without the end token
    value: float  # log-probability / length ** length_penalty, both with the end token


def search(decoder: WordByWord, *, end: int, beams: int, max_tokens: int, length_penalty: float) -> list[list[int]]:
    """The token ids of each segment's best caption; arguments as for `search_best`."""
    found = search_best(decoder, end=end, beams=beams, max_tokens=max_tokens, length_penalty=length_penalty)
    return [own[0].tokens for own in found]


@torch.inference_mode()
def search_best(
    decoder: WordByWord, *, end: int, beams: int, max_tokens: int, length_penalty: float
) -> list[list[Found]]:
    """The N best captions of each segment, the best first, by transformers' rule of beam search.

    The rule is that of `model.generate(num_beams=beams, do_sample=False, early_stopping=False)`: at every step the 2N
    likeliest continuations of a segment's N beams are candidates. Those among the N likeliest that end are captions,
    of value log-probability / length ** length_penalty; the N likeliest of the others go on. A segment is finished
    when N captions are worth at least what its likeliest beam would be if it ended now.

    Args:
        decoder: at its start, a row a segment. What is in a batch does not change a segment's caption.
        end: id of the token that ends a caption.
        max_tokens: of a caption, its end token included; a beam that has not ended by then is a caption too.
        length_penalty: above 0 favours long captions, below 0 short ones.

    Returns:
        Of S segments up to N captions: fewer where there are not as many, at least one.
    """
    logits = decoder.advance(None)  # [S, V]
    segments, device = len(logits), logits.device
    running = torch.arange(segments, device=device)  # which segments are still searched
    scores = torch.zeros(segments, 1, device=device)  # [S, N]: one beam until the first token
    tokens = torch.empty(segments, 1, 0, dtype=torch.int64, device=device)  # [S, N, L so far]
    values = torch.full((segments, beams), -torch.inf, device=device)  # [S, N] values of captions, best first
    best = torch.full((segments, beams, max_tokens), end, device=device)  # [S, N, L]
    for length in range(1, max_tokens + 1):
        candidates, parents, words = continue_beams(logits.unflatten(0, scores.shape), scores, 2 * beams)
        history = tokens.gather(1, parents[..., None].expand(-1, -1, length - 1))
        grown = torch.cat([history, words[..., None]], dim=-1)  # [S, C, L so far]

        ends = (words == end) | (length == max_tokens)
        worth = (candidates / length**length_penalty).masked_fill(~ends, -torch.inf)[:, :beams]
        # Stable, so that of captions worth the same the one found first stays before the other.
        ranked = torch.cat([values[running], worth], dim=1).sort(dim=1, descending=True, stable=True)
        values[running], which = ranked.values[:, :beams], ranked.indices[:, :beams, None]
        padded = F.pad(grown[:, : worth.shape[1]], (0, max_tokens - length), value=end)
        best[running] = torch.cat([best[running], padded], dim=1).gather(1, which.expand(-1, -1, max_tokens))
        if length == max_tokens:
            break

        going = candidates.masked_fill(ends, -torch.inf)
        unfinished = going.max(dim=-1).values / length**length_penalty > values[running, -1]
        if not unfinished.any():
            break
        chosen = going.topk(min(beams, going.shape[1])).indices  # [S, N]
        chosen = chosen.gather(1, stay_in_place(parents.gather(1, chosen)))
        rows = torch.arange(len(running), device=device)[:, None] * tokens.shape[1] + parents.gather(1, chosen)
        decoder.reorder(rows[unfinished].flatten())
        running, scores = running[unfinished], going.gather(1, chosen)[unfinished]
        tokens = grown.gather(1, chosen[..., None].expand(-1, -1, length))[unfinished]
        logits = decoder.advance(tokens[..., -1].flatten())
    return [
        [
            Found(row[: row.index(end)] if end in row else row, value)
            for row, value in zip(own, of_own, strict=True)
            if value > -torch.inf
        ]
        for own, of_own in zip(best.tolist(), values.tolist(), strict=True)
    ]


def continue_beams(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest continuations of each segment's beams, likeliest first; fewer if there are not enough.

    Args:
        logits: [S, N, V].
        scores: [S, N], log-probabilities of the beams.

    Returns:
        [S, C] each: log-probability, beam, token.
    """
    found = []
    # A few segments at a time, in reused memory: fresh memory for all would take as long as the arithmetic.
    at_once = max(1, LOGITS_AT_ONCE // logits[0].numel())
    for some, of_beams in zip(logits.split(at_once), scores.split(at_once), strict=True):
        _, words = top_k(some, min(count, some.shape[-1]))  # per beam [s, N, C]; the segment's are among them
        continued = (some.float().log_softmax(-1).gather(-1, words) + of_beams[..., None]).flatten(1)  # [s, N * C]
        best, places = continued.topk(min(count, continued.shape[1]))
        found.append((best, places // words.shape[-1], words.flatten(1).gather(1, places)))
    candidates, parents, words = (torch.cat(parts) for parts in zip(*found, strict=True))
    return candidates, parents, words


def stay_in_place(parents: Tensor) -> Tensor:
    """An order of a segment's new beams that keeps as many as possible in their parent's place.

    Their keys and values need not move then. About half of the beams are the only child of their parent.

    Args:
        parents: [S, N], the place of each new beam's parent.

    Returns:
        [S, N], for each place the new beam to put there.
    """
    younger = (parents[:, :, None] == parents[:, None, :]).tril(-1).any(-1)  # an earlier one has the same parent
    heirs_first = torch.where(younger, parents.shape[1], parents).argsort(dim=1, stable=True)
    childless = torch.ones_like(younger).scatter(1, parents, False)
    inherited_first = childless.to(torch.uint8).argsort(dim=1, stable=True)
    return torch.empty_like(parents).scatter(1, inherited_first, heirs_first)


def roomy_cache(config: Any, tokens: int, *, shared: int) -> DynamicCache:
    """The model's own kind of cache, with room for `tokens` in the layers that keep all tokens.

    The first `shared` tokens are a segment's prefix, the same in the rows of all its beams.

    Other layers (sliding windows, states of linear attention) stay as transformers made them.
    """
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(tokens, shared) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer in preallocated memory; `keys` and `values` are the filled part."""

    def __init__(self, tokens: int, shared: int) -> None:
        super().__init__()
        self.tokens, self.shared = tokens, shared
        self.rooms: list[Tensor] = []  # of keys and of values: [R, H, tokens, width of a head]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values with the new ones, [R, H, T, width of a head], appended."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = [self._room(states, len(states)) for states in (key_states, value_states)]
        filled = self.get_seq_length()
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[: len(states), :, filled : filled + states.shape[2]] = states
        return self._show(len(key_states), filled + key_states.shape[2])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i a copy of the old row beam_idx[i]. There may be more rows than before, or fewer.

        With an unchanged number of rows no segment has left, and rows only replace rows of their own segment.
        """
        assert self.keys is not None
        filled, rows = self.get_seq_length(), len(beam_idx)
        if rows > len(self.rooms[0]):
            smaller, self.rooms = self.rooms, [self._room(room, rows) for room in self.rooms]
            for room, old in zip(self.rooms, smaller, strict=True):
                room[:, :, :filled] = old[beam_idx, :, :filled]
        else:
            moved = (beam_idx != torch.arange(rows, device=beam_idx.device)).nonzero()[:, 0]
            since = self.shared if rows == len(self.keys) else 0
            for room in self.rooms:
                room[moved, :, since:filled] = room[beam_idx[moved], :, since:filled]
        self._show(rows, filled)

    def _room(self, like: Tensor, rows: int) -> Tensor:
        return like.new_empty(rows, like.shape[1], self.tokens, like.shape[3])

    def _show(self, rows: int, filled: int) -> tuple[Tensor, Tensor]:
        keys, values = (room[:rows, :, :filled] for room in self.rooms)
        self.keys, self.values = keys, values
        return keys, values
