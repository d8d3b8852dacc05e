"""The page's server: one captioner, which captions one video after the other.

GET / is the page. POST /caption?segments=found|whole, with a video as its body, is answered with lines of JSON as the
work proceeds:

    {"ahead": 2}                                       how many videos come first
    {"doing": "sampling", "done": 12.4, "of": 40.0}    of: null if unknown
    {"content": {...}}                                 the last line: what the page shows (content.py)
    {"error": "why"}                                   or this

Closing the connection cancels the work on that video. `content` has an id under `seen`, by which the last few videos
can be asked about, where there is an answerer. POST /ask with {"seen": id, "question": text, "at": seconds or null} is
answered with {"first": [[answer, probability], ...], "moments": [...], "warnings": [...]}, or {"error": "why"}.

POST /find, with {"text": text} or with a picture as its body (Content-Type: image/...), searches the project's videos,
where these were embedded: {"moments": [{"video": id, "at": time, "similarity": cosine, "thumbnail": WebP}, ...]}.
"""

import asyncio
import errno
import json
import logging
import math
import secrets
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from pipeline.files import strict_json
from pipeline.process import children
from pipeline.safety import decoding_limit_s
from pipeline.serving.app.content import answer_of, content_of, found_of
from pipeline.serving.finder import Finder
from pipeline.serving.video_answerer import Seen, VideoAnswerer
from pipeline.serving.video_captioner import VideoCaptioner
from pipeline.serving.web import assemble

