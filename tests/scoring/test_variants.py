import numpy as np
import pandas as pd
import pytest

from pipeline.scoring.paired import compare, holm
from pipeline.scoring.variants import best, curve_by_length, summarize


def scores(values, facts=None, lengths=None) -> pd.DataFrame:
    n = len(values)
    table = pd.DataFrame(
        {
            "segment_id": [f"v{i}#0" for i in range(n)],
            "kind": ["now", "order"] * (n // 2) + ["now"] * (n % 2),
            "start_s": 1.0,
            "end_s": 1.0 + (np.arange(n) + 1.0 if lengths is None else lengths),
            "references": [["a caption"]] * n,
            "CIDEr": np.asarray(values, dtype=np.float64),
        }
    )
    if facts is not None:
        table["facts"] = pd.array(facts, dtype="boolean")
    return table


def by_key(results):
    return {(r.variant, r.group, r.metric): r for r in results}


def test_mean_and_sd_are_over_the_seeds_runs():
    runs = {
        "last": [scores([0, 0, 2, 2]), scores([1, 1, 3, 3])],
        "memory": [scores([10, 20, 30, 40]), scores([10, 20, 30, 48])],
    }
    found = by_key(summarize(runs, ["last"], draws=100))
    assert (found["last", "all", "CIDEr"].mean, found["memory", "all", "CIDEr"].mean) == (1.5, 26)
    assert found["last", "all", "CIDEr"].sd == pytest.approx(np.sqrt(0.5))  # of 1 and 2
    assert found["memory", "order", "CIDEr"].mean == 32  # of 20, 40 and 20, 48
    assert found["memory", "order", "CIDEr"].sd == pytest.approx(np.sqrt(8))  # of 30 and 34
    assert found["memory", "order", "CIDEr"].over["last"].mean == 30.5
    assert found["memory", "order", "CIDEr"].segments == 2
    assert found["last", "all", "CIDEr"].over == {}


def test_variants_are_compared_over_the_seeds_that_both_have():
    runs = {"last": [scores([0, 0, 2, 2]), scores([100, 100, 300, 300])], "memory": [scores([10, 20, 30, 40])]}
    found = by_key(summarize(runs, ["last"], draws=100))
    assert (found["last", "all", "CIDEr"].mean, found["memory", "all", "CIDEr"].mean) == (100.5, 25)
    assert found["memory", "all", "CIDEr"].over["last"].mean == 24  # of the first run alone
    assert found["memory", "all", "CIDEr"].over["last"].low > 0


def test_a_single_seed_has_no_sd():
    [result, *_] = summarize({"last": [scores([1, 2])]}, ["last"], draws=10)
    assert result.sd is None


def test_facts_are_in_percent_and_left_out_where_they_are_unknown():
    runs = {"last": [scores([1, 2], [True, False]), scores([1, 2], [True, True])]}
    assert by_key(summarize(runs, [], draws=10))["last", "all", "facts"].mean == 75
    runs = {"last": [scores([1, 2], [None, None])]}
    assert {result.metric for result in summarize(runs, [], draws=10)} == {"CIDEr"}


def test_a_score_that_any_run_lacks_for_a_segment_is_left_out_of_all():
    lacking = scores([1, 2]).assign(METEOR=[1.0, np.nan])
    runs = {"last": [scores([1, 2]).assign(METEOR=[1.0, 2.0])], "memory": [lacking]}
    assert {result.metric for result in summarize(runs, ["last"], draws=10)} == {"CIDEr"}


def test_intervals_are_those_of_comparing_the_averages_over_seeds():
    rng = np.random.default_rng(0)
    common = rng.normal(300, 50, size=120)  # of each segment, in all runs: what pairing takes out
    values = {
        name: [common + rng.normal(shift, 20, size=120) for _ in range(3)] for name, shift in (("a", 0), ("b", 9))
    }
    runs = {name: [scores(run) for run in of_one] for name, of_one in values.items()}
    found = by_key(summarize(runs, ["a"]))
    averages = {name: scores(np.mean(of_one, axis=0)) for name, of_one in values.items()}
    for expected in compare(averages["a"], averages["b"]):
        difference = found["b", expected.group, "CIDEr"].over["a"]
        assert difference.mean == pytest.approx(expected.difference)
        # Two bootstraps of 10,000 draws differ by some hundredths of the interval.
        assert expected.low is not None and expected.high is not None
        wiggle = 0.05 * (expected.high - expected.low)
        assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=wiggle)
    overall = found["b", "all", "CIDEr"].over["a"]
    assert overall.high - overall.low < 2 * 1.96 * np.sqrt(2 * 20**2 / 3 / 120) * 1.2  # far from 50's share
    assert (overall.low, overall.high) == pytest.approx(
        (overall.mean - 1.96 * 20 * np.sqrt(2 / 3 / 120), overall.mean + 1.96 * 20 * np.sqrt(2 / 3 / 120)), abs=1
    )


