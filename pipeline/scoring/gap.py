"""The modality gap: how far apart a contrastive model keeps its images and its texts, and what that costs.

Liang et al. 2022 (Mind the Gap) found that the embeddings of images and of texts lie in two narrow cones that do not
overlap. Every embedding is made of unit length first. Nothing of size n x n is ever held: pairs of rows are gone
through block by block.

n pairs   d width of the embeddings   B rows of a block   R draws of the bootstrap   G groups (videos)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MODALITIES = ("image", "text")
BLOCK = 2**23  # cosines of a block
EXACT = 2**24  # up to so many cosines quantiles are exact; beyond, of a histogram with bins of 2 / BINS
BINS = 200_000
TIE = 1e-9  # cosines that differ by less are equal: a matrix product rounds by where in it a row stands
ZERO = 1e-9  # a row shorter than this points nowhere
FOLDS = 5
RIDGE = 1e-3  # of the average variance of a dimension
KS = (1, 5, 10)
REMOVED = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # how many of the most separating dimensions are taken away
DELTAS = tuple(round(-1 + 0.1 * step, 1) for step in range(21))
TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 1.0)
LOSS_PAIRS = 5000  # at most: the contrastive loss is that of one batch, and the paper's was of 5,000
DRAWS = 1000


@dataclass(frozen=True)
class Measures:
    """values: by name, as `LABELS` explains them. intervals: 95 %, of those that have one."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gap:
    pairs: int
    width: int
    groups: int  # that the bootstrap draws
    fitted_on: int  # pairs of which the means and deviations of `shifted` and `standardised` are
    loss_pairs: int
    plain: Measures
    shifted: Measures  # each modality moved so that its mean is zero, and made of unit length again
    standardised: Measures  # each dimension of each modality of mean 0 and deviation 1, and so on
    curve: list[dict[str, float]]  # a row for each delta of `DELTAS`
    notes: list[str]  # what whoever reads the figures has to know


LABELS = {
    "distance.centroids": "distance of the centroids",
    "distance.pairs": "distance of a pair, on average",
    **{f"cone.{m}.{what}": f"cone of {m}s, {of}" for m in MODALITIES for what, of in (
        ("mean", "mean cosine of two"), ("sd", "its deviation"), *((f"p{p}", f"{p} %") for p in range(10, 100, 10)),
    )},
    "cosine.match": "cosine of a pair",
    "cosine.mismatch": "cosine of an image and another's text",
    "rmg": "relative modality gap (RMG)",
    "separability.all": "linear separability, all dimensions",
    "separability.best_single": "best single dimension alone",
    **{f"separability.without_{d}": f"all without the {d} most separating" for d in REMOVED},
    "pc1.direction": "PC1 against the gap's direction, |cosine|",
    "pc1.variance": "variance along PC1, share",
    "effective_rank.image": "effective rank of images",
    "effective_rank.text": "effective rank of texts",
    "alignment": "alignment",
    "uniformity.image": "uniformity of images",
    "uniformity.text": "uniformity of texts",
    **{f"R@{k}.{way}": f"R@{k}, {words}"
       for way, words in (("i2t", "image to text"), ("t2i", "text to image")) for k in KS},
    "median_rank.i2t": "median rank, image to text",
    "median_rank.t2i": "median rank, text to image",
    **{f"facts.R@{k}.{way}": f"R@{k}, {words}, any of the same facts"
       for way, words in (("i2t", "image to text"), ("t2i", "text to image")) for k in KS},
    "facts.median_rank.i2t": "median rank, image to text, any of the same facts",
    "facts.median_rank.t2i": "median rank, text to image, any of the same facts",
}  # fmt: skip


