"""From annotations to segments, the intervals of videos that are captioned, and their table.

Caption files in the wild are wrong in small ways: 16 of ActivityNet's own training segments end before they start,
begin before zero or lie past the end. What can be repaired is repaired, the rest is dropped, and both are reported.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipeline.dataset.annotations import Annotation, Caption, encodable

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
PICTURE_S = 1.0  # a picture's one segment is [0, 1) s: it needs some length, and nothing depends on which
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


def references_of(annotations: Sequence[Annotation]) -> dict[str, tuple[str, ...]]:
    """Captions by segment_id, for all segments that the annotations name, whatever the video turns out to be.

    annotations: everything that the split's files say about one video.
    A segment's id is the number of its interval in the file. So it does not depend on the video: if that is missing or
    shorter than annotated, some segments are cut and some are lost, but none is renamed.
    """
    written, _ = _as_written(annotations)
    return {_id(annotations, i): tuple(one.text for one in captions) for i, (_, captions) in enumerate(written)}


def segments_of(
    annotations: Sequence[Annotation], split: str, probed_s: float | None, *, initial: bool = False
) -> tuple[list[Segment], Counter[str]]:
    """The video's segments by start and end, and how many captions were repaired or dropped, by reason.

    annotations: everything that the split's files say about one video.
    probed_s: the duration of the file itself, which takes precedence; None (a picture): the annotation's.
    initial: only the first segment.
    Captions with equal [start, end) become one segment with several captions. Ids are those of `references_of`.
    """
    written, reasons = _as_written(annotations)
    annotated_s = [one.duration_s for one in annotations if one.duration_s]
    duration_s = probed_s or max(annotated_s, default=math.inf)
    segments = []
    for number, ((start_s, end_s), captions) in enumerate(written):
        fitted, reason = _fitted(start_s, end_s, duration_s)
        if end_s == math.inf:
            fitted, reason = (0.0, max(probed_s or PICTURE_S, PICTURE_S)), None
        if reason:
            reasons[reason] += len(captions)
        if fitted:
            kind = next((caption.kind for caption in captions if caption.kind), None)
            texts = tuple(caption.text for caption in captions)
            segments.append(Segment(_id(annotations, number), annotations[0].video_id, split, *fitted, texts, kind))
    return segments[:1] if initial else segments, reasons


def _id(annotations: Sequence[Annotation], number: int) -> str:
    return f"{annotations[0].video_id}#{number}"


def _as_written(
    annotations: Sequence[Annotation],
) -> tuple[list[tuple[tuple[float, float], list[Caption]]], Counter[str]]:
    """Intervals in order, each with its captions; and how many captions were repaired or dropped, by reason.

    Nothing here depends on the video's duration. An interval that ends at infinity is the whole video.
    """
    reasons: Counter[str] = Counter()
    merged: defaultdict[tuple[float, float], list[Caption]] = defaultdict(list)
    for annotation in annotations:
        for caption in annotation.captions:
            text = encodable(" ".join(caption.text.split()))
            start_s, end_s = caption.start_s, math.inf if caption.end_s is None else caption.end_s
            if not text:
                reasons["empty caption dropped"] += 1
                continue
            if end_s < 0:
                reasons["ends before the video starts, dropped"] += 1
                continue
            if end_s < start_s:
                reasons["end before start, swapped"] += 1
                start_s, end_s = end_s, start_s
            if start_s < 0:
                reasons["negative start, set to 0"] += 1
                start_s = 0.0
            merged[start_s, end_s].append(replace(caption, text=text))
    return sorted(merged.items(), key=lambda item: item[0]), reasons


def _fitted(start_s: float, end_s: float, duration_s: float) -> tuple[tuple[float, float] | None, str | None]:
    """The interval clipped to the video, or None; and what was changed, if it is worth reporting."""
    if start_s >= duration_s:
        return None, "starts past the video's end, dropped"
    reason = "ends past the video's end, cut" if end_s > duration_s + TOLERANCE_S else None
    return (start_s, min(end_s, duration_s)), reason


def to_table(segments: Iterable[Segment], *, expected: Mapping[str, int] | None = None) -> pa.Table:
    """The table of segments, ordered by video and time (`v#10` comes after `v#9`).

    expected: by split, how many there would be if no video had failed; stored in the metadata for
    `expected_segments`.
    """
    ordered = sorted(segments, key=lambda segment: (segment.video_id, segment.start_s, segment.end_s))
    schema = SCHEMA if expected is None else SCHEMA.with_metadata({"expected": json.dumps(expected)})
    return pa.Table.from_pylist([asdict(segment) for segment in ordered], schema=schema)


def expected_segments(table: pa.Table, split: str) -> int | None:
    """How many segments the split would have if no video had failed, if the table states it."""
    stored = (table.schema.metadata or {}).get(b"expected")
    return None if stored is None else int(json.loads(stored)[split])


def from_table(table: pa.Table) -> list[Segment]:
    return [Segment(**{**row, "captions": tuple(row["captions"])}) for row in table.to_pylist()]


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
