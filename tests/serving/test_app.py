"""The page to drop a video on: its server over HTTP, and the page in a real browser (skipped without a Chromium)."""

import asyncio
import base64
import copy
import io
import json
import os
import resource
import signal
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from pipeline.app import main
from pipeline.captioner import familiarity
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.search import ORIENTATION, Moment, clock
from pipeline.serving.app.server import Server, listen
from pipeline.serving.finder import Finder
from pipeline.serving.video_answerer import VideoAnswerer
from pipeline.serving.video_captioner import VideoCaptioner
from stages import embed
from tests.conftest import run_ffmpeg, write_params
from tests.features.test_embed import SHARDS, picture, write_frames
from tests.own_models import PARAMS, write_answerer, write_models
from tests.serving.test_report import browser  # noqa: F401

expect.set_options(timeout=300_000)  # of what happens at once, on a machine that is busy with other things
GREETING = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


class Running(Server):
    """A server that serves in a thread."""

    def __enter__(self) -> "Running":
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.runner = self._do(self.start())
        return self

    def __exit__(self, *_) -> None:
        if self.loop.is_running():
            self._do(self.stop(self.runner))
            self.loop.call_soon_threadsafe(self.loop.stop)

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(300)

    @property
    def port(self) -> int:
        return self._listening.getsockname()[1]

    def raw(self, request: bytes) -> bytes:
        """The head of its answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=300) as connection:
            connection.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer and (part := connection.recv(1 << 16)):
                answer += part
        return answer

    def status(self, *headers: str, request: str = "GET / HTTP/1.1") -> int:
        lines = [request, "Connection: close", *headers, "", ""]
        return int(self.raw("\r\n".join(lines).encode()).split()[1])

    def is_idle(self) -> bool:
        return not self._jobs


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> VideoCaptioner:
    params, before = Path("params.yaml").resolve(), Path.cwd()
    os.chdir(tmp_path_factory.mktemp("models"))
    try:
        write_params(Path("params.yaml"), params, PARAMS)
        write_models()
        return VideoCaptioner.load()
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def answerer(captioner, tmp_path_factory) -> VideoAnswerer:
    params, before = Path("params.yaml").resolve(), Path.cwd()
    os.chdir(tmp_path_factory.mktemp("models"))
    try:
        write_params(Path("params.yaml"), params, PARAMS)
        write_models()
        write_answerer()
        return VideoAnswerer.load(encoder=captioner.encoder)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def finder(captioner, tmp_path_factory) -> Finder:
    params, before = Path("params.yaml").resolve(), Path.cwd()
    os.chdir(tmp_path_factory.mktemp("videos"))
    try:
        write_params(Path("params.yaml"), params, {**PARAMS, "frames.shards": SHARDS})
        write_models()
        assert Finder.load(captioner.encoder) is None
        write_frames(Path("data/videos/frames"), {f"<i>v{i}": (12, i) for i in range(5)})
        embed.main("videos")
        found = Finder.load(captioner.encoder)
        assert found is not None
        return replace(found, frames=found.frames.resolve())
    finally:
        os.chdir(before)


@pytest.fixture
def uploads(tmp_path, monkeypatch) -> Iterator[Path]:
    """The folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def server(captioner, answerer, uploads) -> Iterator[Running]:
    with Running(listen(0), captioner, "memory <b>1</b>", ["captions.example"], answerer) as server:
        yield server


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """two.mp4: 5 s of red, 5 of blue. slow.mp4: a few bytes that last 40,000 s."""
    folder = tmp_path_factory.mktemp("videos")
    shots = ["-f", "lavfi", "-i", "color=c=red:s=64x48:r=10:d=5", "-f", "lavfi", "-i", "color=c=blue:s=64x48:r=10:d=5"]
    run_ffmpeg(*shots, "-filter_complex", "concat=n=2", str(folder / "two.mp4"))
    run_ffmpeg("-f", "lavfi", "-i", "color=s=64x48:r=0.0001:d=40000", str(folder / "slow.mp4"))
    return folder


