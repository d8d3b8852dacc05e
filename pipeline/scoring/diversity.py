"""Properties of captions regardless of the videos: do they vary, stutter, or repeat the training captions?

A caption's words are its runs of letters, digits and apostrophes, in lower case. No score here is good or bad by
itself, and all but `repetition` depend on how many captions there are: compare runs over the same segments only.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from pipeline.scoring.characters import characters

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def words(caption: str) -> list[str]:
    return WORD.findall(caption.casefold())


WORDS = {"ptb": words, "characters": lambda caption: characters(caption).split()}  # by the scores' tokenizer


def diversity(
    captions: Mapping[str, str], training: Iterable[str] | None = None, split: Callable[[str], list[str]] = words
) -> dict[str, float]:
    """All of this module's figures, in percent but for `vocabulary`, which counts words.

    `training`: the captions a model learned from; without them there is no `copied`.
    `split`: splits a caption into words.
    """
    tokens = {id: split(caption) for id, caption in captions.items()}
    figures = {
        "distinct-1": 100 * distinct(tokens.values(), 1),
        "distinct-2": 100 * distinct(tokens.values(), 2),
        "vocabulary": len({word for caption in tokens.values() for word in caption}),
        "repetition": 100 * repetition(tokens.values(), 2),
    }
    if training is not None:
        figures["copied"] = 100 * copied(tokens.values(), {tuple(split(caption)) for caption in training})
    return figures


def distinct(captions: Iterable[list[str]], n: int) -> float:
    """The share of distinct n-grams among all n-grams of all captions (Li et al. 2016)."""
    every = [gram for caption in captions for gram in _grams(caption, n)]
    return len(set(every)) / max(len(every), 1)


def repetition(captions: Iterable[list[str]], n: int) -> float:
    """The share of n-grams that occurred earlier in the same caption."""
    total = again = 0
    for caption in captions:
        grams = list(_grams(caption, n))
        total += len(grams)
        again += len(grams) - len(set(grams))
    return again / max(total, 1)


def copied(captions: Collection[list[str]], training: set[tuple[str, ...]]) -> float:
    """The share of captions that are, word for word, one of the training captions."""
    return sum(tuple(caption) in training for caption in captions) / max(len(captions), 1)


def _grams(caption: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(caption[i:] for i in range(n)), strict=False)
