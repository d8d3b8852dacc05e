import json
from collections import Counter

import pytest

from pipeline.dataset import annotations
from pipeline.dataset.annotations import choose_splits
from pipeline.dataset.formats import read_annotations
from pipeline.dataset.segments import Segment, segments_of, to_table


def written(tmp_path, content):
    path = tmp_path / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


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


def test_captions_in_cocos_format_are_of_a_whole_video_as_of_a_whole_picture(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.mp4"}],
        "annotations": [{"image_id": 1, "caption": "A cat."}, {"image_id": "1", "caption": "A pet."}],
    }
    (read,), _ = read_annotations(written(tmp_path, content), "coco")
    assert segments_of([read], "train", 7.5)[0] == [Segment("a#0", "a", "train", 0.0, 7.5, ("A cat.", "A pet."), None)]


def test_csv_captions_are_of_intervals_or_of_whole_videos(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text(
        "\ufeffvideo_id,start_s,end_s,caption,kind\r\n"
        'v_a,5,9.5,"then, a dog",order\r\nv_b,,,a cat,\r\nv_a,0,4,"a\nbird",\r\n\r\nv_a,5,9.5,it barks,\r\n',
        encoding="utf-8",
        newline="",
    )
    read, reasons = read_annotations(path, "csv")
    segments = [segment for one in read for segment in segments_of([one], "val", 20.0)[0]]
    assert segments == [
        Segment("v_a#0", "v_a", "val", 0.0, 4.0, ("a bird",), None),
        Segment("v_a#1", "v_a", "val", 5.0, 9.5, ("then, a dog", "it barks"), "order"),
        Segment("v_b#0", "v_b", "val", 0.0, 20.0, ("a cat",), None),
    ]
    assert not reasons
    path.with_suffix(".tsv").write_text("file_name\tcaption_1\tcaption_2\nrain/1.mp4\train, again\tit rains\n")
    [video], _ = read_annotations(path.with_suffix(".tsv"), "csv")
    assert (video.video_id, video.file_name) == ("1", "rain/1.mp4")
    assert [caption.text for caption in video.captions] == ["rain, again", "it rains"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"captions.csv: no header; expected a first line with the columns' names"),
        (
            "name,caption\na,b\n",
            r"captions.csv, line 1: found the columns name, caption; expected the columns video_id or",
        ),
        ("video_id,start,caption\na,0,b\n", r"line 1: found the columns video_id, start, caption; expected"),
        ("video_id,caption,caption\na,b,c\n", r"captions.csv, line 1: two columns are called 'caption'"),
        (
            "video_id,caption\na,b\na,a dog, running\n",
            r"captions.csv, line 3: found 3 cells, expected 2 \(video_id, cap",
        ),
        (
            "video_id,caption\na\n",
            r"line 2: found 1 cells, expected 2 \(.*a cell with a comma in it needs quotation marks",
        ),
        ('video_id,caption\na,"b\nc,d\n', r"captions.csv, line 2: not CSV \(unexpected end of data\)"),
        ("video_id,start_s,end_s,caption\na,0:10,12,b\n", r"line 2: start_s is '0:10'; expected seconds, as 12.5"),
        ("video_id,start_s,end_s,caption\na,0,inf,b\n", r"line 2: end_s is 'inf'; expected seconds"),
        ("video_id,start_s,end_s,caption\na,0,,b\n", r"line 2: end_s is ''; expected seconds"),
        ("video_id,caption\n,b\n", r"line 2: no video_id"),
        (
            "file_name,caption\na/1.mp4,b\nb/1.mp4,c\n",
            r"found 'a/1.mp4' and 'b/1.mp4', which would both be the video '1'",
        ),
        (
            b"video_id,caption\na,b\nc,\xff\n",
            r"captions.csv, line 3: not UTF-8 \(invalid start byte\); save the file as",
        ),
    ],
)
def test_a_csv_file_that_says_something_else_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "captions.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_annotations(path, "csv")


def test_half_a_surrogate_pair_can_be_written_down(tmp_path):
    entry = {"timestamps": [[0, 1]], "sentences": ["a \ud800 dog"]}
    (read,), _ = read_annotations(written(tmp_path, {"v_\udfff": entry}), "activitynet")
    table = to_table(segments_of([read], "val", None)[0])
    assert table["captions"].to_pylist() == [["a ? dog"]] and table["video_id"].to_pylist() == ["v_?"]


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


@pytest.mark.parametrize(
    ("file_format", "content", "message"),
    [
        ("activitynet", "{not json", r"captions.json, line 1: not JSON \(Expecting"),
        ("activitynet", [1, 2], r"captions.json: found a list of 2; expected ActivityNet Captions: \{video id"),
        ("activitynet", {"images": [], "annotations": []}, r"found COCO captions \(format: coco reads those\)"),
        ("activitynet", {"v_a": 3}, "found 3 for 'v_a'; expected"),
        ("activitynet", {"v_a": {"timestamps": []}}, "found no list 'sentences' for 'v_a'"),
        ("activitynet", {"v_a": {"timestamps": [[0, 1]], "sentences": []}}, "found 1 timestamps, 0 sentences"),
        ("activitynet", {"v_a": {"timestamps": [[0]], "sentences": ["x"]}}, r"found the timestamp \[0\] for 'v_a'"),
        ("activitynet", {"v_a": {"timestamps": [[0, 1]], "sentences": [5]}}, "found the sentence 5 of kind None"),
        (
            "activitynet",
            '{"v_a": {"duration": NaN, "timestamps": [], "sentences": []}}',
            "captions.json, line 1: NaN is not a JSON number",
        ),
        ("activitynet", '{"v_a": 1,\n"v_a": 2}', "captions.json, line 2: the key 'v_a' is repeated"),
        ("coco", {"v_a": {}}, "found no list 'images' at the top; expected COCO captions"),
        ("coco", {"images": [{"id": 1}], "annotations": []}, r"found the image \{'id': 1\}"),
        ("coco", {"images": [], "annotations": [{"caption": "x"}]}, r"found the annotation \{'caption': 'x'\}"),
        (
            "coco",
            {"images": [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "b/1.jpg"}], "annotations": []},
            "found 'a/1.jpg' and 'b/1.jpg', which would both be the video '1'",
        ),
        (
            "coco",
            {"images": [{"id": 1, "file_name": "1.jpg"}, {"id": "1", "file_name": "2.jpg"}], "annotations": []},
            "found two images of the id '1', '1.jpg' and '2.jpg'; expected COCO captions",
        ),
        (
            "coco",
            {"images": [], "annotations": [{"image_id": 1, "caption": "x", "kind": 5}]},
            "found the kind 5 of the annotation",
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
    named: dict[str, set[str]] = {}
    captions, reasons = 0, Counter[str]()
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
