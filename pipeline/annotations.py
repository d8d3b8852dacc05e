"""From caption files in ActivityNet Captions or COCO format to segments.

Caption files in the wild are wrong in small ways: 16 of ActivityNet's own training segments end before they
start, begin before zero or lie past the end. What can be repaired is, what cannot is dropped, and each is said.
"""

import hashlib
import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("captions", pa.list_(pa.string())),
        ("kind", pa.string()),
    ]
)
PICTURE_S = 1.0  # a picture's one segment is [0, 1) s: it needs some length, and nothing hangs on which
# Probed and annotated durations differ by rounding and by the length of the last frame.
TOLERANCE_S = 0.5


@dataclass(frozen=True)
class Segment:
    segment_id: str
    video_id: str
    split: str
    start_s: float
    end_s: float
    captions: tuple[str, ...]
    kind: str | None


@dataclass(frozen=True)
class Caption:
    """As a file has it: nothing repaired yet."""

    start_s: float
    end_s: float
    text: str
    kind: str | None = None


@dataclass(frozen=True)
class Annotation:
    """What one file says of one video. `file_name` (COCO) and `duration_s` (ActivityNet) where it says so."""

    video_id: str
    captions: tuple[Caption, ...]
    file_name: str | None = None
    duration_s: float | None = None


