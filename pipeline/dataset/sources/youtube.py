"""Videos by id through yt-dlp, used as a library: no shell, and none of the user's configuration files.

Twenty thousand videos take days. So a killed download resumes in the middle of a file, videos that are gone for good
are requested only once, and a site that refuses requests is given time.
"""

import importlib.util
import io
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yt_dlp
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor

from pipeline.dataset import media, verdict
from pipeline.dataset.annotations import Annotation
from pipeline.dataset.ledger import Journal
from pipeline.dataset.sources.pace import Closed, Pace
from pipeline.dataset.verdict import Row
from pipeline.process.terminal import printable

# What happens to a video that failed. final: never try again. later: try in another run. again: try in this one.
# wait: the same, after all workers have waited.
_FINAL, _LATER, _AGAIN, _WAIT = "final", "later", "again", "wait"
_NOT_READ = "a kind of stream that is not fetched"
_PROTOCOLS = (
    "http",
    "https",
    "m3u8",
    "m3u8_native",
    "http_dash_segments",
    "http_dash_segments_generator",
    "f4m",
    "ism",
)
_LIVE = {"is_live": "live", "post_live": "live until a moment ago", "is_upcoming": "not shown yet"}
_NO_FFMPEG = "/nonexistent/ffmpeg"
_PAGE_CHUNK_BYTES = 2**14
# Messages of sites and yt-dlp, and a short reason for each. The first match counts.
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
    (r"HTTP Error (403|408|5\d\d)", r"HTTP \1", _AGAIN),  # YouTube's 403 means that an address has expired
    (r"HTTP Error (\d+)", r"HTTP \1", _FINAL),
    (r"requested format is not available|no video formats|only images are available", "no video stream", _LATER),
    (r"video unavailable|is unavailable|is not available|isn.t available", "unavailable", _FINAL),
    (r"timed out|timeout", "timed out", _AGAIN),
    (r"ffmpeg could not be found|no connection adapters|unsupported url scheme", _NOT_READ, _FINAL),
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
    (r"larger than ((?:youtube|predict)\.\w+)", r"larger than \1", _FINAL),
    (r"took longer than ((?:youtube|predict)\.\w+)", r"not complete within \1", _LATER),
)
# Final for requests like ours; with cookies, or from another country, a retry makes sense.
_WOULD_HELP = {
    "private": "youtube.cookies",
    "age-restricted": "youtube.cookies",
    "for members only": "youtube.cookies",
    "geo-blocked": "youtube.proxy",
}


@dataclass(frozen=True)
class Site:
    """How a site is asked. url: {id} stands for the id without its leading v_. cookies: the content of the file.

    section: of params.yaml, which states the limits.
    """

    url: str
    max_height_px: int
    cookies: str | None
    proxy: str | None
    retries: int
    timeout_s: float
    max_file_bytes: float
    max_page_bytes: float
    max_s: float
    pace: Pace
    section: str = "youtube"

    def limits(self) -> dict[str, float]:
        """By the params' names, as they are given there."""
        return {"youtube.max_file_gb": self.max_file_bytes / 2**30, "youtube.max_page_mb": self.max_page_bytes / 2**20}


class Youtube:
    """Any site that yt-dlp knows; arguments as in params.yaml."""

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
        max_file_gb: float,
        max_page_mb: float,
        max_minutes: float,
        backoff_s: float,
        max_backoff_s: float,
    ) -> None:
        """partial: the folder for incomplete files. Raises ValueError if the cookies cannot be read."""
        self.identity, self.workers = f"youtube {url}", workers
        self._videos, self._partial, self._there = videos, partial, media.plain_files(videos)
        self._pace = Pace(videos_per_hour, backoff_s, max_backoff_s)
        limits = (max_file_gb * 2**30, max_page_mb * 2**20, max_minutes * 60)
        self._site = Site(url, max_height_px, read_cookies(cookies), proxy, retries, timeout_s, *limits, self._pace)

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        there, folder = self._there.get(video_id), self._partial / video_id
        return fetch(video_id, self._videos, folder, there=there, journal=journal, site=self._site)

    def close(self) -> None:
        self._pace.close("the run was stopped")


def read_cookies(path: str | None) -> str | None:
    """The content of a browser's cookies.txt. Raises ValueError if it is missing, or not one."""
    if path is None:
        return None
    try:
        text = Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"youtube.cookies: {path} cannot be read ({error})") from None
    if not re.match(r"# (Netscape )?HTTP Cookie File", text):
        raise ValueError(
            f"youtube.cookies: {path} is not a cookies.txt: its first line is not '# Netscape HTTP Cookie File'"
        )
    return text