def measure_gap(
    images: NDArray[np.floating],
    texts: NDArray[np.floating],
    *,
    train: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    groups: Sequence[object] | None = None,
    facts: Sequence[object] | None = None,
    draws: int = DRAWS,
    loss_pairs: int = LOSS_PAIRS,
    seed: int = 0,
) -> Gap:
    """Every measure of the pairs (images[i], texts[i]), both [n, d].

    Args:
        train: pairs by which shift, standardisation and the separating plane are fitted; None: these themselves.
        groups: of each pair, what the bootstrap draws as one (its video) [n]; None: each pair is a group.
        facts: of each pair, what it shows: a text of equal facts is as right as the pair's own [n].
        draws: of the bootstrap; 0: no intervals.
        loss_pairs: of more, so many are drawn for the contrastive loss: it is that of one batch.

    Raises ValueError that says what is wrong with the embeddings.
    """
    x, y = unit_pairs(images, texts)
    fit = (x, y) if train is None else unit_pairs(*train, what="training ")
    if fit[0].shape[1] != x.shape[1]:
        raise ValueError(f"the training pairs are {fit[0].shape[1]} wide, the others {x.shape[1]}")
    for name, labels in {"groups": groups, "facts": facts}.items():
        if labels is not None and len(labels) != len(x):
            raise ValueError(f"found {len(labels)} {name} for {len(x)} pairs")
    numbers = np.arange(len(x)) if groups is None else numbered(groups)
    kinds = None if facts is None else numbered(facts)
    notes = _duplicates(x, y)
    if train is None and len(x) <= x.shape[1]:
        notes.append(
            f"{len(x)} pairs in {x.shape[1]} dimensions: a mean and a deviation fitted on so few fit them too well; "
            "fit them on other pairs"
        )
    if numbers.max() == 0:
        notes.append("one group only: no intervals, it cannot say what others would give")
        draws = 0

    def of(fitting: "Fitting") -> Measures:
        moved = applied(fitting(*fit), x, y)
        if lost := sum(int((np.abs(rows).max(axis=1) == 0).sum()) for rows in moved):
            notes.append(f"{lost} embeddings are zero once their mean is taken away: their cosines count as 0")
        values, hits = measures(moved[0], moved[1], kinds)
        apart = separability(x, y, None if train is None else fit, numbers, fitting)
        values |= {f"separability.{name}": value for name, value in apart.items()}
        values = {name: values[name] for name in LABELS if name in values}
        return Measures(values, intervals(moved[0], moved[1], hits, numbers, draws=draws, seed=seed))

    chosen = np.sort(np.random.default_rng(seed).permutation(len(x))[:loss_pairs])
    return Gap(
        pairs=len(x),
        width=x.shape[1],
        groups=int(numbers.max()) + 1,
        fitted_on=len(fit[0]),
        loss_pairs=len(chosen),
        plain=of(unchanged),
        shifted=of(centring),
        standardised=of(standardising),
        curve=along_shift(x[chosen], y[chosen], fit[0].mean(0) - fit[1].mean(0)),
        notes=list(dict.fromkeys(notes)),
    )


def unit_pairs(images: NDArray[np.floating], texts: NDArray[np.floating], what: str = "") -> tuple[Array, Array]:
    """Both with rows of unit length, float64. Raises ValueError for what no measure can be taken of."""
    found = []
    for name, rows in ((f"{what}images", images), (f"{what}texts", texts)):
        rows = np.asarray(rows)
        if rows.ndim != 2 or not rows.shape[1]:
            raise ValueError(f"{name}: found an array of shape {list(rows.shape)}, expected [pairs, width]")
        if rows.dtype.kind not in "fiu":
            raise ValueError(f"{name}: found values of type {rows.dtype}, expected numbers")
        wide = rows.astype(np.float64)
        bad = ~np.isfinite(wide).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name}: {bad.sum()} of {len(rows)} rows hold NaN or infinity, the first is row {bad.argmax()}"
            )
        found.append((name, wide))
    (_, x), (_, y) = found
    if len(x) != len(y):
        raise ValueError(f"found {len(x)} {what}images and {len(y)} {what}texts: row i of both is to be a pair")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{what}images are {x.shape[1]} wide, {what}texts {y.shape[1]}: they are not of one space")
    if len(x) < 2:
        raise ValueError(f"found {len(x)} {what}pair{'s' * (len(x) != 1)}, expected at least 2: a gap is between many")
    for name, rows in found:
        largest = np.abs(rows).max(axis=1)
        if (zero := largest == 0).any():
            raise ValueError(f"{name}: {zero.sum()} of {len(rows)} rows are zero, the first is row {zero.argmax()}")
        rows /= largest[:, None]  # first, or the square of 1e200 is infinite
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return x, y