MAX_BYTES = 4 << 30  # largest video
MAX_PICTURE_BYTES = 64 << 20  # largest picture to search with
CHUNK_BYTES = 1 << 20
STALLED_S = 60  # without a byte of an upload
MAX_SEEN = 4  # videos that are kept for questions
TELL_S = 0.25  # how often progress is reported
# Names of this machine. Browsers resolve these without the network, so no other site can make one point here (DNS
# rebinding). The port may be any: `ssh -L 9000:localhost:7860` changes it.
HERE = frozenset({"localhost", "127.0.0.1", "::1"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GivenUp(Exception):
    """The client has left."""


@dataclass
class Job:
    """A video that waits for the captioner or is being captioned."""

    video: Path
    segments: str  # found | whole
    state: dict[str, Any] | None = None  # the line on its progress; None: it waits
    is_given_up: bool = False
    began_s: float | None = None  # by the monotonic clock
    limit_s: float = math.inf

    def watch(self, doing: str, done: float, of: float | None) -> None:
        """Called during the work. Ends it by raising GivenUp, or ValueError if it takes too long."""
        if self.is_given_up:
            raise GivenUp
        now_s = time.monotonic()
        if self.began_s is None:  # from the sampling, which counts seconds of the video
            self.began_s, self.limit_s = now_s, decoding_limit_s(of, self.video.stat().st_size)
        if now_s > self.began_s + self.limit_s:
            raise ValueError(
                f"given up after {self.limit_s:.0f} s, so that others need not wait longer; without such a limit:"
                " python -m pipeline.predict"
            )
        self.state = {"doing": doing, "done": round(done, 1), "of": of and round(of, 1)}


def listen(port: int) -> socket.socket:
    """A socket that only this machine can reach. Raises ValueError naming another port to try."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: expected 1 to 65535, or 0 for any free port")
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {port} is taken, perhaps by an app that is still running; try another: "
                f"--port {min(port + 1, 65535)}, or --port 0 for any free port"
            ) from None
        if error.errno == errno.EACCES:
            raise ValueError(f"port {port} needs root; use one from 1024 on: --port 7860") from None
        raise


class Server:
    """The server of the page and of captions.

    Args:
        listening: see `listen`.
        name: of the variant, shown on the page.
        allowed_hosts: further names, with or without a port, that browsers may use for this server.
        answerer: of questions about the videos, if there is one. It samples frames as the captioner does.
        finder: of moments in the project's videos, if there are any.
    """

    def __init__(
        self,
        listening: socket.socket,
        captioner: VideoCaptioner,
        name: str,
        allowed_hosts: Sequence[str] = (),
        answerer: VideoAnswerer | None = None,
        finder: Finder | None = None,
    ) -> None:
        if answerer and answerer.sampling != captioner.sampling:
            raise ValueError(
                f"the answerer samples frames as {answerer.sampling}, the captioner as {captioner.sampling}; "
                "the app needs two that do alike"
            )
        self.captioner, self.name, self.answerer, self.finder = captioner, name, answerer, finder
        self._seen: dict[str, Seen] = {}  # the last few videos, by id
        self._looked_at: set[str] = set()  # those of which they are the answerer's embeddings, not the captioner's
        self._listening, self._allowed_hosts = listening, {host.lower() for host in allowed_hosts}
        self._worker = ThreadPoolExecutor(1, "captioner")
        self._jobs: list[Job] = []  # the first is in progress
        # The page plays the dropped video, and connects to this server only.
        sources = "; media-src blob:; connect-src 'self'"
        known = captioner.familiarity
        content: dict[str, Any] = {"variant": name, "trainedOn": known and known.trained_on, "mostBytes": MAX_BYTES}
        content["answers"] = answerer and answerer.chooses
        content["searched"] = finder and finder.about
        self._page = assemble(Path(__file__).parent, "Caption a video", content, sources=sources)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/"

    async def serve_until_signal(self) -> signal.Signals:
        """Serve until SIGINT or SIGTERM arrives; returns which. By then all work has ended."""
        loop, came = asyncio.get_running_loop(), asyncio.Queue[signal.Signals]()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, came.put_nowait, number)
        runner = await self.start()
        number = await came.get()
        await self.stop(runner)
        return number

    async def start(self) -> web.AppRunner:
        app = web.Application(middlewares=[self._check])
        app.add_routes(
            [
                web.get("/", self._show_page),
                web.post("/caption", self._caption),
                web.post("/ask", self._ask),
                web.post("/find", self._find),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        quiet = logging.Logger("http", logging.CRITICAL)  # requests that are not HTTP are only answered
        runner = web.AppRunner(
            app, handle_signals=False, access_log=None, logger=quiet, handler_cancellation=True, shutdown_timeout=2
        )
        await runner.setup()
        await web.SockSite(runner, self._listening).start()
        return runner

    async def stop(self, runner: web.AppRunner) -> None:
        for job in self._jobs:
            job.is_given_up = True
        children.end_all()
        await runner.cleanup()
        self._worker.shutdown(cancel_futures=True)

    async def _show_page(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=self._page, content_type="text/html")

    async def _caption(self, request: web.Request) -> web.StreamResponse:
        segments = request.query.get("segments", "found")
        if segments not in ("found", "whole"):
            return _refusal(400, "segments: expected found or whole")
        with tempfile.TemporaryDirectory(prefix="caption-") as folder:
            job = Job(Path(folder, "video"), segments)
            if (refusal := await _receive(request, job.video, MAX_BYTES)) is not None:
                return refusal
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            await response.write(_line(await self._captioned(job, lambda line: response.write(_line(line)))))
        return response

    async def _captioned(self, job: Job, tell: Callable[[dict[str, Any]], Awaitable[None]]) -> dict[str, Any]:
        """Work on the job when its turn comes, and report progress. Returns the last line."""
        self._jobs.append(job)
        work = self._worker.submit(content_of, self.captioner, self.name, job.video, job.segments, job.watch)
        done, sent = asyncio.wrap_future(work), None
        try:
            while not work.done():
                line = job.state or {"ahead": self._jobs.index(job)}
                if line != sent:
                    await tell(line)
                sent = line
                await asyncio.wait({done}, timeout=TELL_S)
            content, seen = work.result()
            return {"content": content | {"seen": self._keep(seen) if self.answerer else None}}
        except ConnectionError:
            raise  # the client has left
        except (ValueError, OSError) as error:
            return {"error": "the app was stopped" if job.is_given_up else _without_path(error, job.video)}
        except (GivenUp, CancelledError):
            return {"error": "the app was stopped"}
        except Exception as error:
            traceback.print_exc()
            return {"error": f"internal error ({error!r}); see the terminal"}
        finally:
            job.is_given_up = True
            if not work.cancel():  # it is running, and ends when it next reports progress
                await asyncio.wait({done})
            if not done.cancelled():
                done.exception()  # was reported, or there is no client left
            self._jobs.remove(job)

    def _keep(self, seen: Seen) -> str:
        """The video's id. It cannot be guessed, so that no page asks about another's video."""
        while len(self._seen) >= MAX_SEEN:
            oldest = next(iter(self._seen))
            del self._seen[oldest]
            self._looked_at.discard(oldest)
        id = secrets.token_urlsafe(12)
        self._seen[id] = seen
        return id

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = strict_json.loads(await request.read(), where="the question")  # 1 MiB at most, else aiohttp refuses
            id, question, at_s = asked["seen"], asked["question"], asked.get("at")
        except (ValueError, KeyError, TypeError, AttributeError):
            return _refusal(400, 'expected {"seen": id, "question": text}')
        if not isinstance(id, str) or not isinstance(question, str) or not isinstance(at_s, int | float | None):
            return _refusal(400, "expected texts as seen and question, and a number or null as at")
        if self.answerer is None:
            return _refusal(404, "this app has no answerer; train one with: make questions")
        if id not in self._seen:
            return _refusal(404, f"the app keeps the last {MAX_SEEN} videos for questions; send this one again")
        work = self._worker.submit(self._answered, id, self._seen[id], question, at_s)
        try:
            return web.json_response(await asyncio.wrap_future(work))
        except ValueError as error:
            return _refusal(400, str(error))

    def _answered(self, id: str, seen: Seen, question: str, at_s: float | None) -> dict[str, Any]:
        assert self.answerer is not None
        if self.answerer.encoder is not self.captioner.encoder and id not in self._looked_at:
            seen = self.answerer.look_at(seen.frames)
            if id in self._seen:
                self._seen[id] = seen
                self._looked_at.add(id)
        return answer_of(self.answerer, seen, question, at_s)

    async def _find(self, request: web.Request) -> web.StreamResponse:
        if self.finder is None:
            return _refusal(404, "this app has no videos to search; embed some with: dvc repro embed@videos")
        if request.content_type.startswith("image/"):
            with tempfile.TemporaryDirectory(prefix="find-") as folder:
                picture = Path(folder, "picture")
                if (refusal := await _receive(request, picture, MAX_PICTURE_BYTES)) is not None:
                    return refusal
                work = self._worker.submit(found_of, self.finder, picture.read_bytes())
        else:
            try:
                text = strict_json.loads(await request.read(), where="the text")["text"]
            except (ValueError, KeyError, TypeError):
                return _refusal(400, 'expected {"text": text}, or a picture and its Content-Type')
            if not isinstance(text, str):
                return _refusal(400, "expected a text as text")
            work = self._worker.submit(found_of, self.finder, text)
        try:
            return web.json_response(await asyncio.wrap_future(work))
        except ValueError as error:
            return _refusal(400, str(error))

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse other sites' requests through the browser: by their own name for this address, or from their page."""
        host, origin = request.headers.get("Host", "").lower(), request.headers.get("Origin")
        if not self._is_own(host):
            return _refusal(
                403,
                f"this page was requested under the name {host[:200]!r}, which is not this machine's. If that is"
                " correct, allow it: python -m pipeline.app --allow-host NAME",
            )
        if origin is not None and _host_of(origin) != host:
            return _refusal(403, "requests from other sites are refused")
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            traceback.print_exc()
            return _refusal(500, f"internal error ({error!r}); see the terminal")

    def _is_own(self, host: str) -> bool:
        return host in self._allowed_hosts or (name := _name_of(host)) in HERE or name in self._allowed_hosts


async def _receive(request: web.Request, target: Path, most: int) -> web.Response | None:
    """Write the request's body, of `most` bytes, to a file. Returns the answer if that fails."""
    too_large = f"larger than {most:,} bytes"
    if (request.content_length or 0) > most:
        return _refusal(413, too_large)
    left = most
    try:
        with target.open("wb") as file:
            async with asyncio.timeout(STALLED_S) as deadline:
                while chunk := await request.content.read(CHUNK_BYTES):
                    if (left := left - len(chunk)) < 0:
                        return _refusal(413, too_large)
                    file.write(chunk)
                    deadline.reschedule(asyncio.get_running_loop().time() + STALLED_S)
    except TimeoutError:
        return _refusal(408, f"nothing arrived for {STALLED_S} s")
    except ConnectionError:
        raise
    except OSError as error:
        return _refusal(507, f"the file cannot be stored in {target.parent.parent}: {error.strerror}")
    return None if left < most else _refusal(400, "the file is empty")


def _refusal(status: int, why: str) -> web.Response:
    return web.json_response({"error": why}, status=status)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def _without_path(error: Exception, video: Path) -> str:
    return str(error).replace(str(video), "the file")


def _host_of(origin: str) -> str | None:
    """ "name:port" as in Host; None if it is not of a site, like "null"."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"  # other sites must not frame this page
    response.headers["Cache-Control"] = "no-store"
