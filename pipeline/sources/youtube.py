"""Videos by id through yt-dlp, used as a library: no shell, no configuration files of the user's.

Twenty thousand videos take days. So a download that was killed goes on in the middle of a file, what is gone for good
is asked for once, and a site that refuses is given time.
"""

import importlib.util
import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import imageio_ffmpeg
import yt_dlp

from pipeline import ledger, media
from pipeline.annotations import Annotation
from pipeline.ledger import Journal, Row
from pipeline.safety import MAX_FILE_BYTES
from pipeline.sources.pace import Closed, Pace

# What becomes of a video that was not given. final: never ask again. later: in another run. again: in this one.
# wait: the same, and nobody asks for a while.
_FINAL, _LATER, _AGAIN, _WAIT = "final", "later", "again", "wait"
# What sites and yt-dlp say, and the shortest telling word for it. The first that fits counts.
_REASONS = (
    (r"HTTP Error 429|rate.limit|not a bot|try again later|too many requests", "rate-limited", _WAIT),
    (r"private video|video is private", "private", _FINAL),
    (r"confirm your age|age.restricted|inappropriate for some", "age-restricted", _FINAL),
    (r"members.only|available to .*members|join this channel", "for members only", _FINAL),
    (r"(blocked|not (made )?(this video )?available) .*(country|location)|geo.?restrict", "geo-blocked", _FINAL),
    (r"has been removed|no longer available|been terminated|account .* closed|does not exist", "removed", _FINAL),
    (r"blocked it|copyright", "blocked", _FINAL),
    (r"premieres in|will begin in|not currently live|is offline", "not shown yet", _LATER),
    (r"HTTP Error 503", "HTTP 503", _WAIT),
    (r"HTTP Error (403|408|5\d\d)", r"HTTP \1", _AGAIN),  # YouTube's 403 is an address that has run out
    (r"HTTP Error (\d+)", r"HTTP \1", _FINAL),
    (r"requested format is not available|no video formats|only images are available", "no video stream", _LATER),
    (r"video unavailable|is unavailable|is not available|isn.t available", "unavailable", _FINAL),
    (r"timed out|timeout", "timed out", _AGAIN),
    (r"unsupported url|no media found", "no video at this address", _FINAL),
    (
        r"connection refused|name or service not known|failed to resolve|unable to connect|network is unreachable"
        r"|cannot connect to proxy",
        "host cannot be reached",
        _WAIT,
    ),
    (
        r"did not get any data blocks|more expected|incompleteread|content too short|connection reset|remote end closed"
        r"|connection aborted|connection broken|giving up after",
        "the download broke off",
        _AGAIN,
    ),
    (r"larger than any video", "too large", _FINAL),
)
# Final for whoever asks as we do: with cookies, or from elsewhere, it is worth asking again.
_WOULD_HELP = {
    "private": "youtube.cookies",
    "age-restricted": "youtube.cookies",
    "for members only": "youtube.cookies",
    "geo-blocked": "youtube.proxy",
}


@dataclass(frozen=True)
class Site:
    """How a site is asked. url: {id} stands for the id without its leading v_. cookies: what the file says."""

    url: str
    max_height_px: int
    cookies: str | None
    proxy: str | None
    retries: int
    timeout_s: float
    pace: Pace


class Youtube:
    """Any site that yt-dlp knows; the fields as in params.yaml."""

    def __init__(
        self,
        videos: Path,
        partial: Path,
        *,
        url: str,
        max_height_px: int,
        cookies: str | None,
        proxy: str | None,
        workers: int,
        videos_per_hour: float | None,
        retries: int,
        timeout_s: float,
        backoff_s: float,
        max_backoff_s: float,
    ) -> None:
        """partial: the folder for what is not whole yet. Raises ValueError if the cookies cannot be read."""
        self.identity, self.workers = f"youtube {url}", workers
        self._videos, self._partial, self._there = videos, partial, media.plain_files(videos)
        self._pace = Pace(videos_per_hour, backoff_s, max_backoff_s)
        self._site = Site(url, max_height_px, read_cookies(cookies), proxy, retries, timeout_s, self._pace)

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        there, folder = self._there.get(video_id), self._partial / video_id
        return fetch(video_id, self._videos, folder, there=there, journal=journal, site=self._site)

    def close(self) -> None:
        self._pace.close("the run was stopped")


def read_cookies(path: str | None) -> str | None:
    """The content of a browser's cookies.txt. ValueError if it is not there, or not one."""
    if path is None:
        return None
    try:
        text = Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"youtube.cookies: {path} cannot be read ({error})") from None
    if not re.match(r"# (Netscape )?HTTP Cookie File", text):
        raise ValueError(
            f"youtube.cookies: {path} is no cookies.txt: its first line is not '# Netscape HTTP Cookie File'"
        )
    return text


def fetch(
    video_id: str, videos: Path, folder: Path, *, there: Path | None, journal: Journal, site: Site
) -> tuple[Row, Path | None]:
    """Downloads the video into `videos` under its id; its row says how it is, or why it is not. And the file.

    folder: for what is not whole yet; what an earlier run left there is gone on with.
    there: its file of an earlier run, which is kept.
    """
    known = journal.known.get(video_id)
    tried = known.attempts if known else 0
    if there and (row := journal.kept(video_id, there)):
        return row, there
    if known and known.status in ("gone", "corrupt") and not _may_pass_now(known, site):
        return known, None
    reason, kind, attempts = _ask(site, video_id, folder)
    files = _whole_files(folder)
    if kind is None and not files:
        reason, kind = "nothing was downloaded", _LATER
    if kind is not None:
        row = Row(video_id, "gone" if kind == _FINAL else "unavailable", reason, attempts=tried + attempts)
        journal.record(row)
        if kind == _FINAL:
            shutil.rmtree(folder, ignore_errors=True)
        return row, None
    row = ledger.examine(video_id, files[0], attempts=tried + attempts)
    journal.record(row)
    target = None
    if row.status == "ok":
        target = videos / media.name_for(video_id, files[0].suffix.lower())
        files[0].replace(target)
    shutil.rmtree(folder)
    return row, target


