"""One large file over HTTP: it goes on where it broke off, in this run or the next, and has its name when it is whole.

(pooch, which others use for this, begins a file anew whenever a connection breaks; huggingface_hub and yt-dlp do not,
each for its own site.)
"""

import hashlib
import re
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

_CHUNK_BYTES = 2**20


def fetch_file(
    url: str, target: Path, *, md5: str | None, retries: int, timeout_s: float, backoff_s: float, md5_in: str
) -> None:
    """Makes `target` the file at `url`, unless it is there.

    md5: hexadecimal, None: not compared; md5_in: the param that says it. timeout_s: without a byte. backoff_s: before
    the first retry, then twice as long every time; what brings bytes begins the count anew.
    Raises ValueError if the server does not give it, or gives something else.
    """
    if target.exists():
        return
    partial = target.with_name(target.name + ".part")
    left, wait_s, bytes_before = retries, backoff_s, 0
    while problem := _go_on(url, partial, timeout_s):
        if _size(partial) > bytes_before:
            left, wait_s = retries, backoff_s
        if left == 0:
            raise ValueError(f"{url}: {problem}; what there is of it is kept, run the stage again to go on")
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


def _go_on(url: str, partial: Path, timeout_s: float) -> str | None:
    """Adds to `partial` what is missing; None if it is whole, else what went wrong and can pass. Raises ValueError."""
    have = _size(partial)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urlopen(Request(url, headers=headers), timeout=timeout_s) as response:
            start, total = _promised(response)
            if start not in (0, have):
                return f"the server sent bytes from {start}, not from {have}"
            with partial.open("r+b" if start else "wb") as file:
                file.seek(start)
                with tqdm(
                    total=total, initial=start, desc=partial.stem, unit="B", unit_scale=True, unit_divisor=1024
                ) as bar:
                    while chunk := response.read(_CHUNK_BYTES):
                        file.write(chunk)
                        bar.update(len(chunk))
    except HTTPError as error:
        if error.code == 416 and have:  # there is no more, or the file has become another
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


def _promised(response: HTTPResponse) -> tuple[int, int | None]:
    """Where what is sent begins, and how long the whole file is, if the server says so."""
    ranges = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if response.status == 206 and ranges:
        return int(ranges[1]), int(ranges[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
