"""The server of the page: one captioner, one video at a time.

GET / is the page; POST /caption?segments=found|whole with a video as its body answers what the page shows of it, as
JSON: the `content` of pipeline/web/film.js, or {"error": why}.
"""

import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.predictor import Predictor
from pipeline.web import assemble, moments, strip, thumbnail

MOST_BYTES = 4 << 30  # of a video
CHUNK_BYTES = 1 << 20


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, predictor: Predictor, name: str) -> None:
        """port: of this machine alone; 0: any that is free. name: of the variant, for the page to say."""
        super().__init__(("127.0.0.1", port), Handler)
        self.predictor, self.name = predictor, name
        self.one_at_a_time = threading.Lock()
        # The page plays the video that was dropped on it, and asks this server alone.
        sources = "; media-src blob:; connect-src 'self'"
        self.page = assemble(Path(__file__).parent, "Caption a video", {"variant": name}, sources=sources).encode()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        if self._is_stranger():
            return
        if urlsplit(self.path).path == "/":
            self._answer(200, self.server.page, "text/html; charset=utf-8")
        else:
            self._answer(404, b"not here", "text/plain")

    def do_POST(self) -> None:
        if self._is_stranger():
            return
        asked = urlsplit(self.path)
        segments = parse_qs(asked.query).get("segments", ["found"])[0]
        size = int(self.headers.get("Content-Length") or 0)
        if asked.path != "/caption" or segments not in ("found", "whole"):
            self._tell(404, {"error": "not here"})
        elif not 0 < size <= MOST_BYTES:
            self._tell(413, {"error": f"a video of 1 to {MOST_BYTES:,} bytes, please; this one has {size:,}"})
        else:
            with tempfile.TemporaryDirectory() as folder:
                video = Path(folder, "video")
                with video.open("wb") as file:
                    while size and (read := self.rfile.read(min(size, CHUNK_BYTES))):
                        file.write(read)
                        size -= len(read)
                try:
                    with self.server.one_at_a_time:
                        content = self._content(video, segments)
                except (ValueError, OSError) as error:
                    self._tell(422, {"error": str(error).replace(str(video), "the file")})
                else:
                    self._tell(200, content)

    def _content(self, video: Path, segments: str) -> dict[str, Any]:
        predictor = self.server.predictor
        jpegs = predictor.frames(video)
        fps = predictor.params.frames.fps
        told: list[dict[str, Any]] = []
        for number, one in enumerate(predictor.caption_frames(jpegs, segments)):
            told.append(
                {
                    "id": str(number),
                    "video": "video",
                    "kind": None,
                    "start": one.start_s,
                    "end": one.end_s,
                    "captions": [{"text": one.caption}],
                    "strip": strip(one.start_s, one.end_s, fps),
                    "moments": [moments(one.retrieved)],
                }
            )
        shown: set[int] = {frame for one in told for frame in one["strip"]}
        shown |= {moment["frame"] for one in told for moment in one["moments"][0]}
        remembers = predictor.captioner.config.memory is not None
        return {
            "fps": fps,
            "runs": [{"name": self.server.name, "remembers": remembers}],
            "segments": told,
            "videos": {
                "video": {
                    "duration": len(jpegs) / fps,
                    "thumbnails": {frame: thumbnail(jpegs[frame]) for frame in sorted(shown)},
                }
            },
        }

    def _is_stranger(self) -> bool:
        """Whether another site speaks through the browser: by a name of its own for this address, or from its page."""
        host = self.headers.get("Host", "")
        here = {f"{name}:{self.server.server_port}" for name in ("localhost", "127.0.0.1")}
        origin = self.headers.get("Origin")
        if host in here and (origin is None or urlsplit(origin).netloc == host):
            return False
        self._answer(403, b"another site may not ask", "text/plain")
        return True

    def _tell(self, status: int, content: Any) -> None:
        self._answer(status, json.dumps(content, ensure_ascii=False).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if status >= 400:
            self.close_connection = True  # a body that was not read would be taken for the next request
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...