def fetch(
    video_id: str, videos: Path, folder: Path, *, there: Path | None, journal: Journal, site: Site
) -> tuple[Row, Path | None]:
    """Download the video into `videos` under its id; returns its row, and its file if there is one.

    folder: for incomplete files; an earlier run's are resumed.
    there: an earlier run's complete file, which is kept.
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
    row = verdict.examine(video_id, files[0], attempts=tried + attempts)
    journal.record(row)
    target = None
    if row.status == "ok":
        target = videos / media.name_for(video_id, files[0].suffix.lower())
        files[0].replace(target)
    shutil.rmtree(folder)
    return row, target


def download(
    address: str,
    folder: Path,
    *,
    max_height_px: int,
    retries: int,
    timeout_s: float,
    max_file_gb: float,
    max_page_mb: float,
    max_minutes: float,
    watch: Callable[[float, float | None], None] = lambda done, of: None,
) -> Path:
    """A single video's file, in `folder`; the limits as in the section predict of params.yaml.

    watch: called during the download with the bytes so far, and of how many (None: unknown).

    Raises ValueError saying why there is no file.
    """
    limits = (max_file_gb * 2**30, max_page_mb * 2**20, max_minutes * 60)
    site = Site(address, max_height_px, None, None, retries, timeout_s, *limits, Pace(None, 1, 1), "predict")
    failure = _download(site, address, folder, watch)
    if failure or not _whole_files(folder):
        raise ValueError(f"{address}: {failure[0] if failure else 'nothing was downloaded'}")
    return _whole_files(folder)[0]


def reason_of(message: str) -> tuple[str, str]:
    """A short reason, and its kind, from yt-dlp's error message, which may be a paragraph with advice."""
    for pattern, reason, kind in _REASONS:
        if found := re.search(pattern, message, re.IGNORECASE):
            return found.expand(reason), kind
    text = re.sub(r"^(ERROR: )?(\[[^]]*\] )?", "", message).split("\n")[0].split("; please report")[0]
    return printable(text, 120), _LATER


def _may_pass_now(known: Row, site: Site) -> bool:
    """It was refused for want of cookies or a proxy, and we have come by that; or a limit is higher now."""
    reason = known.reason or ""
    if found := re.fullmatch(r"larger than (youtube\.\w+) \(([0-9.e+-]+)\)", reason):
        return site.limits().get(found[1], 0) > float(found[2])
    return bool(site.cookies and reason.endswith(_advice("youtube.cookies"))) or bool(
        site.proxy and reason.endswith(_advice("youtube.proxy"))
    )


def _advice(param: str) -> str:
    return f"; {param} might help"


def _ask(site: Site, video_id: str, folder: Path) -> tuple[str | None, str | None, int]:
    """Download into `folder` with retries: the failure's reason and kind, or None and None; and the number of tries."""
    attempts, failure = 0, None
    address = site.url.replace("{id}", quote(video_id.removeprefix("v_"), safe=""))
    while attempts <= site.retries:
        try:
            turn = site.pace.turn()
        except Closed:
            break
        attempts += 1
        failure = _download(site, address, folder)
        if failure is None:
            site.pace.answered()
            return None, None, attempts
        reason, kind = failure
        if kind == _WAIT:
            site.pace.refused(turn, reason)
        elif kind != _AGAIN:
            param = _WOULD_HELP.get(reason)
            helped = {"youtube.cookies": site.cookies, "youtube.proxy": site.proxy}
            limit = site.limits().get(reason.removeprefix("larger than "))
            added = "" if limit is None else f" ({limit:g})"
            return reason + added + (_advice(param) if param and not helped[param] else ""), kind, attempts
    if failure is None:
        return f"not requested: {site.pace.why}", _LATER, attempts
    return *failure, attempts


