import http.server
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import pytest
from ruamel.yaml import YAML

from bench.forking import SLOW, TRAINING, Forking

# Begun first: a long file that is begun last is waited for by every worker.
LONGEST = ("test_pipeline", "test_ablation", "test_training", "test_engine", "test_scores", "test_incremental")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real videos, pictures and annotations that the project does not contain; see their README."""
    folder = Path(os.environ.get("REAL_DATA", "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def make_video(tmp_path_factory) -> Callable[..., Path]:
    """make_video(name, size, rate, seconds, filters, *options): a video whose n-th picture is plain grey number n.

    The real ffmpeg writes it; the name's suffix chooses the container. One of each kind is made per session.
    """
    folder = tmp_path_factory.mktemp("videos")

    @cache
    def make(name: str, size="64x48", rate="10", seconds=2.0, filters="", *options: str) -> Path:
        source = f"color=black:s={size}:r={rate}:d={seconds},geq=lum='16+mod(N*4,200)':cb=128:cr=128"
        path = folder / name
        run_ffmpeg("-f", "lavfi", "-i", ",".join(part for part in (source, filters) if part), *options, str(path))
        return path

    return make


def run_ffmpeg(*arguments: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *arguments], check=True)


@pytest.fixture(scope="session")
def forking() -> Iterator[Forking]:
    """Runs stages, each in a process of its own that need not import torch and the like again."""
    forking = Forking(f"{SLOW} {TRAINING}")
    yield forking
    forking.stop()


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Callable[..., Path]:
    """workspace(values): an empty folder, made the current one, with the project's params.yaml and these in it.

    values: {"frames.fps": 2, ...}.
    """
    original = Path("params.yaml").resolve()

    def make(values: dict[str, object]) -> Path:
        write_params(tmp_path / "params.yaml", original, values)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


def write_params(path: Path, original: Path, values: dict[str, object]) -> None:
    """Write the params file `original` with some values changed ({"frames.fps": 2, ...}); `...` takes a key out."""
    yaml = YAML()
    params = yaml.load(original.read_text())
    for key, value in values.items():
        *sections, last = key.split(".")
        inner = params
        for section in sections:
            inner = inner[section]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    with path.open("w") as file:
        yaml.dump(params, file)


@dataclass
class Page:
    """What a site answers. Its unkindness: cut, so many bytes of an answer and the connection is closed; stall_s, it
    sends half and then waits; claims, the Content-Length it sends; ranges False, it sends all whatever was asked for.
    """

    body: bytes
    status: int = 200
    kind: str = "video/mp4"
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    stall_s: float = 0.0
    claims: int | None = None
    ranges: bool = True


class Site(http.server.ThreadingHTTPServer):
    """On the loopback address: `pages` by path, or a function of method, path and asked; the rest is 404.

    asked: (method, path, Range) of every request; cookies: their cookies.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.pages: dict[str, Page | list[Page] | Callable[[str], Page]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.cookies: list[str | None] = []

    def paths(self, method: str = "GET") -> list[str]:
        return [path for how, path, _ in self.asked if how == method]

    def handle_error(self, *_) -> None:
        pass  # a client that was killed


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        self.server.cookies.append(self.headers.get("Cookie"))
        page = self.server.pages.get(self.path.split("?")[0], Page(b"gone", 404, "text/html"))
        if isinstance(page, list):  # one after the other; the last stays
            page = page.pop(0) if len(page) > 1 else page[0]
        elif callable(page):
            length = int(self.headers.get("Content-Length", 0))
            page = page(self.rfile.read(length).decode() if length else self.path)
        body, status, headers = page.body, page.status, dict(page.headers)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and page.ranges and status == 200:
            first, last = int(wanted[1]), min(int(wanted[2] or len(body) - 1), len(body) - 1)
            if first >= len(body):
                status, body, headers = 416, b"", {"Content-Range": f"bytes */{len(body)}"}
            else:
                headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
                status, body = 206, body[first : last + 1]
        self.send_response(status)
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(body) if page.claims is None else page.claims))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2 if page.stall_s else page.cut])
        if page.stall_s:
            self.wfile.flush()
            time.sleep(page.stall_s)
            self.wfile.write(body[len(body) // 2 :])
        if page.cut is not None or page.claims is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Site() as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site
        site.shutdown()
