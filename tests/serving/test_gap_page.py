"""The page of the study of the modality gap, in a real browser (skipped without a Chromium)."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.scoring.gap import measure_gap
from pipeline.serving.gap.page import write_gap_page
from tests.serving.test_report import browser  # noqa: F401

WHEN = ("before", "after")
SHOWN = ("distance.centroids", "cone.image.mean", "cone.text.mean", "rmg")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> Path:
    """What the study's stages write, of random pairs."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "plots").mkdir()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8)) + 1
    gap = measure_gap(
        x, x + rng.normal(size=x.shape), groups=[f"v{i // 3}" for i in range(60)], facts=list(range(60)), draws=20
    )
    name = "<i>coca</i>"
    found = [
        {"encoder": name, "weights": weights, "level": "frame", **asdict(gap)} for weights in ("trained", "random")
    ]
    (folder / "gaps.json").write_text(json.dumps(found))

    def row() -> dict[str, float]:
        return dict(zip(SHOWN, rng.random(4), strict=True))

    causes = {
        "seeds": [{"seed": seed, "when": when, **row()} for seed in (0, 1) for when in WHEN],
        "temperatures": [{"temperature": t, "when": when, **row()} for t in (0.01, 0.1, 1.0) for when in WHEN],
        "facts": [{"facts": count, "when": when, **row()} for count in (1, 2, 3, 4) for when in WHEN],
    }
    (folder / "causes.json").write_text(json.dumps(causes))
    given = {name: {"CIDEr": 100.0, "facts": 40.0, "examples": {"0": "a star"}} for name in ("texts", "pictures")}
    (folder / "decoder.json").write_text(json.dumps({"given": given}))
    pd.DataFrame([{"step": step, **row()} for step in (0, 1, 10, 100)]).to_csv(
        folder / "plots/training.csv", index=False
    )
    depth = [
        {"weights": weights, "block": block, "cone.image": 0.5, "cone.text": 0.4 if block < 3 else None}
        for weights in ("trained", "random")
        for block in range(4)
    ]
    pd.DataFrame(depth).to_csv(folder / "plots/depth.csv", index=False)
    pd.DataFrame([{"set": name, **row} for row in gap.curve]).to_csv(folder / "plots/shift.csv", index=False)
    for picture in ("svd.png", "cones.png"):
        Image.new("RGB", (1440, 400), (30, 90, 160)).save(folder / "plots" / picture)
    return folder


def test_the_page_has_every_figure_curve_and_picture_and_fits_a_phone(browser, metrics, tmp_path):  # noqa: F811
    line = write_gap_page(metrics, tmp_path / "gap.html")
    assert line.startswith("5 parts")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "gap.html").as_uri())
    assert page.locator("h2").all_inner_texts() == [
        "The gap",
        "When it arises",
        "What makes it",
        "Closing it by hand",
        "Why care",
    ]
    [first, *_] = json.loads((metrics / "gaps.json").read_text())
    value, (low, high) = first["plain"]["values"]["rmg"], first["plain"]["intervals"]["rmg"]
    row = page.locator("tbody tr").first.inner_text().split("\t")
    assert row[0] == "<i>coca</i>, trained: frame" and row[1] == "60"
    assert f"{value:.2f} ({low:.2f} to {high:.2f})" in row
    charts = page.locator("svg.chart")
    assert charts.count() == 2 + 2 + 1
    page.wait_for_function(
        "[...document.querySelectorAll('svg.chart')].every((one) => one.querySelectorAll('path').length > 3)"
    )
    # 4 lines of 4 steps; 2 weights, 4 blocks of pictures and 3 of texts; 4 lines of 3 temperatures, and of 4 counts.
    assert [charts.nth(i).locator("circle").count() for i in range(4)] == [16, 14, 12, 16]
    assert page.locator("figure.wide img").evaluate_all("images => images.map((one) => one.naturalWidth)") == [
        1440,
        1440,
    ]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(requests) == 1 and errors == []
    page.close()


def test_a_coca_that_was_fetched_has_no_training_to_show(metrics, tmp_path):
    shutil.copytree(metrics, tmp_path / "metrics")
    (tmp_path / "metrics/plots/training.csv").write_text("\n")
    assert write_gap_page(tmp_path / "metrics", tmp_path / "gap.html").startswith("5 parts")