def numbered(labels: Sequence[object]) -> NDArray[np.intp]:
    """Equal labels get equal numbers, from 0 on, as they come."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels])


def _duplicates(x: Array, y: Array) -> list[str]:
    notes = []
    for name, rows in (("images", x), ("texts", y)):
        repeated = len(rows) - len({row.tobytes() for row in rows})
        if repeated:
            notes.append(f"{repeated} of {len(rows)} {name} repeat another: in R@k equally near ones share the places")
    return notes


@dataclass(frozen=True)
class Affine:
    """Takes a mean away, divides by a deviation, makes rows of unit length."""

    mean: Array  # [d]
    deviation: Array  # [d]

    def __call__(self, rows: Array) -> Array:
        return unit((rows - self.mean) / self.deviation)


Transform = tuple[Affine, Affine]  # of images, of texts
Fitting = Callable[[Array, Array], Transform]  # to pairs [n, d] of unit length


def unchanged(x: Array, y: Array) -> Transform:
    same = Affine(np.zeros(x.shape[1]), np.ones(x.shape[1]))
    return same, same


def centring(x: Array, y: Array) -> Transform:
    one = np.ones(x.shape[1])
    return Affine(x.mean(0), one), Affine(y.mean(0), one)


def standardising(x: Array, y: Array) -> Transform:
    def spread(rows: Array) -> Array:
        deviation = rows.std(axis=0)
        return np.where(deviation > ZERO, deviation, 1.0)  # a dimension that never changes is left as it is

    return Affine(x.mean(0), spread(x)), Affine(y.mean(0), spread(y))


def applied(transform: Transform, x: Array, y: Array) -> tuple[Array, Array]:
    return transform[0](x), transform[1](y)


def unit(rows: Array) -> Array:
    """Each row of length 1; one that is zero but for rounding becomes zero."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.where(lengths > ZERO, rows / np.maximum(lengths, ZERO), 0.0)


def measures(x: Array, y: Array, facts: NDArray[np.intp] | None) -> tuple[dict[str, float], dict[str, Array]]:
    """All but the separability by name, and of those that are averages over pairs what each pair gives [n]."""
    match = np.einsum("nd,nd->n", x, y)
    apart = np.linalg.norm(x - y, axis=1)
    hits = {"distance.pairs": apart, "cosine.match": match, "alignment": apart**2}
    found = {"distance.centroids": float(np.linalg.norm(x.mean(0) - y.mean(0)))}
    for name, rows in zip(MODALITIES, (x, y), strict=True):
        found |= {f"cone.{name}.{key}": value for key, value in cone(rows).items()}
    found |= {f"uniformity.{name}": found.pop(f"cone.{name}.uniformity") for name in MODALITIES}
    found["cosine.mismatch"] = float((x.sum(0) @ y.sum(0) - match.sum()) / (len(x) * (len(x) - 1)))
    found["rmg"] = relative_gap(float(match.mean()), found["cone.image.mean"], found["cone.text.mean"])
    found["pc1.direction"], found["pc1.variance"] = first_component(x, y)
    found |= {f"effective_rank.{name}": effective_rank(rows) for name, rows in zip(MODALITIES, (x, y), strict=True)}

    ways = dict(zip(("i2t", "t2i"), ranks(x, y), strict=True))
    if facts is not None:
        ways |= {"facts.i2t": fact_ranks(x, y, facts), "facts.t2i": fact_ranks(y, x, facts)}
    for way, (greater, ties) in ways.items():
        prefix, _, name = way.rpartition(".")
        dot = f"{prefix}." if prefix else ""
        hits |= {f"{dot}R@{k}.{name}": ((k - greater) / (ties + 1)).clip(0, 1) for k in KS}
        found[f"{dot}median_rank.{name}"] = float(np.median(1 + greater + ties / 2))
    found |= {name: float(each.mean()) for name, each in hits.items()}
    return found, hits


