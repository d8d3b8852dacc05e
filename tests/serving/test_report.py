"""The report: what it reads of a run, and, in a real browser, what a person sees and does there.

What needs the browser is skipped where there is no Chromium.
"""

import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from pipeline.dataset import ledger
from pipeline.dataset.verdict import Row
from pipeline.features import frames, shards
from pipeline.features.shards import VideoRows
from pipeline.scoring.caption_table import Retrieved
from pipeline.serving.report.page import EXPLAINED, gather, write_page
from pipeline.serving.report.runs import Run, read_run
from pipeline.serving.web import strip

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!-- \u2028 <b>bold</b> & 🎉"
KINDS = ("before", "now", "order")
LONG_KINDS = ("playing beach volleyball with friends", "walking the dog in the park", "now")
VIDEOS, PER_VIDEO, FPS = 125, 4, 5.0


def run(name: str, better: float, kinds: tuple[str, ...] = KINDS) -> Run:
    """500 segments; `better`: what is added to the CIDEr of the first kind."""
    rng = np.random.default_rng(0)
    rows, retrieved = [], {}
    for video in range(VIDEOS):
        for n in range(PER_VIDEO):
            id, kind = f"v_{video:03d}#{n}", kinds[(video + n) % 3]
            cider = float(rng.uniform(50, 150)) + (better if kind == kinds[0] else 0.0)
            caption = HOSTILE if (video, n) == (0, 0) else f"{name} says {kind} of {video}"
            rows.append(
                {
                    "segment_id": id,
                    "video_id": f"v_{video:03d}",
                    "kind": kind,
                    "start_s": 2.0 * n,
                    "end_s": 2.0 * n + 1.6,
                }
                | {"caption": caption, "references": [f"reference <i>{video}</i>"], "CIDEr": cider, "METEOR": cider / 3}
                | {"ROUGE-L": 50.0, "BLEU-1": 50.0, "BLEU-4": 10.0, "facts": kind == "now", "log_prob": -1.0}
            )
            if better and n:
                retrieved[id] = [Retrieved(2, 1, 3, 0.2), Retrieved(2, 2, 3, 0.4), Retrieved(2, 1, 10 * n - 3, 0.1)]
    return Run(
        name,
        pd.DataFrame(rows),
        {"segments.asked": VIDEOS * PER_VIDEO},
        retrieved,
        {"memory.enabled": bool(better), "seed": 0},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    ids = [f"v_{video:03d}" for video in range(VIDEOS)]

    def compute(video_ids: list[str]) -> Iterator[VideoRows]:
        for number, video_id in enumerate(video_ids):
            jpeg = io.BytesIO()
            Image.new("RGB", (64, 48), (number * 2 % 255, 120, 80)).save(jpeg, "JPEG")
            columns = [[video_id] * 40, range(40), [i / FPS for i in range(40)], [jpeg.getvalue()] * 40]
            yield VideoRows(
                video_id,
                pa.table([pa.array(c, f.type) for c, f in zip(columns, frames.SCHEMA, strict=True)], frames.SCHEMA),
            )

    before = Path.cwd()
    os.chdir(folder)
    try:
        data = Path("data/videos")
        shards.update(
            data / "frames", schema=frames.SCHEMA, shards=2, fingerprints=dict.fromkeys(ids, "1"), compute=compute
        )
        ledger.write(data / "ledger.parquet", [Row(id, "ok", duration_s=8.0) for id in ids])
        EXPLAINED.mkdir(parents=True)
        for method in ("gradcam", "attention"):
            Image.new("RGB", (1234, 300), (200, 40, 40)).save(EXPLAINED / f"v_001-0-{method}.png")
        write_page([run("baseline", 0.0), run("memory", 200.0)], Path("metrics/report.html"), fps=FPS)
        long = [run("baseline", 0.0, LONG_KINDS), run("memory" * 20, 2000.0, LONG_KINDS)]
        few = [replace(one, scores=one.scores.head(30)) for one in long]
        write_page(few, Path("metrics/long.html"), fps=FPS)
    finally:
        os.chdir(before)
    return folder / "metrics/report.html"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium; Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox, and in containers everybody is root.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, report: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.requests, page.errors = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(report.as_uri())
    yield page
    assert page.errors == []
    page.close()


def captions(page: Page) -> list[str]:
    return page.locator("#segment q").all_inner_texts()


def test_it_draws_one_of_its_500_segments_and_asks_nobody_for_anything(page, report):
    page.locator("#segment img").first.wait_for()
    assert 0 < page.locator("img").count() < 100
    assert page.locator("*").count() < 10_000  # which a browser opens in a fraction of a second
    assert page.locator("#count").inner_text() == "500 of 500"
    assert set(page.requests) - {report.as_uri()} == {url for url in page.requests if url.startswith("data:")}


def test_what_comes_from_data_is_text_and_nothing_else(page):
    assert captions(page) == [HOSTILE.replace("\u2028", " ")] * 2 or captions(page) == [HOSTILE] * 2
    assert page.title() == "Captions and what the memory saw"
    assert page.locator("#segment q img, #segment q b, #segment li i").count() == 0
    assert page.locator("#segment .references li").all_inner_texts() == ["reference <i>0</i>"]


def test_keys_move_through_the_segments(page):
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert captions(page) == ["baseline says order of 0", "memory says order of 0"]
    assert page.locator("#list li[aria-current]").get_attribute("data-id") == "v_000#2"
    page.keyboard.press("k")
    assert captions(page)[0] == "baseline says now of 0"
    page.reload()  # the address says which segment it was
    assert captions(page)[0] == "baseline says now of 0"


def test_a_kind_can_be_picked_by_click_and_by_key(page):
    page.get_by_role("group", name="Kind").get_by_role("button", name="now").click()
    assert page.locator("#segment .head strong").inner_text() == "now"
    assert page.locator("#count").inner_text() == f"{page.locator('#list li').count()} of 500"  # 166, all shown
    page.keyboard.press("3")
    assert page.locator("#segment .head strong").inner_text() == "order"
    page.keyboard.press("0")
    assert page.locator("#count").inner_text() == "500 of 500"


def test_rows_of_a_long_list_are_made_when_they_are_scrolled_to(page):
    rows = page.locator("#list li")
    assert rows.count() == 200  # so that each key of a search among thousands is quick
    ids = show_all_rows(page)
    assert len(ids) == 500 and ids == sorted(ids)
    page.get_by_label("Find").fill("v_124#3")
    page.get_by_label("Find").fill("")
    page.keyboard.press("Escape")
    assert page.locator("#list li[aria-current]").get_attribute("data-id") == "v_124#3"
    assert page.locator("#segment .step span").inner_text() == "500 / 500"
    page.keyboard.press("k")
    assert captions(page)[0] == "baseline says before of 124"


def show_all_rows(page: Page) -> list[str]:
    while (count := page.locator("#list li").count()) < 500:
        page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight; }")
        expect(page.locator("#list li")).not_to_have_count(count)  # the CSP forbids wait_for_function
    return page.locator("#list li").evaluate_all("rows => rows.map((row) => row.dataset.id)")


