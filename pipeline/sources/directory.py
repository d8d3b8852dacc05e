"""A folder of the user's own: any file whose stem is the video's id, or that COCO's file_name says.

Files are copied, not linked: what the later stages read must not change under them.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline import ledger
from pipeline.ledger import Row

# Lies beside videos under the same stem: subtitles, metadata, sound tracks, downloads that broke off.
_BESIDE = {".json", ".txt", ".srt", ".vtt", ".csv", ".md", ".xml", ".wav", ".mp3", ".m4a", ".npy", ".part", ".ytdl"}


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Every file below `folder` that may be a video; the first by path where several share a stem.

    Raises ValueError if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; download.*.folder and .media in params.yaml name it")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _BESIDE and not path.name.startswith(".") and path.is_file():
            files.setdefault(path.stem, path)
    return files


def find(video_id: str, folder: Path, files: Mapping[str, Path], file_name: str | None) -> Path | None:
    """files: of `files_by_stem(folder)`. ActivityNet's ids begin with v_, people's files often do not."""
    if file_name is not None:
        named = PurePosixPath(file_name)
        if named.is_absolute() or ".." in named.parts:
            return None  # it comes from a file that somebody else wrote
        path = folder / named
        return path if path.is_file() else None
    return files.get(video_id) or files.get(video_id.removeprefix("v_"))


def fetch(
    video_id: str, source: Path | None, videos: Path, *, wanted_in: Path, known: Row | None, known_in: Path, move: bool
) -> tuple[Row, Path | None]:
    """Puts the video into `videos` under its id, unless it is there; its row says how it is. And the file.

    source: its file; None: there is none in `wanted_in`. known: its row in the ledger `known_in` of an earlier run,
    reused if the file did not change. move: the source is ours, and need not be kept.
    """
    if source is None:
        return Row(video_id, "missing", f"no file of that name in {wanted_in}", attempts=1), None
    target = videos / f"{video_id}{source.suffix.lower()}"
    try:
        unchanged = _same(source, target)
    except PermissionError as error:
        return Row(video_id, "unavailable", f"its file cannot be read ({error.strerror})", attempts=1), None
    if unchanged:
        if move:
            source.unlink()
        if known and known.sha256 and known.bytes == target.stat().st_size:
            return (replace(known, reason=None) if known.status == "ok" else known), target
        return ledger.examine(video_id, target), target
    if target.exists():  # killed after this, the next run must not take the old row for the new file's
        known_in.unlink(missing_ok=True)
    put(source, target, move=move)
    return ledger.examine(video_id, target), target


def put(source: Path, target: Path, *, move: bool = False) -> None:
    """Written aside and renamed: the target may be a link into DVC's cache, which must not be written through."""
    if move:
        source.replace(target)
        return
    aside = target.with_name(f".{target.name}.aside")
    try:
        shutil.copyfile(source, aside)
        status = source.stat()
        os.utime(aside, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that the next run sees it is the same
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _same(source: Path, target: Path) -> bool:
    ours = source.stat()
    if not os.access(source, os.R_OK):
        raise PermissionError(13, "Permission denied")
    if not target.is_file():
        return False
    theirs = target.stat()
    if ours.st_size != theirs.st_size:
        return False
    return ours.st_mtime_ns == theirs.st_mtime_ns or ledger.sha256_of(source) == ledger.sha256_of(target)


def put_all(sources: Iterable[Path], folder: Path) -> None:
    """Makes `folder` hold copies of exactly these files, written only where they differ.

    Raises ValueError if two of them have one name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets: dict[Path, Path] = {}
    for source in sources:
        target = folder / source.name
        if targets.setdefault(target, source).resolve() != source.resolve():
            raise ValueError(f"{source} and {targets[target]} have the same name; rename one of the annotation files")
    for target, source in targets.items():
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            put(source, target)
    remove_all_but(targets, folder)


def remove_all_but(files: Iterable[Path], folder: Path) -> None:
    kept = set(files)
    for path in folder.iterdir():
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
