"""Videos in the archives of a dataset repository on the Hugging Face hub, where the mirrors are.

An archive (`X.tar`, or parts of one, `X.tar.part-000`, `-001`...) is read on the server, see archives.py: only the
wanted videos are ever on this disk, directly under their ids. If parts were downloaded and deleted, one video that is
added later would need them again, and a tenth of the videos would cost all of them.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from httpx2 import Client, HTTPError, Request, Response, SyncByteStream
from huggingface_hub import HfApi, hf_hub_url, set_client_factory
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff
from huggingface_hub.utils._http import default_client_factory

from pipeline.dataset import ledger, media, verdict
from pipeline.dataset.annotations import Annotation
from pipeline.dataset.ledger import Journal
from pipeline.dataset.sources.archives import Archive, Member, Part
from pipeline.dataset.verdict import Row
from pipeline.process.terminal import printable

_PART = re.compile(r"(?P<archive>.+?\.(?:tar\.gz|tar|tgz|zip))(?:[._-]?(?:part)?[._-]?(?P<part>\w+))?", re.IGNORECASE)
_TIMEOUT_S = 60  # without a byte
_WORKERS = 8  # they wait for the network, not the CPU


class Repository:
    """A dataset repository's archives as they are now."""

    def __init__(
        self, repo: str, revision: str, archives: Sequence[str], max_file_gb: float, max_page_mb: float
    ) -> None:
        """archives: patterns of the files that are archives, or parts of archives, such as "*.tar.part-*".

        max_file_gb: of a member. max_page_mb: of each page of the repository's list of files.
        Raises ValueError if the hub does not list them.
        """
        self.repo, self.max_file_bytes = repo, max_file_gb * 2**30
        set_client_factory(lambda: _client(max_page_mb * 2**20))
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
        # By content, not by commit: an edit of its README is irrelevant.
        listing = repr(sorted((file.path, file.size, file.blob_id) for file in files))
        self.identity = f"huggingface {repo} {hashlib.sha256(listing.encode()).hexdigest()[:16]}"

    def members(self, indexes: Path, wanted: Mapping[str, Path]) -> dict[str, tuple[Archive, Member]]:
        """By stem, every member that may be a video; the first where a stem comes twice.

        indexes: the folder that stores what was found, for later runs.
        wanted: by stem, where a compressed tar puts its video.
        """
        own = indexes / self.identity.rsplit(" ", 1)[1]
        for other in indexes.glob("*"):
            if other != own:
                shutil.rmtree(other)
        found: dict[str, tuple[Archive, Member]] = {}
        for number, (name, parts) in enumerate(self._parts.items()):
            archive = Archive(
                name, parts, index=own / f"{number}.jsonl", wanted=wanted, max_file_bytes=self.max_file_bytes
            )
            try:
                members = archive.members()
            except HTTPError as error:
                raise ValueError(f"{self.repo}, {name}: {_line(error)}; run the stage again to continue") from None
            for member in members:
                if PurePosixPath(member.name).suffix.lower() not in media.NOT_VIDEOS:
                    found.setdefault(member.stem, (archive, member))
        return found


class Huggingface:
    """A repository's archives as a source."""

    def __init__(
        self, repository: Repository, videos: Path, partial: Path, indexes: Path, *, video_ids: Iterable[str]
    ) -> None:
        """partial: the folder for incomplete files. indexes: the folder that stores the archives' indexes.

        video_ids: of all videos that may be requested; a compressed tar gives them in one pass.
        """
        self.identity, self.workers = repository.identity, _WORKERS
        self._videos, self._repo, self._there = videos, repository.repo, media.plain_files(videos)
        self._max_bytes = repository.max_file_bytes
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
        return fetch(
            video_id,
            self._videos,
            file,
            there=there,
            member=member,
            journal=journal,
            repo=self._repo,
            max_bytes=self._max_bytes,
        )

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
    max_bytes: float,
) -> tuple[Row, Path | None]:
    """Read the video into `videos` under its id; returns its row, and its file if there is one.

    file: where it is stored until it has been examined, alone in its folder. there: an earlier run's file, which is
    kept. member: None if no archive has it.
    """
    known = journal.known.get(video_id)
    attempts = 1 + (known.attempts if known else 0)
    if there and (row := journal.kept(video_id, there)):
        return row, there
    row = _refused(video_id, member, repo, max_bytes, attempts)  # anew: the limit may be another
    if known and (known.status == "corrupt" or (row and (known.status, known.reason) == (row.status, row.reason))):
        return known, None
    if row is None:
        assert member is not None
        row = _read(video_id, *member, file, attempts)
    journal.record(row)
    target = None
    if member and row.status == "ok":
        target = videos / media.name_for(video_id, PurePosixPath(member[1].name).suffix.lower())
        file.replace(target)
    if row.status != "unavailable":
        shutil.rmtree(file.parent, ignore_errors=True)
    return row, target


def _refused(
    video_id: str, member: tuple[Archive, Member] | None, repo: str, max_bytes: float, attempts: int
) -> Row | None:
    """The row of a video that is not read."""
    if member is None:
        return Row(video_id, "missing", f"no member of that name in the archives of {repo}", attempts=attempts)
    if problem := member[1].problem or ("larger than huggingface.max_file_gb" if member[1].size > max_bytes else None):
        return Row(video_id, "refused", problem, attempts=attempts)
    return None


def _read(video_id: str, archive: Archive, member: Member, file: Path, attempts: int) -> Row:
    try:
        if not file.exists():
            archive.read(member, file)
    except HTTPError as error:  # the hub's own client has tried several times
        return Row(video_id, "unavailable", _line(error), attempts=attempts)
    except media.BadMember as error:
        return Row(video_id, "corrupt", str(error), attempts=attempts)
    return verdict.examine(video_id, file, attempts=attempts)


def _reader(url: str) -> Callable[[int, int], bytes]:
    def read(start: int, end: int) -> bytes:
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        response = http_backoff("GET", url, headers=headers, timeout=_TIMEOUT_S)
        hf_raise_for_status(response)
        if len(response.content) != end - start:
            raise HTTPError(f"expected {end - start:,} bytes, the hub sent {len(response.content):,}")
        return response.content

    return read


def _client(max_page_bytes: float) -> Client:
    """The hub's own client, with everything that it reads counted."""

    def ask(request: Request) -> None:
        request.headers["Accept-Encoding"] = "identity"

    def count(response: Response) -> None:
        if packed := response.headers.get("Content-Encoding"):
            raise HTTPError(f"it sent {packed}, which was not requested")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", response.request.headers.get("Range", ""))
        limit = int(asked[2]) - int(asked[1]) + 1 if asked and response.is_success else max_page_bytes
        assert isinstance(response.stream, SyncByteStream)
        response.stream = _Counted(response.stream, limit, "was requested" if asked else "huggingface.max_page_mb")

    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {"request": [*hooks["request"], ask], "response": [*hooks["response"], count]}
    return client


class _Counted(SyncByteStream):
    """The stream, up to `limit` bytes."""

    def __init__(self, stream: SyncByteStream, limit: float, name: str) -> None:
        self._stream, self._left, self._limit_name = stream, limit, name

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise HTTPError(f"it sent more than {self._limit_name}")
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _order(file: RepoFile) -> tuple[int, str]:
    """A sort key: part-10 comes after part-9, and part-ab after part-aa."""
    return len(file.path), file.path


def _line(error: Exception) -> str:
    """A short reason."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if status else printable(f"{type(error).__name__}: {error}".split("\n")[0], 120)
