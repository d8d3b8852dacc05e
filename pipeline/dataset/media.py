"""A video's file, or the member of a zip that stands for one.

Unpacking 120,000 pictures costs a file system more than the pictures; a zip of them is one file, with an index and
checksums of its own. So a zip among a dataset's videos stands for what is in it: the path of a picture goes on through
the zip, `videos/val2017.zip/val2017/000000000139.jpg`.
"""

import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath

from pipeline.safety import MAX_FILE_BYTES, MAX_RATIO

# Files that share a video's stem: subtitles, metadata, sound tracks, archives, interrupted downloads.
NOT_VIDEOS = (
    *(".json", ".jsonl", ".txt", ".srt", ".vtt", ".csv", ".tsv", ".md", ".xml", ".wav", ".mp3", ".m4a", ".npy"),
    *(".zip", ".tar", ".gz", ".part", ".ytdl", ".aside"),
)
# What cameras and downloaders store under a video's stem: smaller copies, and pictures of it.
PROXIES = (".lrv", ".lrf", ".thm", ".glv")
PICTURES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2"),
    *(".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".svg", ".psd"),
)
_SMALL_BYTES = 2**18  # so few may unpack to more than MAX_RATIO times their size


class BadMember(ValueError):
    """A member of an archive that does not match its header, or must not be read; the message is a short reason."""


def files(folder: Path) -> dict[str, Path]:
    """By stem, which is the video's id: the files of `folder` and, of other stems, the members of the zips in it."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.zip")):
        found = members(path) | found
    return found | plain_files(folder)


def plain_files(folder: Path) -> dict[str, Path]:
    """By stem, without zips and what they hold, and without links that lead nowhere; `best` where several share one."""
    paths = (path for path in folder.iterdir() if path.suffix != ".zip" and not path.name.startswith("."))
    return {stem: best(own)[0] for stem, own in by_stem(path for path in paths if path.is_file()).items()}


def members(path: Path) -> dict[str, Path]:
    """By stem: the zip's members, but those that must not be read; as `best` where a stem comes twice."""
    return {stem: path / name for stem, name in _names(_opened(path)).items()}


def by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stem, []).append(path)
    return found


def best(paths: Iterable[Path], *, pictures: bool = False) -> tuple[Path, list[Path]]:
    """Of files that share a stem, the one that counts, and those that are skipped.

    A video rather than a picture of it (a thumbnail, a photo taken with it), the original rather than the camera's
    small copy, then the larger one, then the first by path. pictures: a picture is wanted rather than a video.
    """
    first, *others = paths
    if others:
        ranked = sorted([first, *others], key=lambda path: (*_rank(path, _size(path), pictures=pictures), path))
        first, others = ranked[0], ranked[1:]
    return first, others


def _rank(path: PurePath, bytes_: int, *, pictures: bool) -> tuple[bool, bool, int]:
    suffix = path.suffix.lower()
    return suffix in PROXIES, (suffix in PICTURES) is not pictures, -bytes_


def skipped_files(others: Iterable[Path], folder: Path) -> str | None:
    """What the ledger says of files of `folder` that `best` did not choose; None if there are none."""
    names = sorted(path.relative_to(folder).as_posix() for path in others)
    return f"skipped: {', '.join(names)}" if names else None


def _size(path: Path) -> int:
    try:
        return size_of(path)
    except (OSError, BadMember):
        return 0


def link(source: Path, target: Path, seen: os.stat_result) -> None:
    """Make `target` a link to `source`, with the modification time that the file had when it was `seen`."""
    aside = target.with_name(f".{target.name}.aside")
    aside.unlink(missing_ok=True)
    aside.symlink_to(source.absolute())
    os.utime(aside, ns=(seen.st_atime_ns, seen.st_mtime_ns), follow_symlinks=False)
    aside.replace(target)


def is_link_to(source: Path, target: Path) -> bool:
    """Whether `target` is a link to `source`, and `source` has not been written to since it was seen."""
    return (
        target.is_symlink()
        and target.readlink() == source.absolute()
        and target.lstat().st_mtime_ns == source.stat().st_mtime_ns
    )


