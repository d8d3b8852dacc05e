"""The study of a vision-language model: what is asked, what is kept, and a server that lies."""

import base64
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.chat.asking import Pace
from pipeline.chat.journal import Journal
from pipeline.chat.request import read_template, spread
from pipeline.chat.server import retry_after_s
from pipeline.dataset.questions.question import Question
from pipeline.dataset.questions.question import to_table as questions_table
from pipeline.dataset.segments import Segment, to_table
from pipeline.features import frames, shards
from pipeline.scoring.answer_files import read_answers
from pipeline.scoring.captioners import read_costs
from stages import embed
from studies.vlm import consult, evaluate
from studies.vlm.settings import FILE, JOURNAL, METRICS, OUT, QUESTIONS, load_study
from tests.conftest import Page
from tests.random_clip import READS, write_random_clip
from tests.tiny import write_params

ROOT = Path.cwd()
VIDEOS = {"a": "train", "b": "test", "c": "test", "d": "test"}
FRAMES, FPS = 10, 5


def settings(folder: Path, changes: dict[str, Any]) -> None:
    """The study's params file with some values changed, in `folder`."""
    values = YAML(typ="safe").load((ROOT / FILE).read_text())
    for section, own in changes.items():
        values[section] = values[section] | own if isinstance(own, dict) else own
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w") as file:
        YAML().dump(values, file)


def make_inputs(folder: Path) -> None:
    """Videos of 2 s, each with two segments; every frame has a colour of its own."""
    random = np.random.default_rng(0)

    def made(ids):
        for id in ids:
            jpegs = []
            for colour in random.integers(256, size=(FRAMES, 3)):
                jpeg = BytesIO()
                Image.new("RGB", (32, 24), tuple(map(int, colour))).save(jpeg, "JPEG")
                jpegs.append(jpeg.getvalue())
            yield shards.VideoRows(id, frames.to_table(frames.Sampled(id, jpegs), fps=FPS))

    shards.update(
        folder / "data/videos/frames",
        schema=frames.SCHEMA,
        shards=1,
        fingerprints=dict.fromkeys(VIDEOS, "1"),
        compute=made,
    )
    segments = [
        Segment(f"{id}#{i}", id, split, float(i), float(i + 1), ("a red star rests",), "now")
        for id, split in VIDEOS.items()
        for i in (0, 1)
    ]
    pq.write_table(
        to_table(segments, expected={"train": 2, "val": 0, "test": 6}), folder / "data/videos/segments.parquet"
    )
    for name in ("caption.txt", "answer.txt"):
        (folder / "studies/vlm").mkdir(parents=True, exist_ok=True)
        (folder / "studies/vlm" / name).write_bytes((ROOT / "studies/vlm" / name).read_bytes())
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())


PATH = "/v1/chat/completions"
# Waits so short that tests do not wait, and a time limit that nothing reaches unless it hangs.
QUICK = {"workers": 2, "attempts": 2, "backoff_s": 0.01, "max_backoff_s": 0.02, "timeout_s": 60}


def reply(text: Any = "a red star rests", finish: Any = "stop", **more: Any) -> Page:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return json_page({"choices": [choice], "usage": usage} | more)


def json_page(value: Any, status: int = 200, **more: Any) -> Page:
    return Page(json.dumps(value).encode(), status, "application/json", **more)


def error(status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any) -> Page:
    return json_page({"error": {"message": message, **more}}, status, headers=tuple((headers or {}).items()))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture
def project(inputs, tmp_path, monkeypatch, site) -> Path:
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("VLM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    configure(site)
    return tmp_path


def configure(site, changes: dict[str, Any] | None = None, **asking: Any) -> None:
    changes = changes or {}
    model = {"name": "m", "base_url": f"{site.url}/v1"} | changes.get("model", {})
    settings(Path(), changes | {"model": model, "asking": QUICK | asking})


def calls(task: str = "captions") -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(OUT / task / "calls.parquet").to_pylist()}