@contextmanager
def asking(server: Running, video: Path, *, ask: str = "/caption") -> Iterator[HTTPResponse]:
    """What it answers to a video; the connection closes at the end, however much was read."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", ask, video.read_bytes())
    answer = connection.getresponse()
    try:
        yield answer
    finally:
        answer.close()
        connection.close()


def lines(answer: HTTPResponse) -> Iterator[dict]:
    while line := answer.readline():
        yield json.loads(line)


def soon(is_so: Callable[[], object], within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ffmpegs() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "ffmpeg" in one.name()]


def test_it_tells_how_far_it_is_and_then_the_captions(server, videos, captioner):
    with asking(server, videos / "two.mp4") as answer:
        assert answer.status == 200
        *progress, last = lines(answer)
    assert progress[0] == {"ahead": 0} or progress[0]["doing"] == "sampling"
    content = last["content"]
    expected = [(one.start_s, one.end_s, one.caption) for one in captioner.caption(videos / "two.mp4")]
    assert [(one["start"], one["end"], one["captions"][0]["text"]) for one in content["segments"]] == expected
    frames = [frame for frame, _ in content["videos"]["video"]["film"]]
    assert frames[0] == 0 and frames[-1] == 49 and frames == sorted(frames)


def posted(server: Running, question: object) -> tuple[int, dict]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/ask", question if isinstance(question, bytes) else json.dumps(question))
    answer = connection.getresponse()
    content = json.load(answer)
    connection.close()
    return answer.status, content


def captioned(server: Running, video: Path) -> dict:
    with asking(server, video) as answer:
        return list(lines(answer))[-1]["content"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_question_about_a_captioned_video_gets_the_answerers_answer(captioner, answerer, uploads, videos, shared):
    own = answerer if shared else replace(answerer, encoder=copy.copy(answerer.encoder))
    with Running(listen(0), captioner, "memory", (), own) as server:
        seen = captioned(server, videos / "two.mp4")["seen"]
        found = [posted(server, {"seen": seen, "question": "what is it?", "at": at}) for at in (6.0, None, 6.0)]
    expected = answerer.ask(answerer.look(videos / "two.mp4"), ["what is it?"], at_s=6.0)[0]
    assert found[0] == found[2] != found[1] and [status for status, _ in found] == [200] * 3
    content = found[0][1]
    assert dict(content["first"]) == pytest.approx(dict(expected.first), abs=1e-4)
    assert [one["time"] for one in content["moments"]] == [one.frame / 5 for one in expected.moments]


def test_what_cannot_be_asked_is_refused(server, videos):
    seen = captioned(server, videos / "two.mp4")["seen"]
    for question, status, why in [
        ({"seen": seen, "question": " "}, 400, "the question is empty; expected some words"),
        ({"seen": seen, "question": "a" * 10_000}, 400, "the question has 10,000 characters; expected 4,000 at most"),
        ({"seen": seen, "question": "a", "at": 99}, 400, "99 s is not in the video, which lasts 10 s; expected more"),
        ({"seen": seen, "question": "a", "at": "x"}, 400, "expected texts as seen and question"),
        ({"seen": "other", "question": "a"}, 404, "the app keeps the last 4 videos for questions; send this one"),
        ({"question": "a"}, 400, "expected {"),
        ([], 400, "expected {"),
        (b"{", 400, "expected {"),
        (b"[" * 70_000, 400, "expected {"),
    ]:
        found = posted(server, question)
        assert found[0] == status and found[1]["error"].startswith(why)
    assert server.status("Host: localhost", "Origin: https://evil.example", request="POST /ask HTTP/1.1") == 403


def test_only_the_last_videos_are_kept_for_questions(server, videos):
    first = captioned(server, videos / "two.mp4")["seen"]
    others = [captioned(server, videos / "two.mp4")["seen"] for _ in range(4)]
    assert posted(server, {"seen": first, "question": "a"})[0] == 404
    assert [posted(server, {"seen": one, "question": "a"})[0] for one in others] == [200] * 4


def test_without_an_answerer_nothing_can_be_asked(captioner, uploads, videos):
    with Running(listen(0), captioner, "memory") as server:
        assert captioned(server, videos / "two.mp4")["seen"] is None
        assert posted(server, {"seen": "a", "question": "a"})[0] == 404


def test_an_answerer_that_samples_other_frames_is_refused(captioner, answerer):
    other = answerer.params.model_copy(update={"frames": answerer.params.frames.model_copy(update={"fps": 2.0})})
    with listen(0) as listening, pytest.raises(ValueError, match=r"the answerer samples frames as .* needs two"):
        Server(listening, captioner, "memory", (), replace(answerer, params=other))


def sought(server: Running, body: bytes, kind: str = "application/json") -> tuple[int, dict]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/find", body, {"Content-Type": kind})
    answer = connection.getresponse()
    content = json.load(answer)
    connection.close()
    return answer.status, content


def test_a_picture_finds_its_moment_and_a_text_those_most_like_it(captioner, uploads, finder):
    with Running(listen(0), captioner, "memory", finder=finder) as server:
        status, of_picture = sought(server, picture("<i>v3 3 7"), "image/jpeg")
        of_text = sought(server, json.dumps({"text": "a red star"}).encode())[1]["moments"]
    best, expected = of_picture["moments"][0], finder.of_picture(picture("<i>v3 3 7"))[0]
    assert (status, best["video"], best["at"]) == (200, expected.video_id, clock(expected.time_s))
    assert best["similarity"] == pytest.approx(1, abs=1e-3) and 0 <= expected.time_s <= 2.2
    assert base64.b64decode(best["thumbnail"]).startswith(b"RIFF")
    assert finder.picture(Moment("<i>v3", 1.4, 1.0)) == picture("<i>v3 3 7")
    turned, upright = io.BytesIO(), Image.open(io.BytesIO(picture("<i>v3 3 7")))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned to the right
    upright.rotate(90, expand=True).save(turned, "PNG", exif=exif)
    found = finder.of_picture(turned.getvalue())[0]
    assert (found.video_id, found.time_s) == (expected.video_id, expected.time_s)
    expected = finder.of_text("a red star")
    assert [one["video"] for one in of_text] == [one.video_id for one in expected] and len(of_text) == 5
    assert [one["similarity"] for one in of_text] == pytest.approx([one.similarity for one in expected], abs=1e-4)


def claiming(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is not."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG")
    return (
        small.getvalue()[:8]
        + (13).to_bytes(4, "big")
        + header
        + zlib.crc32(header).to_bytes(4, "big")
        + small.getvalue()[33:]
    )


def test_what_cannot_be_sought_is_refused(captioner, server, uploads, finder):
    with Running(listen(0), captioner, "memory", finder=finder) as searching:
        for body, kind, why in [
            (b'{"text": " "}', "application/json", "the text is empty; expected some words"),
            (json.dumps({"text": "a" * 2000}).encode(), "application/json", "the text has 2,000 characters; expected"),
            (b'{"text": 3}', "application/json", "expected a text as text"),
            (b"[]", "application/json", 'expected {"text": text}, or a picture'),
            (b"{", "application/json", 'expected {"text": text}, or a picture'),
            (b"no picture", "image/png", "10 bytes that are no picture"),
            (claiming(40_000, 40_000), "image/png", ""),
            (claiming(11_000, 10_000), "image/png", "11000 x 10000 pixels are more than 100,000,000"),
            (b"", "image/png", "the file is empty"),
        ]:
            status, content = sought(searching, body, kind)
            assert status == 400 and content["error"].startswith(why)
        assert searching.status("Host: localhost", "Origin: https://evil.example", request="POST /find HTTP/1.1") == 403
    assert sought(server, b'{"text": "a"}')[0] == 404  # one without videos


def test_without_the_frames_moments_are_found_without_pictures(captioner, uploads, finder, tmp_path):
    with Running(listen(0), captioner, "memory", finder=replace(finder, frames=tmp_path / "gone")) as server:
        assert {one["thumbnail"] for one in sought(server, b'{"text": "a"}')[1]["moments"]} == {None}


def test_whoever_leaves_frees_the_next_in_the_queue_and_ends_ffmpeg(server, videos):
    with ExitStack() as first:
        slow = lines(first.enter_context(asking(server, videos / "slow.mp4")))
        assert next(one for one in slow if one.get("done", 0) > 0)["of"] == 40_000
        assert len(ffmpegs()) == 1
        with asking(server, videos / "two.mp4") as waiting:
            rest = lines(waiting)
            assert next(rest) == {"ahead": 1}
            first.close()
            assert list(rest)[-1]["content"]["segments"]
    soon(server.is_idle)
    assert ffmpegs() == []


def test_work_that_takes_longer_than_the_files_size_bears_out_is_ended(server, videos, monkeypatch):
    monkeypatch.setattr("pipeline.serving.app.server.decoding_limit_s", lambda duration_s, size_bytes: 0.3)
    with asking(server, videos / "slow.mp4") as answer:
        assert list(lines(answer))[-1]["error"].startswith("given up after 0 s, so that others need not wait longer")


def test_a_file_that_is_no_video_is_answered_with_the_reason(server, tmp_path):
    (tmp_path / "notes.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    with asking(server, tmp_path / "notes.mp4") as answer:
        assert list(lines(answer))[-1] == {"error": "the file: a playlist or other text, not a video"}
    (tmp_path / "empty.mp4").touch()
    with asking(server, tmp_path / "empty.mp4") as answer:
        assert (answer.status, json.load(answer)) == (400, {"error": "the file is empty"})
    with asking(server, tmp_path / "notes.mp4", ask="/caption?segments=all") as answer:
        assert (answer.status, json.load(answer)) == (400, {"error": "segments: expected found or whole"})


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """Written files end at so many bytes, as on a full disk; by this process and its children."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_gives_no_captions_of_half_a_video(server, videos, tmp_path, capfd):
    (tmp_path / "large.mp4").write_bytes(b"x" * 200_000)
    with files_of_at_most(100_000), asking(server, tmp_path / "large.mp4") as answer:
        assert answer.status == 507
        assert json.load(answer)["error"] == f"the file cannot be stored in {tempfile.gettempdir()}: File too large"
    with files_of_at_most(20_000), asking(server, videos / "slow.mp4") as answer:
        assert "error" in list(lines(answer))[-1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n", b"400"),
        (b"POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (GREETING + b"Origin: http://[\r\n\r\n", b"403"),
        (GREETING.replace(b"localhost", b"[") + b"\r\n", b"403"),
        (GREETING.replace(b"Host: localhost\r\n", b"") + b"\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"POST /caption HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (GREETING.replace(b"GET /", b"GET /../../etc/passwd") + b"\r\n", b"404"),
        (GREETING.replace(b"GET", b"DELETE") + b"\r\n", b"405"),
    ],
)
def test_what_is_no_good_request_is_answered_with_a_status(server, request_, status, capfd):
    answer = server.raw(request_)
    assert answer.split()[1] == status and b"Traceback" not in answer
    assert server.status("Host: localhost") == 200  # it goes on
    assert capfd.readouterr() == ("", "")


def test_an_upload_that_stops_halfway_is_dropped(server, videos, capfd):
    body = (videos / "two.mp4").read_bytes()
    head = f"POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for end in (socket.SHUT_WR, socket.SHUT_RDWR):
        with socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection:
            connection.sendall(head + body[: len(body) // 2])
            time.sleep(0.1)
            connection.shutdown(end)
            assert b"content" not in connection.recv(1 << 16)
    soon(lambda: not any(Path(tempfile.gettempdir()).iterdir()))
    assert server.is_idle() and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_and_leaves_nothing(captioner, uploads, videos, sent):
    server = Running(listen(0), captioner, "memory")
    message = []

    def ask() -> None:
        with asking(server, videos / "slow.mp4") as answer:
            progress = lines(answer)
            message.append(next(one for one in progress if one.get("done")))
            os.kill(os.getpid(), sent)
            message.extend(progress)

    client = threading.Thread(target=ask)
    client.start()
    assert asyncio.run(server.serve_until_signal()) == sent
    client.join()
    assert message[-1] == {"error": "the app was stopped"}
    assert ffmpegs() == [] and list(uploads.iterdir()) == []


def test_this_machine_is_known_by_its_names_at_any_port_and_by_those_allowed(server):
    for host in ("localhost", "127.0.0.1", "[::1]", "captions.example"):
        for port in ("", ":9000"):  # browsers leave :80 out; ssh -L changes the port
            assert server.status(f"Host: {host}{port}") == 200
            assert server.status(f"Host: {host}{port}", f"Origin: http://{host}{port}") == 200
    ask = "POST /caption HTTP/1.1"
    for headers in (
        ["Host: evil.example"],  # a name that its owner made point here
        ["Host: localhost.evil.example"],
        ["Host: localhost:7860", "Origin: https://evil.example"],
        ["Host: localhost:7860", "Origin: null"],
        ["Host: localhost:7860", "Origin: http://localhost:3000"],  # another program's page
    ):
        assert server.status(*headers) == server.status(*headers, "Content-Length: 0", request=ask) == 403


def test_a_port_that_cannot_be_had_names_another(monkeypatch):
    def message(port: int) -> str:
        monkeypatch.setattr("sys.argv", ["app", "--port", str(port)])
        with pytest.raises(SystemExit) as ended:
            main()
        return str(ended.value.code)

    assert message(99999) == "app: --port 99999: expected 1 to 65535, or 0 for any free port"
    with listen(0) as taken:
        port = taken.getsockname()[1]
        assert message(port).startswith(
            f"app: port {port} is taken, perhaps by an app that is still running; try another: --port"
        )


# In the browser


@pytest.fixture
def page(browser, server) -> Iterator[Page]:  # noqa: F811
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    yield page
    assert errors == []
    page.close()


def named(video: Path, name: str) -> Path:
    link = video.with_name(name)
    if not link.exists():
        link.hardlink_to(video)
    return link


def test_a_dropped_video_gets_captions_on_a_time_line_and_what_the_memory_gave(page, server, videos):
    expect(page.locator("#ran")).to_have_text("Model: memory <b>1</b>.")
    page.locator("#file").set_input_files(named(videos / "two.mp4", "two <i>shots.mp4"))
    expect(page.locator("#state")).to_contain_text("two <i>shots.mp4: 2 segments of 10.0 s")
    expect(page.locator("#work")).to_be_hidden()
    expected = server.captioner.caption(videos / "two.mp4")
    assert page.locator("#captions li span:last-child").all_inner_texts() == [one.caption for one in expected]
    page.locator("#captions button").nth(1).click()
    expect(page.locator("#captions button").nth(1)).to_have_attribute("aria-current", "true")
    expect(page.locator("#captions button").nth(0)).to_have_attribute("aria-current", "false")
    expect(page.locator("#segment .head span")).to_have_text("5.0 s to 10.0 s")
    assert page.locator(".time rect").count() == 2
    assert page.locator(".remembered img").count() > 0
    assert all(page.locator("#segment img").evaluate_all("images => images.map((one) => one.naturalWidth > 0)"))
    page.get_by_label("Segments").select_option("whole")
    expect(page.locator("#state")).to_contain_text("1 segment of 10.0 s")


def test_a_question_is_answered_under_the_video_with_the_moments_it_looked_at(page, server, videos):
    expect(page.locator("#ask")).to_be_hidden()
    page.locator("#file").set_input_files(videos / "two.mp4")
    expect(page.locator("#trouble")).to_contain_text("It chooses from 7 answers: yes, no, red,")
    page.get_by_label("Ask", exact=True).first.fill("<i>what</i> is it?")
    page.get_by_role("button", name="Ask", exact=True).click()
    expected = server.answerer.ask(server.answerer.look(videos / "two.mp4"), ["<i>what</i> is it?"])[0]
    expect(page.locator("#answer strong")).to_have_text(expected.answer)
    assert page.locator("#answer tbody th").all_inner_texts() == [answer for answer, _ in expected.first]
    assert page.locator("#answer figure").count() == len(expected.moments) > 0
    assert all(page.locator("#answer img").evaluate_all("images => images.map((one) => one.naturalWidth > 0)"))
    page.locator("#answer figure button").last.click()
    page.get_by_label("about").select_option("now")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer .head")).to_contain_text("(before ")
    page.get_by_label("Ask", exact=True).first.fill(" ")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#trouble")).to_have_text("The question is empty; expected some words.")
    expect(page.locator("#answer")).to_be_empty()


def test_moments_of_the_projects_videos_are_found_on_the_page(browser, captioner, uploads, finder, tmp_path):  # noqa: F811
    with Running(listen(0), captioner, "memory", finder=finder) as server:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(server.url)
        expect(page.locator("#searched")).to_contain_text("In 5 videos, 60 frames")
        page.locator("#sought").fill("a red star")
        page.get_by_role("button", name="Find", exact=True).click()
        expect(page.locator("#searched")).to_contain_text("a red star: the most similar of 5 videos")
        expected = [f"{one.similarity:.3f} {one.video_id} {clock(one.time_s)}" for one in finder.of_text("a red star")]
        assert page.locator("#found figcaption").all_inner_texts() == expected
        assert all(page.locator("#found img").evaluate_all("images => images.map((one) => one.naturalWidth > 0)"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        (tmp_path / "a <b>.jpg").write_bytes(picture("<i>v3 3 7"))
        page.locator("#like").set_input_files(tmp_path / "a <b>.jpg")
        expect(page.locator("#searched")).to_contain_text("a <b>.jpg: the most similar")
        best = finder.of_picture(picture("<i>v3 3 7"))[0]
        expect(page.locator("#found figcaption").first).to_have_text(f"1.000 {best.video_id} {clock(best.time_s)}")
        (tmp_path / "none.png").write_bytes(b"nothing")
        page.locator("#like").set_input_files(tmp_path / "none.png")
        expect(page.locator("#searched")).to_have_text("7 bytes that are no picture (JPEG, PNG, ...).")
        expect(page.locator("#found")).to_be_empty()
        page.close()


def test_what_is_no_video_is_told_on_the_page(page, tmp_path):
    (tmp_path / "notes.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    page.locator("#file").set_input_files(tmp_path / "notes.mp4")
    expected = "No captions of notes.mp4: the file: a playlist or other text, not a video"
    expect(page.locator("#state")).to_have_text(expected)
    expect(page.locator("#result")).to_be_hidden()


def test_another_video_takes_the_place_of_the_one_that_is_worked_on(page, server, videos, tmp_path):
    page.locator("#file").set_input_files(videos / "slow.mp4")
    expect(page.locator("#done")).to_contain_text("of 40000 s")
    expect(page.locator("#state")).to_have_text("Reading slow.mp4")
    page.locator("#file").set_input_files(videos / "two.mp4")
    expect(page.locator("#state")).to_contain_text("two.mp4: 2 segments")
    assert page.locator("#captions li").count() == 2 and server.is_idle()
    page.locator("#file").set_input_files(videos / "slow.mp4")
    expect(page.locator("#done")).to_contain_text("of 40000 s")
    (tmp_path / "notes.mp4").write_text("no video")
    page.locator("#file").set_input_files(tmp_path / "notes.mp4")
    expect(page.locator("#state")).to_contain_text("No captions of notes.mp4")
    expect(page.locator("#result")).to_be_hidden()  # the captions of two.mp4 are no longer asked for


def test_cancel_and_leaving_the_page_end_the_work(page, server, videos):
    for leave in (lambda: page.get_by_role("button", name="Cancel").click(), lambda: page.goto("about:blank")):
        page.locator("#file").set_input_files(videos / "slow.mp4")
        expect(page.locator("#done")).to_contain_text("of 40000 s")
        assert ffmpegs()
        leave()
        soon(server.is_idle)
        assert not ffmpegs()
        if page.url == server.url:
            expect(page.locator("#state")).to_have_text("Cancelled.")
            expect(page.locator("#work")).to_be_hidden()


def test_whoever_waits_sees_the_queue(page, server, videos):
    with asking(server, videos / "slow.mp4") as slow:
        next(one for one in lines(slow) if one.get("done", 0) > 0)
        page.locator("#file").set_input_files(videos / "two.mp4")
        expect(page.locator("#state")).to_have_text("Waiting: 1 video comes first")
    expect(page.locator("#state")).to_contain_text("two.mp4: 2 segments")


@pytest.mark.parametrize("name", ["moving.gif", "old.mp4", "picture.png"])
def test_of_a_file_that_the_browser_cannot_play_the_frames_are_shown(page, tmp_path, name):
    path = tmp_path / name
    shots = "color=c=red:s=64x48:r=10:d=5[a];color=c=blue:s=64x48:r=10:d=5[b];[a][b]concat=n=2"
    sound = ["-f", "lavfi", "-i", "sine=d=10", "-c:v", "mpeg4", "-c:a", "aac"]  # which Chromium plays, without pictures
    one = ["-frames:v", "1"]
    run_ffmpeg("-f", "lavfi", "-i", shots, *({"old.mp4": sound, "picture.png": one}.get(name, [])), str(path))
    page.locator("#file").set_input_files(path)
    expect(page.locator("#film")).to_contain_text("This browser cannot play the file.")
    expect(page.locator("#video")).to_be_hidden()
    still = page.locator("#still")
    expect(still).to_have_attribute("alt", "the frame at 0.0 s")
    assert still.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    if name == "picture.png":
        expect(page.get_by_label("time", exact=True)).to_be_hidden()
        return
    page.locator("#captions button").nth(1).click()
    expect(still).to_have_attribute("alt", "the frame at 5.0 s")
    page.get_by_label("time", exact=True).fill("0")
    expect(page.locator("#captions button").nth(0)).to_have_attribute("aria-current", "true")


def test_what_is_missing_of_a_video_is_told_beside_the_captions(page, tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=10:d=20", "-g", "10", str(tmp_path / "whole.mkv"))
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    page.locator("#file").set_input_files(tmp_path / "cut.mkv")
    expect(page.locator("#warnings")).to_contain_text("Not the whole video: ")
    page.locator("#file").set_input_files(tmp_path / "whole.mkv")
    expect(page.locator("#state")).to_contain_text("whole.mkv: ")
    expect(page.locator("#result")).to_be_visible(timeout=30_000)
    expect(page.locator("#warnings li")).to_have_count(0)


def test_a_video_unlike_those_of_the_training_gets_a_warning(browser, captioner, uploads, videos):  # noqa: F811
    own = captioner.encoder.embed(captioner.frames(videos / "two.mp4"), batch_size=8)
    for apart, warnings in ((0, 0), (100, 1)):
        others = [
            VideoEmbeddings(np.arange(len(own)) / 5, own + np.float16(apart + part)) for part in (0, 0.1, 0.2, 0.3)
        ]
        known = familiarity.summarize(others[:2], others[2:], ["a <b>cyan</b> square"])
        with Running(listen(0), replace(captioner, familiarity=known), "shapes") as server:
            page = browser.new_page()
            page.goto(server.url)
            message = "Model: shapes, trained on 2 videos, with captions such as “a <b>cyan</b> square”."
            expect(page.locator("#ran")).to_have_text(message)
            page.locator("#file").set_input_files(videos / "two.mp4")
            expect(page.locator("#result")).to_be_visible(timeout=30_000)
            expect(page.locator("#warnings li")).to_have_count(warnings)
            note = page.locator("#warnings" if warnings else "#about")
            expect(note).to_contain_text(
                "his video is less like" if warnings else "his video is like the training videos"
            )
            page.close()


def test_a_long_name_fits_a_phone(browser, server, videos):  # noqa: F811
    phone = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True)
    phone.goto(server.url)
    phone.locator("#file").set_input_files(named(videos / "two.mp4", "n" * 246 + ".mp4"))
    expect(phone.locator("#state")).to_contain_text("2 segments")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def test_the_same_file_can_be_chosen_again(page, videos):
    page.locator("#file").set_input_files(videos / "two.mp4")
    expect(page.locator("#state")).to_contain_text("2 segments")
    assert page.locator("#file").input_value() == ""  # else a browser sees no change


def test_a_server_that_is_gone_is_said(page, server, videos):
    server.__exit__()
    page.locator("#file").set_input_files(videos / "two.mp4")
    expected = "No captions of two.mp4: the app does not answer. If it has ended, start it again (make app)."
    expect(page.locator("#state")).to_have_text(expected)
    expect(page.locator("#work")).to_be_hidden()


def test_no_script_but_its_own_runs_on_the_page(page):
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.owned = 1'}))")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')")
    page.wait_for_timeout(100)
    assert page.evaluate("window.owned") is None
