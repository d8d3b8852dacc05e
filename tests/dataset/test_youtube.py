"""The real yt-dlp against a site on the loopback address."""

import gzip
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

import stages.download
from pipeline.dataset import ledger
from pipeline.dataset.ledger import Journal
from pipeline.dataset.sources import youtube
from pipeline.dataset.sources.pace import Closed, Pace
from pipeline.dataset.sources.youtube import Site, Youtube
from pipeline.dataset.verdict import Row
from tests.conftest import Page

FAST = {
    "youtube.videos_per_hour": None,
    "youtube.workers": 2,
    "youtube.retries": 1,
    "youtube.timeout_s": 0.5,
    "youtube.backoff_s": 0.01,
    "youtube.max_backoff_s": 0.05,
    "download.videos.max_failed_fraction": 0.99,
}


@pytest.fixture
def ask(site, workspace, tmp_path):
    """ask(ids, **params): the stage on these ids; returns the ledger and the dataset's folder."""

    def run(*ids: str, **values: object) -> tuple[dict[str, Row], Path]:
        entry = {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["a dog runs"]}
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "train.json").write_text(json.dumps(dict.fromkeys(ids, entry)))
        names = ("train", "val", "test")
        own: dict[str, Any] = {
            "source": "youtube",
            "folder": "own",
            "annotations": {split: ["train.json"] if split == "train" else [] for split in names},
            "limit": dict.fromkeys(names),
        }
        params: dict[str, Any] = {f"download.videos.{key}": value for key, value in own.items()}
        params |= {"youtube.url": f"{site.url}/{{id}}.mp4", **FAST, **values}
        data = workspace(params) / "data" / "videos"
        stages.download.main("videos")
        return ledger.read(data / "ledger.parquet"), data

    return run


@pytest.fixture
def noisy(make_video) -> bytes:
    """A video of some size, in which every byte counts."""
    return make_video("noisy.mp4", "320x240", "25", 2.0, "noise=alls=60:allf=t").read_bytes()


def test_every_id_is_downloaded_or_ends_in_the_ledger_with_a_short_reason(ask, site, make_video, tmp_path):
    good = make_video("a.mp4").read_bytes()
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    playlist = f"#EXTM3U\n#EXTINF:2,\n{secret.as_uri()}\n#EXT-X-ENDLIST\n".encode()
    site.pages = {
        "/good.mp4": Page(good),
        "/-dash.mp4": Page(good),
        "/noise.mp4": Page(b"noise" * 999),
        "/page.mp4": Page(b"<html><body>Nothing to see</body></html>", kind="text/html"),
        "/forbidden.mp4": Page(b"no", 403, "text/html"),
        "/broken.mp4": Page(b"oh", 500, "text/html"),
        "/stalls.mp4": Page(good, stall_s=1.5),
        "/long.mp4": Page(good, claims=len(good) + 1000),
        "/posing.mp4": Page(playlist),
        "/list.mp4": Page(playlist, kind="application/vnd.apple.mpegurl"),
    }
    names = ("good", "-dash", "gone", "noise", "page", "forbidden", "broken", "stalls", "long", "posing", "list")
    rows, data = ask(*(f"v_{name}" for name in names))
    assert {video_id: (row.status, row.reason) for video_id, row in rows.items()} == {
        "v_-dash": ("ok", None),
        "v_good": ("ok", None),
        "v_noise": ("corrupt", "text, not a video"),
        "v_gone": ("gone", "HTTP 404"),
        "v_page": ("gone", "no video at this address"),
        "v_forbidden": ("unavailable", "HTTP 403"),
        "v_broken": ("unavailable", "HTTP 500"),
        "v_stalls": ("unavailable", "timed out"),
        "v_long": ("unavailable", "the download broke off"),
        "v_posing": ("corrupt", "a playlist or other text, not a video"),
        "v_list": ("gone", "a kind of stream that is not fetched"),
    }
    assert sorted(path.name for path in (data / "media").iterdir()) == ["v_-dash.mp4", "v_good.mp4"]
    assert rows["v_broken"].attempts == 2 and rows["v_gone"].attempts == 1
    read = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert b"the secret" not in read  # which the playlists name