def answered(site) -> list[dict[str, Any]]:
    """Everything is answered; the list of what was asked, as it grows."""
    asked: list[dict[str, Any]] = []

    def answer(body: str) -> Page:
        asked.append(json.loads(body))
        return reply()

    site.pages[PATH] = answer
    return asked


def shown(body: dict[str, Any]) -> tuple[str, list[bytes]]:
    """The prompt and the pictures of a request."""
    *pictures, text = body["messages"][0]["content"]
    start = "data:image/jpeg;base64,"
    assert all(one["image_url"]["url"].startswith(start) for one in pictures)
    return text["text"], [base64.b64decode(one["image_url"]["url"].removeprefix(start)) for one in pictures]


def test_frames_go_as_they_are_stored_with_their_times_in_the_prompt(project, site):
    asked = answered(site)
    configure(site, {"shown": {"count": 3}})
    consult.main("captions")
    stored = dict(shards.iterate(Path("data/videos/frames")))
    prompts = {}
    for body in asked:
        assert body["model"] == "m"
        assert body["max_tokens"] == load_study().captions.max_tokens
        assert body["temperature"] == 0
        prompt, pictures = shown(body)
        prompts[prompt] = pictures
    assert len(asked) == 6  # the test segments
    for row in calls().values():
        first = 5 * int(row["id"][-1])
        assert row["frames"] == [first, first + 2, first + 4]
    jpegs = stored["b"]["jpeg"].to_pylist()
    assert [jpegs[i] for i in (0, 2, 4)] in [shown(body)[1] for body in asked]
    assert any("3 frames" in prompt and "at 0.0, 0.4, 0.8 seconds" in prompt for prompt in prompts)
    assert any("at 1.0, 1.4, 1.8 seconds" in prompt and "from 1.0 to" in prompt for prompt in prompts)


def test_of_the_video_so_far_everything_up_to_the_segments_end_is_shown(project, site):
    answered(site)
    configure(site, {"shown": {"count": 4, "scope": "video"}})
    consult.main("captions")
    assert {tuple(row["frames"]) for id, row in calls().items() if id.endswith("#1")} == {(0, 3, 6, 9)}
    assert {tuple(row["frames"]) for id, row in calls().items() if id.endswith("#0")} == {(0, 1, 2, 4)}


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (1, 8), (5, 1), (5, 2), (5, 4), (5, 5), (100, 7)])
def test_evenly_spaced_frames_are_in_order_never_twice_and_end_with_the_last(frames, count):
    found = spread(frames, count)
    assert found == sorted(set(found))
    assert len(found) == min(frames, count)
    assert found[-1] == frames - 1
    assert found[0] == 0 or count == 1


def test_a_video_without_frames_is_a_row_with_that_reason_and_is_not_asked(project, site):
    asked = answered(site)
    table = pq.read_table("data/videos/segments.parquet")
    gone = [Segment("gone#0", "gone", "test", 0.0, 1.0, ("a dog",), "now")]
    rows = [Segment(**{**row, "captions": tuple(row["captions"])}) for row in table.to_pylist()]
    pq.write_table(to_table([*rows, *gone]), "data/videos/segments.parquet")
    consult.main("captions")
    assert calls()["gone#0"]["error"] == "its video has no frames"
    assert len(asked) == 6
    assert pq.read_table(OUT / "captions/captions.parquet").num_rows == 6
    assert json.loads((OUT / "captions/calls.json").read_text()) == {
        "model": "m",
        "asked": 7,
        "sent": 6,
        "answered": 6,
        "unusable": {"its video has no frames": 1},
        "tokens_in": 600,
        "tokens_out": 60,
        "seconds": pytest.approx(sum(row["seconds"] for row in calls().values())),
        "cost": None,
        "currency": "USD",
    }


