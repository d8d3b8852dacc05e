"""A user's folder: any file whose stem is the video's id, or that COCO's file_name names; or zips of such files.

Videos are linked, not copied: they may be on storage far larger than this disk. The ledger records which bytes each had
when it was examined, and the `frames` stage checks them.
"""

import os
import shutil
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from pipeline.dataset import ledger, media, verdict
from pipeline.dataset.annotations import Annotation
from pipeline.dataset.ledger import Journal
from pipeline.dataset.verdict import Row
from pipeline.files.aside import aside
from pipeline.process.cores import cores
from pipeline.process.terminal import printable


class Directory:
    """A folder of videos for every split."""

    def __init__(
        self, videos: Path, folders: Mapping[str, Path], *, move: bool = False, name: str = "directory"
    ) -> None:
        """videos: the folder for the links. move: the folders are ours, so files are moved instead of linked."""
        self.identity, self.workers = name, cores()
        self._videos, self._folders, self._move = videos, folders, move
        self._files = cache(files_by_stem)
        self._zipped: dict[Path, dict[str, _Zipped]] = {}  # by folder and stem
        self._zips: dict[Path, Path] = {}  # by the link to it
        self._lock = threading.Lock()

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        folder = self._folders[split]
        source, reason = find(video_id, folder, self._files(folder), annotation.file_name)
        if source is None and (zipped := self._in_zips(folder).get(video_id)):
            return zipped.fetch(journal, video_id)
        if source is None:
            return Row(video_id, "missing", reason, attempts=1), None
        row, file = fetch(video_id, source, self._videos, journal=journal, move=self._move)
        return ledger.with_reason(row, reason), file

    def _in_zips(self, folder: Path) -> "dict[str, _Zipped]":
        """What the zips below `folder` hold, by stem; they are linked, as videos are."""
        with self._lock:
            if folder not in self._zipped:
                found: dict[str, _Zipped] = {}
                files = [path for own in self._files(folder).values() for path in own]
                zips = [path for path in files if path.suffix.lower() == ".zip"]
                for path in sorted(zips, key=lambda path: f"{path.stem}.zip"):
                    found = self._members_of(path) | found  # as in media.files, of one stem the first
                self._zipped[folder] = found
            return self._zipped[folder]

    def _members_of(self, path: Path) -> "dict[str, _Zipped]":
        link = self._videos / f"{path.stem}.zip"
        if self._zips.setdefault(link, path).resolve() != path.resolve():
            raise ValueError(f"{path} and {self._zips[link]} have the same name; rename one of them")
        members = media.members(path)  # says of the user's own file if it is no zip
        linked, books = media.is_link_to(path, link), self._videos.with_name("ledger.parquet")
        # Else a run that was stopped may have made the link, and compared nothing: the ledger is its last act.
        unchanged = linked and books.exists() and link.lstat().st_ctime_ns < books.stat().st_mtime_ns
        if not linked:
            media.link(path, link, path.stat())
        return {stem: _Zipped(link, link / inner.relative_to(path), unchanged) for stem, inner in members.items()}

    def close(self) -> None: ...


@dataclass(frozen=True)
class _Zipped:
    """A member of a zip. unchanged: the zip is what it was when an earlier run came to its end."""

    link: Path
    member: Path
    unchanged: bool

    def fetch(self, journal: Journal, video_id: str) -> tuple[Row, Path | None]:
        known = journal.known.get(video_id)
        if known and known.sha256 and self._is(known.bytes, known.sha256):
            return known.found_again(), self.link
        row = verdict.examine(video_id, self.member)
        journal.record(row)
        return row, self.link

    def _is(self, bytes_: int | None, sha256: str) -> bool:
        try:
            same_size = bytes_ == media.size_of(self.member)
            return same_size and (self.unchanged or verdict.sha256_of(self.member) == sha256)
        except (media.BadMember, OSError):
            return False  # `examine` says what is wrong with it


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Every file below `folder`, following links to folders, by path.

    Raises ValueError if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; download.*.folder and .media in params.yaml name it")
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(_files_below(folder)):
        files[_composed(path.stem)].append(path)
    return dict(files)


def _files_below(folder: Path) -> Iterator[Path]:
    seen = set()
    for inner, folders, names in os.walk(folder, followlinks=True):
        status = Path(inner).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder that contains it
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(inner, name) for name in names if not name.startswith("."))


def _composed(name: str) -> str:
    """Unicode-normalised: a Mac stores a letter and its accent separately, unlike other systems and caption files."""
    return unicodedata.normalize("NFC", name)


def find(
    video_id: str, folder: Path, files: Mapping[str, Sequence[Path]], file_name: str | None
) -> tuple[Path | None, str | None]:
    """The video's file, and which others of its name were skipped; or None, and why there is none.

    files: from `files_by_stem(folder)`. ActivityNet's ids begin with v_; people's files often do not.
    """
    if file_name is not None:
        named = PurePosixPath(file_name)
        if named.is_absolute() or ".." in named.parts:  # it comes from an untrusted file
            return None, f"its file_name leads out of {folder}"
        try:
            there = (folder / named).is_file()
        except OSError as error:
            return None, f"its file_name is not valid ({error.strerror})"
        return (folder / named, None) if there else (None, f"no file of that name in {folder}")
    others: list[Path] = []
    for stem in dict.fromkeys((video_id, video_id.removeprefix("v_"))):
        named_so = files.get(_composed(stem), ())
        usable = [path for path in named_so if path.suffix.lower() not in media.NOT_VIDEOS and path.is_file()]
        if usable:
            chosen, left = media.best(usable)
            return chosen, media.skipped_files(left, folder)
        others += named_so
    if others:
        found = printable(", ".join(path.relative_to(folder).as_posix() for path in others), 120)
        return None, f"under that name {folder} has only {found}: not a video's ending, or a broken link"
    return None, f"no file of that name in {folder}"


def fetch(video_id: str, source: Path, videos: Path, *, journal: Journal, move: bool) -> tuple[Row, Path | None]:
    """Link the video into `videos` under its id, unless that is done; returns its row and the link.

    An earlier run's row is reused if the file did not change. move: the source is ours, so it is moved, not linked.
    """
    target = videos / media.name_for(video_id, source.suffix.lower())
    known = journal.known.get(video_id)
    try:
        seen = source.stat()
        linked = media.is_link_to(source, target)
        unchanged = known and known.bytes == seen.st_size and (linked or verdict.sha256_of(source) == known.sha256)
        if known and unchanged:
            row = known.found_again()
        else:
            row = verdict.examine(video_id, source, whole=not move)  # what we rendered ourselves is complete
            journal.record(row)
    except OSError as error:
        return verdict.unreadable(video_id, error), None
    if row.status == "unavailable":
        return row, None
    if not move and not linked:
        media.link(source, target, seen)
    elif move and unchanged and target.is_file() and verdict.sha256_of(target) == row.sha256:
        source.unlink()
    elif move:
        source.replace(target)
    return row, target


def put_all(sources: Iterable[Path], folder: Path) -> None:
    """Make `folder` hold copies of exactly these files, writing only those that differ.

    Raises ValueError if two of them have the same name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets: dict[Path, Path] = {}
    for source in sources:
        target = folder / source.name
        if targets.setdefault(target, source).resolve() != source.resolve():
            raise ValueError(f"{source} and {targets[target]} have the same name; rename one of the annotation files")
    for target, source in targets.items():
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            with aside(target) as written:
                shutil.copyfile(source, written)
    remove_all_but(targets, folder)


def remove_all_but(files: Iterable[Path], folder: Path) -> None:
    kept = set(files)
    for path in folder.iterdir():
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
