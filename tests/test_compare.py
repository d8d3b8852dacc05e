import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.compare import bootstrap, common, compare, exchanged, randomisation_p, resampled
from pipeline.scores import METRICS, score


def scores(values, kinds=None) -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame(
        {
            "segment_id": [f"v{i}#0" for i in range(n)],
            "kind": kinds or ["now"] * n,
            "start_s": np.zeros(n),
            "end_s": np.arange(n) + 1.0,
            "references": [["a caption"]] * n,
            "CIDEr": values,
        }
    )


def test_the_interval_of_a_mean_is_the_normal_one_for_many_pairs():
    differences = np.random.default_rng(0).normal(1.0, 2.0, size=400)
    low, high, p = bootstrap(differences, resampled(400, np.random.default_rng(1), 10_000))
    error = differences.std() / 20
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    assert p < 0.001 < low


def test_the_bootstraps_p_is_the_normal_one_for_many_pairs():
    differences = np.random.default_rng(0).normal(size=400)
    differences += 2 * differences.std() / 20 - differences.mean()  # two standard errors from 0
    assert bootstrap(differences, resampled(400, np.random.default_rng(1), 20_000))[2] == pytest.approx(
        0.0455, abs=0.01
    )


def test_p_is_exact_where_all_exchanges_can_be_counted():
    # Of the 8 ways to sign (3, 2, 1), two have a mean as far from zero as all plus.
    rng = np.random.default_rng(0)
    assert randomisation_p(np.array([3.0, 2.0, 1.0]), exchanged(3, rng, 20_000)) == pytest.approx(0.25, abs=0.01)
    assert randomisation_p(np.zeros(5), exchanged(5, rng, 100)) == 1.0


def test_both_p_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    weights, signs = resampled(50, rng, 500), exchanged(50, rng, 500)
    # Scores as they are: many pairs alike, the others skewed.
    nothing = [rng.choice([0, 0, 1, -1], 50) * rng.exponential(size=50) for _ in range(400)]
    found = np.array([(bootstrap(gain, weights)[2], randomisation_p(gain, signs)) for gain in nothing])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (found < level).mean(axis=0) == pytest.approx([level, level], abs=0.07), level


def test_groups_are_all_the_kinds_and_thirds_by_length():
    kinds = ["now", "before"] * 20
    better = np.where(np.array(kinds) == "before", 10.0, 0.0)
    rng = np.random.default_rng(0)
    base = rng.normal(50, 1, size=40)
    results = {r.group: r for r in compare(scores(base, kinds), scores(base + better, kinds))}
    assert set(results) == {"all", "now", "before", "short", "medium", "long"}
    assert results["before"].difference == pytest.approx(10) and results["before"].p < 0.001
    assert results["now"].difference == 0 and results["now"].p == 1
    assert results["all"].low > 0 and results["all"].segments == 40
    assert sum(results[third].segments for third in ("short", "medium", "long")) == 40


def test_runs_over_other_segments_or_references_are_refused():
    with pytest.raises(ValueError, match=r"3 and 2 segments, 1 of them in one run only \(v2#0"):
        compare(scores([1.0, 2.0, 3.0]), scores([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"--common compares the segments that both have$"):
        compare(scores([1.0, 2.0]), scores([1.0, 2.0, 3.0]))
    other = scores([1.0])
    other["references"] = [["another"]]
    with pytest.raises(ValueError, match="references differ"):
        compare(scores([1.0]), other)
    with pytest.raises(ValueError, match="references differ"):
        common(scores([1.0, 2.0]), other)
    other["segment_id"] = "x"
    with pytest.raises(ValueError, match=r"^the runs have no segment in common$"):
        common(scores([1.0]), other)


def test_common_segments_are_scored_anew_because_ciders_rare_words_are_counted_over_all():
    said = {"a": "a dog runs", "b": "a cat sleeps on a mat", "c": "a dog sleeps", "d": "two men play"}
    meant = {"a": ["the dog runs fast"], "b": ["a cat sleeps"], "c": ["a dog sleeps"], "d": ["men play chess"]}

    def run(ids):
        """With scores that nobody computed."""
        texts = {"caption": [said[id] for id in ids], "references": [meant[id] for id in ids]}
        return scores([0.0] * len(ids)).assign(segment_id=list(ids), **texts)

    one, two = common(run("abc"), run("abcd"))
    wanted = score({id: said[id] for id in "abc"}, {id: meant[id] for id in "abc"}).segments
    for found in (one, two):
        assert list(found["segment_id"]) == ["a", "b", "c"]
        assert found[list(METRICS)].equals(wanted[list(METRICS)])
    assert {result.difference for result in compare(one, two)} == {0.0}
    same = run("ab")
    assert all(table is same for table in common(same, same))  # nothing to restrict, nothing scored anew


def test_the_command_compares_the_workspace_with_itself_and_says_what_is_missing(tmp_path):
    (tmp_path / "metrics").mkdir()
    scores([1.0, 2.0]).to_parquet(tmp_path / "metrics/segments.parquet")
    command = [sys.executable, "-m", "pipeline.compare", "workspace"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    run = subprocess.run(
        [*command, "workspace", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    first = json.loads(run.stdout)[0]
    assert (first["difference"], first["p"], first["p_bootstrap"]) == (0, 1, 1)
    text = subprocess.run([*command, "workspace"], cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert "p bootstrap  p exchange" in text
    run = subprocess.run([*command, "nowhere"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("compare: nowhere: metrics/segments.parquet not to be had")