def test_what_it_costs_is_told_at_the_prices_that_are_stated(project, site):
    answered(site)
    configure(site, {"prices": {"input": 2.0, "output": 8.0}})
    consult.main("captions")
    assert [row["cost"] for row in calls().values()] == [pytest.approx((100 * 2 + 10 * 8) / 1e6)] * 6
    assert json.loads((OUT / "captions/calls.json").read_text())["cost"] == pytest.approx(6 * 280 / 1e6)


# What the server answers, what becomes of the request, and after how many attempts.
LIES = {
    "busy": (error(429, "slow down"), "status 429: slow down", 2, False),
    "broken": (error(500, "out of memory"), "status 500: out of memory", 2, False),
    "broken without a word": (Page(b"", 502), "status 502", 2, False),
    "cut off": (Page(reply().body, kind="application/json", cut=20), "the connection broke off", 2, False),
    "no JSON": (Page(b"<html>welcome</html>", kind="text/html"), "the reply is no JSON: <html>welcome", 2, False),
    "half of it": (Page(reply().body[:-9], kind="application/json"), "the reply is no JSON", 2, False),
    "NaN": (Page(b'{"choices": NaN}', kind="application/json"), "the reply is no JSON", 2, False),
    "deep": (Page(b"[" * 100_000, kind="application/json"), "the reply is no JSON", 2, False),
    "a gateway's error": (json_page({"error": {"message": "upstream"}}), "the reply is an error: upstream", 2, False),
    "100 MB": (Page(b" " * 100_000_000, kind="application/json"), "the reply is longer than 1 MB", 2, False),
    "without end": (
        Page(b" " * 1000, 500, "application/json", endless=True),
        "the reply is longer than 1 MB",
        2,
        False,
    ),
    "compressed": (
        Page(gzip.compress(reply().body), kind="application/json", headers=(("Content-Encoding", "gzip"),)),
        "the reply is compressed",
        2,
        False,
    ),
    "no choices": (json_page({"choices": []}), "the reply has no choices", 1, True),
    "another thing": (json_page([1, 2]), "the reply has no choices", 1, True),
    "a choice of nothing": (json_page({"choices": [{}]}), "the reply is empty", 1, True),
    "null": (reply(None), "the reply is empty", 1, True),
    "spaces": (reply(" \n "), "the reply is empty", 1, True),
    "a number": (reply(7), "the reply is empty", 1, True),
    "cut off at the limit": (reply("a red", "length"), "the reply was cut off at max_tokens", 1, True),
    "censored": (reply("a red", "content_filter"), "the reply ended for another reason: content_filter", 1, True),
    "wrong": (error(400, "image is broken"), "status 400: image is broken", 1, True),
    "not processable": (json_page({"detail": [{"msg": "x"}]}, 422), "status 422", 1, True),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_reply_is_a_row_with_its_reason_and_never_a_caption(lie, project, site):
    page, reason, attempts, final = LIES[lie]
    # The first is answered: a server that refuses everything is another case.
    site.pages[PATH] = [reply("a blue star rests"), page]
    configure(site, workers=1, max_failed_fraction=1.0, max_backoff_s=0.05, backoff_s=0.01, max_reply_mb=1)
    consult.main("captions")
    first, second, *_ = calls().values()
    assert first["text"] == "a blue star rests"
    assert second["error"].startswith(reason)
    assert second["text"] is None
    assert second["attempts"] == attempts
    captions = pq.read_table(OUT / "captions/captions.parquet")["caption"].to_pylist()
    assert captions == ["a blue star rests"]
    assert len(JOURNAL.read_text().splitlines()) == (6 if final else 1)  # what can pass is not kept
    found = json.loads((OUT / "captions/calls.json").read_text())
    assert found["answered"] == 1
    assert sum(found["unusable"].values()) == 5


def test_a_server_that_hangs_is_given_up_after_the_time_limit(project, site):
    page = reply()
    site.pages[PATH] = [Page(page.body, kind=page.kind, stall_s=60)]
    configure(site, workers=6, attempts=1, timeout_s=0.3, max_failed_fraction=1.0)
    consult.main("captions")
    assert {row["error"] for row in calls().values()} == {"no complete reply within 0.3 s"}


def test_a_server_that_sends_a_byte_now_and_then_is_given_up_after_the_time_limit_too(project, site):
    site.pages[PATH] = Page(b" ", kind="application/json", endless=True)
    configure(site, workers=1, attempts=1, timeout_s=0.3, max_failed_fraction=1.0, max_reply_mb=1000)
    consult.main("captions")
    assert {row["error"] for row in calls().values()} == {"no complete reply within 0.3 s"}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (None, None)),
        ("many", (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": "10"}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": 1e300}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": 7}, (None, 7)),
    ],
)
def test_a_usage_that_is_wrong_is_unknown_and_so_is_the_cost(usage, tokens, project, site):
    site.pages[PATH] = reply(usage=usage)
    configure(site, {"prices": {"input": 1.0, "output": 1.0}})
    consult.main("captions")
    for row in calls().values():
        assert (row["tokens_in"], row["tokens_out"]) == tokens
        assert row["cost"] is None
        assert row["text"] == "a red star rests"
    found = json.loads((OUT / "captions/calls.json").read_text())
    assert found["tokens_in"] is None
    assert found["cost"] is None


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (error(401, "wrong key"), "status 401: wrong key"),
        (error(404, "no model m"), "status 404: no model m"),
        (error(402, "pay first"), "status 402: pay first"),
        (error(429, "no money left", code="insufficient_quota"), "status 429: no money left"),
        (Page(b"", 307, headers=(("Location", "http://example.org/v1/chat/completions"),)), "leads elsewhere"),
    ],
)
def test_a_server_that_refuses_everything_ends_the_run_at_once_and_nothing_is_kept(page, message, project, site):
    site.pages[PATH] = page
    with pytest.raises(ValueError, match=message):
        consult.main("captions")
    assert len(site.requests) <= QUICK["workers"] * 2  # what was under way
    assert not JOURNAL.read_text()
    assert not OUT.exists()


