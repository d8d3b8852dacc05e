"""Beam search over a batch of prefixes, for any Hugging Face causal language model that takes embeddings.

S segments   P prefix tokens   D width of the decoder   N beams of a segment   C candidates (2N)   V vocabulary
R rows of the decoder (S * N)   H heads   T tokens   L caption tokens

What a search must cost is the decoder's matrix products, R rows at a time. transformers' own cache adds to that: it
copies all keys and values into new memory twice a token, once to grow and once to reorder. Here they have room from
the start, only rows that changed place are copied, and finished segments leave the batch.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pipeline.retrieval import top_k

LOGITS_AT_ONCE = 2**21  # of which log-probabilities are made


@torch.inference_mode()
def beam_search(
    model: Any, prefixes: Tensor, *, end: int, beams: int, max_tokens: int, length_penalty: float
) -> list[list[int]]:
    """The best caption of each prefix by transformers' rule of beam search.

    The rule is that of `model.generate(num_beams=beams, do_sample=False, early_stopping=False)`: at every step the 2N
    likeliest continuations of a segment's N beams are candidates. Those among the N likeliest that end are captions,
    of value log-probability / length ** length_penalty; the N likeliest of the others go on. A segment is finished
    when N captions are worth at least what its likeliest beam would be if it ended now. Settings that a decoder
    brings along in its generation_config (a repetition penalty, say) have no part in it.

    Args:
        model: in eval mode.
        prefixes: [S, P, D] in the model's dtype. What is in a batch does not change a segment's caption.
        end: id of the token that ends a caption.
        max_tokens: of a caption, its end included; what has not ended by then is a caption too.
        length_penalty: above 0 favours long captions, below short ones.

    Returns:
        Token ids of S captions, without the end.
    """
    device = prefixes.device
    embed = model.get_input_embeddings()
    cache = roomy_cache(model.config, prefixes.shape[1] + max_tokens, shared=prefixes.shape[1])
    running = torch.arange(len(prefixes), device=device)  # which segments are still searched
    scores = torch.zeros(len(prefixes), 1, device=device)  # [S, N]: one beam until the first token
    tokens = torch.empty(len(prefixes), 1, 0, dtype=torch.int64, device=device)  # [S, N, L so far]
    values = torch.full((len(prefixes), beams), -torch.inf, device=device)  # [S, N] of captions, the best first
    best = torch.full((len(prefixes), max_tokens), end, device=device)  # [S, L]
    inputs = prefixes
    for length in range(1, max_tokens + 1):
        logits = model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        candidates, parents, words = continue_beams(logits[:, -1].unflatten(0, scores.shape), scores, 2 * beams)
        history = tokens.gather(1, parents[..., None].expand(-1, -1, length - 1))
        grown = torch.cat([history, words[..., None]], dim=-1)  # [S, C, L so far]

        ends = (words == end) | (length == max_tokens)
        worth = (candidates / length**length_penalty).masked_fill(~ends, -torch.inf)[:, :beams]
        value, which = worth.max(dim=-1)
        better = value > values[running, 0]
        best[running[better], :length] = grown[better, which[better]]
        values[running] = torch.cat([values[running], worth], dim=1).topk(beams).values
        if length == max_tokens:
            break

        going = candidates.masked_fill(ends, -torch.inf)
        unfinished = going.max(dim=-1).values / length**length_penalty > values[running, -1]
        if not unfinished.any():
            break
        chosen = going.topk(min(beams, going.shape[1])).indices  # [S, N]
        chosen = chosen.gather(1, stay_in_place(parents.gather(1, chosen)))
        rows = torch.arange(len(running), device=device)[:, None] * tokens.shape[1] + parents.gather(1, chosen)
        cache.reorder_cache(rows[unfinished].flatten())  # type: ignore[arg-type]  # it is of int64
        running, scores = running[unfinished], going.gather(1, chosen)[unfinished]
        tokens = grown.gather(1, chosen[..., None].expand(-1, -1, length))[unfinished]
        inputs = embed(tokens[..., -1].reshape(-1, 1))  # [R, 1, D]
    return [row[: row.index(end)] if end in row else row for row in best.tolist()]


def continue_beams(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest continuations of each segment's beams, the likeliest first; fewer if there are not so many.

    Args:
        logits: [S, N, V].
        scores: [S, N], log-probabilities of the beams.

    Returns:
        [S, C] each: log-probability, which beam, which word.
    """
    found = []
    # Some segments at a time, in memory that is used again: that of all, fresh, would take as long as the arithmetic.
    at_once = max(1, LOGITS_AT_ONCE // logits[0].numel())
    for some, of_beams in zip(logits.split(at_once), scores.split(at_once), strict=True):
        _, words = top_k(some, min(count, some.shape[-1]))  # of each beam [s, N, C]: the segment's are among them
        continued = (some.float().log_softmax(-1).gather(-1, words) + of_beams[..., None]).flatten(1)  # [s, N * C]
        best, places = continued.topk(min(count, continued.shape[1]))
        found.append((best, places // words.shape[-1], words.flatten(1).gather(1, places)))
    candidates, parents, words = (torch.cat(parts) for parts in zip(*found, strict=True))
    return candidates, parents, words


def stay_in_place(parents: Tensor) -> Tensor:
    """An order of a segment's new beams in which as many as can be stand where their parent stood.

    Their keys and values need not move then. About half of them have a parent to themselves.

    Args:
        parents: [S, N], the place of each new beam's parent.

    Returns:
        [S, N], for each place the new beam that is to stand there.
    """
    younger = (parents[:, :, None] == parents[:, None, :]).tril(-1).any(-1)  # an earlier one has the same parent
    heirs_first = torch.where(younger, parents.shape[1], parents).argsort(dim=1, stable=True)
    childless = torch.ones_like(younger).scatter(1, parents, False)
    inherited_first = childless.to(torch.uint8).argsort(dim=1, stable=True)
    return torch.empty_like(parents).scatter(1, inherited_first, heirs_first)


def roomy_cache(config: Any, tokens: int, *, shared: int) -> DynamicCache:
    """The model's own kind of cache, with room for `tokens` in the layers that keep all of them.

    The first `shared` are a segment's prefix, the same in the rows of all its beams.

    Other layers (sliding windows, states of linear attention) stay as transformers made them.
    """
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(tokens, shared) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer in memory that is there from the start; `keys` and `values` are what is filled."""

    def __init__(self, tokens: int, shared: int) -> None:
        super().__init__()
        self.tokens, self.shared = tokens, shared
        self.rooms: list[Tensor] = []  # of keys and of values: [R, H, tokens, width of a head]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values with the new ones, [R, H, T, width of a head], behind them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = [self._room(states, len(states)) for states in (key_states, value_states)]
        filled = self.get_seq_length()
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[: len(states), :, filled : filled + states.shape[2]] = states
        return self._show(len(key_states), filled + key_states.shape[2])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i be what row beam_idx[i] was. There may be more rows than before, or fewer.

        While there are as many no segment has left, and rows take the place of others of their segment.
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