def download(
    address: str, folder: Path, *, max_height_px: int = 360, retries: int = 3, timeout_s: float = 30.0
) -> Path:
    """One video's file, in `folder`. For whoever wants this one and now; ValueError says why there is none."""
    site = Site(address, max_height_px, None, None, retries, timeout_s, Pace(None, 1, 1))
    failure = _download(site, address, folder)
    if failure or not _whole_files(folder):
        raise ValueError(f"{address}: {failure[0] if failure else 'nothing was downloaded'}")
    return _whole_files(folder)[0]


def reason_of(message: str) -> tuple[str, str]:
    """Of yt-dlp's error message, which may be a paragraph with an address and advice: a short reason, and its kind."""
    for pattern, reason, kind in _REASONS:
        if found := re.search(pattern, message, re.IGNORECASE):
            return found.expand(reason), kind
    said = re.sub(r"^(ERROR: )?(\[[^]]*\] )?", "", message).split("\n")[0].split("; please report")[0]
    return said[:120], _LATER


def _may_pass_now(known: Row, site: Site) -> bool:
    """It was refused for want of cookies or a proxy, and we have come by that."""
    reason = known.reason or ""
    return bool(site.cookies and reason.endswith(_advice("youtube.cookies"))) or bool(
        site.proxy and reason.endswith(_advice("youtube.proxy"))
    )


def _advice(param: str) -> str:
    return f"; {param} might help"


def _ask(site: Site, video_id: str, folder: Path) -> tuple[str | None, str | None, int]:
    """Into `folder`, retried where that can help: the reason and its kind, or None and None; and how often we asked."""
    attempts, failure = 0, None
    address = site.url.replace("{id}", quote(video_id.removeprefix("v_"), safe=""))
    while attempts <= site.retries:
        try:
            asked = site.pace.turn()
        except Closed:
            break
        attempts += 1
        failure = _download(site, address, folder)
        if failure is None:
            site.pace.answered()
            return None, None, attempts
        reason, kind = failure
        if kind == _WAIT:
            site.pace.refused(asked, reason)
        elif kind != _AGAIN:
            param = _WOULD_HELP.get(reason)
            helped = {"youtube.cookies": site.cookies, "youtube.proxy": site.proxy}
            return reason + (_advice(param) if param and not helped[param] else ""), kind, attempts
    if failure is None:
        return f"not asked for: {site.pace.why}", _LATER, attempts
    return *failure, attempts


def _download(site: Site, address: str, folder: Path) -> tuple[str, str] | None:
    """Into `folder`; None, or why it failed and of what kind that is."""
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        # Pictures only, where the site has them alone; <=? admits a height that the site does not tell.
        "format": f"bv*[height<=?{site.max_height_px}]/b[height<=?{site.max_height_px}]/wv*/w",
        # With the format's name: a part of one format must not be gone on with in another.
        "outtmpl": {"default": str(folder / "video.%(format_id)s.%(ext)s")},
        "noplaylist": True,
        "retries": site.retries,
        "fragment_retries": site.retries,
        "extractor_retries": site.retries,
        "socket_timeout": site.timeout_s,
        "progress_hooks": [_not_too_large],
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "hls_prefer_native": True,  # ffmpeg would follow a playlist wherever it points
        "fixup": "never",  # nor does it get to see the file before it was examined
        "updatetime": False,
        "cachedir": False,
        "logger": _Quiet(),
        "noprogress": True,
        "color": "never",
    }
    if site.cookies is not None:  # as a text: several workers would write their changes into one file
        options["cookiefile"] = io.StringIO(site.cookies)
    if site.proxy is not None:
        options["proxy"] = site.proxy
    if importlib.util.find_spec("deno"):  # YouTube hides its addresses behind JavaScript
        import deno

        options["js_runtimes"] = {"deno": {"path": deno.find_deno_bin()}}
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            found: dict[str, Any] | None = downloader.extract_info(address, download=False)
            if found is None or found.get("_type", "video") != "video":
                return "a playlist, not a video", _FINAL
            downloader.process_info(found)
    except (yt_dlp.utils.YoutubeDLError, OSError) as error:
        on_disk = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.errno
        if on_disk or "unable to write" in str(error) or "unable to open for writing" in str(error):
            raise OSError(f"{folder}: {error}") from None  # ours, not the site's
        return reason_of(str(error))
    return None


def _whole_files(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.suffix not in (".part", ".ytdl")]


def _not_too_large(progress: dict[str, Any]) -> None:
    """yt-dlp asks this after every block. (Its own limit believes whatever length the site declares.)"""
    if max(progress.get("downloaded_bytes") or 0, progress.get("total_bytes") or 0) > MAX_FILE_BYTES:
        raise yt_dlp.utils.DownloadError("larger than any video")


class _Quiet:
    """The errors come as exceptions; the rest is noise beside a progress bar."""

    def debug(self, _: str) -> None: ...

    def info(self, _: str) -> None: ...

    def warning(self, _: str) -> None: ...

    def error(self, _: str) -> None: ...
