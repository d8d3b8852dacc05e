"""Beam search at three speeds: ClipCap's published one, transformers' generate, and pipeline/language/beam.py.

    python -m bench.caption [--segments 40] [--beams 5] [--tokens 20] [--layers 12] [--width 768]

The decoder is a GPT-2 of random weights (124M parameters unless told otherwise) and no token ends a caption, so that
everyone does the same work. A peer's best round counts. The published search takes one segment at a time; a round gives
it one. Ours come last, in a process that keeps freed memory from then on, as the stage does.

In float32 all three must find the same captions, token by token, or the exit status is 1. That they do is a matter of
captions that never end. In a trained decoder's they end, and then the rules differ: the published one divides by
length while it searches and leaves an ended caption its place among the beams, so that N ended ones stop it;
transformers', which is the pipeline's, goes on with N open beams, keeps ended captions aside, and divides by length
only to compare those.

Prints a table and, as its last line, JSON.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.step import random_gpt2
from pipeline.device import choose_device, keep_freed_memory
from pipeline.language.beam import beam_search

NO_END = -1  # an id that no token has
Captions = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.caption")
    for name, value in {
        "segments": 40,
        "beams": 5,
        "tokens": 20,
        "prefix": 10,
        "layers": 12,
        "width": 768,
        "vocabulary": 50257,
        "rounds": 3,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.manual_seed(options.seed)
    model: Any = random_gpt2(options.layers, options.width, options.vocabulary).eval()
    model.to(device)
    half = copy.deepcopy(model).to(torch.bfloat16)
    prefixes = torch.randn(options.segments, options.prefix, options.width, device=device)  # [S, P, D]
    settings = {"beams": options.beams, "max_tokens": options.tokens}
    peers: dict[str, Callable[[int], Captions]] = {
        "published": lambda turn: [published(model, prefixes[turn % len(prefixes)], end=NO_END, **settings)],
        "generate": lambda _: generate(model, prefixes, **settings),
        "ours": lambda _: beam_search(model, prefixes, end=NO_END, length_penalty=1.0, **settings),
        "ours_bf16": lambda _: beam_search(half, prefixes.bfloat16(), end=NO_END, length_penalty=1.0, **settings),
    }
    per_s = dict.fromkeys(peers, 0.0)
    found: dict[str, Captions] = {"published": []}
    for name, search in peers.items():
        if name == "ours":
            keep_freed_memory()
        for turn in range(options.rounds):
            started = time.perf_counter()
            captions = search(turn)
            per_s[name] = max(per_s[name], len(captions) / (time.perf_counter() - started))
            found[name] = found["published"] + captions if name == "published" else captions

    ours = found["ours"]
    agree = {
        "published": sum(ours[i % len(ours)] == caption for i, caption in enumerate(found["published"])),
        "generate": sum(map(list.__eq__, ours, found["generate"])),
        "ours": len(ours),
        "ours_bf16": sum(map(list.__eq__, ours, found["ours_bf16"])),
    }
    print(f"{'':<12}{'captions/s':>12}{'x published':>14}{'same captions':>18}")
    for name in peers:
        same = f"{agree[name]} of {len(found[name])}"
        print(f"{name:<12}{per_s[name]:>12.2f}{per_s[name] / per_s['published']:>14.1f}{same:>18}")
    figures = {
        **{name: getattr(options, name) for name in ("segments", "beams", "tokens", "prefix", "layers", "width")},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "captions_per_s": {name: round(value, 3) for name, value in per_s.items()},
        "times_published": {name: round(value / per_s["published"], 2) for name, value in per_s.items()},
        "same_captions": agree,
        "captions": {name: len(captions) for name, captions in found.items()},
    }
    print(json.dumps(figures))
    differ = [name for name in ("published", "generate") if agree[name] < len(found[name])]
    if differ:
        sys.exit(f"not the captions of: {', '.join(differ)}")


def generate(model: Any, prefixes: Tensor, *, beams: int, max_tokens: int) -> Captions:
    """transformers' beam search over all prefixes [S, P, D] at once."""
    return model.generate(
        inputs_embeds=prefixes,
        attention_mask=torch.ones(prefixes.shape[:2], dtype=torch.int64, device=prefixes.device),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=0,
    ).tolist()


@torch.inference_mode()
def published(model: Any, prefix: Tensor, *, end: int, beams: int, max_tokens: int) -> list[int]:
    """The caption of one prefix [P, D] as ClipCap's `generate_beam` finds it (Mokady et al. 2021, predict.ipynb).

    Without a cache: every step puts prefix and captions so far through the whole decoder, for logits at all positions.
    """
    embed = model.get_input_embeddings()
    log_probs = model(inputs_embeds=prefix[None]).logits[0, -1].softmax(-1).log()  # [V]
    scores, words = log_probs.topk(beams)  # [N] sums of log-probabilities
    tokens = words[:, None]  # [N, L so far]
    lengths = torch.ones_like(scores)
    stopped = words == end
    while tokens.shape[1] < max_tokens and not stopped.all():
        inputs = torch.cat([prefix.expand(beams, -1, -1), embed(tokens)], dim=1)  # [N, P + L so far, D]
        log_probs = model(inputs_embeds=inputs).logits[:, -1].softmax(-1).log()  # [N, V]
        # A beam that has stopped stays as it is: one continuation, which costs nothing.
        log_probs[stopped] = -torch.inf
        log_probs[stopped, 0] = 0.0
        lengths = lengths + ~stopped
        means, places = ((scores[:, None] + log_probs) / lengths[:, None]).flatten().topk(beams)
        parents, words = places // log_probs.shape[-1], places % log_probs.shape[-1]
        lengths = lengths[parents]
        scores = means * lengths
        tokens = torch.cat([tokens[parents], words[:, None]], dim=1)
        stopped = stopped[parents] | (words == end)
    best = int((scores / lengths).argmax())
    return tokens[best, : int(lengths[best])].tolist()


if __name__ == "__main__":
    main()
