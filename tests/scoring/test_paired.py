"""Statistics of pairs, against exact counts and slow obvious versions."""

import itertools

import numpy as np
import pandas as pd
import pytest

import pipeline.scoring.paired as module
from pipeline.scoring.paired import (
    bootstrap,
    compare,
    exchanged,
    holm,
    means,
    randomisation_p,
    resampled,
    sums,
    videos_of,
)


def scores(values, kinds=None, videos=None) -> pd.DataFrame:
    n = len(values)
    table = pd.DataFrame(
        {
            "segment_id": [f"s{i:03d}" for i in range(n)],
            "kind": kinds or ["now"] * n,
            "start_s": np.zeros(n),
            "end_s": np.arange(n) + 1.0,
            "references": [["a caption"]] * n,
            "CIDEr": values,
        }
    )
    return table if videos is None else table.assign(video_id=videos)


def ones(n: int) -> np.ndarray:
    """Segments of each video, where each has one."""
    return np.ones(n, dtype=np.intp)


def test_the_interval_of_a_mean_is_the_normal_one_for_many_pairs():
    differences = np.random.default_rng(0).normal(1.0, 2.0, size=400)
    (resamples,) = means([differences], resampled(ones(400), np.random.default_rng(1), 10_000)).T
    low, high, p = bootstrap(resamples, differences.mean())
    error = differences.std() / 20
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    assert p < 0.001 < low


def test_the_bootstraps_p_is_the_normal_one_for_many_pairs():
    differences = np.random.default_rng(0).normal(size=400)
    differences += 2 * differences.std() / 20 - differences.mean()  # two standard errors from 0
    (resamples,) = means([differences], resampled(ones(400), np.random.default_rng(1), 20_000)).T
    assert bootstrap(resamples, differences.mean())[2] == pytest.approx(0.0455, abs=0.01)


def test_p_is_exact_where_all_exchanges_can_be_counted():
    # Of the 8 ways to sign (3, 2, 1), two have a mean as far from zero as all plus.
    def p(differences, draws):
        exchanges = means([differences], exchanged(ones(len(differences)), np.random.default_rng(0), draws))
        return randomisation_p(exchanges[:, 0], differences.mean())

    assert p(np.array([3.0, 2.0, 1.0]), 20_000) == pytest.approx(0.25, abs=0.01)
    assert p(np.zeros(5), 100) == 1.0


def test_both_p_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    weights, signs = list(resampled(ones(50), rng, 500)), list(exchanged(ones(50), rng, 500))
    # Scores as they are: many pairs alike, the others skewed.
    nothing = [rng.choice([0, 0, 1, -1], 50) * rng.exponential(size=50) for _ in range(400)]
    resamples, exchanges = means(nothing, weights).T, means(nothing, signs).T
    found = np.array(
        [
            (bootstrap(resampled_means, gain.mean())[2], randomisation_p(exchanged_means, gain.mean()))
            for gain, resampled_means, exchanged_means in zip(nothing, resamples, exchanges, strict=True)
        ]
    )
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (found < level).mean(axis=0) == pytest.approx([level, level], abs=0.07), level


def test_draws_in_blocks_are_the_draws_at_once(monkeypatch):
    def draws(block):
        monkeypatch.setattr(module, "BLOCK", block)
        rng = np.random.default_rng(3)
        return [list(draw(ones(70), rng, 99)) for draw in (resampled, exchanged, resampled)]

    whole, parts = draws(2**20), draws(70 * 11)  # 8 rows at a time, and 3 in the end
    assert [len(blocks) for blocks in whole] == [1] * 3 and [len(blocks) for blocks in parts] == [13] * 3
    for at_once, blocks in zip(whole, parts, strict=True):
        assert np.array_equal(at_once[0], np.concatenate(blocks))


def test_a_single_segment_has_no_interval_and_no_p():
    one = compare(scores([1.0]), scores([5.0]))[0]
    assert (one.difference, one.low, one.high, one.p, one.p_bootstrap) == (4, None, None, None, None)
    kinds = ["now", "before", "before"]
    found = {r.group: r.p is None for r in compare(scores([1.0, 2, 3], kinds), scores([5.0, 2, 3], kinds))}
    assert found == {"all": False, "now": True, "before": False}


