import json
from collections import Counter

import pytest

from pipeline import annotations
from pipeline.annotations import Annotation, Caption, Segment, choose_splits, read_annotations, segments_of


def written(tmp_path, content):
    path = tmp_path / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def video(*captions, duration_s=None):
    return [Annotation("v_a", tuple(Caption(*caption) for caption in captions), duration_s=duration_s)]


def test_activitynet_entries_become_segments_by_start_and_end(tmp_path):
    entry = {
        "duration": 10,
        "timestamps": [[5, 9], [0, 4], [5, 9]],
        "sentences": [" then\na  dog", "a cat", "it barks"],
    }
    (read,), reasons = read_annotations(
        written(tmp_path, {"v_a": entry | {"kinds": ["order", None, None]}}), "activitynet"
    )
    segments, repaired = segments_of([read], "val", None)
    assert segments == [
        Segment("v_a#0", "v_a", "val", 0.0, 4.0, ("a cat",), None),
        Segment("v_a#1", "v_a", "val", 5.0, 9.0, ("then a dog", "it barks"), "order"),
    ]
    assert not reasons and not repaired
    assert segments_of([read], "val", None, initial=True)[0] == segments[:1]


def test_coco_images_become_videos_of_one_segment(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 8, "file_name": "000008.jpg"}],
        "annotations": [
            {"image_id": 7, "caption": "A cat."},
            {"image_id": 7, "caption": "A pet."},
            {"image_id": 9, "caption": "?"},
        ],
    }
    read, reasons = read_annotations(written(tmp_path, content), "coco")
    assert [(one.video_id, one.file_name) for one in read] == [("000007", "000007.jpg"), ("000008", "000008.jpg")]
    assert reasons == {"caption of an unlisted image dropped": 1}
    segments, _ = segments_of(read[:1], "train", 0.04)  # a probed duration does not cut a picture's segment
    assert segments == [Segment("000007#0", "000007", "train", 0.0, 1.0, ("A cat.", "A pet."), None)]
    assert segments_of(read[1:], "train", None) == ([], Counter())


@pytest.mark.parametrize(
    ("start_s", "end_s", "kept", "reason"),
    [
        (2, 5, (2, 5), None),
        (2, 10.3, (2, 10), None),  # rounding, not an error
        (2, 12, (2, 10), "ends past the video's end, cut"),
        (-1, 5, (0, 5), "negative start, set to 0"),
        (6, 3, (3, 6), "end before start, swapped"),
        (60, 3, None, "end before start, dropped"),
        (10, 12, None, "starts past the video's end, dropped"),
        (-3, -2, None, "ends before the video starts, dropped"),
        (4, 4, (4, 4), None),  # the frame on screen at 4 s
    ],
)
def test_an_odd_interval_is_repaired_or_dropped_and_said(start_s, end_s, kept, reason):
    segments, reasons = segments_of(video((start_s, end_s, "x"), duration_s=99), "train", 10.0)
    assert [(segment.start_s, segment.end_s) for segment in segments] == ([kept] if kept else [])
    assert reasons == ({reason: 1} if reason else {})


def test_the_annotated_duration_counts_where_none_was_probed():
    assert segments_of(video((5, 30, "x"), duration_s=20.0), "train", None)[0][0].end_s == 20
    assert segments_of(video((5, 30, "x")), "train", None)[0][0].end_s == 30


def test_an_empty_caption_is_dropped():
    segments, reasons = segments_of(video((0, 1, " \n"), (0, 1, "x"), (2, 3, "")), "train", 10)
    assert [segment.captions for segment in segments] == [("x",)]
    assert reasons == {"empty caption dropped": 2}


