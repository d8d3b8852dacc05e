"""Which of a segment's frame captions are kept: neighbours say the same again and again.

n captions   E width of their embeddings
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def keep(rule: str, captions: Sequence[str], embeddings: NDArray[np.floating], count: int) -> list[int]:
    """Places of the captions that are kept, ascending, at most `count`.

    Args:
        rule: all | distinct (each text once, the first time it is said) | diverse (farthest points: begins with the
            first, then always the one whose nearest kept one is the farthest) | clusters (agglomerative, average
            linkage by cosine; of each cluster the caption nearest to its mean).
        embeddings: of the captions [n, E].

    Of all and distinct more than `count` are thinned evenly. Ties go to the earlier: the same input, the same choice.
    """
    different = list({text: i for i, text in reversed(list(enumerate(captions)))}.values())[::-1]
    if rule == "all":
        return _thinned(list(range(len(captions))), count)
    if rule == "distinct" or len(different) <= count:
        return _thinned(sorted(different), count)
    different = sorted(different)
    rows = np.asarray(embeddings, dtype=np.float64)[different]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    chosen = _farthest(rows, count) if rule == "diverse" else _clustered(rows, count)
    return sorted(different[i] for i in chosen)


def _thinned(places: list[int], count: int) -> list[int]:
    if len(places) <= count:
        return places
    return [places[int((i + 0.5) * len(places) / count)] for i in range(count)]


def _farthest(rows: NDArray[np.float64], count: int) -> list[int]:
    chosen = [0]
    nearest = rows @ rows[0]  # of each, the cosine to the nearest kept one
    while len(chosen) < count:
        nearest[chosen[-1]] = np.inf
        chosen.append(int(np.round(nearest, 9).argmin()))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return chosen


def _clustered(rows: NDArray[np.float64], count: int) -> list[int]:
    clusters = [[i] for i in range(len(rows))]
    cosines = rows @ rows.T
    while len(clusters) > count:
        pairs = [
            (-round(float(cosines[np.ix_(a, b)].mean()), 9), i, j)
            for i, a in enumerate(clusters)
            for j, b in enumerate(clusters[:i])
        ]
        _, i, j = min(pairs)
        clusters[j] += clusters.pop(i)
    return [max(cluster, key=lambda i: (round(float(rows[i] @ rows[cluster].sum(0)), 9), -i)) for cluster in clusters]