def test_groups_are_all_the_kinds_and_thirds_by_length():
    kinds = ["now", "before"] * 20
    better = np.where(np.array(kinds) == "before", 10.0, 0.0)
    rng = np.random.default_rng(0)
    base = rng.normal(50, 1, size=40)
    results = {r.group: r for r in compare(scores(base, kinds), scores(base + better, kinds))}
    assert set(results) == {"all", "now", "before", "short", "medium", "long"}
    assert results["before"].difference == pytest.approx(10) and (results["before"].p or 1) < 0.001
    assert results["now"].difference == 0 and results["now"].p == 1
    assert (results["all"].low or 0) > 0 and results["all"].segments == 40
    assert sum(results[third].segments for third in ("short", "medium", "long")) == 40


@pytest.fixture
def clustered():
    """Gains [n] of segments whose videos [n] have one to six each, and are good or bad as a whole."""
    rng = np.random.default_rng(5)
    videos = np.repeat(np.arange(40), rng.integers(1, 7, size=40))
    return rng.normal(0.6, 1.5, size=40)[videos] + rng.normal(0, 0.5, size=len(videos)), videos


def test_weights_of_the_videos_sums_make_means_over_segments():
    counts = np.array([1, 5, 2, 9])
    for draw in resampled, exchanged:
        (weights,) = draw(counts, np.random.default_rng(0), 50)
        sides = np.sign(weights) if draw is exchanged else 1
        assert (sides * weights) @ counts == pytest.approx(np.ones(50))
    (weights,) = resampled(counts, np.random.default_rng(0), 50)
    assert len(np.unique((weights > 0) @ counts)) > 3  # resamples differ in how many segments they have


def test_intervals_are_wider_than_if_segments_were_independent(clustered):
    gains, videos = clustered
    (resamples,) = means([sums(gains, videos)], resampled(np.bincount(videos), np.random.default_rng(0), 5000)).T
    low, high, _ = bootstrap(resamples, gains.mean())
    assert high - low > 1.5 * 2 * 1.96 * gains.std() / np.sqrt(len(gains))


def test_p_is_the_exact_share_of_all_ways_to_exchange_whole_videos(clustered):
    gains, videos = clustered
    gains, videos = gains[videos < 11] - 0.4, videos[videos < 11]
    (exchanges,) = means([sums(gains, videos)], exchanged(np.bincount(videos), np.random.default_rng(0), 20_000)).T
    every = [abs(np.mean(gains * np.array(signs)[videos])) for signs in itertools.product((-1, 1), repeat=11)]
    exact = np.mean(np.array(every) >= abs(gains.mean()) - 1e-9)
    assert 0.02 < exact < 0.9
    assert randomisation_p(exchanges, gains.mean()) == pytest.approx(exact, abs=0.015)


def test_comparing_clusters_finds_what_loops_over_videos_find(clustered):
    gains, videos = clustered
    base = np.random.default_rng(6).normal(50, 5, size=len(gains))
    names = [f"v{video}" for video in videos]
    [found] = [r for r in compare(scores(base, videos=names), scores(base + gains, videos=names)) if r.group == "all"]
    assert (found.segments, found.videos) == (len(gains), 40)
    rng = np.random.default_rng(7)
    draws, exchanges = [], []
    for _ in range(3000):
        drawn = rng.integers(40, size=40)
        draws.append(np.concatenate([gains[videos == video] for video in drawn]).mean())
        exchanges.append((gains * rng.choice([-1, 1], size=40)[videos]).mean())
    assert found.low is not None and found.high is not None
    wide = found.high - found.low
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.06 * wide)
    assert found.p == pytest.approx(np.mean(np.abs(exchanges) >= abs(gains.mean())), abs=0.02)


def test_with_one_segment_a_video_every_digit_is_that_of_drawing_segments():
    # What this project found when it drew segments: the same table, the same seed.
    rng = np.random.default_rng(7)
    base = rng.normal(50, 10, size=24)
    better = base + rng.normal(3, 6, size=24)
    tables = [scores(values, ["now", "order"] * 12) for values in (base, better)]
    identified = [scores(values, ["now", "order"] * 12, [f"v{i}" for i in range(24)]) for values in (base, better)]
    for one, two in (tables, identified):
        assert [(r.group, r.difference, r.low, r.high, r.p, r.p_bootstrap) for r in compare(one, two, draws=1000)] == [
            ("all", 1.3524014309668144, -0.9995601403335728, 3.369363982737436, 218 / 1001, 202 / 1001),
            ("now", 1.3156132495663926, -2.5738851638641713, 4.768202956267801, 518 / 1001, 489 / 1001),
            ("order", 1.389189612367236, -0.6599025880082119, 3.3245244515554284, 221 / 1001, 170 / 1001),
        ]


