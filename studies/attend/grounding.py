"""Teaching attention where what a word is about is, as Zhou et al. 2019 (Grounded Video Description) do with boxes.

Captioning alone teaches attention to look where it helps to say the next word, which need not be where the thing is. So
for each word of a training caption that is true of its segment, the loss gets minus the logarithm of the attention
paid to the cells that the word is about. What a word is about is what explanations are scored by (`truth`); of
segments, only those that are trained on.

B segments   R captions of a segment   L tokens of a caption   N cells attended to
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.process import progress
from studies.attend.examples import Example
from studies.attend.truth import CLASSES, Truth, World, about, class_of
from studies.attend.vocabulary import Vocabulary

Grounds = Mapping[int, NDArray[np.bool_]]  # of a segment: where attention should be, [N], by the word's token id
GROUNDED = CLASSES[:4]  # those of words about things
LEAST_PAID = 1e-4  # added before the logarithm, or one word that is missed entirely would outweigh all others


def grounds_of(
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    world: World,
    *,
    kind: str,
    shape: tuple[int, int],
    side: int,
    visible: float,
) -> dict[str, Grounds]:
    """By segment_id, of every word in its captions that is about something that can be seen.

    kind: of attention, which decides what N is. shape, side, visible: as `truth_of` has them.
    """
    found: dict[str, Grounds] = {}
    for example in progress.bar(examples, desc="attend grounding", unit="segment"):
        if truth := world.of(example, shape, side, visible):
            ids = {id for caption in example.segment.captions for id in vocabulary.encode(caption)}
            found[example.segment.segment_id] = _grounds(ids, vocabulary, truth, kind)
    return found


def _grounds(ids: Iterable[int], vocabulary: Vocabulary, truth: Truth, kind: str) -> Grounds:
    found = {}
    for id in ids:
        word = vocabulary.words[id]
        if class_of(word) not in GROUNDED or (known := about(word, truth)) is None:
            continue
        cells, when = known
        if when is not None:
            cells = cells & when[:, None, None]  # a verb's things are there longer than what it says
        if cells.any():
            found[id] = chosen_from(kind, cells)
    return found


def chosen_from(kind: str, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells [T, h, w] as what a kind of attention chooses from, [N]: a time or a place counts if any cell does."""
    match kind:
        case "none":
            return np.ones(1, bool)
        case "temporal":
            return np.asarray(cells.any((1, 2)))
        case "spatial":
            return np.asarray(cells.any(0)).ravel()
        case _:
            return cells.ravel()


def unlooked(
    attention: Tensor, ids: Sequence[Sequence[Sequence[int]]], grounds: Sequence[Grounds]
) -> tuple[Tensor, int]:
    """Minus the logarithm of the attention paid to what a word is about, summed over words; and how many these are.

    Args:
        attention: [B, R, L, N].
        ids: tokens of each segment's captions. grounds: of each segment; words that are not in it teach nothing.
    """
    found = [
        (b, r, place, own[id])
        for b, (captions, own) in enumerate(zip(ids, grounds, strict=True))
        for r, caption in enumerate(captions)
        for place, id in enumerate(caption)
        if id in own
    ]
    if not found:
        return attention.new_zeros(()), 0
    at_b, at_r, at_place, wanted = zip(*found, strict=True)
    cells = np.zeros((len(found), attention.shape[-1]), bool)
    for row, one in zip(cells, wanted, strict=True):
        row[: len(one)] = one  # of a shorter segment: what is filled up comes last
    of_words = attention[list(at_b), list(at_r), list(at_place)]  # [words, N]
    paid = (of_words * torch.from_numpy(cells).to(attention.device)).sum(-1)
    return -(paid + LEAST_PAID).log().sum(), len(found)
