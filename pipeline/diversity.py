"""What captions are like without looking at what they are of: do they vary, stutter, or repeat the training captions?

A caption's words are its runs of letters, digits and apostrophes, in lower case. No score here is good or bad by
itself, and all but `repetition` depend on how many captions there are: compare runs over the same segments only.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def diversity(captions: Mapping[str, str], training: Iterable[str] | None = None) -> dict[str, float]:
    """All of this module's figures, in percent but for `vocabulary`, which counts words.

    `training`: the captions a model learned from; without them nothing is said of copies.
    """
    said = {id: words(caption) for id, caption in captions.items()}
    figures = {
        "distinct-1": 100 * distinct(said.values(), 1),
        "distinct-2": 100 * distinct(said.values(), 2),
        "vocabulary": len({word for caption in said.values() for word in caption}),
        "repetition": 100 * repetition(said.values(), 2),
    }
    if training is not None:
        figures["copied"] = 100 * copied(said.values(), {tuple(words(caption)) for caption in training})
    return figures


def words(caption: str) -> list[str]:
    return WORD.findall(caption.casefold())


def distinct(captions: Iterable[list[str]], n: int) -> float:
    """Different n-grams, of all n-grams of all captions (Li et al. 2016)."""
    every = [gram for caption in captions for gram in _grams(caption, n)]
    return len(set(every)) / max(len(every), 1)


def repetition(captions: Iterable[list[str]], n: int) -> float:
    """The share of n-grams that stood before in the same caption."""
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