def relative_gap(match: float, images: float, texts: float) -> float:
    """RMG (Schrodi et al. 2025): the distance of pairs, as a share of it and of the distance within a modality.

    A distance is (1 - cosine) / 2: `match` of pairs, `images` and `texts` of two of the same modality. 0.5: a pair is
    as far apart as two images, or two texts, are on average.
    """
    within = ((1 - images) / 2 + (1 - texts) / 2) / 2
    both = (1 - match) / 2 + within
    return (1 - match) / 2 / both if both > ZERO else float("nan")


def blocks(n: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def cone(rows: Array) -> dict[str, float]:
    """Of the cosines of any two different rows [n, d]: mean, sd, deciles; `uniformity` (Wang and Isola 2020)."""
    n = len(rows)
    pairs = n * (n - 1) // 2
    exact = pairs <= EXACT
    total = squares = heat = 0.0
    kept, histogram = [], np.zeros(BINS, dtype=np.int64)
    for part in blocks(n, n):
        own = rows[part] @ rows[part].T  # [B, B], of which each pair is wanted once
        cosines = np.concatenate([own[np.triu_indices(len(own), 1)], (rows[part] @ rows[part.stop :].T).ravel()])
        total, squares = total + cosines.sum(), squares + cosines @ cosines
        if exact:
            kept.append(cosines)
        else:
            places = ((cosines + 1) * (BINS / 2)).astype(np.int32).clip(0, BINS - 1)
            histogram += np.bincount(places, minlength=BINS)
        heat += np.exp(4 * cosines - 4).sum()  # exp(-2 |u - v|^2)
    mean = total / pairs
    points = np.arange(1, 10) / 10
    if exact:
        deciles = np.quantile(np.concatenate(kept), points)
    else:
        deciles = (np.searchsorted(histogram.cumsum(), points * pairs) + 0.5) * 2 / BINS - 1
    named = {f"p{round(100 * p)}": float(value) for p, value in zip(points, deciles, strict=True)}
    sd = float(np.sqrt(max(0.0, squares / pairs - mean**2)))
    return {"mean": float(mean), "sd": sd, **named, "uniformity": float(np.log(heat / pairs))}


def ranks(x: Array, y: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """For images, then for texts: how many others are nearer than the own pair, and how many are as near; [n] each."""
    n, own = len(x), np.einsum("nd,nd->n", x, y)
    greater, ties = np.zeros((2, n)), np.zeros((2, n))
    for part in blocks(n, n):
        cosines = x[part] @ y.T  # [B, n]
        for way, wanted, axis in ((0, own[part, None], 1), (1, own[None], 0)):
            over = np.count_nonzero(cosines > wanted + TIE, axis=axis)
            near = np.count_nonzero(cosines >= wanted - TIE, axis=axis) - over
            where = part if way == 0 else slice(None)
            greater[way, where] += over
            ties[way, where] += near
    return (greater[0], ties[0] - 1), (greater[1], ties[1] - 1)


def fact_ranks(queries: Array, gallery: Array, facts: NDArray[np.intp]) -> tuple[Array, Array]:
    """As `ranks` one way, of the nearest that shows the same facts; others of the same facts do not stand before it."""
    n = len(queries)
    greater, ties = np.zeros(n), np.zeros(n)
    for part in blocks(n, n):
        cosines = queries[part] @ gallery.T  # [B, n]
        same = facts[part, None] == facts[None]
        best = np.where(same, cosines, -np.inf).max(axis=1, keepdims=True)
        greater[part] = np.count_nonzero((cosines > best + TIE) & ~same, axis=1)
        ties[part] = np.count_nonzero((np.abs(cosines - best) <= TIE) & ~same, axis=1)
    return greater, ties


def effective_rank(rows: Array) -> float:
    """exp of the entropy of the variances along the principal components (Roy and Vetterli 2007, of the covariance)."""
    variances = np.linalg.eigvalsh(covariance(rows)).clip(0)
    if variances.sum() <= ZERO**2:
        return float("nan")
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def covariance(rows: Array) -> Array:
    """[d, d]"""
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)


def first_component(x: Array, y: Array) -> tuple[float, float]:
    """|cosine| of the first principal component of all embeddings and the line between the centroids; its share."""
    apart = x.mean(0) - y.mean(0)
    spread = (covariance(x) + covariance(y)) / 2 + np.outer(apart, apart) / 4  # of both together
    values, vectors = np.linalg.eigh(spread)
    length = np.linalg.norm(apart)
    if length <= ZERO or values.sum() <= ZERO**2:
        return float("nan"), float("nan")
    return float(abs(vectors[:, -1] @ apart) / length), float(values[-1] / values.sum())


def separability(
    x: Array, y: Array, train: tuple[Array, Array] | None, groups: NDArray[np.intp], fitting: Fitting
) -> dict[str, float]:
    """Accuracy of telling images from texts by a plane, midway between what it makes of both centroids.

    all: by ridge regression on all dimensions. without_D: on those that are left without the D in which the centroids
    differ most. Both are judged on pairs that nothing was fitted to, not even the shift: `train` fits, or else, in five
    folds of whole groups, the other folds. (With a mean taken away that the held-out pairs had part in, those lie on
    the wrong side.) best_single: by the one dimension in which the centroids differ most, on the pairs that fitted it.
    """
    u, v = applied(fitting(*(train or (x, y))), *(train or (x, y)))
    apart, middle = u.mean(0) - v.mean(0), (u.mean(0) + v.mean(0)) / 2
    best = slice(int(np.abs(apart).argmax()), int(np.abs(apart).argmax()) + 1)
    judged = applied(fitting(*(train or (x, y))), x, y)
    found = {"best_single": _accuracy(judged[0][:, best], judged[1][:, best], np.sign(apart[best]), middle[best])}
    folds = 1 if train is not None else min(FOLDS, int(groups.max()) + 1)
    if train is None and folds == 1:
        return found
    counts = [d for d in (0, *REMOVED) if d < x.shape[1]]
    right = dict.fromkeys(counts, 0.0)
    for fold in range(folds):
        held = groups % folds == fold
        known = train or (x[~held], y[~held])
        transform = fitting(*known)
        u, v = applied(transform, *known)
        p, q = applied(transform, x[held], y[held])
        apart, middle = u.mean(0) - v.mean(0), (u.mean(0) + v.mean(0)) / 2
        spread = (covariance(u) + covariance(v)) / 2 + np.outer(apart, apart) / 4  # of both together
        order = np.argsort(-np.abs(apart), kind="stable")
        for removed in counts:
            kept = np.sort(order[removed:])
            inner = spread[np.ix_(kept, kept)]
            ridge = RIDGE * np.trace(inner) / len(kept) + ZERO
            normal = np.linalg.solve(inner + ridge * np.eye(len(kept)), apart[kept])
            right[removed] += _accuracy(p[:, kept], q[:, kept], normal, middle[kept]) * len(p)
    return {f"without_{d}" if d else "all": value / len(x) for d, value in right.items()} | found


def _accuracy(x: Array, y: Array, normal: Array, middle: Array) -> float:
    return float((np.mean((x - middle) @ normal > 0) + np.mean((y - middle) @ normal < 0)) / 2)


def intervals(
    x: Array, y: Array, hits: Mapping[str, Array], groups: NDArray[np.intp], *, draws: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals over groups drawn with replacement.

    Of averages over pairs, of the distance of the centroids, and of cones, mismatch and RMG, where two copies of one
    drawn pair do not count as two pairs. For R@k queries are drawn, and what is searched stays.
    """
    if not draws:
        return {}
    rng, count = np.random.default_rng(seed), int(groups.max()) + 1
    own = {"image": (x**2).sum(1), "text": (y**2).sum(1), "match": np.einsum("nd,nd->n", x, y)}
    names, found = list(hits), []
    each = np.stack([hits[name] for name in names], axis=1)  # [n, averages]
    step = max(1, BLOCK // max(len(x), x.shape[1]))
    for start in range(0, draws, step):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(step, draws - start))
        w = drawn[:, groups].astype(np.float64)  # [r, n]
        total, squares = w.sum(1), w**2
        sx, sy = w @ x, w @ y  # [r, d]
        different = total**2 - squares.sum(1)
        row = {"distance.centroids": np.linalg.norm(sx - sy, axis=1) / total}
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw of one pair alone has no two to compare
            for name, (a, b) in {"image": (sx, sx), "text": (sy, sy), "match": (sx, sy)}.items():
                row[name] = (np.einsum("rd,rd->r", a, b) - squares @ own[name]) / different
        row |= dict(zip(names, (w @ each / total[:, None]).T, strict=True))
        far, within = (1 - row["cosine.match"]) / 2, (2 - row["image"] - row["text"]) / 4
        with np.errstate(invalid="ignore", divide="ignore"):
            row["rmg"] = far / (far + within)
        row["cone.image.mean"], row["cone.text.mean"] = row.pop("image"), row.pop("text")
        row["cosine.mismatch"] = row.pop("match")
        found.append(row)
    drawn_values = {name: np.concatenate([row[name] for row in found]) for name in found[0]}
    bounds = {name: np.nanpercentile(v, [2.5, 97.5]) for name, v in drawn_values.items() if np.isfinite(v).any()}
    return {name: (float(bounds[name][0]), float(bounds[name][1])) for name in LABELS if name in bounds}


def shift(x: Array, y: Array, apart: Array, delta: float) -> tuple[Array, Array]:
    """Both modalities half of delta times the gap nearer to each other, and of unit length again; 1 closes it."""
    return unit(x - delta / 2 * apart), unit(y + delta / 2 * apart)


def along_shift(x: Array, y: Array, apart: Array) -> list[dict[str, float]]:
    """For each delta: distance of the centroids, R@1 both ways, and the contrastive loss at each temperature.

    The loss is CLIP's, of all pairs as one batch.
    """
    rows = []
    for delta in DELTAS:
        u, v = shift(x, y, apart, delta)
        (greater, ties), (greater_t, ties_t) = ranks(u, v)
        row = {
            "delta": delta,
            "distance.centroids": float(np.linalg.norm(u.mean(0) - v.mean(0))),
            "R@1.i2t": float(((1 - greater) / (ties + 1)).clip(0, 1).mean()),
            "R@1.t2i": float(((1 - greater_t) / (ties_t + 1)).clip(0, 1).mean()),
        }
        losses = contrastive_losses(u, v, TEMPERATURES)
        rows.append(row | {f"loss.{t:g}": loss for t, loss in zip(TEMPERATURES, losses, strict=True)})
    return rows


def contrastive_losses(x: Array, y: Array, temperatures: Sequence[float]) -> list[float]:
    """CLIP's loss of the pairs as one batch: the mean of the cross-entropies both ways, in nats."""
    n, own = len(x), np.einsum("nd,nd->n", x, y)
    rows, columns = np.zeros((len(temperatures), n)), np.zeros((len(temperatures), n))
    for part in blocks(n, n):
        below = x[part] @ y.T - 1  # of the largest cosine there is, so that no exp overflows
        for i, temperature in enumerate(temperatures):
            heat = np.exp(below / temperature)
            rows[i, part] = heat.sum(1)
            columns[i] += heat.sum(0)
    smallest = np.finfo(np.float64).tiny
    return [
        float(np.mean((np.log(rows[i].clip(smallest)) + np.log(columns[i].clip(smallest))) / 2 - (own - 1) / t))
        for i, t in enumerate(temperatures)
    ]