def test_sorting_by_gain_puts_what_the_memory_gained_first(page):
    page.get_by_label("Sort").select_option(label="most gained by memory")
    assert page.locator("#segment .head strong").inner_text() == "before"
    show_all_rows(page)
    gains = [
        float(text.translate({0x2212: "-", ord("±"): None}))
        for text in page.locator("#list .top span:last-child").all_inner_texts()
    ]
    assert gains == sorted(gains, reverse=True) and gains[0] == 200 and gains[-1] == 0


def test_words_find_their_segments(page):
    page.keyboard.press("/")
    page.keyboard.type("now of 17")
    assert page.locator("#list li").count() == sum((17 + n) % 3 == 1 for n in range(PER_VIDEO))
    page.keyboard.press("Escape")
    page.get_by_label("Find").fill("no such words")
    assert "No segment fits" in page.locator("#segment").inner_text()


def test_it_shows_which_moments_the_memory_gave_and_how_much_attention_each_got(page):
    assert "nothing to remember yet" in page.locator("#segment").inner_text()  # a video's first segment
    page.keyboard.press("j")
    remembered = page.locator(".remembered figcaption")
    # Two heads: 0.2 and 0.4 for frame 3; 0.1 of one of them for frame 7, which is another moment.
    assert remembered.all_inner_texts() == ["30.0 % at 0.6 s", "5.0 % at 1.4 s"]
    assert page.locator(".time path[stroke-linecap]").count() == 2  # each joined to its time
    page.locator(".heads summary").click()
    assert page.locator(".heads tbody tr").all_inner_texts() == [
        "layer 2, head 1\t20.0 %\t10.0 %",
        "layer 2, head 2\t40.0 %\t",
    ]
    assert all(page.locator("#segment img").evaluate_all("images => images.map((one) => one.naturalWidth > 0)"))


