"""Remote archives, read by byte ranges: tar, tar.gz, zip. Nothing is ever unpacked to the paths that they name.

A tar is walked from header to header, which reads a few kilobytes per member and gives an index; then any member is one
range. The index is stored, so a killed walk continues at the header where it was. A zip has its index at its end. Only
a compressed tar must be read from front to back: the wanted members are taken as they pass.
"""

import gzip
import io
import json
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.dataset import media
from pipeline.process import progress
from pipeline.process.terminal import printable
from pipeline.safety import MAX_RATIO

_HEADER_BYTES = 2**16  # read at once while walking from header to header
_CHUNK_BYTES = 2**24  # ...and of a video
_LONGEST_HEADER_BYTES = 2**20  # tarfile holds a header in memory, whatever length it claims
_SMALL_BYTES = 2**20  # up to this size, a member may unpack to more than MAX_RATIO times its size
KINDS = (".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True)
class Part:
    """size: bytes. read: of [start, end), all of them."""

    size: int
    read: Callable[[int, int], bytes]


@dataclass(frozen=True)
class Member:
    """A file in an archive. offset: where its bytes begin, in a tar. problem: why it must not be read, if so."""

    name: str
    size: int
    offset: int
    problem: str | None = None

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem


class Archive:
    """One archive, its parts joined."""

    def __init__(
        self, name: str, parts: Sequence[Part], *, index: Path, wanted: Mapping[str, Path], max_file_bytes: float
    ) -> None:
        """index: the file that stores what was found. wanted: by stem, where a compressed tar puts its videos, except
        those larger than max_file_bytes.
        """
        assert name.lower().endswith(KINDS), name
        self._max_file_bytes = max_file_bytes
        self.name, self._parts, self._index, self._wanted = name, parts, index, wanted
        self._is_zip = name.lower().endswith(".zip")
        self._is_plain = name.lower().endswith(".tar")
        self._lock = threading.Lock()

    def members(self) -> list[Member]:
        """In the archive's order. ValueError if it is damaged, or a bomb."""
        if self._is_zip:
            return [_of_zip(info) for info in self._zip.infolist() if not info.is_dir()]
        with _Index(self._index) as index:
            if not index.whole:
                self._walk(index) if self._is_plain else self._unpack(index)
            return index.members

    def read(self, member: Member, file: Path) -> None:
        """Write the member to `file`, continuing what an earlier run left beside it.

        Raises media.BadMember, and whatever the parts raise.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        if self._is_zip:
            with self._lock:
                self._read_zip(member, file)
        elif self._is_plain:
            part = part_of(file)
            with part.open("ab") as target:
                while (have := target.tell()) < member.size:
                    end = min(member.size, have + _CHUNK_BYTES)
                    target.write(_read(self._parts, member.offset + have, member.offset + end))
            part.replace(file)
        else:
            with self._lock:  # the first thread that finds one missing reads for all
                if not file.exists():
                    with _Index(self._index) as index:
                        index.clear()
                        self._unpack(index)
                if not file.exists():
                    raise media.BadMember("it is no longer in the archive")

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(io.BufferedReader(_Joined(self._parts), _HEADER_BYTES))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _read_zip(self, member: Member, file: Path) -> None:
        part = part_of(file)
        try:
            with self._zip.open(member.name) as source, part.open("wb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            part.unlink(missing_ok=True)
            raise media.BadMember(f"cannot be unpacked ({error})") from None
        part.replace(file)

    def _walk(self, index: "_Index") -> None:
        stream = _Headers(io.BufferedReader(_Joined(self._parts), _HEADER_BYTES))
        stream.seek(index.next_header)
        size, end = _size(self._parts), index.next_header
        with progress.bar(
            total=size, initial=end, desc=f"index {printable(self.name, 60)}", unit="B", unit_scale=True
        ) as bar:
            for info, end in self._infos(stream):
                index.add(info, end)
                bar.update(end - bar.n)
            bar.update(size - bar.n)  # an archive ends with zeros
        stream.seek(end)
        if end > size or stream.read(min(512, size - end)).strip(b"\0"):
            raise ValueError(f"{self.name} is damaged at byte {end:,}, or a part of it is missing")
        index.finish()

    def _unpack(self, index: "_Index") -> None:
        joined = _Joined(self._parts)
        stream = _Unpacked(self.name, joined)
        size = _size(self._parts)
        with progress.bar(total=size, desc=f"read {printable(self.name, 60)}", unit="B", unit_scale=True) as bar:
            for info, end in self._infos(stream):
                member = index.add(info, end)
                file = self._wanted.get(member.stem)
                if file and not member.problem and member.size <= self._max_file_bytes and not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with part_of(file).open("wb") as target:
                        stream.copy(member.size, target)
                    part_of(file).replace(file)
                bar.update(joined.tell() - bar.n)
            bar.update(size - bar.n)  # an archive ends with zeros
        index.finish()

    def _infos(self, stream: Any) -> Iterator[tuple[tarfile.TarInfo, int]]:
        """Every file, and where the next header is. Raises ValueError."""
        try:
            tar = tarfile.TarFile(fileobj=stream, mode="r")
            last = -1
            for info in tar:
                end = tar.offset
                if info.size < 0 or end <= last:
                    raise ValueError(f"{self.name}: a member of {info.size} bytes at {info.offset:,}; it is damaged")
                last = end
                if not info.isdir():
                    yield info, end
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.name} is damaged, or a part of it is missing: {error}") from None


def part_of(file: Path) -> Path:
    """The path of the incomplete file."""
    return file.with_name(file.name + ".part")


def _of_zip(info: zipfile.ZipInfo) -> Member:
    problem = media.unsafe(info.filename, mode=info.external_attr >> 16) or media.bomb(
        info.compress_size, info.file_size
    )
    return Member(info.filename, info.file_size, -1, problem)


def _of_tar(name: str, size: int, offset: int, plain: bool) -> Member:
    problem = media.unsafe(name) or (None if plain else "a link or a device, not a file") or media.bomb(size, size)
    return Member(name, size, offset, problem)


class _Index:
    """A tar's members, a line each as they are found. What is thought of them is no part of it: that may change."""

    def __init__(self, path: Path) -> None:
        self.members: list[Member] = []
        self.whole, self.next_header = False, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        good = 0
        self._file = path.open("a+b")
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # a kill cut it
            found = _parsed(line)
            if found is False:
                break  # of another revision, or damaged
            self.whole = found is None
            if found is not None:
                self.next_header = found.pop("next_header")
                self.members.append(_of_tar(**found))
            good += len(line)
        self._file.truncate(good)

    def __enter__(self) -> "_Index":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, info: tarfile.TarInfo, next_header: int) -> Member:
        plain = info.isreg() and not info.issparse()  # a sparse file's bytes are not stored contiguously
        found: dict[str, Any] = {"name": info.name, "size": info.size, "offset": info.offset_data, "plain": plain}
        self.members.append(_of_tar(**found))
        self._write(found | {"next_header": next_header})
        return self.members[-1]

    def finish(self) -> None:
        self.whole = True
        self._write(None)

    def clear(self) -> None:
        self.members, self.whole, self.next_header = [], False, 0
        self._file.truncate(0)

    def _write(self, line: object) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