def test_another_run_asks_again_for_what_can_pass_and_for_nothing_else(ask, site, make_video):
    good = Page(make_video("a.mp4").read_bytes())
    site.pages = {"/good.mp4": good, "/later.mp4": Page(b"oh", 500), "/noise.mp4": Page(b"noise" * 999)}
    ids = ("v_good", "v_later", "v_noise", "v_gone")
    first, data = ask(*ids)
    site.pages["/later.mp4"] = good
    site.requests.clear()
    again, _ = ask(*ids)
    assert set(site.paths()) == {"/later.mp4"}
    assert (again["v_later"].status, again["v_later"].attempts) == ("ok", 3)
    assert all(again[i] == first[i] for i in ids if i != "v_later")
    (data / "ledger.parquet").unlink()  # how to ask for everything again
    site.requests.clear()
    ask(*ids)
    assert set(site.paths()) == {"/noise.mp4", "/gone.mp4"}


def test_make_retry_asks_again_for_what_can_pass_and_dvc_knows_what_came_of_it(
    ask, site, make_video, tmp_path, monkeypatch
):
    root = Path(stages.download.__file__).parent.parent
    recipe = re.search(r"^retry:.*\n(?:\t@.*\n)*\tdvc (repro .*)\n\tdvc repro$", (root / "Makefile").read_text(), re.M)
    good = Page(make_video("a.mp4").read_bytes())
    site.pages = {"/good.mp4": good, "/later.mp4": Page(b"oh", 500)}
    first, data = ask("v_good", "v_later", "v_gone")
    for name in ("pipeline", "stages"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "dvc.yaml", tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    own = "download@videos"
    with Repo.init(no_scm=True) as repo:
        repo.reproduce([own], single_item=True)
        assert repo.status([own]) == {}
    site.pages["/later.mp4"] = good
    site.requests.clear()
    assert recipe
    arguments = recipe[1].replace("download@pictures ", "").split()  # which would be rendered again
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(site.paths()) == {"/later.mp4"}
    rows = ledger.read(data / "ledger.parquet")
    assert rows["v_later"].status == "ok" and rows["v_gone"].attempts == first["v_gone"].attempts
    with Repo() as repo:
        assert repo.status([own]) == {}
    outs = YAML(typ="safe").load(tmp_path / "dvc.lock")["stages"][own]["outs"]
    locked = {out["path"]: out["md5"] for out in outs}
    assert locked["data/videos/ledger.parquet"] == hashlib.md5((data / "ledger.parquet").read_bytes()).hexdigest()


def test_a_download_that_breaks_off_goes_on_where_it_was(ask, site, noisy):
    size = len(noisy)
    site.pages = {"/a.mp4": Page(noisy, cut=size // 3)}
    rows, data = ask("v_a", **{"youtube.retries": 3})
    assert rows["v_a"].status == "ok" and (data / "media" / "v_a.mp4").read_bytes() == noisy
    begun = [int(ranges.removeprefix("bytes=").split("-")[0]) for _, _, ranges in site.requests if ranges]
    assert any(begin >= size // 3 for begin in begun), site.requests


def test_a_download_that_was_killed_goes_on_where_it_was(ask, site, noisy, tmp_path):
    with pytest.raises(ValueError, match="no video is usable"):
        ask("v_a")  # writes the params
    shutil.rmtree(tmp_path / "data")
    site.pages = {"/a.mp4": Page(noisy, stall_s=60)}
    killed = subprocess.Popen(
        [sys.executable, "-m", "stages.download", "videos"],
        env={**os.environ, "PYTHONPATH": str(Path(stages.download.__file__).parent.parent)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    partial = tmp_path / "data" / "videos" / ".partial" / "v_a"
    until = time.monotonic() + 300
    while not any(path.stat().st_size for path in partial.glob("*.part")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    had = sum(path.stat().st_size for path in partial.glob("*.part"))
    assert 0 < had < len(noisy)
    site.pages = {"/a.mp4": Page(noisy)}
    site.requests.clear()
    rows, data = ask("v_a")
    assert rows["v_a"].status == "ok" and (data / "media" / "v_a.mp4").read_bytes() == noisy
    assert ("GET", "/a.mp4", f"bytes={had}-") in site.requests
    assert not list((data / ".partial").iterdir())


def test_a_site_that_refuses_is_given_time_by_all_workers_and_then_left_alone(ask, site, make_video):
    site.pages = {f"/{i}.mp4": Page(b"slow down", 429, "text/html") for i in range(30)}
    with pytest.raises(ValueError, match=r"no video is usable: \d+ unavailable \(not requested: rate-limited\)"):
        ask(*(f"v_{i}" for i in range(30)))
    rows = ledger.read(Path("data/videos/ledger.parquet"))
    assert {row.reason for row in rows.values()} == {"rate-limited", "not requested: rate-limited"}
    assert all((row.attempts == 0) == row.reason.startswith("not requested") for row in rows.values())
    # Waits of 0.01, 0.02, 0.04, 0.05 s, each followed by what two workers ask at once; without a pace it would be 60.
    assert len(site.paths()) < 15


def test_a_busy_site_that_recovers_gives_all(ask, site, make_video):
    good = Page(make_video("a.mp4").read_bytes())
    site.pages = {f"/{i}.mp4": [Page(b"busy", 503), good] for i in range(3)}
    rows, _ = ask("v_0", "v_1", "v_2", **{"youtube.retries": 3, "youtube.max_backoff_s": 1.0})
    assert {row.status for row in rows.values()} == {"ok"}


def test_what_is_larger_than_the_params_allow_is_left_in_the_middle(ask, site, noisy, make_video):
    bomb = gzip.compress(b"<html>" + bytes(2**28))
    site.pages = {
        "/good.mp4": Page(make_video("a.mp4").read_bytes()),
        "/large.mp4": Page(noisy),
        "/endless.mp4": Page(bytes(2**16), endless=True),
        "/page.mp4": Page(b"<html>" + b" " * 2**16, kind="text/html", endless=True),
        "/list.mp4": Page(b"#EXTM3U\n" + b"#" * 2**16, kind="application/vnd.apple.mpegurl", endless=True),
        "/bomb.mp4": Page(bomb, kind="text/html", headers=(("Content-Encoding", "gzip"),)),
    }
    assert len(noisy) > 2**17
    ids = [f"v_{path.strip('/').removesuffix('.mp4')}" for path in site.pages]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, data = ask(*ids, **{"youtube.max_file_gb": 2**-13, "youtube.max_page_mb": 0.05})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert {video_id: row.reason for video_id, row in rows.items()} == {
        "v_good": None,
        "v_large": "larger than youtube.max_file_gb (0.00012207)",
        "v_endless": "larger than youtube.max_file_gb (0.00012207)",
        "v_page": "larger than youtube.max_page_mb (0.05)",
        "v_list": "larger than youtube.max_page_mb (0.05)",
        "v_bomb": "larger than youtube.max_page_mb (0.05)",
    }
    assert grown < 2**17  # kilobytes; the bomb has twice that
    assert not list((data / ".partial").iterdir())
    again, _ = ask("v_good", "v_large", "v_page", **{"youtube.max_file_gb": 2**-4, "youtube.max_page_mb": 0.05})
    assert again["v_large"].status == "ok" and again["v_page"] == rows["v_page"]  # the one limit is higher now


def test_a_live_stream_is_said_to_be_live_and_one_without_end_is_left(ask, site, make_video):
    site.pages = {
        "/good.mp4": Page(make_video("a.mp4").read_bytes()),
        "/list.mp4": Page(b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n", kind="application/x-mpegurl"),
        "/radio.mp4": Page(bytes(100), endless=True),
    }
    rows, _ = ask("v_good", "v_list", "v_radio", **{"youtube.max_minutes": 1 / 6})
    reasons = {video_id: (row.status, row.reason) for video_id, row in rows.items()}
    assert reasons["v_good"] == ("ok", None)
    assert reasons["v_list"] == ("unavailable", "live")
    assert reasons["v_radio"] == ("unavailable", "not complete within youtube.max_minutes")


@pytest.mark.parametrize("method", ["SAMPLE-AES", "SAMPLE-AES-CTR"])
def test_no_playlist_brings_ffmpeg_to_the_network_or_its_log_to_the_terminal(ask, site, make_video, capfd, method):
    site.pages["/good.mp4"] = Page(make_video("a.mp4").read_bytes())
    key = f'#EXT-X-KEY:METHOD={method},URI="{site.url}/key"'
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{key}\n#EXTINF:2,\n{site.url}/inner.ts\n#EXT-X-ENDLIST\n"
    site.pages["/list.mp4"] = Page(text.encode(), kind="application/vnd.apple.mpegurl")
    rows, _ = ask("v_good", "v_list")
    assert (rows["v_list"].status, rows["v_list"].reason) == ("gone", "a kind of stream that is not fetched")
    assert not {"/key", "/inner.ts"} & set(site.paths())
    assert "HTTP" not in capfd.readouterr().err


def test_a_redirect_to_another_protocol_is_not_followed(ask, site, make_video):
    with socket.create_server(("127.0.0.1", 0)) as ftp:
        ftp.settimeout(0)
        address = f"ftp://127.0.0.1:{ftp.getsockname()[1]}/a.mp4"
        site.pages = {
            "/good.mp4": Page(make_video("a.mp4").read_bytes()),
            "/a.mp4": Page(b"", 302, headers=(("Location", address),)),
        }
        rows, _ = ask("v_good", "v_a")
        assert (rows["v_a"].status, rows["v_a"].reason) == ("gone", "a kind of stream that is not fetched")
        with pytest.raises(BlockingIOError):
            ftp.accept()


def test_a_sites_words_reach_the_terminal_as_text(ask, site, capfd):
    site.pages["/a.mp4"] = Page(b"no", 701, "text/html", phrase="\x1b]0;owned\x07")
    site.pages["/b.mp4"] = Page(b"no", kind="text/html", headers=(("Location", "x"),), claims="\x1b[2J")
    with pytest.raises(ValueError, match="no video is usable") as raised:
        ask("v_a", "v_b")
    assert r"yt-dlp failed (ValueError: invalid literal for int() with base 10: '\x1b[2J'" in str(raised.value)
    assert "\x1b" not in str(raised.value) + capfd.readouterr().err


def test_requests_are_spread_over_the_hour():
    pace, turns = Pace(36_000, 1, 1), []  # one every 0.1 s
    threads = [threading.Thread(target=lambda: turns.append(pace.turn())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(turns) - min(turns) > 0.39  # four gaps


def test_waits_double_while_the_site_refuses_and_end():
    pace, waits = Pace(None, 0.02, 0.08), []
    with pytest.raises(Closed):
        while True:
            turn = pace.turn()
            pace.refused(turn, "rate-limited")
            pace.refused(turn, "rate-limited")  # another worker's, of the same moment: no longer wait for it
            waits.append(pace.wait_s)
    assert waits == [0.02, 0.04, 0.08, 0.08] and pace.why == "rate-limited"
    pace = Pace(None, 0.02, 0.08)
    pace.refused(pace.turn(), "rate-limited")
    pace.turn()
    pace.answered()
    assert pace.wait_s == 0


def test_a_run_that_is_stopped_does_not_wait_for_its_back_off():
    pace = Pace(None, 3600, 3600)
    pace.refused(pace.turn(), "rate-limited")
    threading.Timer(0.1, pace.close, ["the run was stopped"]).start()
    with pytest.raises(Closed):
        pace.turn()  # otherwise in an hour


def test_cookies_and_proxy_reach_the_site_and_the_users_file_stays_as_it_is(ask, site, make_video, tmp_path):
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\nvideos.example\tFALSE\t/\tFALSE\t0\tsession\t42\n")
    before = cookies.read_bytes()
    site.pages = {"http://videos.example/a.mp4": Page(make_video("a.mp4").read_bytes())}  # what a proxy is asked
    params = {"cookies": str(cookies), "proxy": site.url, "url": "http://videos.example/{id}.mp4"}
    rows, _ = ask("v_a", **{f"youtube.{key}": value for key, value in params.items()})
    assert rows["v_a"].status == "ok" and cookies.read_bytes() == before
    assert set(site.cookies) == {"session=42"}


def test_cookies_that_are_none_are_said_before_anything_is_asked(ask, site, tmp_path):
    with pytest.raises(ValueError, match=r"youtube.cookies: .*none.txt cannot be read \(.*No such file"):
        ask("v_a", **{"youtube.cookies": str(tmp_path / "none.txt")})
    (tmp_path / "page.txt").write_text("<html>")
    with pytest.raises(ValueError, match=r"page.txt is not a cookies.txt: its first line is not '# Netscape HTTP Cook"):
        ask("v_a", **{"youtube.cookies": str(tmp_path / "page.txt")})
    assert not site.requests


def test_an_id_is_a_name_and_no_template(ask, site, make_video):
    names = ["100%(id)s", "$HOME", "${PATH}", "a b"]
    site.pages = {f"/{quote(name, safe='')}.mp4": Page(make_video("a.mp4").read_bytes()) for name in names}
    rows, data = ask(*names)
    assert {row.status for row in rows.values()} == {"ok"}
    assert sorted(path.stem for path in (data / "media").iterdir()) == sorted(names)


def test_a_host_that_is_not_there_is_a_reason(tmp_path):
    options: dict[str, Any] = {
        "max_height_px": 360,
        "workers": 1,
        "retries": 0,
        "timeout_s": 2,
        "backoff_s": 0.01,
        "max_backoff_s": 0.01,
    }
    options |= {"cookies": None, "proxy": None, "videos_per_hour": None}
    options |= {"max_file_gb": 1, "max_page_mb": 1, "max_minutes": 1}
    source = Youtube(tmp_path, tmp_path / "partial", url="http://127.0.0.1:9/{id}", **options)
    with Journal(tmp_path / "ledger.parquet", source=source.identity) as journal:
        row, file = source.fetch(journal, "v_x", "train", None)
    assert (row.status, row.reason, file) == ("unavailable", "host cannot be reached", None)


@pytest.mark.parametrize(
    ("message", "reason", "kind"),
    [
        ("[youtube] x: Private video. Sign in if you've been granted access", "private", "final"),
        ("[youtube] x: Video unavailable. This video has been removed by the uploader", "removed", "final"),
        ("[youtube] x: This video is no longer available because the account has been terminated.", "removed", "final"),
        ("[youtube] x: Video unavailable", "unavailable", "final"),
        ("[youtube] x: Video unavailable. This content isn't available, try again later. The current session has been "
         "rate-limited by YouTube for up to an hour.", "rate-limited", "wait"),
        ("[youtube] x: The uploader has not made this video available in your country", "geo-blocked", "final"),
        ("[youtube] x: Video unavailable. This video contains content from SME, who has blocked it in your country on "
         "copyright grounds", "geo-blocked", "final"),
        ("[youtube] x: This video contains content from SME, who has blocked it on copyright grounds", "blocked",
         "final"),
        ("[youtube] x: Sign in to confirm your age. This video may be inappropriate", "age-restricted", "final"),
        ("[youtube] x: Sign in to confirm you're not a bot. Use --cookies", "rate-limited", "wait"),
        ("[youtube] x: Requested format is not available. Use --list-formats", "no video stream", "later"),
        ("[youtube] x: Premieres in 3 hours", "not shown yet", "later"),
        ("[generic] Unable to download webpage: HTTP Error 403: Forbidden (caused by ...)", "HTTP 403", "again"),
        ("[generic] Unable to download webpage: HTTP Error 410: Gone (caused by ...)", "HTTP 410", "final"),
        ("[generic] Unable to download webpage: HTTP Error 503: Busy (caused by ...)", "HTTP 503", "wait"),
        ("[x] something new; please report this issue on github", "something new", "later"),
    ],
)  # fmt: skip
def test_a_sites_message_becomes_a_short_reason_of_a_kind(message, reason, kind):
    assert youtube.reason_of(f"ERROR: {message}") == (reason, kind)


def test_what_cookies_or_a_proxy_might_have_helped_is_asked_for_again_with_them(monkeypatch):
    def site(cookies: str | None = None, proxy: str | None = None) -> Site:
        return Site("{id}", 360, cookies, proxy, 0, 1.0, 1e9, 1e9, 60.0, Pace(None, 1, 1))

    def refused(message: str, source: Site) -> Row:
        monkeypatch.setattr(youtube, "_download", lambda *_: youtube.reason_of(message))
        return Row("v_a", "gone", youtube._ask(source, "v_a", Path())[0])

    def helps(row: Row) -> dict[str, bool]:
        return {key: youtube._may_pass_now(row, site(**{key: "x"})) for key in ("cookies", "proxy")}

    private = refused("Private video", site())
    assert private.reason == "private; youtube.cookies might help"
    assert helps(private) == {"cookies": True, "proxy": False}
    abroad = refused("not available in your country", site(cookies="c"))
    assert helps(abroad) == {"cookies": False, "proxy": True}
    assert helps(refused("Private video", site(cookies="c"))) == {"cookies": False, "proxy": False}
    assert helps(refused("has been removed", site())) == {"cookies": False, "proxy": False}