def test_a_refusal_of_one_request_is_a_row_where_others_are_answered(project, site):
    site.pages[PATH] = [reply(), error(403, "not this one"), reply()]
    configure(site, workers=1)
    consult.main("captions")
    assert [row["error"] for row in calls().values()] == [None, "status 403: not this one", None, None, None, None]


def test_no_server_at_all_is_said_at_once(project, site):
    settings(Path(), {"model": {"name": "m", "base_url": "http://127.0.0.1:9/v1"}, "asking": QUICK})
    with pytest.raises(ValueError, match=r"nothing answers at http://127.0.0.1:9/v1/ .*docs/vlm.md for how to start"):
        consult.main("captions")


def test_a_failure_that_can_pass_fails_the_stage_and_only_it_is_asked_again(project, site):
    site.pages[PATH] = [reply(), error(500), error(500), reply()]
    configure(site, workers=1)
    with pytest.raises(ValueError, match=r"1 of 6 requests failed .* the first: status 500: no\. Kept: the 5 others"):
        consult.main("captions")
    assert not OUT.exists()
    asked = len(site.requests)
    consult.main("captions")
    assert len(site.requests) == asked + 1
    assert {row["text"] for row in calls().values()} == {"a red star rests"}


def test_a_failure_that_passes_is_asked_again_at_once_and_counted(project, site):
    site.pages[PATH] = [error(500), error(429), reply()]
    configure(site, workers=1, attempts=3, max_backoff_s=1)
    consult.main("captions")
    assert [row["attempts"] for row in calls().values()] == [3, 1, 1, 1, 1, 1]


