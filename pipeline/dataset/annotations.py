"""What a caption file says of each video: ActivityNet Captions, COCO, CSV. pipeline/dataset/formats.py reads more.

Nothing is repaired here; pipeline/dataset/segments.py does that.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.files import strict_csv
from pipeline.process.terminal import printable

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Names of a CSV file's columns, in order of preference.
VIDEO_COLUMNS = ("video_id", "video", "file_name", "filename", "fname", "image_id", "id")
FILE_COLUMNS = ("file_name", "filename", "fname")  # those that hold a file's name, not a video's id
TEXT_COLUMNS = ("caption", "sentence", "text")
START_COLUMNS, END_COLUMNS = ("start_s", "start"), ("end_s", "end")
NUMBERED_TEXT = re.compile(r"(?:caption|caption_reference|sentence|text|reference)_\d+")


@dataclass(frozen=True)
class Caption:
    """A caption as the file has it, with nothing repaired. end_s None: it describes the whole video, or a picture."""

    start_s: float
    end_s: float | None
    text: str
    kind: str | None = None


@dataclass(frozen=True)
class Annotation:
    """What one file says of one video; `file_name`, `duration_s` and `split` where it says so.

    listed: the file is a list of videos; captions of them may be in another one.
    """

    video_id: str
    captions: tuple[Caption, ...]
    file_name: str | None = None
    duration_s: float | None = None
    split: Split | None = None
    listed: bool = False


def annotations_in(content: Any, file_format: str, *, where: str) -> tuple[list[Annotation], Counter[str]]:
    """The videos of a JSON file, `activitynet` or `coco`, and what was dropped, by reason. Raises ValueError."""
    try:
        return _read_activitynet(content) if file_format == "activitynet" else _read_coco(content)
    except WrongShape as error:
        raise ValueError(f"{where}: found {error}; expected {WANTED[file_format]}") from None


def choose_splits(named: Mapping[str, Iterable[str]]) -> tuple[dict[str, str], set[str]]:
    """split -> video ids to video id -> its one split, and the ids that several splits name.

    A video in two splits would be used for both training and testing. (ActivityNet's val_1 and val_2 name the same
    videos.) A hash of its id decides which of its splits such a video belongs to.
    """
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for split in SPLITS:
        for video_id in set(named.get(split, ())):
            splits[video_id].append(split)
    chosen = {video_id: own[_hash("split", video_id) % len(own)] for video_id, own in splits.items()}
    return chosen, {video_id for video_id, own in splits.items() if len(own) > 1}


def subset_order(video_ids: Iterable[str]) -> list[str]:
    """The order in which a subset takes videos: by a hash of the id, so that a larger subset holds a smaller one."""
    return sorted(video_ids, key=lambda video_id: (_hash("subset", video_id), video_id))


WANTED = {
    "activitynet": 'ActivityNet Captions: {video id: {"duration": s, "timestamps": [[start, end], ...], '
    '"sentences": [text, ...]}}',
    "coco": 'COCO captions: {"images": [{"id", "file_name"}, ...], "annotations": [{"image_id", "caption"}, ...]}',
    "csv": "the columns video_id or file_name, caption (or several: caption_1, caption_2, ...), and where captions are "
    "of a part of the video start_s and end_s, in seconds",
}


class WrongShape(Exception):
    """Says what was found; who catches it says in which file, and what was wanted."""


def _read_activitynet(content: Any) -> tuple[list[Annotation], Counter[str]]:
    if not isinstance(content, dict):
        raise WrongShape(described(content))
    if "images" in content and "annotations" in content:
        raise WrongShape("COCO captions (read with format: coco)")
    return [_activitynet_video(video_id, entry) for video_id, entry in content.items()], Counter()


def _activitynet_video(video_id: str, entry: Any) -> Annotation:
    name = short(video_id)
    if not isinstance(entry, dict):
        raise WrongShape(f"{described(entry)} for {name}")
    missing = [key for key in ("timestamps", "sentences") if not isinstance(entry.get(key), list)]
    if missing:
        raise WrongShape(f"no list {missing[0]!r} for {name}")
    times, texts = entry["timestamps"], entry["sentences"]
    kinds = entry.get("kinds", [None] * len(times))
    if not isinstance(kinds, list) or not len(times) == len(texts) == len(kinds):
        raise WrongShape(f"{len(times)} timestamps, {len(texts)} sentences and kinds {described(kinds)} for {name}")
    captions = []
    for interval, text, kind in zip(times, texts, kinds, strict=True):
        if not (isinstance(interval, list) and len(interval) == 2 and all(map(is_time, interval))):
            raise WrongShape(f"the timestamp {short(interval)} for {name}")
        if not isinstance(text, str) or not isinstance(kind, str | None):
            raise WrongShape(f"the sentence {short(text)} of kind {short(kind)} for {name}")
        captions.append(Caption(float(interval[0]), float(interval[1]), text, kind))
    duration_s = entry.get("duration")
    if duration_s is not None and not is_time(duration_s):
        raise WrongShape(f"the duration {short(duration_s)} for {name}")
    own_s = None if duration_s is None else float(duration_s)
    return Annotation(encodable(video_id), tuple(captions), duration_s=own_s)


def _read_coco(content: Any) -> tuple[list[Annotation], Counter[str]]:
    if not isinstance(content, dict):
        raise WrongShape(described(content))
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise WrongShape(f"no list {key!r} at the top")
    captions: defaultdict[str, list[Caption]] = defaultdict(list)
    for entry in content["annotations"]:
        if not (isinstance(entry, dict) and isinstance(entry.get("caption"), str) and is_id(entry.get("image_id"))):
            raise WrongShape(f"the annotation {short(entry)}")
        if not isinstance(entry.get("kind"), str | None):
            raise WrongShape(f"the kind {short(entry['kind'])} of the annotation {short(entry)}")
        captions[str(entry["image_id"])].append(Caption(0.0, None, entry["caption"], entry.get("kind")))
    videos: dict[str, Annotation] = {}
    named: dict[str, str] = {}  # the file's name by image id, to name both files that have the same
    for entry in content["images"]:
        if not (isinstance(entry, dict) and isinstance(entry.get("file_name"), str) and is_id(entry.get("id"))):
            raise WrongShape(f"the image {short(entry)}")
        id, file_name = str(entry["id"]), entry["file_name"]
        if id in named:
            raise WrongShape(f"two images of the id {short(id)}, {short(named[id])} and {short(file_name)}")
        named[id] = file_name
        _add_file(videos, file_name, captions.pop(id, ()))
    orphans = sum(map(len, captions.values()))
    return list(videos.values()), Counter({"caption of an unlisted image dropped": orphans} if orphans else {})


def _add_file(videos: dict[str, Annotation], file_name: str, captions: Iterable[Caption]) -> None:
    video_id = encodable(Path(file_name).stem)
    if video_id in videos:
        both = f"{short(videos[video_id].file_name)} and {short(file_name)}"
        raise WrongShape(f"{both}, which would both be the video {short(video_id)}")
    videos[video_id] = Annotation(video_id, tuple(captions), file_name=file_name)


def karpathy_images(value: Any, split: str, where: str) -> list[dict[str, Any]]:
    """A split's images of dataset_coco.json and its like. `train` is its train and restval together, as is usual.

    Each has `filename`, `split`, and `sentences` with `raw`. Raises ValueError.
    """
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list):
        raise ValueError(f'{where}: found {described(value)}; expected Karpathy\'s {{"images": [...]}}')
    for i, image in enumerate(images):
        sentences = image.get("sentences") if isinstance(image, dict) else None
        if not (
            isinstance(sentences, list)
            and all(isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences)
            and isinstance(image.get("split"), str)
            and isinstance(image.get("filename"), str)
            and all(is_id(image.get(name, 0)) for name in ("cocoid", "imgid"))
        ):
            wanted = '{"filename", "split", "sentences": [{"raw": text}, ...]}'
            raise ValueError(f"{where}: image {i + 1} is {short(image)}; expected {wanted}")
    wanted_splits = ("train", "restval") if split == "train" else (split,)
    return [image for image in images if image["split"] in wanted_splits]


def read_csv(path: Path) -> list[Annotation]:
    columns, rows = strict_csv.load(path)
    id = _first(VIDEO_COLUMNS, columns)
    start, end, texts = _first(START_COLUMNS, columns), _first(END_COLUMNS, columns), text_columns(columns)
    if not id or not texts or (start is None) != (end is None):
        found = printable(", ".join(columns))
        raise ValueError(f"{path}, line 1: found the columns {found}; expected {WANTED['csv']}")
    captions: defaultdict[str, list[Caption]] = defaultdict(list)
    for row in rows:
        where = f"{path}, line {row.line}"
        if not row.cells[id].strip():
            raise ValueError(f"{where}: no {id}")
        interval: tuple[float, float | None] = (0.0, None)
        if start is not None and end is not None and (row.cells[start].strip() or row.cells[end].strip()):
            interval = _seconds(row.cells[start], start, where), _seconds(row.cells[end], end, where)
        kind = row.cells.get("kind", "").strip() or None
        captions[row.cells[id].strip()] += [Caption(*interval, row.cells[name], kind) for name in texts]
    if id not in FILE_COLUMNS:
        return [Annotation(encodable(video_id), tuple(own)) for video_id, own in captions.items()]
    videos: dict[str, Annotation] = {}
    for file_name, own in captions.items():
        try:
            _add_file(videos, file_name, own)
        except WrongShape as error:
            raise ValueError(f"{path}: found {error}") from None
    return list(videos.values())


def text_columns(columns: Sequence[str]) -> list[str]:
    """The columns that hold captions: one, or all that are numbered (caption_1, caption_2, ...)."""
    one = _first(TEXT_COLUMNS, columns)
    return [one] if one else [name for name in columns if NUMBERED_TEXT.fullmatch(name)]


def _first(names: Iterable[str], columns: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _seconds(cell: str, column: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {column} is {short(cell)}; expected seconds, as 12.5")
    return value


def encodable(text: str) -> str:
    """JSON can hold half a surrogate pair, which cannot be written to a file."""
    return text.encode(errors="replace").decode()


def _hash(purpose: str, video_id: str) -> int:
    """Salted, so that a video's split, its place in a subset and its shard are independent of each other."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{video_id}".encode()).digest()[:8], "big")


def is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def described(value: Any) -> str:
    """A value as an error describes it."""
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    return f"a list of {len(value)}" if isinstance(value, list) else short(value)


def short(value: Any) -> str:
    """A value as an error shows it: cut, and without control characters."""
    return printable(repr(value), 80)