def test_no_p_is_below_what_the_number_of_draws_can_tell():
    [result, *_] = compare(scores([1.0] * 60), scores([9.0] * 60), draws=99)
    assert result.p == result.p_bootstrap == 1 / 100


def test_the_second_run_less_the_first_in_percent():
    first, second = scores([1.0, 2.0, 3.0, 4.0]), scores([2.0, 2.0, 3.0, 6.0])
    first["facts"], second["facts"] = [True, False, False, False], [True, True, True, False]
    found = {r.metric: r for r in compare(first, second, draws=500) if r.group == "all"}
    assert (found["CIDEr"].first, found["CIDEr"].second, found["CIDEr"].difference) == (2.5, 3.25, 0.75)
    assert (found["facts"].first, found["facts"].second, found["facts"].difference) == (25, 75, 50)
    assert (found["facts"].low, found["facts"].high) == (0, 100)


def test_thirds_by_length_need_ten_segments_each():
    assert {r.group for r in compare(scores([1.0] * 29), scores([2.0] * 29), draws=10)} == {"all", "now"}
    found = compare(scores([1.0] * 30), scores(np.arange(30.0)), draws=10)
    assert {r.group: r.segments for r in found} == {"all": 30, "now": 30, "short": 10, "medium": 10, "long": 10}
    assert {r.group: r.second for r in found}["short"] == 4.5  # of the ten shortest, the first ten


def test_segments_are_paired_by_their_ids_whatever_the_order_of_rows():
    first, second = scores([1.0, 2.0, 3.0, 10.0]), scores([2.0, 3.0, 4.0, 11.0])
    for table in (second, second.iloc[::-1], second.sample(frac=1, random_state=1)):
        [result, *_] = compare(first, table, draws=50)
        assert (result.difference, result.low, result.high) == (1, 1, 1)


def test_a_segment_without_a_video_is_a_video_of_its_own():
    table = pd.DataFrame({"segment_id": list("abcdef"), "video_id": ["v", None, "w", "v", None, "w"]})
    found = videos_of(table)
    assert found[0] == found[3] and found[2] == found[5] and len(set(found)) == 4
    assert sorted(set(found)) == list(range(4))
    assert list(videos_of(table[["segment_id"]])) == list(range(6))


def test_video_ids_of_either_run_are_enough_and_their_lack_is_told():
    plain, named = scores([1.0, 2.0, 4.0, 4.0]), scores([2.0, 3.0, 4.0, 5.0], videos=["v", "v", "w", "w"])
    assert [r.videos for r in compare(plain, named, draws=10)] == [2, 2]  # all, now
    assert [r.videos for r in compare(named, plain, draws=10)] == [2, 2]
    assert [r.videos for r in compare(plain, plain, draws=10)] == [None, None]


def test_a_single_video_has_no_interval_and_no_p_however_many_segments_it_has():
    found = compare(scores([1.0, 2.0], videos=["v", "v"]), scores([5.0, 7.0], videos=["v", "v"]))[0]
    assert (found.difference, found.videos) == (4.5, 1)
    assert (found.low, found.high, found.p, found.p_bootstrap, found.p_holm) == (None,) * 5


def test_holm_rejects_what_its_procedure_rejects_step_by_step():
    def rejected(ps, level):
        """Holm 1979: the smallest p against level / m, the next against level / (m - 1), ..., until one is above."""
        found = set()
        for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
            if ps[i] > level / (len(ps) - rank):
                break
            found.add(i)
        return found

    rng = np.random.default_rng(0)
    for size, level in itertools.product((1, 2, 5, 30), (0.01, 0.05, 0.3)):
        ps = (rng.random(size) ** 4).tolist()
        corrected = holm(ps)
        assert {i for i, p in enumerate(corrected) if p is not None and p <= level} == rejected(ps, level)
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def test_p_is_corrected_for_all_groups_and_scores_together():
    rng = np.random.default_rng(0)
    first = scores(rng.normal(size=40), ["now", "order"] * 20).assign(METEOR=rng.normal(size=40))
    second = first.assign(CIDEr=first["CIDEr"] + rng.normal(0.4, 1, size=40), METEOR=rng.normal(size=40))
    results = compare(first, second, draws=200)
    assert len(results) == 2 * 6
    assert [r.p_holm for r in results] == holm([r.p for r in results]) != [r.p for r in results]