def test_a_run_that_is_killed_pays_for_nothing_twice(project, site):
    answered: list[Any] = []
    victim: list[subprocess.Popen] = []
    started = threading.Event()

    def answer(body: str) -> Page:
        started.wait()
        if len(answered) == 4 and victim[0].poll() is None:
            victim[0].send_signal(signal.SIGKILL)
            victim[0].wait()
        answered.append(shown(json.loads(body)))
        return reply(f"reply {len(answered)}")

    site.pages[PATH] = answer
    configure(site, workers=1)
    command = [sys.executable, "-m", "studies.vlm.consult", "captions"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    victim.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    started.set()
    assert victim[0].wait() == -signal.SIGKILL
    with JOURNAL.open("ab") as file:
        file.write(b'{"key": "half of a li')
    consult.main("captions")
    assert len(answered) == 6 + 1  # that which was under way
    assert answered[4] == answered[5]
    assert sorted(row["text"] for row in calls().values()) == [f"reply {n}" for n in (1, 2, 3, 4, 6, 7)]
    consult.main("captions")
    assert len(answered) == 6 + 1


def test_another_prompt_is_asked_anew_and_the_old_one_is_still_there(project, site):
    answered(site)
    consult.main("captions")
    prompt = Path("studies/vlm/caption.txt")
    before = prompt.read_text()
    prompt.write_text("Caption {times}.")
    consult.main("captions")
    assert len(site.requests) == 12
    prompt.write_text(before)
    consult.main("captions")
    assert len(site.requests) == 12
    configure(site, {"temperature": 0.5})
    consult.main("captions")
    assert len(site.requests) == 18


def test_equal_requests_are_asked_once(project, site):
    answered(site)
    Path("studies/vlm/caption.txt").write_text("What is this?")
    table = pq.read_table("data/videos/segments.parquet").to_pylist()
    rows = [Segment(**{**row, "captions": tuple(row["captions"])}) for row in table]
    twins = [Segment("b#9", "b", "test", 0.0, 1.0, ("a dog",), "now")]
    pq.write_table(to_table([*rows, *twins]), "data/videos/segments.parquet")
    consult.main("captions")
    assert len(calls()) == 7
    assert len(site.requests) == 6
    assert calls()["b#9"]["text"] == calls()["b#0"]["text"]


def test_a_journal_has_one_writer(tmp_path):
    with Journal(tmp_path / "journal"), pytest.raises(ValueError, match="is in use: another run"):
        Journal(tmp_path / "journal")


TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."


def test_a_context_that_is_too_long_gets_half_of_the_frames_once(project, site):
    def answer(body: str) -> Page:
        prompt, pictures = shown(json.loads(body))
        assert f"{len(pictures)} frames" in prompt
        return reply() if len(pictures) <= 2 else error(400, TOO_LONG)

    site.pages[PATH] = answer
    consult.main("captions")
    assert {tuple(row["frames"]) for row in calls().values()} == {(0, 4), (5, 9)}
    assert {row["attempts"] for row in calls().values()} == {2}
    asked = len(site.requests)
    consult.main("captions")
    assert len(site.requests) == asked


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_context_that_is_still_too_long_is_a_row_with_that_reason(status, project, site):
    site.pages[PATH] = error(status, TOO_LONG)
    consult.main("captions")
    assert {row["error"] for row in calls().values()} == {f"status {status}: {TOO_LONG}"}
    assert len(site.requests) == 2 * 6


def test_all_workers_wait_as_long_as_the_server_says():
    pace = Pace(None, 0.001, 10)
    turn = pace.turn()
    pace.asked_to_wait(turn, "busy", 0.3)
    turns: list[float] = []
    workers = [threading.Thread(target=lambda: turns.append(pace.turn())) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert min(turns) >= turn + 0.3


def test_a_longer_pause_than_allowed_ends_the_run_and_keeps_what_there_is(project, site):
    site.pages[PATH] = [reply(), reply(), error(429, "quota of the day", {"Retry-After": "36000"})]
    configure(site, workers=1)
    with pytest.raises(ValueError, match=r"4 of 6 requests .*quota of the day; it asks for a pause of 36000 s"):
        consult.main("captions")
    assert len(site.requests) == 3  # nothing is asked any more
    assert len(JOURNAL.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_s(value, now_s=10.0) == seconds


SECRET = "sk-7c1ff9e0"


@pytest.mark.parametrize(
    "page",
    [
        reply(f"your key is {SECRET}"),
        reply("yes", f"stop{SECRET}"),
        error(400, f"I do not like {SECRET}"),
        Page(SECRET.encode(), kind="text/html"),
        Page(f"no {SECRET}".encode(), 500),
    ],
)
def test_the_key_is_sent_and_stands_nowhere_even_if_the_server_repeats_it(page, project, site, monkeypatch, capsys):
    monkeypatch.setenv("VLM_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-another")
    site.pages[PATH] = page
    configure(site, max_failed_fraction=1.0)
    consult.main("captions")
    assert all(head["authorization"] == f"Bearer {SECRET}" for head in site.heads)
    assert "another" not in str(site.heads)
    files = [path for path in project.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert "***" in (OUT / "captions/calls.json").read_text() + str([row["text"] for row in calls().values()])
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


def test_a_refused_key_is_not_printed(project, site, monkeypatch):
    monkeypatch.setenv("VLM_API_KEY", SECRET)
    site.pages[PATH] = error(401, f"Incorrect API key provided: {SECRET}")
    with pytest.raises(ValueError, match=r"Incorrect API key provided: \*\*\*"):
        consult.main("captions")


def test_what_cannot_be_a_key_is_refused_without_showing_it(project, site, monkeypatch):
    monkeypatch.setenv("VLM_API_KEY", "sk-1\nX-Other: 2")
    site.pages[PATH] = reply()
    with pytest.raises(ValueError, match=r"^VLM_API_KEY: it has characters that no key has") as raised:
        consult.main("captions")
    assert "sk-1" not in str(raised.value)


def test_a_proxy_of_the_environment_does_not_see_what_stays_on_this_machine(project, site, monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.pages[PATH] = reply()
    consult.main("captions")
    assert len(site.requests) == 6


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/v1", "is plain http to another machine"),
        ("http://127.0.0.1.example.org/v1", "is plain http to another machine"),
        ("http://192.168.0.7:8000/v1", "is plain http to another machine"),
        ("https://me:hunter2@example.org/v1", "a key goes into VLM_API_KEY"),
        ("https://example.org/v1?key=hunter2", "a key goes into VLM_API_KEY"),
        ("https:///v1", "names no machine"),
        ("http://127.0.0.1:hunter/v1", "is no address"),
    ],
)
def test_an_address_that_would_give_something_away_is_refused(url, message, tmp_path):
    settings(tmp_path, {"model": {"base_url": url}})
    with pytest.raises(ValueError, match=rf"model\.base_url: .*{message}") as raised:
        load_study(tmp_path / FILE)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://localhost:8000/v1", False),
        ("http://127.0.0.9/v1", False),
        ("http://[::1]:8000/v1", False),
        ("https://example.org/v1", False),
        ("http://example.org/v1", True),
    ],
)
def test_an_address_that_is_safe_or_allowed_is_taken(url, allowed, tmp_path):
    settings(tmp_path, {"model": {"base_url": url, "allow_http": allowed}})
    assert load_study(tmp_path / FILE).model.base_url == url


def test_a_prompt_that_names_something_unknown_or_not_the_question_is_refused(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("Frames at {time}.")
    with pytest.raises(ValueError, match=r"has \{time\}; a prompt may have \{count\}, \{times\}"):
        read_template(path, [])
    path.write_text("Frames at {times}.")
    with pytest.raises(ValueError, match=r"lacks \{question\}"):
        read_template(path, ["question"])


QUESTIONS_ASKED = [
    Question("q1", "b", "which {colour} is it?", ("red",), (1.0,), kind="now", split="test", start_s=0.0, end_s=1.0),
    Question("q2", "b", "what comes in?", ("a ring",), (1.0,), ("a star", "a ring"), split="test", right_option=1),
    Question("q3", "c", "what comes in now?", ("a star",), (1.0,), ("a star", "a ring"), split="test", right_option=0),
    Question("q4", "a", "what is it?", ("blue",), (1.0,), split="train"),
    Question("q5", "gone", "what is it?", ("blue",), (1.0,), split="test"),
]


def test_questions_are_answered_from_what_they_may_see_and_what_names_no_option_is_no_answer(project, site):
    QUESTIONS.parent.mkdir(parents=True)
    pq.write_table(questions_table(QUESTIONS_ASKED), QUESTIONS)
    said = {"which {colour} is it?": "Red", "what comes in?": "(B)", "what comes in now?": "a dog, I think"}

    def answer(body: str) -> Page:
        prompt, _ = shown(json.loads(body))
        assert ("A. a star\nB. a ring" in prompt) == ("comes in" in prompt)
        return reply(next(text for question, text in said.items() if question in prompt))

    site.pages[PATH] = answer
    consult.main("answers")
    found = calls("answers")
    assert set(found) == {"q1", "q2", "q3", "q5"}
    assert found["q1"]["frames"] == [0, 1, 2, 3, 4]  # it is asked at 1 s
    assert len(found["q2"]["frames"]) == 8
    assert found["q2"]["frames"][-1] == FRAMES - 1
    assert found["q3"]["error"] == "the reply names no option"
    assert found["q5"]["error"] == "its video has no frames"
    evaluate.main("answers")
    scored = json.loads((METRICS / "answers/answers.json").read_text())
    assert (scored["asked"], scored["answered"]) == (4, 2)
    assert scored["accuracy"] == 50.0  # of all that were asked
    # As `python -m pipeline.score --answers` reads them.
    given = read_answers(OUT / "answers/answers.parquet", QUESTIONS_ASKED)
    assert given == {"q1": "Red", "q2": "(B)", "q3": None, "q5": None}


def test_captions_are_scored_by_the_real_scorers_and_what_is_none_is_counted_and_scored_nowhere(project, site):
    said = [reply("a red star rests"), reply(""), reply("a red star", "length"), reply("a blue ring"), error(400, "no")]
    site.pages[PATH] = said
    configure(site, {"prices": {"input": 2.0, "output": 8.0}}, workers=1)
    consult.main("captions")
    usable = {id: row["text"] for id, row in calls().items() if row["text"]}
    assert sorted(usable.values()) == ["a blue ring", "a red star rests"]
    write_params(Path("params.yaml"), Path("params.yaml"), {"frames.shards": 1, "device": "cpu"})
    write_random_clip(Path("models/encoder"), 8, text=READS)
    embed.main("videos")
    command = [sys.executable, "-m", "studies.vlm.evaluate", "captions"]  # of the stage score-captions
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 of 6 segments of split test scored" in done.stdout
    scored = json.loads((METRICS / "captions/captions.json").read_text())
    assert (scored["segments"], scored["segments.asked"]) == (2, 6)
    assert 0 < scored["METEOR"] < 100 and "CLIPScore" in scored
    each = pq.read_table(METRICS / "captions/segments.parquet").to_pylist()
    assert {row["segment_id"]: row["caption"] for row in each} == usable
    assert {row["caption"]: row["BLEU-4"] > 99 for row in each} == {"a red star rests": True, "a blue ring": False}
    coverage = json.loads((METRICS / "captions/coverage.json").read_text())
    assert sorted([*coverage["missing"], *usable]) == sorted(calls())
    counted = json.loads((METRICS / "captions/calls.json").read_text())
    assert (counted["asked"], counted["answered"]) == (6, 2)
    assert counted["unusable"] == {
        "status 400: no": 2,
        "the reply is empty": 1,
        "the reply was cut off at max_tokens": 1,
    }
    cost = read_costs(METRICS / "captions/cost.json")
    assert set(cost) >= {"seconds", "tokens_in", "tokens_out", "cost", "currency"}


def test_what_has_no_usable_reply_at_all_is_not_scored(project, site):
    site.pages[PATH] = error(400, "no")
    consult.main("captions")
    with pytest.raises(ValueError, match="none of 6 requests has a usable reply"):
        evaluate.main("captions")
