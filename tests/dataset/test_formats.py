"""Caption files as datasets publish them."""

import json
from collections import Counter

import pytest

from pipeline.dataset.formats import FORMATS, read_annotations, read_splits
from pipeline.dataset.published import CATEGORIES
from pipeline.dataset.segments import segments_of
from pipeline.imports import ROOT
from pipeline.params import DownloadParams

REAL = ROOT.parent / "shared/data/msrvtt"


def file(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def video(number, split, category=9):
    return {"video_id": f"video{number}", "category": category, "split": split, "start time": 1.0, "end time": 9.0}


def sentence(number, caption):
    return {"video_id": f"video{number}", "caption": caption, "sen_id": 0}


MSRVTT = {
    "videos": [video(0, "train"), video(1, "validate", 0), video(2, "test")],
    "sentences": [sentence(1, "a  man sings"), sentence(0, "a car"), sentence(0, "it drives"), sentence(2, "a dog")],
}
ONE_K_A = "key,vid_key,video_id,sentence\nret0,msr1,video1,a man sings a song\nret1,msr7,video7,a cat\n"
MSVD = (
    "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
    '-4w,5,15,1,clean,9,English,"a man, running"\n-4w,5,15,2,clean,9,German,ein Mann\n'
    "mv8,33,46,3,clean,9,English,dogs\n"
)
VATEX = [{"videoID": "Ptf_000055_000065", "enCap": ["a man"], "chCap": ["一"]}, {"videoID": "x_1_2", "chCap": ["二"]}]
FLICKR8K = "1000.jpg#0\tA child .\n1000.jpg#1\tA girl .\n2000.jpg#0\tDogs .\n"


def texts(annotations):
    return {one.video_id: [caption.text for caption in one.captions] for one in annotations}


@pytest.mark.parametrize("named", ["its own", "auto"])
def test_each_dataset_is_read_as_it_is_published(tmp_path, named):
    def read(name, content, file_format):
        found, dropped = read_annotations(file(tmp_path, name, content), file_format if named == "its own" else "auto")
        return texts(found), dropped

    captions = {"video0": ["a car", "it drives"], "video1": ["a  man sings"], "video2": ["a dog"]}
    assert read("a.json", MSRVTT, "msrvtt") == (captions, {})
    foreign = {"description in another language than English dropped": 1}
    assert read("a.csv", MSVD, "msvd") == ({"-4w_5_15": ["a man, running"], "mv8_33_46": ["dogs"]}, foreign)
    assert read("v.json", VATEX, "vatex") == ({"Ptf_000055_000065": ["a man"], "x_1_2": ["二"]}, {})
    assert read("Flickr8k.token.txt", FLICKR8K, "flickr8k") == (
        {"1000": ["A child .", "A girl ."], "2000": ["Dogs ."]},
        {},
    )


def test_msrvtts_category_becomes_the_kind_and_a_caption_is_of_the_whole_clip(tmp_path):
    (first, second, _), _ = read_annotations(file(tmp_path, "a.json", MSRVTT), "msrvtt")
    (segment,), _ = segments_of([first], "train", 8.0)
    assert (segment.start_s, segment.end_s, segment.kind, segment.segment_id) == (0, 8, "vehicles/autos", "video0#0")
    assert second.captions[0].kind == "music" and len(CATEGORIES) == 20


def test_videos_go_to_the_split_that_their_file_names(tmp_path):
    path = file(tmp_path, "a.json", MSRVTT)
    by_video, splits, reasons = read_splits({"train": [path], "val": [path], "test": [path]}, "msrvtt")
    assert splits == {"video0": "train", "video1": "val", "video2": "test"} and not reasons
    assert {id: len(own) for id, own in by_video.items()} == {"video0": 1, "video1": 1, "video2": 1}
    assert read_splits({"train": [path]}, "auto")[1] == {"video0": "train"}


def test_a_list_says_which_videos_a_split_has_whatever_their_file_says(tmp_path):
    captions = file(tmp_path, "a.json", MSRVTT)
    longer = file(tmp_path, "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo2\nvideo8\n")
    test = file(tmp_path, "MSRVTT_JSFUSION_test.csv", ONE_K_A)
    by_video, splits, reasons = read_splits({"train": [longer, captions], "test": [test, captions]}, "msrvtt")
    assert splits == {"video0": "train", "video2": "train", "video1": "test", "video7": "test"}
    assert reasons == {"video of a list without captions in any file": 1}  # video8
    # Beside the captions 1k-A only chooses; what they lack, it captions itself.
    assert texts(by_video["video1"]) == {"video1": ["a  man sings"]} and texts(by_video["video7"]) == {
        "video7": ["a cat"]
    }
    alone, _, _ = read_splits({"test": [test]}, "auto")
    assert {id: texts(own)[id] for id, own in alone.items()} == {"video1": ["a man sings a song"], "video7": ["a cat"]}

    tokens = file(tmp_path, "Flickr8k.token.txt", FLICKR8K)
    listed = file(tmp_path, "Flickr_8k.testImages.txt", "2000.jpg\n")
    assert texts(read_splits({"test": [tokens, listed]}, "flickr8k")[0]["2000"]) == {"2000": ["Dogs ."]}
    corpus, ids = file(tmp_path, "corpus.csv", MSVD), file(tmp_path, "test_list.txt", "mv8_33_46\n")
    assert set(read_splits({"test": [corpus, ids]}, "msvd")[1]) == {"mv8_33_46"}


@pytest.mark.parametrize(
    ("file_format", "name", "content", "message"),
    [
        ("msrvtt", "a.json", [1], r"a\.json: found a list of 1; expected MSR-VTT: \{\"videos\""),
        ("msrvtt", "a.json", {"videos": []}, r"found no list 'sentences' at the top; expected MSR-VTT"),
        (
            "msrvtt",
            "a.json",
            {"videos": [{"id": 3}], "sentences": []},
            r"found \{'id': 3\} as entry 1 of 'videos'; expected",
        ),
        (
            "msrvtt",
            "a.json",
            {"videos": [video(0, "dev")], "sentences": []},
            r"found the split 'dev' in entry 1 of 'videos'",
        ),
        (
            "msrvtt",
            "a.json",
            {"videos": [video(0, "test")] * 2, "sentences": []},
            r"the video 'video0' again as entry 2",
        ),
        (
            "msrvtt",
            "a.json",
            {"videos": [video(0, "test", 20)], "sentences": []},
            r"the category 20 in entry 1 of 'videos'",
        ),
        (
            "msrvtt",
            "a.json",
            {"videos": [video(0, "test")], "sentences": [{"caption": "a"}]},
            r"entry 1 of 'sentences'",
        ),
        ("msrvtt", "a.json", VATEX, r"found VATEX's captions \(format: vatex reads those\); expected MSR-VTT"),
        ("msrvtt", "a.csv", MSVD, r"a\.csv: found msvd \(format: msvd reads that\); expected MSR-VTT"),
        ("msrvtt", "a.csv", "video_id,sentence\na,b\n", r"a\.csv, line 1: found video_id,sentence; expected MSR-VTT"),
        (
            "activitynet",
            "a.json",
            MSRVTT,
            r"found MSR-VTT's captions \(format: msrvtt reads those\); expected ActivityNet",
        ),
        (
            "msvd",
            "a.csv",
            MSVD.replace("33,46", "33.5,"),
            r"a\.csv, line 4: found 'mv8', '33.5', ''; expected VideoID, and St",
        ),
        ("vatex", "a.json", [{"videoID": "a", "enCap": "b"}], r"found the captions 'b' in entry 1; expected VATEX"),
        ("vatex", "a.json", [{"videoID": "a", "enCap": []}, 3], r"found 3 as entry 2; expected VATEX"),
        (
            "flickr8k",
            "a.txt",
            FLICKR8K + "3000.jpg A dog\n",
            r"a\.txt, line 4: found '3000.jpg A dog'; expected Flickr8k",
        ),
        ("flickr8k", "a.txt", "1.jpg\n1.jpg\n", r"a\.txt, line 2: found '1.jpg' again; expected a list"),
        (
            "auto",
            "a.json",
            {"a": ["b"]},
            r"a\.json: found an object of 1; expected MSR-VTT: .*; or VATEX: .*; or COCO cap",
        ),
        ("auto", "a.json", '{"a": [}', r"a\.json, line 1: not JSON"),
        (
            "auto",
            "a.csv",
            "key,vid_key,video_id,sentence\nret0,msr1,,a\n",
            r"a\.csv, line 2: found no video_id; expected a list",
        ),
    ],
)
def test_what_a_format_does_not_have_is_refused_with_its_place_and_what_was_expected(
    tmp_path, file_format, name, content, message
):
    with pytest.raises(ValueError, match=message):
        read_annotations(file(tmp_path, name, content), file_format)


def test_a_caption_of_an_unlisted_video_is_dropped_and_counted(tmp_path):
    path = file(tmp_path, "a.json", MSRVTT | {"videos": MSRVTT["videos"][:1]})
    found, dropped = read_annotations(path, "msrvtt")
    assert [one.video_id for one in found] == ["video0"] and dropped == {"caption of an unlisted video dropped": 2}


def test_params_accept_every_format():
    assert set(DownloadParams.model_fields["format"].annotation.__args__) == set(FORMATS)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/msrvtt")
def test_msrvtts_own_files_have_twenty_captions_a_video_and_three_splits():
    both, test = (REAL / f"{name}.json" for name in ("train_val_videodatainfo_first50", "test_videodatainfo_first40"))
    by_video, splits, reasons = read_splits({"train": [both], "val": [both], "test": [test]}, "auto")
    assert Counter(splits.values()) == {"train": 40, "val": 10, "test": 40} and not reasons
    assert {len(own.captions) for (own,) in by_video.values()} == {20}
    (video0,) = by_video["video0"]
    assert {caption.kind for caption in video0.captions} == {"vehicles/autos"}
