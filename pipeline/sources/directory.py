"""A folder of the user's own: any file whose stem is the video's id, or that COCO's file_name says.

Videos are linked, not copied: they may lie on a storage far larger than this disk. The ledger says which bytes each had
when it was examined; the `frames` stage holds them to it.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath

from pipeline import ledger, media
from pipeline.annotations import Annotation
from pipeline.cores import cores
from pipeline.ledger import Journal, Row


class Directory:
    """A folder of videos for every split."""

    def __init__(
        self, videos: Path, folders: Mapping[str, Path], *, move: bool = False, name: str = "directory"
    ) -> None:
        """videos: where the links go. move: the folders are ours; their files are moved, not linked."""
        self.identity, self.workers = name, cores()
        self._videos, self._folders, self._move = videos, folders, move
        self._files = cache(files_by_stem)

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        folder = self._folders[split]
        source = find(video_id, folder, self._files(folder), annotation.file_name)
        return fetch(video_id, source, self._videos, wanted_in=folder, journal=journal, move=self._move)

    def close(self) -> None: ...


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Every file below `folder` that may be a video; the first by path where several share a stem.

    Raises ValueError if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; download.*.folder and .media in params.yaml name it")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in media.NOT_VIDEOS and not path.name.startswith(".") and path.is_file():
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
    video_id: str, source: Path | None, videos: Path, *, wanted_in: Path, journal: Journal, move: bool
) -> tuple[Row, Path | None]:
    """Links the video into `videos` under its id, unless it is; its row says how it is. And the link.

    source: its file; None: there is none in `wanted_in`. What an earlier run found of it counts if it did not change.
    move: the source is ours: it is moved, not linked.
    """
    if source is None:
        return Row(video_id, "missing", f"no file of that name in {wanted_in}", attempts=1), None
    target = videos / media.name_for(video_id, source.suffix.lower())
    known = journal.known.get(video_id)
    try:
        seen = source.stat()
        linked = media.is_link_to(source, target)
        unchanged = known and known.bytes == seen.st_size and (linked or ledger.sha256_of(source) == known.sha256)
        if known and unchanged:
            row = replace(known, reason=None) if known.status == "ok" else known
        else:
            row = ledger.examine(video_id, source)
            journal.record(row)
    except PermissionError as error:
        return Row(video_id, "unavailable", f"its file cannot be read ({error.strerror})", attempts=1), None
    if not move and not linked:
        media.link(source, target, seen)
    elif move and unchanged and target.is_file() and ledger.sha256_of(target) == row.sha256:
        source.unlink()
    elif move:
        source.replace(target)
    return row, target


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
            # Aside and renamed: the target may be a link into DVC's cache, which must not be written through.
            aside = target.with_name(f".{target.name}.aside")
            shutil.copyfile(source, aside)
            aside.replace(target)
    remove_all_but(targets, folder)


def remove_all_but(files: Iterable[Path], folder: Path) -> None:
    kept = set(files)
    for path in folder.iterdir():
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
