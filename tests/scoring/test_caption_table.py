"""Written and read back, in every form."""

import csv
import json
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.segments import Segment
from pipeline.scoring.caption_table import (
    SCHEMA,
    Retrieved,
    read_captions,
    read_retrieved,
    write_captions,
    write_retrieved,
)

HOSTILE = ['a "dog", running', "two\nlines", "", "a ||| b", "🎉 <b>naïve</b>", "=1+1"]


@dataclass(frozen=True)
class Caption:
    caption: str
    log_prob: float | None = -1.5


def segment(number, video="v_a", references=("a dog runs", "the dog, running")):
    return Segment(f"{video}#{number}", video, "test", float(number), number + 1.0, references, "now")


def test_captions_come_back_as_they_were_written(tmp_path):
    segments = [segment(i) for i in range(len(HOSTILE))]
    captions = {row.segment_id: Caption(text) for row, text in zip(segments, HOSTILE, strict=True)}
    write_captions(tmp_path / "new" / "captions.parquet", segments, captions)

    table = read_captions(tmp_path / "new" / "captions.parquet")
    assert table.schema == SCHEMA
    assert table.column("caption").to_pylist() == HOSTILE
    assert table.column("references").to_pylist() == [["a dog runs", "the dog, running"]] * len(HOSTILE)
    assert set(table.column("log_prob").to_pylist()) == {-1.5}


def test_what_was_retrieved_comes_back_in_the_captions_order(tmp_path):
    retrieved = {"v_b#0": [Retrieved(2, 1, 30, 0.5)], "v_a#0": [Retrieved(2, 2, 4, 0.25), Retrieved(3, 1, 0, 0.125)]}
    write_retrieved(tmp_path / "retrieved.parquet", [segment(0, "v_b"), segment(0, "v_a"), segment(1)], retrieved)
    assert pq.read_table(tmp_path / "retrieved.parquet").to_pylist() == [
        {"segment_id": "v_a#0", "layer": 2, "head": 2, "frame_index": 4, "weight": 0.25},
        {"segment_id": "v_a#0", "layer": 3, "head": 1, "frame_index": 0, "weight": 0.125},
        {"segment_id": "v_b#0", "layer": 2, "head": 1, "frame_index": 30, "weight": 0.5},
    ]
    assert read_retrieved(tmp_path / "retrieved.parquet") == retrieved


def test_a_system_without_a_memory_writes_no_such_table_and_reads_as_one_that_retrieved_nothing(tmp_path):
    write_captions(tmp_path / "c.parquet", [segment(0)], {"v_a#0": Caption("a dog", None)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "c.json", "c.parquet"]
    assert read_captions(tmp_path / "c.parquet").column("log_prob").to_pylist() == [None]
    assert read_retrieved(tmp_path / "retrieved.parquet") == {}
    write_retrieved(tmp_path / "retrieved.parquet", [segment(0)], {})
    assert read_retrieved(tmp_path / "retrieved.parquet") == {}


def test_the_csv_and_the_coco_results_say_the_same(tmp_path):
    segments = [segment(i) for i in range(len(HOSTILE))]
    write_captions(
        tmp_path / "c.parquet",
        segments,
        {row.segment_id: Caption(text) for row, text in zip(segments, HOSTILE, strict=True)},
    )
    with (tmp_path / "c.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == SCHEMA.names
    assert [row["caption"] for row in rows] == HOSTILE
    assert json.loads(rows[0]["references"]) == ["a dog runs", "the dog, running"]
    assert list(pd.read_csv(tmp_path / "c.csv", keep_default_na=False)["caption"]) == HOSTILE

    results = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert results == [{"image_id": f"v_a#{i}", "caption": text} for i, text in enumerate(HOSTILE)]


def test_rows_are_by_video_and_by_place_in_it_and_bytes_repeat(tmp_path):
    segments = [segment(10), segment(0, "v_b"), segment(9)]
    captions = {row.segment_id: Caption("a dog") for row in segments}
    write_captions(tmp_path / "1.parquet", segments, captions)
    write_captions(tmp_path / "2.parquet", segments[::-1], dict(reversed(captions.items())))
    assert read_captions(tmp_path / "1.parquet").column("segment_id").to_pylist() == ["v_a#9", "v_a#10", "v_b#0"]
    for suffix in (".parquet", ".csv", ".json"):
        assert (tmp_path / f"1{suffix}").read_bytes() == (tmp_path / f"2{suffix}").read_bytes()


def test_a_segment_without_a_caption_has_no_row(tmp_path):
    write_captions(tmp_path / "c.parquet", [segment(0), segment(1)], {"v_a#1": Caption("a dog")})
    assert read_captions(tmp_path / "c.parquet").column("segment_id").to_pylist() == ["v_a#1"]


def test_no_captions_at_all_are_an_empty_table(tmp_path):
    write_captions(tmp_path / "c.parquet", [segment(0)], {})
    assert read_captions(tmp_path / "c.parquet").num_rows == 0
    assert json.loads((tmp_path / "c.json").read_text()) == []


def test_a_caption_of_no_segment_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^1 captions belong to no segment, the first 'v_x#0'$"):
        write_captions(tmp_path / "c.parquet", [segment(0)], {"v_x#0": Caption("a dog")})


def test_a_segment_listed_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the segments: 1 segment_ids occur more than once, the first 'v_a#0'"):
        write_captions(tmp_path / "c.parquet", [segment(0), segment(0)], {"v_a#0": Caption("a dog")})


def test_what_is_no_table_of_captions_is_refused(tmp_path):
    path = tmp_path / "c.parquet"
    with pytest.raises(ValueError, match=r"no captions at .*c\.parquet: `dvc repro caption` writes them"):
        read_captions(path)
    path.write_text("segment_id,caption\n")
    with pytest.raises(ValueError, match=r"c\.parquet is not a Parquet file"):
        read_captions(path)
    pq.write_table(pa.table({"segment_id": ["a"], "caption": ["b"]}), path)
    with pytest.raises(ValueError, match=r"lacks video_id, split, start_s, end_s, references, log_prob; a table of"):
        read_captions(path)


def test_a_file_with_a_segment_twice_is_refused(tmp_path):
    write_captions(tmp_path / "c.parquet", [segment(0)], {"v_a#0": Caption("a dog")})
    table = pq.read_table(tmp_path / "c.parquet")
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet: 1 segment_ids occur more than once, the first 'v_a#0'"):
        read_captions(tmp_path / "c.parquet")
