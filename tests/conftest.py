import http.server
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from tests.forking import SLOW, TRAINING, Forking
from tests.tiny import write_params

# At Ray's own niceness of 15 its workers hardly run beside other tests, and it gives up one that begins after a minute.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")

# Begun first: a long file that is begun last is waited for by every worker.
LONGEST = (
    "test_pipeline",
    "test_ablation",
    "test_loop",
    "test_training",
    "test_engine",
    "test_scorer",
    "test_incremental",
)

# And these, of what `-m "not slow"` leaves out: they start browsers, servers, clusters or many ffmpegs and Javas.
TAKE_LONG = (
    *LONGEST,
    *(
        "test_app",
        "test_archives",
        "test_children",
        "test_coco",
        "test_ddp",
        "test_frames",
        "test_memory",
    ),
    *(
        "test_predict",
        "test_published",
        "test_remote",
        "test_report",
        "test_safety",
        "test_streaming",
        "test_vlm_models",
        "test_youtube",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        if item.path.stem in TAKE_LONG:
            item.add_marker(pytest.mark.slow)


class Results:
    """What `dvc repro` has left in this clone. No test may depend on it, so none reads it; none writes there."""

    def __init__(self, root: Path) -> None:
        self.folders = tuple(f"{root / name}{os.sep}" for name in ("data", "models", "metrics"))
        listed = subprocess.run(["git", "ls-files", "-z", *self.folders], capture_output=True, text=True, cwd=root)
        self.committed = {str(root / name) for name in listed.stdout.split("\0")}
        self.used: list[str] = []  # by Python in this process
        sys.addaudithook(self._watch)

    def there(self) -> dict[str, tuple[int, int]]:
        """Size and time of change, by file."""
        files = [Path(folder, name) for top in self.folders for folder, _, names in os.walk(top) for name in names]
        return {str(file): (file.lstat().st_size, file.lstat().st_mtime_ns) for file in files}

    def _watch(self, event: str, arguments: tuple) -> None:
        # Not the listings of folders: DVC goes through all of them, and looks for what git ignores, to find pipelines.
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100
            if path.startswith(self.folders) and not path.endswith("ignore") and path not in self.committed:
                self.used.append(path)


@pytest.fixture(scope="session", autouse=True)
def results() -> Iterator[Results]:
    results = Results(Path.cwd())
    before = results.there()
    results.used.clear()
    yield results
    assert results.there() == before, "a test has written into data/, models/ or metrics/ of this clone"


@pytest.fixture(autouse=True)
def uses_no_results(results) -> Iterator[None]:
    yield
    used, results.used[:] = list(results.used), []
    assert not used, "a test must not depend on what this clone's data/, models/ and metrics/ hold"


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
        path = Path(tempfile.mkdtemp(dir=folder)) / name  # two kinds may have one name
        run_ffmpeg("-f", "lavfi", "-i", ",".join(part for part in (source, filters) if part), *options, str(path))
        return path

    return make


def run_ffmpeg(*arguments: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *arguments], check=True)


@pytest.fixture
def tokenizer() -> Any:
    """Of tests/colours.py, as `decoder` is."""
    from tests.colours import make_tokenizer

    return make_tokenizer()


@pytest.fixture
def decoder() -> Any:
    from tests.colours import make_decoder

    return make_decoder()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread: sums have one order, and other tests' processes are not waited for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@dataclass
class Page:
    """What a site answers. Its unkindness: cut, so many bytes of an answer and the connection is closed; stall_s, it
    sends half and then waits; claims, the Content-Length it sends; ranges False, it sends all whatever was asked for;
    endless, it repeats the body for as long as somebody reads; phrase, what stands beside the status.
    """

    body: bytes
    status: int = 200
    kind: str = "video/mp4"
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    stall_s: float = 0.0
    claims: int | str | None = None
    ranges: bool = True
    endless: bool = False
    phrase: str | None = None


class Site(http.server.ThreadingHTTPServer):
    """On the loopback address: `pages` by path, or a function of the path; the rest is 404.

    requests: (method, path, Range) of every request; cookies: their cookies; heads: their headers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.pages: dict[str, Page | list[Page] | Callable[[str], Page]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cookies: list[str | None] = []
        self.heads: list[dict[str, str]] = []

    def paths(self, method: str = "GET") -> list[str]:
        return [path for one, path, _ in self.requests if one == method]

    def handle_error(self, *_) -> None:
        pass  # a client that was killed


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        self.server.cookies.append(self.headers.get("Cookie"))
        self.server.heads.append(dict(self.headers))
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length).decode() if length else self.path
        page = self.server.pages.get(self.path.split("?")[0], Page(b"gone", 404, "text/html"))
        if isinstance(page, list):  # one after the other; the last stays
            page = page.pop(0) if len(page) > 1 else page[0]
        elif callable(page):
            page = page(sent)
        body, status, headers = page.body, page.status, dict(page.headers)
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part and page.ranges and status == 200:
            first, last = int(part[1]), min(int(part[2] or len(body) - 1), len(body) - 1)
            if first >= len(body):
                status, body, headers = 416, b"", {"Content-Range": f"bytes */{len(body)}"}
            else:
                headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
                status, body = 206, body[first : last + 1]
        self.send_response(status, page.phrase)
        self.send_header("Content-Type", page.kind)
        if not page.endless:
            self.send_header("Content-Length", str(len(body) if page.claims is None else page.claims))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        while page.endless:  # the client's leaving ends it
            self.wfile.write(body)
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
def small_project(tmp_path) -> Path:
    """Of a stage and the modules that it imports, and one that it does not."""
    for name, text in {
        "pipeline/__init__.py": "",
        "pipeline/a.py": "import numpy\nfrom pipeline.b import f\n",
        "pipeline/b.py": "def f():\n    from pipeline.deep import c\n    return c\n",
        "pipeline/deep/__init__.py": "",
        "pipeline/deep/c.py": "",
        "pipeline/unused.py": "",
        "stages/__init__.py": "",
        "stages/go.py": "import pipeline.a\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Site() as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site
        site.shutdown()


@pytest.fixture
def typed(monkeypatch, capsys):
    """typed(module, *arguments): exit code, output and errors of a command of pipeline/."""

    def command(module, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [module.__name__.split(".")[-1], *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            module.main()
            raise SystemExit(0)
        printed = capsys.readouterr()
        if isinstance(ended.value.code, str):
            return 1, printed.out, ended.value.code
        return int(ended.value.code or 0), printed.out, printed.err

    return command
