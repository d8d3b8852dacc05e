"""Results get their name only when they are complete and on the disk.

Never write through an existing file: it may be a hard link into DVC's cache, whose content would change with it. And a
killed run, or a full disk, would leave half a file.
"""

import errno
import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

ASIDE = ".aside"


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` for a file or folder, which replaces `path` at the end of the `with` block.

    On an exception it is removed, and `path` stays as it was. The folder of `path` is made if missing. Two processes
    that write the same file do not collide: each has a name of its own, and the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = beside(path)
    try:
        yield written
        put_in_place(written, path)
    except Exception as error:
        if isinstance(error, OSError) or not (number := _system_error(error)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        remove(written)


def _system_error(error: Exception) -> int | None:
    """The errno behind an error that a library raised while writing."""
    text = str(error)
    if found := re.search(r"\(os error (\d+)\)", text):  # safetensors
        return int(found[1])
    # torch does not say which error; it is nearly always a full disk.
    return errno.ENOSPC if "inline_container" in text or "file write failed" in text else None


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, with the line ends of `text`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    with aside(path) as written:
        written.write_bytes(data)


def check_writable(path: Path) -> None:
    """Raise ValueError now if the file `path` could not be written; its folder is made if it is missing.

    To be called before long work.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        written = beside(path)
        written.touch()
        remove(written)
    except OSError as error:
        at = f" ({error.filename})" if error.filename not in (None, str(path)) else ""
        raise ValueError(f"{path} cannot be written: {error.strerror}{at}") from None


def beside(path: Path) -> Path:
    """A unique name in the same folder."""
    return path.with_name(f"{path.name}.{token_hex(4)}{ASIDE}")


def put_in_place(written: Path, path: Path) -> None:
    """Sync `written`, a file or a folder, to the disk and rename it to `path`, replacing what is there.

    A folder cannot replace another in one step: after a kill in between there is none, and it is made again.
    """
    _sync(written)
    if (written.is_dir() or path.is_dir()) and os.path.lexists(path):
        old = beside(path)
        path.rename(old)
        written.rename(path)
        remove(old)
    else:
        written.replace(path)
    _sync_entries(path.parent)


def sweep(path: Path) -> None:
    """Remove what killed runs left beside `path`; only if no other process can be writing it now."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{ASIDE}"):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if path.is_dir():
        for one in path.iterdir():
            _sync(one)
        _sync_entries(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_entries(folder: Path) -> None:
    """Sync a folder, so that a power failure does not bring old names back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
