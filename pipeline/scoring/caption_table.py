"""The table of captions that every system writes, in the three forms people read: Parquet, CSV, and COCO results.

Columns: segment_id, video_id, split, start_s and end_s (seconds), caption, references (list of strings), log_prob
(nats, of the caption and its end token; null if a system gives none). Rows by video, then by time. This is all that
`evaluate`, compare and report need from a system.

A system with a memory may also write what it retrieved, to a table beside it. Columns: segment_id, layer and head
(counted from 1), frame_index of an earlier frame of the video, weight (its share of the head's attention). Rows in the
captions' order, then by layer, head, weight.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.segments import Segment
from pipeline.files.aside import aside, write_text

SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("caption", pa.string()),
        ("references", pa.list_(pa.string())),
        ("log_prob", pa.float64()),
    ]
)

RETRIEVED_SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("layer", pa.int32()),
        ("head", pa.int32()),
        ("frame_index", pa.int32()),
        ("weight", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Retrieved:
    """An earlier frame that a head of a memory layer attended to when a segment was captioned."""

    layer: int  # counted from 1, as in memory.layers
    head: int  # counted from 1
    frame_index: int  # number of the frame in the video
    weight: float  # its share of the head's attention, averaged over the last frame's tokens


class Generated(Protocol):
    """A caption from any system. Not the captioner's own class, because reading captions should not load torch."""

    @property
    def caption(self) -> str: ...

    @property
    def log_prob(self) -> float | None: ...


def write_captions(path: Path, segments: Iterable[Segment], captions: Mapping[str, Generated]) -> None:
    """Write the captions of `segments` to `path` (Parquet), and beside it as .csv and .json (COCO results).

    A segment without a caption has no row. Raises ValueError for a caption of an unknown segment, and for a segment
    listed twice.
    """
    table = captions_table(segments, captions)
    with aside(path) as written:
        pq.write_table(table, written)
    rows = table.to_pylist()
    write_text(path.with_suffix(".csv"), _csv(rows))
    write_text(path.with_suffix(".json"), _coco_results(rows))


def write_retrieved(path: Path, segments: Iterable[Segment], retrieved: Mapping[str, Sequence[Retrieved]]) -> None:
    """Write what a memory retrieved for each segment, by segment_id."""
    rows = [
        {"segment_id": segment.segment_id, **asdict(one)}
        for segment in _in_order(segments)
        for one in retrieved.get(segment.segment_id, ())
    ]
    with aside(path) as written:
        pq.write_table(pa.Table.from_pylist(rows, RETRIEVED_SCHEMA), written)


def read_retrieved(path: Path) -> dict[str, list[Retrieved]]:
    """What a memory retrieved for each segment; nothing if there is no such file, as for a system without memory."""
    found: dict[str, list[Retrieved]] = {}
    if path.is_file():
        table = pq.read_table(path).select(RETRIEVED_SCHEMA.names)
        for id, *values in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found.setdefault(id, []).append(Retrieved(*values))
    return found


def read_captions(path: Path, split: str | None = None) -> pa.Table:
    """The table that `write_captions` wrote to `path`.

    Raises ValueError if it is not one, or if `split` is given and it has captions of another split.
    """
    if not path.is_file():
        raise ValueError(f"no captions at {path}: `dvc repro caption` writes them")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a Parquet file ({error}): `dvc repro --force caption` writes it again"
        ) from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; a table of captions has {', '.join(SCHEMA.names)}")
    table = table.select(SCHEMA.names).cast(SCHEMA)
    _refuse_repeats(table.column("segment_id").to_pylist(), str(path))
    if split and (others := sorted(set(table.column("split").to_pylist()) - {split})):
        raise ValueError(f"{path} has captions of split {others[0]!r}, caption.split is {split!r}: run `dvc repro`")
    return table


def captions_table(segments: Iterable[Segment], captions: Mapping[str, Generated]) -> pa.Table:
    ordered = _in_order(segments)
    ids = [segment.segment_id for segment in ordered]
    _refuse_repeats(ids, "the segments")
    strangers = sorted(captions.keys() - set(ids))
    if strangers:
        raise ValueError(f"{len(strangers)} captions belong to no segment, the first {strangers[0]!r}")
    rows = [
        {
            "segment_id": segment.segment_id,
            "video_id": segment.video_id,
            "split": segment.split,
            "start_s": segment.start_s,
            "end_s": segment.end_s,
            "caption": captions[segment.segment_id].caption,
            "references": list(segment.captions),
            "log_prob": captions[segment.segment_id].log_prob,
        }
        for segment in ordered
        if segment.segment_id in captions
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _in_order(segments: Iterable[Segment]) -> list[Segment]:
    return sorted(segments, key=lambda segment: (segment.video_id, segment.start_s, segment.end_s))


def _csv(rows: list[dict[str, Any]]) -> str:
    """References as a JSON list: CSV has no lists."""
    text = io.StringIO()
    writer = csv.DictWriter(text, SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "references": json.dumps(row["references"], ensure_ascii=False)} for row in rows)
    return text.getvalue()


def _coco_results(rows: list[dict[str, Any]]) -> str:
    """A list of {"image_id", "caption"}, as coco-caption and similar tools read it. The ids are segment_ids."""
    results = [{"image_id": row["segment_id"], "caption": row["caption"]} for row in rows]
    return json.dumps(results, ensure_ascii=False, indent=1) + "\n"


def _refuse_repeats(ids: list[str], where: str) -> None:
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: {len(repeated)} segment_ids occur more than once, the first {repeated[0]!r}")
