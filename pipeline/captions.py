"""The table of captions, in the three forms people read: Parquet, CSV, and COCO results; and what each retrieved.

Columns of captions: segment_id, video_id, split, start_s and end_s (seconds), caption, references (list of strings),
log_prob (nats, of the caption and its end). Rows by video, then by place in it.

Columns of what was retrieved: segment_id, layer and head (counted from 1), frame_index of an earlier frame of the
video, weight (the part of the head's attention that it got). Rows in the captions' order, then by layer, head, weight.
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

from pipeline.annotations import Segment

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
    frame_index: int  # in the video
    weight: float  # the part of the head's attention that it got, its mean over the last frame's tokens


class Generated(Protocol):
    """A caption from a model. Not the captioner's own class: who reads captions should not have to load torch."""

    @property
    def caption(self) -> str: ...

    @property
    def log_prob(self) -> float: ...

    @property
    def retrieved(self) -> Sequence[Retrieved]: ...


def write_captions(path: Path, segments: Iterable[Segment], captions: Mapping[str, Generated]) -> None:
    """Write the captions of `segments` to `path` (Parquet), and beside it as .csv and .json (COCO results).

    What they retrieved goes into retrieved.parquet beside it.

    A segment without a caption has no row. Raises ValueError for a caption of no segment and for a segment told twice.
    """
    table = captions_table(segments, captions)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    rows = table.to_pylist()
    path.with_suffix(".csv").write_text(_csv(rows), encoding="utf-8", newline="")
    path.with_suffix(".json").write_text(_coco_results(rows), encoding="utf-8", newline="")
    retrieved = [
        {"segment_id": row["segment_id"], **asdict(one)}
        for row in rows
        for one in captions[row["segment_id"]].retrieved
    ]
    pq.write_table(pa.Table.from_pylist(retrieved, RETRIEVED_SCHEMA), path.with_name("retrieved.parquet"))


def read_captions(path: Path) -> pa.Table:
    """The table that `write_captions` wrote to `path`; ValueError where it is not one."""
    if not path.is_file():
        raise ValueError(f"no captions at {path}: `dvc repro caption` writes them")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path} is not a Parquet file ({error}): `dvc repro --force caption` writes it anew"
        ) from None
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; a table of captions has {', '.join(SCHEMA.names)}")
    table = table.select(SCHEMA.names).cast(SCHEMA)
    _refuse_repeats(table.column("segment_id").to_pylist(), str(path))
    return table


def captions_table(segments: Iterable[Segment], captions: Mapping[str, Generated]) -> pa.Table:
    ordered = sorted(segments, key=lambda segment: (segment.video_id, segment.start_s, segment.end_s))
    ids = [segment.segment_id for segment in ordered]
    _refuse_repeats(ids, "the segments")
    strangers = sorted(captions.keys() - set(ids))
    if strangers:
        raise ValueError(f"{len(strangers)} captions are of no segment, the first {strangers[0]!r}")
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


def _csv(rows: list[dict[str, Any]]) -> str:
    """References as a JSON list: CSV has no lists."""
    text = io.StringIO()
    writer = csv.DictWriter(text, SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "references": json.dumps(row["references"], ensure_ascii=False)} for row in rows)
    return text.getvalue()


def _coco_results(rows: list[dict[str, Any]]) -> str:
    """A list of {"image_id", "caption"}: what coco-caption and its kin evaluate. The ids are segment_ids."""
    results = [{"image_id": row["segment_id"], "caption": row["caption"]} for row in rows]
    return json.dumps(results, ensure_ascii=False, indent=1) + "\n"


def _refuse_repeats(ids: list[str], where: str) -> None:
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: {len(repeated)} segment_ids stand there more than once, the first {repeated[0]!r}")