def read_annotations(path: Path, file_format: str) -> tuple[list[Annotation], Counter[str]]:
    """`file_format`: activitynet or coco. The videos in the file's order, and what was dropped, by reason.

    Raises ValueError if the file is absent, is not JSON, or has another shape.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; download.*.annotations in params.yaml names it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    assert file_format in ("activitynet", "coco"), file_format
    try:
        return _read_activitynet(content) if file_format == "activitynet" else _read_coco(content)
    except _WrongShape as error:
        raise ValueError(f"{path}: found {error}; wanted {_WANTED[file_format]}") from None


def read_splits(
    paths: Mapping[str, Sequence[Path]], file_format: str
) -> tuple[dict[str, list[Annotation]], dict[str, str], Counter[str]]:
    """The annotation files of every split: annotations and split by video id, and what was dropped, by reason.

    A video's annotations are those of its own split's files.
    """
    read: dict[str, defaultdict[str, list[Annotation]]] = {}
    reasons: Counter[str] = Counter()
    for split, files in paths.items():
        read[split] = defaultdict(list)
        for path in files:
            annotations, dropped = read_annotations(path, file_format)
            reasons += dropped
            for annotation in annotations:
                read[split][annotation.video_id].append(annotation)
    splits, several = choose_splits(read)
    if several:
        reasons["video named by several splits, kept in one"] = len(several)
    return {video_id: read[split][video_id] for video_id, split in splits.items()}, splits, reasons


def choose_splits(named: Mapping[str, Iterable[str]]) -> tuple[dict[str, str], set[str]]:
    """split -> video ids to video id -> its one split, and the ids that several splits name.

    A video in two splits would be trained on and tested on. (ActivityNet's val_1 and val_2 name the same videos.)
    Such a video goes to one of its splits by a hash of its id.
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


def segments_of(
    annotations: Sequence[Annotation], split: str, probed_s: float | None, *, initial: bool = False
) -> tuple[list[Segment], Counter[str]]:
    """The video's segments by start and end, and how many captions were repaired or dropped, by reason.

    annotations: all that the split's files say of one video.
    probed_s: the duration of the file itself, which counts; None (a picture): the annotation's own.
    initial: only the first segment.
    Captions of equal [start, end) become one segment with several captions.
    """
    reasons: Counter[str] = Counter()
    merged: defaultdict[tuple[float, float], list[Caption]] = defaultdict(list)
    for annotation in annotations:
        duration_s = math.inf
        if annotation.file_name is None:  # a picture's segment is a convention, no interval to check
            duration_s = probed_s or annotation.duration_s or math.inf
        for caption in annotation.captions:
            text = " ".join(caption.text.split())
            if not text:
                reasons["empty caption dropped"] += 1
                continue
            interval, reason = _repaired(caption.start_s, caption.end_s, duration_s)
            if reason:
                reasons[reason] += 1
            if interval:
                merged[interval].append(Caption(*interval, text, caption.kind))
    segments = []
    for number, (start_s, end_s) in enumerate(sorted(merged)):
        captions = merged[start_s, end_s]
        video_id = annotations[0].video_id
        kind = next((caption.kind for caption in captions if caption.kind), None)
        texts = tuple(caption.text for caption in captions)
        segments.append(Segment(f"{video_id}#{number}", video_id, split, start_s, end_s, texts, kind))
    return segments[:1] if initial else segments, reasons


def to_table(segments: Iterable[Segment], *, asked: Mapping[str, int] | None = None) -> pa.Table:
    """By video and place in it (`v#10` comes after `v#9`).

    asked: by split, how many there would be if no video had failed; the table's metadata keep it for `asked_for`.
    """
    ordered = sorted(segments, key=lambda segment: (segment.video_id, segment.start_s, segment.end_s))
    schema = SCHEMA if asked is None else SCHEMA.with_metadata({"asked": json.dumps(asked)})
    return pa.Table.from_pylist([asdict(segment) for segment in ordered], schema=schema)


def asked_for(table: pa.Table, split: str) -> int | None:
    """How many segments the split would have if no video had failed, if the table says so."""
    said = (table.schema.metadata or {}).get(b"asked")
    return None if said is None else int(json.loads(said)[split])


def from_table(table: pa.Table) -> list[Segment]:
    return [Segment(**{**row, "captions": tuple(row["captions"])}) for row in table.to_pylist()]


_WANTED = {
    "activitynet": 'ActivityNet Captions: {video id: {"duration": s, "timestamps": [[start, end], ...], '
    '"sentences": [text, ...]}}',
    "coco": 'COCO captions: {"images": [{"id", "file_name"}, ...], "annotations": [{"image_id", "caption"}, ...]}',
}


class _WrongShape(Exception):
    pass


def _read_activitynet(content: Any) -> tuple[list[Annotation], Counter[str]]:
    if not isinstance(content, dict):
        raise _WrongShape(_found(content))
    if "images" in content and "annotations" in content:
        raise _WrongShape("COCO captions (format: coco reads those)")
    return [_activitynet_video(video_id, entry) for video_id, entry in content.items()], Counter()


def _activitynet_video(video_id: str, entry: Any) -> Annotation:
    if not isinstance(entry, dict):
        raise _WrongShape(f"{_found(entry)} for {video_id!r}")
    missing = [key for key in ("timestamps", "sentences") if not isinstance(entry.get(key), list)]
    if missing:
        raise _WrongShape(f"no list {missing[0]!r} for {video_id!r}")
    times, texts = entry["timestamps"], entry["sentences"]
    kinds = entry.get("kinds", [None] * len(times))
    if not isinstance(kinds, list) or not len(times) == len(texts) == len(kinds):
        raise _WrongShape(f"{len(times)} timestamps, {len(texts)} sentences and kinds {_found(kinds)} for {video_id!r}")
    captions = []
    for interval, text, kind in zip(times, texts, kinds, strict=True):
        if not (isinstance(interval, list) and len(interval) == 2 and all(map(_is_time, interval))):
            raise _WrongShape(f"the timestamp {interval!r} for {video_id!r}")
        if not isinstance(text, str) or not isinstance(kind, str | None):
            raise _WrongShape(f"the sentence {text!r} of kind {kind!r} for {video_id!r}")
        captions.append(Caption(float(interval[0]), float(interval[1]), text, kind))
    duration_s = entry.get("duration")
    if duration_s is not None and not _is_time(duration_s):
        raise _WrongShape(f"the duration {duration_s!r} for {video_id!r}")
    return Annotation(video_id, tuple(captions), duration_s=None if duration_s is None else float(duration_s))


def _read_coco(content: Any) -> tuple[list[Annotation], Counter[str]]:
    if not isinstance(content, dict):
        raise _WrongShape(_found(content))
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise _WrongShape(f"no list {key!r} at the top")
    captions: defaultdict[Any, list[Caption]] = defaultdict(list)
    for entry in content["annotations"]:
        if not (isinstance(entry, dict) and isinstance(entry.get("caption"), str) and _is_id(entry.get("image_id"))):
            raise _WrongShape(f"the annotation {_short(entry)}")
        captions[entry["image_id"]].append(Caption(0.0, PICTURE_S, entry["caption"], entry.get("kind")))
    videos: dict[str, Annotation] = {}
    for entry in content["images"]:
        if not (isinstance(entry, dict) and isinstance(entry.get("file_name"), str) and _is_id(entry.get("id"))):
            raise _WrongShape(f"the image {_short(entry)}")
        video_id = Path(entry["file_name"]).stem
        if video_id in videos:
            raise _WrongShape(
                f"{videos[video_id].file_name!r} and {entry['file_name']!r}, which would both be the video {video_id!r}"
            )
        videos[video_id] = Annotation(video_id, tuple(captions.pop(entry["id"], ())), file_name=entry["file_name"])
    orphans = sum(map(len, captions.values()))
    return list(videos.values()), Counter({"caption of an unlisted image dropped": orphans} if orphans else {})


def _repaired(start_s: float, end_s: float, duration_s: float) -> tuple[tuple[float, float] | None, str | None]:
    """The interval made to lie in the video, or None; and what was done, if it is worth telling."""
    reason = None
    if end_s < start_s:
        if not (end_s >= 0 and start_s <= duration_s + TOLERANCE_S):
            return None, "end before start, dropped"
        start_s, end_s, reason = end_s, start_s, "end before start, swapped"
    if end_s < 0:
        return None, "ends before the video starts, dropped"
    if start_s >= duration_s:
        return None, "starts past the video's end, dropped"
    if start_s < 0:
        start_s, reason = 0.0, "negative start, set to 0"
    if end_s > duration_s + TOLERANCE_S:
        reason = "ends past the video's end, cut"
    return (start_s, min(end_s, duration_s)), reason


def _hash(purpose: str, video_id: str) -> int:
    """Salted, so that a video's split, its place in a subset and its shard are independent of each other."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{video_id}".encode()).digest()[:8], "big")


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _found(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return f"a list of {len(value)}" if isinstance(value, list) else _short(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def frames_of_segment(start_s: float, end_s: float, timestamps: Sequence[float]) -> range:
    """Indices into `timestamps` (seconds, ascending) of the frames with start_s <= t < end_s.

    A segment between two frames gets the one on screen at start_s. Raises ValueError if there are no frames at all.
    """
    if len(timestamps) == 0:
        raise ValueError(f"no frames for the segment [{start_s}, {end_s}) s: its video has none")
    first, end = bisect_left(timestamps, start_s), bisect_left(timestamps, end_s)
    if first < end:
        return range(first, end)
    on_screen = max(0, bisect_right(timestamps, start_s) - 1)
    return range(on_screen, on_screen + 1)