def test_the_attention_captioners_explanations_stand_below_the_segments_that_have_some(page):
    assert page.locator(".explained").count() == 0
    page.locator("#sort").select_option(label="explained first")
    page.keyboard.press("Escape")
    assert "v_001, 0.0 s" in page.locator("#segment .head").inner_text()
    shown = page.locator(".explained summary").all_inner_texts()
    assert [one.split(": ")[1] for one in shown] == ["attention", "gradcam"]
    strips = page.locator(".explained img")
    assert strips.nth(0).is_visible() and not strips.nth(1).is_visible()
    page.locator(".explained summary").nth(1).click()
    assert strips.evaluate_all("images => images.map((one) => one.naturalWidth)") == [1234, 1234]


def test_the_scores_are_those_of_the_segments_asked_for(page):
    row = page.locator("#scores tr", has=page.get_by_role("rowheader", name="CIDEr"))
    whole = row.inner_text()
    page.get_by_role("group", name="Segments").get_by_role("button", name="before").click()
    assert "+200.0" in row.inner_text() and "p < 0.001" in row.inner_text()
    # 1 / 10,001 is the least there is; corrected for seven groups and six scores.
    assert "Holm = 0.004" in row.inner_text()
    assert "corrected for all 42 comparisons" in page.locator("#p-note").inner_text()
    assert "+200.0" not in whole
    page.get_by_role("group", name="Segments").get_by_role("button", name="now").click()
    assert "±0.0" in row.inner_text()


def test_it_fits_a_phone_and_follows_the_system_into_the_dark(browser, report):
    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", is_mobile=True)
    phone.goto(report.as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    ground, ink = phone.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ground, ink)]
    assert brightness[0] < 150 and brightness[1] > 600
    phone.get_by_role("button", name="next segment").click()
    assert phone.locator("#segment q").first.inner_text() == "baseline says now of 0"
    phone.close()


def test_on_a_phone_the_difference_is_seen_and_labels_do_not_overlap(browser, report):
    phone = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True)
    phone.goto(report.with_name("long.html").as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    column = phone.get_by_role("columnheader", name="difference").bounding_box()
    card = phone.locator(".overview > .card").first.bounding_box()
    assert column["x"] + column["width"] <= card["x"] + card["width"]
    labels = phone.locator("#by-kind text")
    labels.first.wait_for()
    kinds = [text for text in labels.all_text_contents() if "(" in text]
    for text, kind in zip(kinds, sorted(LONG_KINDS), strict=True):
        assert text.startswith(f"{kind} (10)")
    boxes = [one.bounding_box() for one in labels.all()]
    for i, a in enumerate(boxes):
        assert a["x"] >= card["x"] and a["x"] + a["width"] <= card["x"] + card["width"]
        for b in boxes[:i]:
            apart_x = a["x"] >= b["x"] + b["width"] or b["x"] >= a["x"] + a["width"]
            assert apart_x or a["y"] >= b["y"] + b["height"] or b["y"] >= a["y"] + a["height"]
    phone.close()


def test_no_script_but_its_own_runs_on_the_page(page):
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.owned = 1'}))")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')")
    page.wait_for_timeout(100)
    assert page.evaluate("window.owned") is None


