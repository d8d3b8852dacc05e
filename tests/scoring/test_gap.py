"""The gap's measures against slow formulas, against a published feature file's figures, and on arrays one can judge."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.imports import ROOT
from pipeline.scoring import gap
from pipeline.scoring.gap import measure_gap

PUBLIC = ROOT.parent / "shared/data/gap"
# Of features that others published: centroids' distance, cones, match, mismatch, RMG, R@1 i2t and t2i, the same after a
# mean shift, best single dimension, effective ranks.
PRINTED = {
    "features_clip": "0.8514 0.5315 0.5152 0.3099 0.1616 0.5915 0.552 0.506 0.542 0.500 1.000 104.6 96.9",
    "features_videoclip_random": "0.9544 0.4440 0.8402 0.1916 0.1903 0.6931 0.00 0.01 0.02 0.03 0.910 55.6 47.8",
}


def embeddings(n=23, width=7, seed=0):
    """Pairs that have something in common, in two cones."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, width))
    return common + rng.normal(size=(n, width)) + 1.5, common + rng.normal(size=(n, width)) - np.arange(width) / 3


@pytest.mark.parametrize("name", PRINTED)
def test_public_features_have_the_figures_that_were_printed_of_them(name):
    if not (path := PUBLIC / f"{name}.npy").exists():
        pytest.skip(f"no {path}")
    found = measure_gap(*np.load(path), draws=0)
    plain = found.plain.values
    values = [
        *(plain[key] for key in ("distance.centroids", "cone.image.mean", "cone.text.mean", "cosine.match")),
        *(plain[key] for key in ("cosine.mismatch", "rmg", "R@1.i2t", "R@1.t2i")),
        *(found.shifted.values[key] for key in ("R@1.i2t", "R@1.t2i")),
        *(plain[key] for key in ("separability.best_single", "effective_rank.image", "effective_rank.text")),
    ]
    printed = PRINTED[name].split()
    assert [f"{value:.{len(p.split('.')[1])}f}" for value, p in zip(values, printed, strict=True)] == printed
    assert plain["separability.all"] == 1


