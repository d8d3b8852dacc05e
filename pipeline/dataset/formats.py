"""Which reader a caption file needs, named in params.yaml or recognised from its content; and a split's videos.

To add a format, write a reader beside those of published.py, and enter it here.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.dataset import annotations, published
from pipeline.dataset.annotations import (
    Annotation,
    Split,
    WrongShape,
    annotations_in,
    choose_splits,
    described,
    read_csv,
)
from pipeline.dataset.published import Read
from pipeline.files import strict_csv, strict_json

Format = Literal["auto", "activitynet", "coco", "csv", "msrvtt", "msvd", "vatex", "flickr8k"]
FORMATS: tuple[Format, ...] = get_args(Format)
WANTED = {**annotations.WANTED, **published.WANTED}
PUBLISHED = tuple(published.WANTED)  # beside their captions, lists may say which videos a split has
_JSON: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "msrvtt": ("MSR-VTT's captions", published.is_msrvtt),
    "vatex": ("VATEX's captions", published.is_vatex),
    "coco": ("COCO captions", lambda value: isinstance(value, dict) and {"images", "annotations"} <= value.keys()),
    "activitynet": (
        "ActivityNet's captions",
        lambda value: isinstance(value, dict) and any("timestamps" in one for one in _objects(value.values())),
    ),
}


def read_annotations(path: Path, file_format: str) -> Read:
    """`file_format`: of `Format`. The videos in the file's order, and what was dropped, by reason.

    Raises ValueError if the file is absent or holds something else: what was found, where, and what was wanted.
    """
    assert file_format in FORMATS, file_format
    try:
        if file_format == "csv":
            return read_csv(path), Counter()
        data = path.read_bytes()
        if file_format in ("activitynet", "coco") or is_json(path, data):
            return read_json(path, strict_json.loads(data, where=str(path)), file_format)
        found, read = recognised_text(path, data)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download.*.annotations in params.yaml names it") from None
    if file_format in ("auto", found) or found == "list":
        return read()
    if found == "csv":  # what it lacks, column by column, or nothing that says more
        raise ValueError(f"{path}, line 1: found {_first_line(data)}; expected {WANTED[file_format]}")
    raise ValueError(f"{path}: found {found} (format: {found} reads that); expected {WANTED[file_format]}")


def is_json(path: Path, data: bytes) -> bool:
    return path.suffix.lower() == ".json" or data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def recognised(value: Any) -> str | None:
    """The format of what a JSON file holds."""
    return next((name for name, (_, holds) in _JSON.items() if holds(value)), None)


def _objects(values: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))


def read_json(path: Path, value: Any, file_format: str) -> Read:
    """`read_annotations` of what the file holds."""
    found = recognised(value)
    if file_format == "auto":
        if found is None:
            every = "; or ".join(WANTED[name] for name in _JSON)
            raise ValueError(f"{path}: found {described(value)}; expected {every}")
        file_format = found
    if found not in (None, file_format):
        assert found is not None
        what = f"{_JSON[found][0]} (format: {found} reads those)"
        raise ValueError(f"{path}: found {what}; expected {WANTED[file_format]}")
    if file_format in ("activitynet", "coco"):
        return annotations_in(value, file_format, where=str(path))
    try:
        if file_format == "vatex":
            return published.read_vatex(value)
        if file_format == "msrvtt":
            return published.read_msrvtt(value)
        raise WrongShape("JSON")
    except WrongShape as error:
        raise ValueError(f"{path}: found {error}; expected {WANTED[file_format]}") from None


def recognised_text(path: Path, data: bytes) -> tuple[str, Callable[[], Read]]:
    """Format (`list` is one of these), and what reads the file."""
    text = strict_csv.decoded(data, path)
    if is_flickr8k(data):
        return "flickr8k", lambda: published.read_flickr8k(path, text)
    if path.suffix.lower() not in (".csv", ".tsv"):
        return "list", lambda: published.read_list(path, text)
    columns, rows = strict_csv.load(path)
    if published.is_msvd(columns):
        return "msvd", lambda: published.read_msvd(path, columns, rows)
    if published.is_list(columns):
        return "list", lambda: published.read_table_as_list(path, columns, rows)
    return "csv", lambda: (read_csv(path), Counter())


def is_flickr8k(data: bytes) -> bool:
    return published.FLICKR8K_LINE.fullmatch(_first_line(data)) is not None


def read_list(path: Path) -> list[Annotation]:
    """The videos that a text file lists. Raises ValueError."""
    return published.read_list(path, strict_csv.decoded(path.read_bytes(), path))[0]


def _first_line(data: bytes) -> str:
    return next((line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()), "")


def read_splits(
    paths: Mapping[str, Sequence[Path]], file_format: str
) -> tuple[dict[str, list[Annotation]], dict[str, str], Counter[str]]:
    """The annotation files of every split: annotations and split by video id, and what was dropped, by reason.

    A video's annotations are those of its own split's files. Where a file says itself to which split a video belongs,
    and is named in several, each takes its own. Where a list of videos is among a split's files, the split has these.
    """
    known: dict[Path, Read] = {}
    read: dict[str, defaultdict[str, list[Annotation]]] = {}
    reasons: Counter[str] = Counter()
    for split, files in paths.items():
        found: list[Annotation] = []
        for path in files:
            if path not in known:  # MSR-VTT's has two splits
                known[path] = read_annotations(path, file_format)
                reasons += known[path][1]
            found += known[path][0]
        read[split] = defaultdict(list)
        for annotation in of_split(found, split, reasons):
            read[split][annotation.video_id].append(annotation)
    splits, several = choose_splits(read)
    if several:
        reasons["video named by several splits, kept in one"] = len(several)
    return {video_id: read[split][video_id] for video_id, split in splits.items()}, splits, reasons


def of_split(found: Sequence[Annotation], split: Split | str | None, reasons: Counter[str]) -> list[Annotation]:
    """Of what a split's files say, what is of its videos. reasons: counts what is left out. split: None, of any."""
    listed = {one.video_id: one for one in found if one.listed}
    others = [one for one in found if not one.listed]
    if not listed:
        return [one for one in others if split is None or one.split in (None, split)]
    # An id may have a dot in it, so a list's line is taken for an id first, then for a file's name.
    chosen = [one for one in others if one.video_id in listed or one.file_name in listed]
    named = {name for one in chosen for name in (one.video_id, one.file_name)}
    alone = [one for id, one in listed.items() if id not in named]
    own = [one for one in alone if one.captions]  # 1k-A's sentences, without the file that has all twenty
    if missing := len(alone) - len(own):
        reasons["video of a list without captions in any file"] += missing
    return chosen + own