def test_a_run_is_read_of_the_workspace_and_of_a_revision_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^workspace: metrics/segments\.parquet, .* not found; run it: dvc repro$"):
        read_run("workspace")
    expected = run("memory", 200.0)
    for folder in ("metrics", "data", ".dvc"):
        Path(folder).mkdir()
    expected.scores.to_parquet("metrics/segments.parquet")
    Path("metrics/captions.json").write_text(json.dumps(expected.corpus))
    retrieved = [{"segment_id": id} | asdict(one) for id, of_one in expected.retrieved.items() for one in of_one]
    pd.DataFrame(retrieved).to_parquet("data/retrieved.parquet")
    Path("params.yaml").write_text("memory:\n  enabled: true\nseed: 0\n")
    Path(".dvc/config").touch()
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-qb", "main"], ["add", "-A"], ["commit", "-qm", "state"]):
        subprocess.run(["git", *identity, *command], check=True)
    for name in ("workspace", "main"):
        found = read_run(name)
        assert (found.name, found.corpus, found.params) == (name, expected.corpus, expected.params)
        pd.testing.assert_frame_equal(found.scores, expected.scores)
        assert found.retrieved == expected.retrieved
    # The captions of a system without a memory; of the last commit it still has one.
    Path("data/retrieved.parquet").unlink()
    assert read_run("workspace").retrieved == {} and read_run("main").retrieved
    subprocess.run(["git", *identity, "commit", "-qam", "another system"], check=True)
    assert read_run("main").retrieved == {}
    Path("metrics/captions.json").unlink()
    with pytest.raises(ValueError, match=r"^workspace: metrics/captions\.json not found; run it: dvc repro$"):
        read_run("workspace")
    with pytest.raises(ValueError, match=r"^nowhere: .*; run it .*: dvc exp run -n nowhere -S \.{3}$"):
        read_run("nowhere")


def test_frames_of_a_run_at_another_rate_are_shown_as_of_the_same_seconds(report, monkeypatch, tmp_path):
    monkeypatch.chdir(report.parent.parent)
    seen = run("memory", 2.0)
    twice = replace(
        seen,
        params={"frames.fps": 2 * FPS},
        retrieved={
            id: [replace(one, frame_index=2 * one.frame_index) for one in of_segment]
            for id, of_segment in seen.retrieved.items()
        },
    )
    third = replace(seen, params={"frames.fps": 3 * FPS, "embed.every": 3})
    found = gather([seen, twice, third], fps=FPS)
    ids = [one for one in found["segments"] if one["moments"][0]]
    assert all(one["moments"][2] == one["moments"][0] for one in ids)
    assert ids and all(
        {moment["frame"] for moment in one["moments"][1]} >= {moment["frame"] for moment in one["moments"][0]}
        for one in ids
    )
    scores = seen.scores.assign(video_id="v_elsewhere")
    with pytest.raises(ValueError, match=r"data/videos/frames has no frames of 'v_elsewhere', .* dvc checkout$"):
        gather([replace(seen, scores=scores)], fps=FPS)


def test_a_segments_strip_is_of_the_frames_that_the_captioner_has_of_it():
    assert strip(1.0, 2.0, FPS) == [5, 6, 7, 8, 9]
    assert strip(0.0, 100.0, FPS) == [0, 71, 143, 214, 285, 356, 428, 499]
    assert strip(6.65, 6.75, FPS) == [33]  # between two frames: the one on screen
    assert strip(44.6, 57.400000000000006, FPS)[-1] == 287  # at 57.4 s, which is before the end


def test_where_the_page_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    from pipeline.report import main

    monkeypatch.setattr("sys.argv", ["report", "no such run", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"report: .* cannot be written: Is a directory"):
        main()
