"""Videos in the archives of a dataset repository on the Hugging Face hub, which is where the mirrors are.

An archive (`X.tar`, or parts of one, `X.tar.part-000`, `-001`...) is read where it lies, as archives.py says: nothing
of it is ever on this disk but the wanted videos, straight under their ids. A part that is downloaded and deleted would
have to be downloaded again for one video that is added later, and a tenth of the videos would cost all of it.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from httpx2 import HTTPError
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from pipeline import ledger, media
from pipeline.annotations import Annotation
from pipeline.ledger import Journal, Row
from pipeline.sources.archives import Archive, Member, Part

_PART = re.compile(r"(?P<archive>.+?\.(?:tar\.gz|tar|tgz|zip))(?:[._-]?(?:part)?[._-]?(?P<part>\w+))?", re.IGNORECASE)
_TIMEOUT_S = 60  # without a byte
_WORKERS = 8  # they wait for the network, not for the processor


class Repository:
    """A dataset repository's archives as they are now."""

    def __init__(self, repo: str, revision: str, archives: Sequence[str]) -> None:
        """archives: patterns of the files that are archives, or parts of archives, as "*.tar.part-*".

        Raises ValueError if the hub does not show them.
        """
        self.repo = repo
        api = HfApi()
        try:
            commit = api.dataset_info(repo, revision=revision).sha
            tree = list(api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True))
        except (HTTPError, OSError, ValueError) as error:
            raise ValueError(f"huggingface.repo {repo} at {revision} cannot be listed: {_line(error)}") from None
        files = [one for one in tree if isinstance(one, RepoFile) and any(fnmatch(one.path, p) for p in archives)]
        if not files:
            raise ValueError(f"huggingface.archives: {repo} at {revision} has no file like {', '.join(archives)}")
        self._parts: dict[str, list[Part]] = {}
        for file in sorted(files, key=_order):
            found = _PART.fullmatch(file.path)
            if not found:
                raise ValueError(f"huggingface.archives: {file.path} is no .tar, .tar.gz or .zip, nor a part of one")
            url = hf_hub_url(repo, file.path, repo_type="dataset", revision=commit)
            self._parts.setdefault(found["archive"], []).append(Part(file.size, _reader(url)))
        # By content, not by commit: an edit of its README changes nothing for us.
        said = repr(sorted((file.path, file.size, file.blob_id) for file in files))
        self.identity = f"huggingface {repo} {hashlib.sha256(said.encode()).hexdigest()[:16]}"

    def members(self, indexes: Path, wanted: Mapping[str, Path]) -> dict[str, tuple[Archive, Member]]:
        """By stem, every member that may be a video; the first where a stem comes twice.

        indexes: the folder that keeps what was found, for a run after a kill and for the next.
        wanted: by stem; where a compressed tar is to put its video.
        """
        own = indexes / self.identity.rsplit(" ", 1)[1]
        for other in indexes.glob("*"):
            if other != own:
                shutil.rmtree(other)
        found: dict[str, tuple[Archive, Member]] = {}
        for number, (name, parts) in enumerate(self._parts.items()):
            archive = Archive(name, parts, index=own / f"{number}.jsonl", wanted=wanted)
            try:
                members = archive.members()
            except HTTPError as error:
                raise ValueError(f"{self.repo}, {name}: {_line(error)}; run the stage again, it goes on") from None
            for member in members:
                if PurePosixPath(member.name).suffix.lower() not in media.NOT_VIDEOS:
                    found.setdefault(member.stem, (archive, member))
        return found


class Huggingface:
    """A repository's archives as a source."""

    def __init__(
        self, repository: Repository, videos: Path, partial: Path, indexes: Path, *, video_ids: Iterable[str]
    ) -> None:
        """partial: the folder for what is not whole yet. indexes: keeps what the archives hold.

        video_ids: of all videos that may be asked for; a compressed tar gives them in one go.
        """
        self.identity, self.workers = repository.identity, _WORKERS
        self._videos, self._repo, self._there = videos, repository.repo, media.plain_files(videos)
        self._files = {video_id: partial / video_id / "video" for video_id in video_ids}
        wanted = {
            stem: file
            for video_id, file in self._files.items()
            if video_id not in self._there and not ledger.refusal(video_id)
            for stem in _stems(video_id)
        }
        self._members = repository.members(indexes, wanted)

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        member = next((self._members[stem] for stem in _stems(video_id) if stem in self._members), None)
        there, file = self._there.get(video_id), self._files[video_id]
        return fetch(video_id, self._videos, file, there=there, member=member, journal=journal, repo=self._repo)

    def close(self) -> None: ...


def _stems(video_id: str) -> tuple[str, str]:
    """ActivityNet's ids begin with v_, people's files often do not."""
    return video_id, video_id.removeprefix("v_")


def fetch(
    video_id: str,
    videos: Path,
    file: Path,
    *,
    there: Path | None,
    member: tuple[Archive, Member] | None,
    journal: Journal,
    repo: str,
) -> tuple[Row, Path | None]:
    """Reads the video into `videos` under its id; its row says how it is, or why it is not. And the file.

    file: where it lies until it was examined, alone in its folder. there: its file of an earlier run, which is kept.
    member: None if no archive has it.
    """
    known = journal.known.get(video_id)
    attempts = 1 + (known.attempts if known else 0)
    if there and (row := journal.kept(video_id, there)):
        return row, there
    if known and known.status in ("corrupt", "refused", "missing"):
        return known, None
    if member is None:
        row = Row(video_id, "missing", f"no member of that name in the archives of {repo}", attempts=attempts)
    elif member[1].problem:
        row = Row(video_id, "refused", member[1].problem, attempts=attempts)
    else:
        row = _read(video_id, *member, file, attempts)
    journal.record(row)
    target = None
    if member and row.status == "ok":
        target = videos / media.name_for(video_id, PurePosixPath(member[1].name).suffix.lower())
        file.replace(target)
    if row.status != "unavailable":
        shutil.rmtree(file.parent, ignore_errors=True)
    return row, target


def _read(video_id: str, archive: Archive, member: Member, file: Path, attempts: int) -> Row:
    try:
        if not file.exists():
            archive.read(member, file)
    except HTTPError as error:  # the hub's own client has tried several times
        return Row(video_id, "unavailable", _line(error), attempts=attempts)
    except media.BadMember as error:
        return Row(video_id, "corrupt", str(error), attempts=attempts)
    return ledger.examine(video_id, file, attempts=attempts)


def _reader(url: str) -> Callable[[int, int], bytes]:
    def read(start: int, end: int) -> bytes:
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        response = http_backoff("GET", url, headers=headers, timeout=_TIMEOUT_S)
        hf_raise_for_status(response)
        if len(response.content) != end - start:
            raise HTTPError(f"wanted {end - start:,} bytes, the hub sent {len(response.content):,}")
        return response.content

    return read


def _order(file: RepoFile) -> tuple[int, str]:
    """part-10 comes after part-9, and part-ab after part-aa."""
    return len(file.path), file.path


def _line(error: Exception) -> str:
    """A short reason."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if status else f"{type(error).__name__}: {error}".split("\n")[0][:120]
