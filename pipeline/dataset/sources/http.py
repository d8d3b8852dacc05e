"""One large file over HTTP: resumed where it broke off, in this run or the next, and named when it is complete.

(pooch, the usual library for this, starts a file again whenever a connection breaks; huggingface_hub and yt-dlp do not,
each for its own site.)
"""

import hashlib
import re
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from pipeline.process import progress
from pipeline.process.terminal import printable

_CHUNK_BYTES = 2**20


def fetch_file(
    url: str,
    target: Path,
    *,
    md5: str | None,
    retries: int,
    timeout_s: float,
    backoff_s: float,
    max_file_gb: float,
    md5_in: str,
) -> None:
    """Download the file at `url` to `target`, unless it exists.

    md5: hexadecimal; None: not compared. md5_in: the param that states it. timeout_s: without a byte. backoff_s: before
    the first retry, doubled every time; a try that receives bytes resets the count. max_file_gb: applies whatever
    length the server declares.
    Raises ValueError if the server does not deliver it, or delivers something else.
    """
    if target.exists():
        return
    partial = target.with_name(target.name + ".part")
    left, wait_s, bytes_before = retries, backoff_s, 0
    while problem := _go_on(url, partial, timeout_s, max_file_gb * 2**30):
        if _size(partial) > bytes_before:
            left, wait_s = retries, backoff_s
        if left == 0:
            raise ValueError(f"{url}: {printable(problem)}; the part so far is kept, run the stage again to continue")
        bytes_before = _size(partial)
        time.sleep(wait_s)
        left, wait_s = left - 1, 2 * wait_s
    if md5 is not None:
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            partial.unlink()
            raise ValueError(f"{url}: its MD5 is {found}, {md5_in} in params.yaml says {md5}; deleted")
    partial.replace(target)


class _SameProtocol(HTTPRedirectHandler):
    """Redirects between http and https only; urllib's own also allows ftp."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise ValueError(f"{req.full_url}: redirects to {printable(newurl)}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """urllib's opener without its handlers of ftp:, file: and data:."""
    opener = OpenerDirector()
    for handler in (
        *(ProxyHandler(), HTTPHandler(), HTTPSHandler(), _SameProtocol()),
        *(HTTPErrorProcessor(), HTTPDefaultErrorHandler(), UnknownHandler()),
    ):
        opener.add_handler(handler)
    return opener


def _go_on(url: str, partial: Path, timeout_s: float, max_bytes: float) -> str | None:
    """Add what is missing to `partial`; None if it is complete, else the temporary failure. Raises ValueError."""
    have = _size(partial)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with _opener().open(Request(url, headers=headers), timeout=timeout_s) as response:
            start, total = _promised(url, response)
            if start not in (0, have):
                return f"the server sent bytes from {start}, not from {have}"
            with partial.open("r+b" if start else "wb") as file:
                file.seek(start)
                with progress.bar(
                    total=total, initial=start, desc=partial.stem, unit="B", unit_scale=True, unit_divisor=1024
                ) as bar:
                    while chunk := response.read(_CHUNK_BYTES):
                        if max(file.tell() + len(chunk), total or 0) > max_bytes:
                            raise ValueError(f"{url}: larger than coco.max_file_gb in params.yaml allows")
                        file.write(chunk)
                        bar.update(len(chunk))
    except HTTPError as error:
        if error.code == 416 and have:  # there is no more, or the server's file has changed
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None
            partial.unlink()
            return "the server's file is shorter than what we have of it"
        if error.code not in (408, 429) and error.code < 500:
            raise ValueError(f"{url}: HTTP {error.code}") from None
        return f"HTTP {error.code}"
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        return f"the connection broke ({getattr(error, 'reason', None) or error or type(error).__name__})"
    return None if total in (None, _size(partial)) else f"it ended after {_size(partial):,} of {total:,} bytes"


def _promised(url: str, response: HTTPResponse) -> tuple[int, int | None]:
    """Where the sent bytes begin, and how long the whole file is, if the server states it. Raises ValueError."""
    if packed := response.headers.get("Content-Encoding"):
        raise ValueError(f"{url}: sent with Content-Encoding {printable(packed, 40)}, which was not requested")
    ranges = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", response.headers.get("Content-Range", ""))
    if response.status == 206 and ranges:
        return int(ranges[1]), int(ranges[2])
    length = response.headers.get("Content-Length")
    if length and not re.fullmatch(r"[0-9]{1,18}", length):
        raise ValueError(f"{url}: found '{printable(length, 40)}' as its Content-Length, expected a number of bytes")
    return 0, int(length) if length else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
