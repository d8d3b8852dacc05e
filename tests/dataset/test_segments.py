import pytest

from pipeline.dataset.annotations import Annotation, Caption
from pipeline.dataset.segments import SCHEMA, from_table, references_of, segments_of, to_table


def video(*captions, duration_s=None):
    return [Annotation("v_a", tuple(Caption(*caption) for caption in captions), duration_s=duration_s)]


@pytest.mark.parametrize(
    ("start_s", "end_s", "kept", "reason"),
    [
        (2, 5, (2, 5), None),
        (2, 10.3, (2, 10), None),  # rounding, not an error
        (2, 12, (2, 10), "ends past the video's end, cut"),
        (-1, 5, (0, 5), "negative start, set to 0"),
        (6, 3, (3, 6), "end before start, swapped"),
        (10, 12, None, "starts past the video's end, dropped"),
        (-3, -2, None, "ends before the video starts, dropped"),
        (4, 4, (4, 4), None),  # the frame on screen at 4 s
    ],
)
def test_an_odd_interval_is_repaired_or_dropped_and_said(start_s, end_s, kept, reason):
    segments, reasons = segments_of(video((start_s, end_s, "x"), duration_s=99), "train", 10.0)
    assert [(segment.start_s, segment.end_s) for segment in segments] == ([kept] if kept else [])
    assert reasons == ({reason: 1} if reason else {})


def test_an_interval_can_be_odd_in_two_ways():
    segments, reasons = segments_of(video((60, 3, "x")), "train", 10.0)
    assert [(segment.start_s, segment.end_s) for segment in segments] == [(3, 10)]
    assert reasons == {"end before start, swapped": 1, "ends past the video's end, cut": 1}


@pytest.mark.parametrize("probed_s", [None, 99.0, 12.0, 10.0, 4.0, 0.5])
def test_a_segments_id_is_the_same_however_long_the_file_is(probed_s):
    written = video((5, 12, "c"), (0, 11, "a"), (0, 12, "b"), (6, 1, "d"), (0, 12, "e"), duration_s=12)
    references = references_of(written)
    assert references == {"v_a#0": ("a",), "v_a#1": ("b", "e"), "v_a#2": ("d",), "v_a#3": ("c",)}
    segments, _ = segments_of(written, "test", probed_s)
    assert {segment.segment_id: segment.captions for segment in segments}.items() <= references.items()
    assert len(segments) == {4.0: 3, 0.5: 2}.get(probed_s, 4)


def test_the_annotated_duration_counts_where_none_was_probed():
    assert segments_of(video((5, 30, "x"), duration_s=20.0), "train", None)[0][0].end_s == 20
    assert segments_of(video((5, 30, "x")), "train", None)[0][0].end_s == 30


def test_an_empty_caption_is_dropped():
    segments, reasons = segments_of(video((0, 1, " \n"), (0, 1, "x"), (2, 3, "")), "train", 10)
    assert [segment.captions for segment in segments] == [("x",)]
    assert reasons == {"empty caption dropped": 2}


def test_segments_survive_their_table():
    segments, _ = segments_of(video(*((i, i + 1, f"{i}", "now" if i else None) for i in range(12))), "test", None)
    table = to_table(reversed(segments))
    assert from_table(table) == segments and segments[11].segment_id == "v_a#11"
    assert table.schema == SCHEMA