def _download(
    site: Site,
    address: str,
    folder: Path,
    watch: Callable[[float, float | None], None] = lambda done, of: None,
) -> tuple[str, str] | None:
    """Download into `folder`; None, or the failure's reason and kind."""
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        # Without sound, if the site offers that; <=? admits a height that the site does not state.
        "format": f"bv*[height<=?{site.max_height_px}]/b[height<=?{site.max_height_px}]/wv*/w",
        # With the format's name: a partial file of one format must not be continued in another.
        "outtmpl": {"default": "video.%(format_id)s.%(ext)s"},
        "noplaylist": True,
        "retries": site.retries,
        "fragment_retries": site.retries,
        "extractor_retries": site.retries,
        "socket_timeout": site.timeout_s,
        "progress_hooks": [
            partial(_not_too_large, site),
            lambda progress: watch(progress.get("downloaded_bytes") or 0, progress.get("total_bytes")),
        ],
        "ffmpeg_location": _NO_FFMPEG,  # ffmpeg would follow a playlist wherever it points
        "hls_prefer_native": True,
        "external_downloader": "native",
        "fixup": "never",
        "updatetime": False,
        "cachedir": False,
        "logger": _Quiet(),
        "noprogress": True,
        "color": "never",
    }
    if site.cookies is not None:  # as text: several workers would write their changes into one file
        options["cookiefile"] = io.StringIO(site.cookies)
    if site.proxy is not None:
        options["proxy"] = site.proxy
    if importlib.util.find_spec("deno"):  # YouTube hides its addresses behind JavaScript
        import deno

        options["js_runtimes"] = {"deno": {"path": deno.find_deno_bin()}}
    FFmpegPostProcessor._ffmpeg_location.set(_NO_FFMPEG)  # per thread: yt-dlp ignores the option in places
    try:
        with _Client(options, site, folder) as client:
            found: dict[str, Any] | None = client.extract_info(address, download=False)
            if found is None or found.get("_type", "video") != "video":
                return "a playlist, not a video", _FINAL
            if (status := found.get("live_status")) in _LIVE:
                return _LIVE[status], _LATER  # it would hold a worker until it ends
            if found.get("protocol") not in _PROTOCOLS:
                return f"{_NOT_READ} ({printable(str(found.get('protocol')), 40)})", _FINAL
            client.process_info(found)
    except (yt_dlp.utils.YoutubeDLError, OSError) as error:
        on_disk = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.errno
        if on_disk or "unable to write" in str(error) or "unable to open for writing" in str(error):
            raise OSError(f"{folder}: {error}") from None  # ours, not the site's
        return reason_of(str(error))
    except MemoryError:
        raise
    except Exception as error:  # one of 1,800 extractors hit a case that its author did not foresee
        return printable(f"yt-dlp failed ({type(error).__name__}: {error})", 120), _LATER
    return None


def _whole_files(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.suffix not in (".part", ".ytdl")]


def _not_too_large(site: Site, progress: dict[str, Any]) -> None:
    """yt-dlp calls this after every block. (Its own limit trusts the length that the site declares.)"""
    if max(progress.get("downloaded_bytes") or 0, progress.get("total_bytes") or 0) > site.max_file_bytes:
        raise yt_dlp.utils.DownloadError(f"larger than {site.section}.max_file_gb")


class _Client(yt_dlp.YoutubeDL):
    """yt-dlp, with everything that it reads counted: pages and playlists as well as the video."""

    def __init__(self, options: dict[str, Any], site: Site, folder: Path) -> None:
        self._site, self._folder = site, folder
        self._left, self._ends = site.max_file_bytes, time.monotonic() + site.max_s
        super().__init__(options)

    def build_request_director(self, handlers: Iterable[Any], preferences: Any = None) -> Any:
        """Only yt-dlp's handler that unpacks while reading and does not know ftp."""
        return super().build_request_director([one for one in handlers if one.RH_NAME == "requests"], preferences)

    def prepare_filename(self, info_dict: dict[str, Any], dir_type: str = "", **options: Any) -> str:
        """Inside the folder, whose name is not a template: an id may be 100%(id)s or $HOME."""
        return str(self._folder / super().prepare_filename(info_dict, dir_type, **options))

    def urlopen(self, req: Any) -> Any:
        self._in_time()
        response = super().urlopen(req)
        read = response.read

        def counted(amount: int | None = None) -> bytes:
            if amount is None:  # a page, which is read into memory completely
                pieces, size = [], 0
                while piece := counted(_PAGE_CHUNK_BYTES):
                    pieces.append(piece)
                    size += len(piece)
                    if size > self._site.max_page_bytes:
                        raise yt_dlp.utils.DownloadError(f"a page larger than {self._site.section}.max_page_mb")
                return b"".join(pieces)
            piece = read(amount)
            self._left -= len(piece)
            if self._left < 0:
                raise yt_dlp.utils.DownloadError(f"larger than {self._site.section}.max_file_gb")
            self._in_time()
            return piece

        response.read = counted
        return response

    def _in_time(self) -> None:
        if time.monotonic() > self._ends:
            raise yt_dlp.utils.DownloadError(f"it took longer than {self._site.section}.max_minutes")


class _Quiet:
    """Errors are raised as exceptions; the rest would disturb the progress bar."""

    def debug(self, _: str) -> None: ...

    def info(self, _: str) -> None: ...

    def warning(self, _: str) -> None: ...

    def error(self, _: str) -> None: ...