def _parsed(line: bytes) -> Any:
    """A line of an index; False if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return False
    wanted = {"name", "size", "offset", "plain", "next_header"}
    return found if found is None or (isinstance(found, dict) and found.keys() == wanted) else False


class _Joined(io.RawIOBase):
    """The parts as one readable file."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts, self._size, self._at = parts, _size(parts), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._at + len(buffer))
        found = _read(self._parts, self._at, end) if self._at < end else b""
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


class _Headers:
    """The file interface that tarfile needs, refusing headers that would fill the memory."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER_BYTES:
            raise ValueError(f"the archive has a header of {size:,} bytes: an attack, or damaged")
        return bytes(self._file.read(size))

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int) -> None:
        self._file.seek(offset)


class _Unpacked(_Headers):
    """A gzip stream, forward only, that stops when its output is out of proportion to its input."""

    def __init__(self, name: str, packed: _Joined) -> None:
        super().__init__(gzip.GzipFile(fileobj=io.BufferedReader(packed, _CHUNK_BYTES)))
        self._name, self._packed = name, packed

    def read(self, size: int) -> bytes:
        found = super().read(size)
        if self.tell() > MAX_RATIO * max(self._packed.tell(), _SMALL_BYTES):
            raise ValueError(
                f"{self._name}: {self._packed.tell():,} bytes unpack to {self.tell():,}: a decompression bomb"
            )
        return found

    def seek(self, offset: int) -> None:
        self.copy(offset - self.tell(), None)

    def copy(self, size: int, target: Any) -> None:
        """Read the next `size` bytes, into `target` if given. Raises EOFError if there are fewer."""
        while size > 0:
            chunk = self.read(min(size, _LONGEST_HEADER_BYTES))
            if not chunk:
                raise EOFError("it ends in the middle of a member")
            if target:
                target.write(chunk)
            size -= len(chunk)


def _size(parts: Sequence[Part]) -> int:
    return sum(part.size for part in parts)


def _read(parts: Sequence[Part], start: int, end: int) -> bytes:
    found = []
    for part in parts:
        if start < part.size and end > 0:
            found.append(part.read(max(0, start), min(end, part.size)))
        start, end = start - part.size, end - part.size
    return b"".join(found)
