"""Videos by id through yt-dlp, used as a library: no shell, no configuration files of the user's."""

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import imageio_ffmpeg
import yt_dlp

from pipeline import ledger
from pipeline.ledger import Row

# What sites and yt-dlp say, shortest telling word for it. The first that fits counts.
_REASONS = (
    (r"private video", "private"),
    (r"has been removed|no longer available|been terminated|account .* closed", "removed"),
    (r"(blocked|not (made )?(this video )?available) .*country|geo.?restrict", "blocked in this country"),
    (r"confirm your age|age.restricted", "age-restricted"),
    (r"HTTP Error 429|rate.limited|not a bot", "rate-limited"),
    (r"HTTP Error (\d+)", r"HTTP \1"),
    (r"requested format is not available|no video formats", "no video stream"),
    (r"video unavailable|is unavailable|is not available", "unavailable"),
    (r"timed out|timeout", "timed out"),
    (r"unsupported url|no media found", "no video at this address"),
    (r"connection refused|name or service not known|failed to resolve|unable to connect", "host cannot be reached"),
    (r"did not get any data blocks|more expected|incompleteread|content too short", "the download broke off"),
)


def fetch(
    video_id: str,
    videos: Path,
    *,
    there: Path | None,
    known: Row | None,
    url: str,
    max_height_px: int,
    retries: int,
    timeout_s: float,
) -> tuple[Row, Path | None]:
    """Downloads the video into `videos` under its id; its row says how it is, or why it is not. And the file.

    there: its file of an earlier run, which is kept. known: its row of an earlier run; one that failed is tried again.
    url: the address, {id} standing for the id without its leading v_.
    """
    tried = known.attempts if known else 0
    if there:
        if known and known.status == "ok" and known.bytes == there.stat().st_size:
            return replace(known, reason=None), there
        row = ledger.examine(video_id, there, attempts=max(1, tried))
        if row.status == "ok":
            return row, there
        there.unlink()
    partial = videos / ".partial" / video_id  # kept after a kill: yt-dlp goes on from there
    partial.mkdir(parents=True, exist_ok=True)
    address = url.replace("{id}", quote(video_id.removeprefix("v_"), safe=""))
    reason = _download(address, partial, max_height_px=max_height_px, retries=retries, timeout_s=timeout_s)
    files = [path for path in sorted(partial.iterdir()) if path.suffix not in (".part", ".ytdl")]
    if reason or not files:
        return Row(video_id, "unavailable", reason or "nothing was downloaded", attempts=tried + 1), None
    row = ledger.examine(video_id, files[0], attempts=tried + 1)
    target = None
    if row.status == "ok":
        suffix = files[0].suffix.lower()
        target = videos / f"{video_id}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else '.video'}"
        files[0].replace(target)
    shutil.rmtree(partial)
    return row, target


def short_reason(message: str) -> str:
    """Of yt-dlp's error message, which may be a paragraph with an address and advice."""
    for pattern, reason in _REASONS:
        if found := re.search(pattern, message, re.IGNORECASE):
            return found.expand(reason)
    return re.sub(r"^(ERROR: )?(\[[^]]*\] )?", "", message).split("\n")[0].split("; please report")[0][:120]


def _download(address: str, folder: Path, *, max_height_px: int, retries: int, timeout_s: float) -> str | None:
    """Into `folder`; None, or why it failed."""
    options = {
        # Pictures only, where the site has them alone; <=? admits a height that the site does not tell.
        "format": f"bv*[height<=?{max_height_px}]/b[height<=?{max_height_px}]/wv*/w",
        "outtmpl": {"default": str(folder / "video.%(ext)s")},
        "noplaylist": True,
        "retries": retries,
        "fragment_retries": retries,
        "extractor_retries": retries,
        "socket_timeout": timeout_s,
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "hls_prefer_native": True,  # ffmpeg would follow a playlist wherever it points
        "updatetime": False,
        "cachedir": False,
        "logger": _Quiet(),
        "noprogress": True,
        "color": "never",
    }
    if importlib.util.find_spec("deno"):  # YouTube hides its addresses behind JavaScript
        import deno

        options["js_runtimes"] = {"deno": {"path": deno.find_deno_bin()}}
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            found: dict[str, Any] | None = downloader.extract_info(address, download=False)
            if found is None or found.get("_type", "video") != "video":
                return "a playlist, not a video"
            downloader.process_info(found)
    except (yt_dlp.utils.YoutubeDLError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the site's
        return short_reason(str(error))
    return None


class _Quiet:
    """The errors come as exceptions; the rest is noise beside a progress bar."""

    def debug(self, _: str) -> None: ...

    def info(self, _: str) -> None: ...

    def warning(self, _: str) -> None: ...

    def error(self, _: str) -> None: ...
