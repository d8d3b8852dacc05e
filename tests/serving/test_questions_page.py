"""The page of questions: what it holds, and in a real browser (skipped without a Chromium)."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from pipeline.dataset.questions.question import Question
from pipeline.features import shards
from pipeline.features.frames import SCHEMA
from pipeline.serving.questions.page import gather, write_questions_page
from tests.serving.test_report import browser  # noqa: F401

QUESTIONS = [
    Question("a", "v", "did <b>it</b> come?", ("yes",), (1.0,), kind="before", end_s=4.0, evidence=((0.0, 1.0),)),
    Question("b", "v", "which?", ("red",), (1.0,), ("red", "blue"), kind="now", end_s=4.0, right_option=0),
    Question("c", "gone", "how many?", ("2",), (1.0,), kind="count", answer_type="count", end_s=2.0),
]


def row(id: str, prediction: str | None, frames_s: list[float], attention: list[float], error: str | None = None):
    return {
        "question_id": id,
        "prediction": prediction,
        "log_prob": None if prediction is None else -0.1,
        "first": [] if prediction is None else [prediction, "other"],
        "frames": len(frames_s),
        "frames_s": frames_s,
        "attention": attention,
        "error": error,
    }


ANSWERS = {
    "blind": pd.DataFrame([row("a", "no", [], []), row("b", "red", [], []), row("c", None, [], [], "no frames")]),
    "memory": pd.DataFrame(
        [row("a", "yes", [0.2, 0.4, 3.0], [0.3, 0.2, 0.1]), row("b", "blue", [3.8], [0.5]), row("c", "2", [1.0], [1.0])]
    ),
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    """v of 20 frames."""
    jpeg = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(jpeg, "JPEG")
    columns = {
        "video_id": ["v"] * 20,
        "frame_index": pa.array(range(20), pa.int32()),
        "timestamp_s": np.arange(20) / 5,
        "jpeg": [jpeg.getvalue()] * 20,
    }
    table = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    folder = tmp_path_factory.mktemp("data") / "frames"
    made = shards.VideoRows("v", table)
    shards.update(folder, schema=SCHEMA, shards=1, fingerprints={"v": "1"}, compute=lambda ids: iter([made]))
    return folder


def test_each_models_answer_is_right_or_wrong_with_the_moments_it_looked_at(frames):
    content = gather(QUESTIONS, ANSWERS, frames, fps=5)
    of = {one["id"]: one["given"] for one in content["questions"]}
    assert {id: [one["right"] for one in given] for id, given in of.items()} == {
        "a": [False, True], "b": [True, False], "c": [False, True]
    }  # fmt: skip
    assert of["a"][1]["moments"] == [{"frame": 1, "share": 0.5}, {"frame": 15, "share": 0.1}]
    assert of["a"][1]["looked"] == [[0.2, 0.3], [0.4, 0.2], [3.0, 0.1]]
    assert of["c"][0]["error"] == "no frames" and of["c"][0]["answer"] is None
    assert {id: sorted(own) for id, own in content["videos"].items()} == {"v": [1, 15, 19], "gone": []}
    assert [one["accuracy"] for one in content["models"]] == pytest.approx([100 / 3, 200 / 3])


def test_where_every_second_frame_is_embedded_pictures_are_those_of_the_same_times(frames):
    content = gather(QUESTIONS, ANSWERS, frames, fps=2.5, every=2)
    of = {one["id"]: one["given"] for one in content["questions"]}
    assert [one["frame"] for one in of["b"][1]["moments"]] == [10]  # 3.8 s
    assert {id: sorted(own) for id, own in content["videos"].items()}["v"] == [0, 8]  # of 10 frames, so none for 3.8 s


@pytest.fixture
def page(browser, frames, tmp_path) -> Iterator[Page]:  # noqa: F811
    said = write_questions_page(QUESTIONS, ANSWERS, frames, tmp_path / "page.html", fps=5)
    assert said.startswith("3 questions, 2 models, 3 pictures, ")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    assert errors == []
    page.close()


def test_the_page_shows_evidence_frames_and_answers_and_filters_by_kind(page):
    expect(page.locator("#ran")).to_have_text("3 questions. Right: blind 33.3 %, memory 66.7 %.")
    page.locator("#kinds button", has_text="before").click()
    expect(page.locator("#count")).to_have_text("1 of 3")
    expect(page.locator("#segment .head strong")).to_have_text("did <b>it</b> come?")
    expect(page.locator("#segment .badge")).to_have_text(["✗ wrong", "✓ right"])
    assert page.locator(".evidence").count() == 1 and page.locator(".looked").count() == 3
    images = page.locator("#segment img")
    assert images.count() == 2 and all(images.evaluate_all("all => all.map((one) => one.naturalWidth > 0)"))
    page.locator("#kinds button", has_text="all").click()
    page.get_by_label("Show").select_option("wrong by memory")
    expect(page.locator("#list li")).to_have_count(1)
    expect(page.locator("#segment .head strong")).to_have_text("which?")
    page.get_by_label("Show").select_option("all")
    page.get_by_label("Find").fill("gone")
    expect(page.locator("#segment .none")).to_contain_text("It looked at no frame.")
    expect(page.locator("#segment q").first).to_have_text("no frames")
    page.get_by_label("Find").fill("nothing of that kind")
    expect(page.locator("#segment")).to_have_text("No question fits.")


def test_nothing_in_the_data_becomes_markup(tmp_path, frames):
    write_questions_page(QUESTIONS, ANSWERS, frames, tmp_path / "page.html", fps=5)
    text = (tmp_path / "page.html").read_text()
    block = text.split('type="application/json">')[1].split("</script>")[0]
    assert "<" not in block and json.loads(block)["questions"]