def name_for(video_id: str, suffix: str) -> str:
    """The name of the video's file; never a zip's, whatever name it was sent under.

    Nor a picture's if the id has a % in it: ffmpeg would read `50%d.jpg` as the pictures 500.jpg, 501.jpg...
    """
    usable = re.fullmatch(r"[.][a-z0-9]{1,5}", suffix) and suffix != ".zip" and "%" not in video_id
    return f"{video_id}{suffix if usable else '.video'}"


def size_of(path: Path) -> int:
    """Size in bytes, for a member its unpacked size. Raises BadMember if the zip does not have it."""
    found = within(path)
    return path.stat().st_size if found is None else _info(*found).file_size


@contextmanager
def local(path: Path) -> Iterator[Path]:
    """The file itself or, for the length of the `with` block, a temporary one with the member's bytes.

    Raises BadMember if these are not what the zip's checksum says, or far more than they may be.
    """
    found = within(path)
    if found is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        _unpack(*found, file)
        yield file


def not_a_file(path: Path) -> str | None:
    """Why it is not a readable file, or None if it is one."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(kind):
        return "a folder, not a video"
    if stat.S_ISFIFO(kind):
        return "a pipe, not a file; to caption what comes out of it: --follow - < the pipe"
    if not stat.S_ISREG(kind):
        return "a device or a socket, not a file"
    return None if os.access(path, os.R_OK) else "no permission to read it"


def unsafe(name: str, *, mode: int = 0) -> str | None:
    """Why an archive's member of that name and file mode must not be read, or None if it may.

    Nothing here unpacks a member to the path in its name. A name that points elsewhere is a reason to refuse it anyway.
    """
    if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts or "\0" in name:
        return "its path leads out of the archive"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "a link or a device, not a file"
    return None


def bomb(packed_bytes: int, bytes_: int) -> str | None:
    """Why so few bytes must not be unpacked to so many, or None if they may."""
    if bytes_ > MAX_FILE_BYTES:
        return f"larger than any video: {bytes_:,} bytes"
    if bytes_ > MAX_RATIO * max(packed_bytes, _SMALL_BYTES):
        return f"{packed_bytes:,} bytes that unpack to {bytes_:,}: a decompression bomb"
    return None


def within(path: Path) -> tuple[Path, str] | None:
    """The zip that the path leads through, and the member's name in it; None: it is a file of its own."""
    for parent in path.parents:
        if parent.suffix == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def _info(path: Path, name: str) -> zipfile.ZipInfo:
    try:
        return _opened(path).getinfo(name)
    except KeyError:
        raise BadMember(f"{path.name} has no member {name}") from None


def _unpack(path: Path, name: str, target: Path) -> None:
    info = _info(path, name)
    if problem := bomb(info.compress_size, info.file_size):
        raise BadMember(problem)
    try:
        with _opened(path).open(info) as member, target.open("wb") as file:
            shutil.copyfileobj(member, file)  # never more than it declares
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise BadMember(f"cannot be unpacked ({error})") from None


@lru_cache(maxsize=8)
def _names(archive: zipfile.ZipFile) -> dict[str, str]:
    found: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        other = info.is_dir() or path.suffix.lower() in NOT_VIDEOS
        if not other and not unsafe(info.filename, mode=info.external_attr >> 16):
            found.setdefault(path.stem, []).append(info)
    return {
        stem: min(own, key=lambda info: _rank(PurePosixPath(info.filename), info.file_size, pictures=False)).filename
        for stem, own in found.items()
    }


def _opened(path: Path) -> zipfile.ZipFile:
    status = path.stat()
    return _opened_version(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _opened_version(path: Path, *_: int) -> zipfile.ZipFile:
    """Cached, as an index of 120,000 members takes a second to read. Threads may share it. ValueError if not a zip."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a zip ({error}); delete it, and fetch it again") from None
