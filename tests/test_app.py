"""The page to drop a video on, in a real browser; skipped where there is no Chromium."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_ffmpeg
from own_models import PARAMS, write_models
from playwright.sync_api import Page, expect
from test_report import browser  # noqa: F401

from pipeline.app.server import Server
from pipeline.predictor import Predictor


@pytest.fixture
def server(workspace) -> Iterator[Server]:
    workspace(PARAMS)
    write_models()
    with Server(0, Predictor.load(), "memory <b>1</b>") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "two <i>shots.mp4"
    shots = ["-f", "lavfi", "-i", "color=c=red:s=64x48:r=10:d=5", "-f", "lavfi", "-i", "color=c=blue:s=64x48:r=10:d=5"]
    run_ffmpeg(*shots, "-filter_complex", "concat=n=2", str(path))
    return path


@pytest.fixture
def page(browser, server) -> Iterator[Page]:  # noqa: F811
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    yield page
    assert errors == []
    page.close()


def test_a_dropped_video_gets_captions_on_a_time_line_and_what_the_memory_gave(page, server, video):
    expect(page.locator("#ran")).to_have_text("Model: memory <b>1</b>.")
    page.locator("#file").set_input_files(video)
    expect(page.locator("#state")).to_contain_text("two <i>shots.mp4: 2 segments of 10.0 s", timeout=30_000)
    wanted = server.predictor.caption(video)
    assert page.locator("#captions li span:last-child").all_inner_texts() == [one.caption for one in wanted]
    page.locator("#captions button").nth(1).click()
    expect(page.locator("#segment .head span")).to_have_text("5.0 s to 10.0 s")
    assert page.locator(".time rect").count() == 2
    assert page.locator(".remembered img").count() > 0
    assert all(page.locator("#segment img").evaluate_all("images => images.map((one) => one.naturalWidth > 0)"))
    page.get_by_label("Segments").select_option("whole")
    expect(page.locator("#state")).to_contain_text("1 segment of 10.0 s", timeout=30_000)


def test_what_is_no_video_is_told_on_the_page(page, tmp_path):
    (tmp_path / "notes.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    page.locator("#file").set_input_files(tmp_path / "notes.mp4")
    expect(page.locator("#state")).to_have_text("No captions: the file: a playlist or other text, not a video")
    expect(page.locator("#result")).to_be_hidden()


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
def test_another_site_may_not_use_it_through_the_browser(server, headers):
    for body in (None, b"video"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(server.url + ("caption" if body else ""), body, headers))
        assert refused.value.code == 403