def test_every_measure_is_what_a_slow_formula_gives():
    images, texts = embeddings()
    found = measure_gap(images, texts, draws=0).plain.values
    x, y = (torch.nn.functional.normalize(torch.tensor(rows), dim=1) for rows in (images, texts))
    n = len(x)
    expected = {"distance.centroids": (x.mean(0) - y.mean(0)).norm(), "distance.pairs": (x - y).norm(dim=1).mean()}
    for name, rows in (("image", x), ("text", y)):
        cosines = torch.stack([F.cosine_similarity(a, b, dim=0) for a, b in itertools.combinations(rows, 2)])
        expected |= {f"cone.{name}.mean": cosines.mean(), f"cone.{name}.sd": cosines.std(unbiased=False)}
        expected |= {f"cone.{name}.p{p}": np.percentile(cosines, p) for p in range(10, 100, 10)}
        expected[f"uniformity.{name}"] = torch.pdist(rows).square().mul(-2).exp().mean().log()
        shares = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
        shares /= shares.sum()
        expected[f"effective_rank.{name}"] = np.exp(-(shares * np.log(shares)).sum())
    expected["cosine.match"] = sum(x[i] @ y[i] for i in range(n)) / n
    expected["cosine.mismatch"] = sum(x[i] @ y[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    far, within = 1 - expected["cosine.match"], 1 - (expected["cone.image.mean"] + expected["cone.text.mean"]) / 2
    expected["rmg"] = far / (far + within)
    expected["alignment"] = sum((a - b).square().sum() for a, b in zip(x, y, strict=True)) / n
    both = torch.cat([x, y])
    _, strengths, axes = np.linalg.svd(both - both.mean(0), full_matrices=False)
    expected["pc1.direction"] = abs(F.cosine_similarity(torch.as_tensor(axes[0]), x.mean(0) - y.mean(0), dim=0))
    expected["pc1.variance"] = strengths[0] ** 2 / (strengths**2).sum()
    for way, cosines in (("i2t", x @ y.T), ("t2i", y @ x.T)):
        order = cosines.argsort(dim=1, descending=True)
        rank = 1 + (order == torch.arange(n)[:, None]).int().argmax(dim=1)
        expected |= {f"R@{k}.{way}": (rank <= k).double().mean() for k in (1, 5, 10)}
        expected[f"median_rank.{way}"] = np.median(rank)
    apart = (x.mean(0) - y.mean(0)).numpy()
    best = abs(apart).argmax()
    middle = (x[:, best].mean() + y[:, best].mean()) / 2
    right = ((x[:, best] > middle) == (apart[best] > 0)).double().mean()
    right += ((y[:, best] > middle) == (apart[best] < 0)).double().mean()
    expected["separability.best_single"] = right / 2
    assert {name for name in found if not name.startswith("separability")} == expected.keys() - {
        "separability.best_single"
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-9), name


def test_blocks_and_histograms_change_nothing(monkeypatch):
    pairs = embeddings(n=150)
    whole = measure_gap(*pairs, facts=[i // 3 for i in range(150)], draws=50)
    monkeypatch.setattr(gap, "BLOCK", 1000)
    monkeypatch.setattr(gap, "EXACT", 0)
    parts = measure_gap(*pairs, facts=[i // 3 for i in range(150)], draws=50)
    for name, value in whole.plain.values.items():
        assert parts.plain.values[name] == pytest.approx(value, abs=2e-3 if ".p" in name else 1e-9), name
    assert parts.curve[3] == pytest.approx(whole.curve[3])


def test_loss_along_the_shift_is_that_of_cross_entropies():
    images, texts = embeddings()
    found = {row["delta"]: row for row in measure_gap(images, texts, draws=0).curve}
    assert next(iter(found)) == -1 and list(found)[-1] == 1 and len(found) == 21
    x, y = (F.normalize(torch.tensor(rows), dim=1) for rows in (images, texts))
    apart = x.mean(0) - y.mean(0)
    for delta in (-0.7, 0, 1):
        u, v = F.normalize(x - delta / 2 * apart, dim=1), F.normalize(y + delta / 2 * apart, dim=1)
        for temperature in (0.01, 0.02, 0.05, 0.1, 1):
            logits, own = u @ v.T / temperature, torch.arange(len(u))
            loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
            assert found[delta][f"loss.{temperature:g}"] == pytest.approx(loss.item())
        assert found[delta]["distance.centroids"] == pytest.approx((u.mean(0) - v.mean(0)).norm().item())
    assert found[1]["distance.centroids"] < 0.3 * found[0]["distance.centroids"] < found[-1]["distance.centroids"]


def test_shift_and_standardisation_are_fitted_on_train_and_applied_to_the_others():
    images, texts = embeddings(seed=0)
    train = embeddings(n=60, seed=1)
    found = measure_gap(images, texts, train=train, draws=0)
    assert found.fitted_on == 60

    def moved(rows, fitted, standardise):
        rows, fitted = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (rows, fitted))
        rows = (rows - fitted.mean(0)) / (fitted.std(0) if standardise else 1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    for standardise, values in ((False, found.shifted.values), (True, found.standardised.values)):
        x, y = (moved(rows, fitted, standardise) for rows, fitted in zip((images, texts), train, strict=True))
        assert values["distance.centroids"] == pytest.approx(np.linalg.norm(x.mean(0) - y.mean(0)))
        assert values["cosine.match"] == pytest.approx((x * y).sum(1).mean())
    alone = measure_gap(images, texts, draws=0)
    assert alone.plain.values["cosine.match"] == found.plain.values["cosine.match"]
    assert alone.shifted.values["distance.centroids"] < found.shifted.values["distance.centroids"]


def test_what_was_told_apart_by_one_dimension_is_not_without_it():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 200, 12))
    images[:, 4] += 40
    texts[:, 4] -= 40
    found = measure_gap(images, texts, draws=0).plain.values
    assert found["separability.all"] == found["separability.best_single"] == 1
    assert abs(found["separability.without_1"] - 0.5) < 0.1
    assert found["pc1.direction"] > 0.999


def test_taking_the_mean_away_leaves_nothing_to_tell_modalities_apart_by():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 100, 60)) + np.array([[[1.0]], [[-1.0]]])
    found = measure_gap(images, texts, draws=0)
    assert found.plain.values["separability.all"] == 1
    assert abs(found.shifted.values["separability.all"] - 0.5) < 0.1  # and not 0: the shift is fitted without them


def test_two_equal_texts_share_the_first_place():
    images = np.eye(3)[[0, 1, 2]]
    texts = np.eye(3)[[0, 0, 2]]  # the second image's text is that of the first
    found = measure_gap(images, texts, draws=0)
    assert found.plain.values["R@1.i2t"] == pytest.approx(
        (0.5 + 1 / 3 + 1) / 3
    )  # all three are as far from the second image
    assert found.plain.values["R@1.t2i"] == pytest.approx((1 + 0 + 1) / 3)
    assert found.plain.values["median_rank.i2t"] == 1.5
    assert any("1 of 3 texts repeat another" in note for note in found.notes)


def test_a_text_of_the_same_facts_is_as_right_as_the_own_one():
    images = np.eye(4)
    texts = np.eye(4)[[1, 0, 2, 3]]  # of the first two images, each other's
    found = measure_gap(images, texts, facts=["red", "red", "blue", "green"], draws=0).plain.values
    assert found["R@1.i2t"] == 0.5 and found["facts.R@1.i2t"] == found["facts.R@1.t2i"] == 1
    assert found["facts.median_rank.i2t"] == 1 < found["median_rank.t2i"]


def test_intervals_hold_what_other_pairs_give_and_widen_where_videos_are_drawn():
    images, texts = embeddings(n=400)
    found = measure_gap(images[:100], texts[:100])
    others = measure_gap(images, texts, draws=0).plain.values
    of_cosines = {name: ends for name, ends in found.plain.intervals.items() if "R@" not in name}  # R@k falls with n
    inside = [low <= others[name] <= high for name, (low, high) in of_cosines.items()]
    assert len(inside) == 8 and sum(inside) >= 6
    for name, (low, high) in found.plain.intervals.items():
        assert low <= found.plain.values[name] <= high or name == "distance.centroids", name
    copies = measure_gap(np.repeat(images[:25], 4, 0), np.repeat(texts[:25], 4, 0), groups=np.repeat(range(25), 4))
    single = measure_gap(images[:25], texts[:25])
    (low, high), (wide_low, wide_high) = (one.plain.intervals["cosine.match"] for one in (single, copies))
    assert (wide_low, wide_high) == pytest.approx((low, high))  # four copies of a video say no more than one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :5], y), "images are 5 wide, texts 7: they are not of one space"),
        (lambda x, y: (x[:-1], y), "found 22 images and 23 texts: row i of both is to be a pair"),
        (
            lambda x, y: (x, np.where(np.arange(23)[:, None] == 4, np.nan, y)),
            "texts: 1 of 23 rows hold NaN or infinity",
        ),
        (lambda x, y: (x * (np.arange(23)[:, None] > 1), y), "images: 2 of 23 rows are zero, the first is row 0"),
        (lambda x, y: (x[:1], y[:1]), "found 1 pair, expected at least 2"),
        (lambda x, y: (x[:0], y[:0]), "found 0 pairs, expected at least 2"),
        (lambda x, y: (x[0], y[0]), "images: found an array of shape [7], expected [pairs, width]"),
        (lambda x, y: (x.astype(str), y), "images: found values of type <U"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(change, message):
    with pytest.raises(ValueError) as error:
        measure_gap(*change(*embeddings()))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_length_does_not_count_however_large_or_small():
    images, texts = embeddings()
    scaled = images * 10.0 ** np.linspace(-200, 200, 23)[:, None]
    plain = measure_gap(images, texts, draws=0).plain.values
    assert measure_gap(scaled, texts, draws=0).plain.values == pytest.approx(plain)


def test_embeddings_that_are_all_the_same_have_no_rank_and_no_retrieval():
    found = measure_gap(np.ones((5, 3)), -np.ones((5, 3)), draws=0)
    assert np.isnan(found.plain.values["effective_rank.image"])
    assert found.plain.values["R@1.i2t"] == pytest.approx(1 / 5)
    assert found.plain.values["distance.centroids"] == pytest.approx(2)
    assert any("zero once their mean is taken away" in note for note in found.notes)