def test_a_video_that_several_splits_name_goes_to_one():
    named = {"train": ["a", "b"], "val": [f"v{i}" for i in range(100)], "test": ["a", *(f"v{i}" for i in range(100))]}
    chosen, several = choose_splits(named)
    assert several == {"a", *named["val"]} and chosen["b"] == "train" and chosen["a"] in ("train", "test")
    counts = Counter(chosen[video_id] for video_id in named["val"])
    assert counts.keys() == {"val", "test"} and min(counts.values()) > 30
    assert choose_splits({split: list(reversed(ids)) for split, ids in named.items()})[0] == chosen


def test_a_larger_subset_holds_a_smaller_one():
    ids = [f"v{i}" for i in range(50)]
    order = annotations.subset_order(ids)
    assert order == annotations.subset_order(reversed(ids)) and sorted(order) == sorted(ids) and order != ids
    assert [i for i in order if i in ids[:40]] == annotations.subset_order(ids[:40])


def test_segments_survive_their_table():
    segments, _ = segments_of(video(*((i, i + 1, f"{i}", "now" if i else None) for i in range(12))), "test", None)
    table = annotations.to_table(reversed(segments))
    assert annotations.from_table(table) == segments and segments[11].segment_id == "v_a#11"
    assert table.schema == annotations.SCHEMA


@pytest.mark.parametrize(
    ("file_format", "content", "message"),
    [
        ("activitynet", "{not json", r"captions.json: not JSON \(Expecting"),
        ("activitynet", [1, 2], r"captions.json: found a list of 2; wanted ActivityNet Captions: \{video id"),
        ("activitynet", {"images": [], "annotations": []}, r"found COCO captions \(format: coco reads those\)"),
        ("activitynet", {"v_a": 3}, "found 3 for 'v_a'; wanted"),
        ("activitynet", {"v_a": {"timestamps": []}}, "found no list 'sentences' for 'v_a'"),
        ("activitynet", {"v_a": {"timestamps": [[0, 1]], "sentences": []}}, "found 1 timestamps, 0 sentences"),
        ("activitynet", {"v_a": {"timestamps": [[0]], "sentences": ["x"]}}, r"found the timestamp \[0\] for 'v_a'"),
        ("activitynet", {"v_a": {"timestamps": [[0, 1]], "sentences": [5]}}, "found the sentence 5 of kind None"),
        ("activitynet", '{"v_a": {"duration": NaN, "timestamps": [], "sentences": []}}', "the duration nan for 'v_a'"),
        ("coco", {"v_a": {}}, "found no list 'images' at the top; wanted COCO captions"),
        ("coco", {"images": [{"id": 1}], "annotations": []}, r"found the image \{'id': 1\}"),
        ("coco", {"images": [], "annotations": [{"caption": "x"}]}, r"found the annotation \{'caption': 'x'\}"),
        (
            "coco",
            {"images": [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "b/1.jpg"}], "annotations": []},
            "found 'a/1.jpg' and 'b/1.jpg', which would both be the video '1'",
        ),
    ],
)
def test_a_wrong_file_says_what_was_found_and_wanted(tmp_path, file_format, content, message):
    with pytest.raises(ValueError, match=message):
        read_annotations(written(tmp_path, content), file_format)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.json: no such file; download.*annotations in params.yaml names it"):
        read_annotations(tmp_path / "none.json", "coco")


def test_activitynet_itself_is_read_whole(real_data):
    named, captions, reasons = {}, 0, Counter()
    for split, name in (("train", "train"), ("val", "val_1"), ("test", "val_2")):
        read, _ = read_annotations(real_data / "activitynet" / f"{name}.json", "activitynet")
        named[split] = {one.video_id for one in read}
        for one in read:
            segments, repaired = segments_of([one], split, None)
            captions += sum(len(segment.captions) for segment in segments)
            reasons += repaired
    assert {split: len(ids) for split, ids in named.items()} == {"train": 10009, "val": 4917, "test": 4885}
    chosen, several = choose_splits(named)
    assert len(several) == 4885 and len(chosen) == 10009 + 4917
    assert 71_900 < captions < 72_000 and sum(n for reason, n in reasons.items() if "dropped" not in reason) < 40