def test_intervals_and_p_are_over_videos():
    rng = np.random.default_rng(0)
    base, gains = rng.normal(size=30), rng.normal(0.4, 1, size=30)
    runs = {
        name: [scores(np.repeat(values, 3)).assign(video_id=[f"v{i // 3}" for i in range(90)])]  # three equal segments
        for name, values in (("a", base), ("b", base + gains))
    }
    alone = {name: [scores(values)] for name, values in (("a", base), ("b", base + gains))}
    of_three, of_one = (by_key(summarize(tables, ["a"]))["b", "all", "CIDEr"].over["a"] for tables in (runs, alone))
    assert of_three.mean == pytest.approx(of_one.mean)
    wiggle = 0.05 * (of_one.high - of_one.low)
    assert (of_three.low, of_three.high) == pytest.approx((of_one.low, of_one.high), abs=wiggle)
    assert of_three.p == pytest.approx(of_one.p, abs=0.01)


def test_a_curves_band_is_over_videos():
    rng = np.random.default_rng(0)
    values = rng.normal(size=30)
    table = scores(np.repeat(values, 8), lengths=np.full(240, 3.0))
    widths = []
    for of_one in (table, table.assign(video_id=[f"v{i // 8}" for i in range(240)])):
        curve = curve_by_length([of_one], draws=4000, points=1)
        widths.append((curve.high - curve.low).mean())
    normal = 2 * 1.96 * values.std() / np.sqrt(30)  # eight equal segments say as much as one
    assert widths == pytest.approx([normal / np.sqrt(8), normal], rel=0.08)


def test_a_single_video_has_no_interval():
    runs = {name: [scores([1.0, shift]).assign(video_id="v")] for name, shift in (("a", 1.0), ("b", 3.0))}
    difference = by_key(summarize(runs, ["a"], draws=10))["b", "all", "CIDEr"].over["a"]
    assert (difference.mean, difference.low, difference.high, difference.p, difference.p_holm) == (1, *(None,) * 4)


def test_p_is_corrected_over_all_variants_and_groups_of_a_score_and_a_reference():
    rng = np.random.default_rng(0)
    runs = {
        name: [scores(rng.normal(shift, 1, size=20), rng.random(20) < 0.5)]
        for name, shift in (("a", 0), ("b", 0.5), ("c", 1))
    }
    results = summarize(runs, ["a", "b"], draws=200)
    for metric in ("CIDEr", "facts"):
        for reference in ("a", "b"):
            found = [r.over[reference] for r in results if r.metric == metric and reference in r.over]
            assert len(found) == 2 * 3  # of two variants, in all and two kinds
            assert [one.p_holm for one in found] == holm([one.p for one in found])


def test_rows_may_come_in_any_order():
    one, other = scores([1, 2, 3, 4, 5, 6]), scores([2, 4, 6, 8, 10, 12])
    straight = summarize({"a": [one, one], "b": [other, one]}, ["a"], draws=200)
    shuffled = summarize(
        {"a": [one, one.iloc[::-1]], "b": [other.sample(frac=1, random_state=1), one]}, ["a"], draws=200
    )
    assert straight == shuffled


def test_runs_over_other_segments_are_refused_naming_the_run():
    runs = {"last": [scores([1, 2])], "memory": [scores([1, 2]), scores([1, 2, 3])]}
    with pytest.raises(ValueError, match=r"run 1 of last and run 2 of memory: 2 and 3 segments, 1 of them in only one"):
        summarize(runs, ["last"], draws=10)


def test_the_best_baseline_is_best_on_average_not_in_its_luckiest_run():
    runs = {
        "lucky": [scores([9, 9]), scores([1, 1])],
        "steady": [scores([6, 6]), scores([6, 6])],
        "memory": [scores([50, 50])] * 2,
    }
    assert best(runs, ["lucky", "steady"]) == "steady"


def test_a_curve_is_the_weighted_average_that_a_loop_finds():
    rng = np.random.default_rng(0)
    lengths = rng.uniform(2, 12, size=60)
    runs = [rng.normal(10 * lengths, 5) for _ in range(2)]
    curve = curve_by_length([scores(run, lengths=lengths) for run in runs], points=7, draws=400)
    shortest, longest = np.percentile(lengths, 5), np.percentile(lengths, 95)
    assert (curve.lengths_s[0], curve.lengths_s[-1]) == pytest.approx((shortest, longest))

    def at(length, chosen):
        total = weights = 0.0
        for i in chosen:
            weight = np.exp(-(((lengths[i] - length) / ((longest - shortest) / 10)) ** 2) / 2)
            total += weight * (runs[0][i] + runs[1][i]) / 2
            weights += weight
        return total / weights

    assert curve.mean == pytest.approx([at(length, range(60)) for length in curve.lengths_s])
    draws = [at(curve.lengths_s[3], rng.integers(60, size=60)) for _ in range(400)]
    low, high = np.percentile(draws, [2.5, 97.5])
    assert (curve.low[3], curve.high[3]) == pytest.approx((low, high), abs=0.2 * (high - low))


def test_a_curve_of_equal_scores_or_equal_lengths_is_flat():
    curve = curve_by_length([scores([7.0] * 10)], draws=50)
    for side in (curve.low, curve.mean, curve.high):
        assert side == pytest.approx(np.full(100, 7.0))
    curve = curve_by_length([scores([6.0, 8.0], lengths=np.array([3.0, 3.0]))], draws=50)
    assert curve.mean == pytest.approx(np.full(100, 7.0))
