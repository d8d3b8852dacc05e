"""The verdict on a file of a dataset: a usable video or picture, or why it is not usable.

An edit here, or in a module imported here, means that every file is examined again (`version`), which takes days at
20,000 videos. So the code that only stores rows is in pipeline/dataset/ledger.py.
"""

import errno
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import av
import imageio_ffmpeg

from pipeline.dataset import media, probe
from pipeline.dataset.ffmpeg_process import UnclearFault
from pipeline.dataset.probe import Kind
from pipeline.imports import code_fingerprint
from pipeline.process.children import MachineFault

# ok: a video or picture that decodes, completely or (see the reason) in part. missing: no file. gone: the source will
# never provide it. unavailable: it did not, but may another time. corrupt: a file, but not a video. refused: an id that
# must not become a file name, or a member of an archive that is not a plain file. skipped: the subset is full.
Status = Literal["ok", "missing", "gone", "unavailable", "corrupt", "refused", "skipped"]


@dataclass(frozen=True)
class Row:
    """kind: null unless the status is ok. duration_s: null for pictures. attempts: how often the source was asked.

    damage: the part of the reason that is about the file: what does not decode.
    """

    video_id: str
    status: Status
    reason: str | None = None
    duration_s: float | None = None
    bytes: int | None = None
    sha256: str | None = None
    attempts: int = 0
    kind: Kind | None = None
    damage: str | None = None

    def found_again(self) -> "Row":
        """The row as it was when its file was examined; every run adds remarks on segments again."""
        return replace(self, reason=self.damage) if self.status == "ok" else self


def version() -> str:
    """Changes with everything that a row depends on."""
    return f"{code_fingerprint(Path(__file__))} av {av.__version__} ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"


def examine(video_id: str, path: Path, *, attempts: int = 1, whole: bool = True) -> Row:
    """The row of a file, or of a member of a zip (pipeline/dataset/media.py).

    ok, or corrupt with the reason; unavailable, if its disk does not give it, or it may be this machine that fails.
    whole: decode all of a video, which finds what is damaged.
    Raises MachineFault where another file would fare no better.
    """
    try:
        with media.local(path) as file:
            found = probe.check(file) if whole else probe.probe(file)
            status: Status = "ok" if found.kind else "corrupt"
            damage = found.reason if found.kind else None
            size, sha256 = file.stat().st_size, sha256_of(file)
            return Row(video_id, status, found.reason, found.duration_s, size, sha256, attempts, found.kind, damage)
    except media.BadMember as error:
        return Row(video_id, "corrupt", str(error), attempts=attempts)
    except UnclearFault as error:
        return Row(video_id, "unavailable", str(error), attempts=attempts)
    except OSError as error:
        return unreadable(video_id, error, attempts=attempts)


def unreadable(video_id: str, error: OSError, *, attempts: int = 1) -> Row:
    """The row of a file that could not be read this time. Raises MachineFault if the cause is not this file."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE):
        raise MachineFault(error.errno, f"{video_id}: {error}; nothing is kept of it: run again") from None
    return Row(video_id, "unavailable", f"its file cannot be read ({os.strerror(error.errno)})", attempts=attempts)


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file, or of a member of a zip (pipeline/dataset/media.py)."""
    with media.local(path) as local, local.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
