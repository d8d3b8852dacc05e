import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.compare import bootstrap_interval, compare, randomisation_p


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
    low, high = bootstrap_interval(differences, np.random.default_rng(1), 10_000)
    error = differences.std() / 20
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)


def test_p_is_exact_where_all_exchanges_can_be_counted():
    # Of the 8 ways to sign (3, 2, 1), two have a mean as far from zero as all plus.
    assert randomisation_p(np.array([3.0, 2.0, 1.0]), np.random.default_rng(0), 20_000) == pytest.approx(0.25, abs=0.01)
    assert randomisation_p(np.zeros(5), np.random.default_rng(0), 100) == 1.0


def test_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    found = [randomisation_p(rng.normal(size=50), rng, 500) for _ in range(300)]
    assert np.mean(np.array(found) < 0.1) == pytest.approx(0.1, abs=0.05)


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
    other = scores([1.0])
    other["references"] = [["another"]]
    with pytest.raises(ValueError, match="references differ"):
        compare(scores([1.0]), other)


def test_the_command_compares_the_workspace_with_itself_and_says_what_is_missing(tmp_path):
    (tmp_path / "metrics").mkdir()
    scores([1.0, 2.0]).to_parquet(tmp_path / "metrics/segments.parquet")
    command = [sys.executable, "-m", "pipeline.compare", "workspace"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    run = subprocess.run(
        [*command, "workspace", "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout)[0]["difference"] == 0
    run = subprocess.run([*command, "nowhere"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("compare: nowhere: no metrics/segments.parquet to be had")
