"""Captions and references out of files of every layout."""

import csv
import json

import pytest

from pipeline.dataset.annotations import annotations_in
from pipeline.dataset.segments import Segment, segments_of
from pipeline.scoring.caption_files import candidates_in, events_in, holds_both, load, references_in
from pipeline.scoring.caption_table import write_captions

CANDIDATES = {"1": "a dog runs", "2": "a cat, asleep\non a mat", "3": "two men play chess"}
REFERENCES = {
    "1": ["the dog is running", "a dog runs fast"],
    "2": ["a cat sleeps on a mat"],
    "3": ["men playing chess"],
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_candidates(path):
    return candidates_in(load(path))


def read_references(paths, *options):
    return references_in([load(path) for path in paths], *options)


def read_events(path):
    return events_in(load(path))


def test_every_format_says_the_same(tmp_path):
    coco = [{"image_id": int(id), "id": 100 + int(id), "caption": text} for id, text in CANDIDATES.items()]
    plain = write(tmp_path / "plain.json", CANDIDATES)
    lists = write(tmp_path / "lists.json", {id: [text] for id, text in CANDIDATES.items()})
    results = write(tmp_path / "results.json", coco)
    table = write_csv(tmp_path / "table.csv", ["id", "caption"], CANDIDATES.items())
    assert [read_candidates(path) for path in (plain, lists, results, table)] == [CANDIDATES] * 4

    flat = [(id, text) for id, texts in REFERENCES.items() for text in texts]
    rows = [{"image_id": int(id), "id": i, "caption": text} for i, (id, text) in enumerate(flat)]
    captions = write(
        tmp_path / "captions.json", {"images": [{"id": int(id)} for id in REFERENCES], "annotations": rows}
    )
    several = write_csv(tmp_path / "several.csv", ["image_id", "text"], flat)
    plain = write(tmp_path / "references.json", REFERENCES)
    assert [read_references([path]) for path in (captions, several, plain)] == [REFERENCES] * 3
    parts = [write(tmp_path / f"part-{id}.json", {id: texts}) for id, texts in REFERENCES.items()]
    assert read_references(parts) == REFERENCES


def test_the_pipelines_own_captions_are_read_beside_activitynets_annotations(tmp_path):
    segments = [Segment(f"v_a#{i}", "v_a", "test", i, i + 1, (f"ref {i}",), None) for i in range(2)]

    class Generated:
        caption, log_prob, retrieved = "a dog", -1.0, ()

    write_captions(tmp_path / "captions.parquet", segments, {segment.segment_id: Generated() for segment in segments})
    annotated = {"duration": 9, "timestamps": [[1, 2], [0, 1]], "sentences": ["ref 1", "ref 0"]}
    references = read_references([write(tmp_path / "val.json", {"v_a": annotated})])
    assert references == {"v_a#0": ["ref 0"], "v_a#1": ["ref 1"]} == read_references([tmp_path / "captions.csv"])
    for name in ("captions.json", "captions.csv"):
        assert read_candidates(tmp_path / name) == {"v_a#0": "a dog", "v_a#1": "a dog"}


def test_events_are_read_from_results_and_from_annotations(tmp_path):
    results = {"version": "VERSION 1.0", "results": {"v_a": [{"sentence": "a dog", "timestamp": [1.5, 3]}]}}
    annotations = {"v_a": {"duration": 9, "timestamps": [[1.5, 3]], "sentences": ["a dog"]}}
    assert read_events(write(tmp_path / "r.json", results)) == read_events(write(tmp_path / "a.json", annotations))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (
            "a.json",
            '{"1": "a", "2": "b", "1": "c"}',
            r"a\.json, line 1: the key '1' is repeated in one object$",
        ),
        (
            "a.json",
            [{"image_id": 1, "caption": "a"}] * 2,
            r"1 ids have several candidates, the first '1'; expected one",
        ),
        ("a.csv", "id,caption\n1,a\n1,b\n", r"a\.csv: 1 ids have several candidates, the first '1'"),
        ("a.json", {"1": ["a", "b"]}, r"a\.json: the candidate of '1' is a list of 2; expected one text$"),
        (
            "a.json",
            [{"image_id": 1}],
            r"a\.json, entry 1: found \{'image_id': 1\}; expected an id \(.*\) and a text \(.*\) in it$",
        ),
        ("a.json", "{", r"a\.json, line 1: not JSON \("),
        ("a.json", "3", r'a\.json: found 3; expected COCO \(\[\{"image_id", "caption"\}'),
        (
            "a.csv",
            "name,caption\n1,a\n",
            r"a\.csv, line 1: found the columns name, caption; expected one of segment_id,",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, error):
    with pytest.raises(ValueError, match=error):
        read_candidates(write(tmp_path / name, content))


def test_files_that_are_not_there_or_of_other_times_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json: No such file or directory$"):
        read_references([tmp_path / "gone.json"])
    with pytest.raises(ValueError, match=r"plain\.json: found no times in it; expected ActivityNet's annotations"):
        read_events(write(tmp_path / "plain.json", CANDIDATES))
    odd = {"results": {"v_a": [{"sentence": "a dog", "timestamp": [1]}]}}
    with pytest.raises(ValueError, match=r"odd\.json: found the event \{.*\} of 'v_a'; expected \{\"timestamp\":"):
        read_events(write(tmp_path / "odd.json", odd))


def test_references_of_a_video_that_is_shorter_than_annotated_have_the_pipelines_ids(tmp_path):
    written = {"v_a": {"duration": 12, "timestamps": [[0, 11], [0, 12], [5, 12]], "sentences": ["a", "b", "c"]}}
    references = read_references([write(tmp_path / "val.json", written)])
    (annotation,), _ = annotations_in(written, "activitynet", where="val.json")
    segments, _ = segments_of([annotation], "val", 10.0)
    assert {segment.segment_id: list(segment.captions) for segment in segments} == references


def test_one_text_where_a_list_is_wanted_is_one_reference(tmp_path):
    expected = {"1": ["a dog runs"]}
    for content in ([{"id": 1, "references": "a dog runs"}], [{"image_id": 1, "references": ["a dog runs"]}], expected):
        assert read_references([write(tmp_path / "a.json", content)]) == expected
    for cell in ("a dog runs", '"a dog runs"', '["a dog runs"]'):
        assert read_references([write_csv(tmp_path / "a.csv", ["id", "references"], [[1, cell]])]) == expected
    plain = write_csv(tmp_path / "a.csv", ["id", "references"], [["1", '"Hello", he says'], ["2", "12"]])
    assert read_references([plain]) == {"1": ['"Hello", he says'], "2": ["12"]}


def test_pictures_go_by_the_name_that_the_candidates_have(tmp_path):
    images = [{"id": 7, "file_name": "val/000007.jpg"}, {"id": 8, "file_name": "val/000008.jpg"}]
    rows = [{"image_id": 8, "id": 1, "caption": "b"}, {"image_id": "7", "id": 2, "caption": "a"}]
    path = write(tmp_path / "coco.json", {"images": images, "annotations": rows})
    assert list(read_references([path]).items()) == [("7", ["a"]), ("8", ["b"])]
    for names in (["7", "8"], ["val/000007.jpg", "val/000008.jpg"], ["000007", "000008"], ["000007#0", "000008#0"]):
        assert read_references([path], names[1:]) == dict(zip(names, (["a"], ["b"]), strict=True))


def test_karpathys_file_is_read_a_split_at_a_time(tmp_path):
    def image(id, split, *texts):
        return {"cocoid": id, "imgid": id % 10, "filename": f"{id}.jpg", "split": split} | {
            "sentences": [{"raw": text} for text in texts]
        }

    images = [image(11, "train", "a"), image(12, "restval", "b"), image(13, "test", "c", "d")]
    path = write(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    assert read_references([path], (), "test") == {"13": ["c", "d"]}
    assert read_references([path], ["3"], "test") == {"3": ["c", "d"]}
    assert read_references([path], ["11.jpg", "12.jpg"], "train") == {"11.jpg": ["a"], "12.jpg": ["b"]}
    with pytest.raises(
        ValueError, match=r"coco.json: holds the splits train \(1 pictures\), restval .* which with --split"
    ):
        read_references([path])
    with pytest.raises(ValueError, match=r"coco.json: no picture of split 'val'; it has train, restval, test$"):
        read_references([path], (), "val")
    del images[1]["sentences"]
    with pytest.raises(
        ValueError, match=r"coco.json: image 2 is \{'cocoid': 12.*; expected \{\"filename\", \"split\", \"sent"
    ):
        read_references([write(path, {"images": images})], (), "test")


def test_tables_with_a_column_for_each_reference_are_read(tmp_path):
    header = ["file_name", "caption_predicted", "caption_1", "caption_2", "caption_3"]
    path = write_csv(tmp_path / "clotho.csv", header, [["a.wav", "it rains", "rain", "rain, again", ""]])
    assert read_candidates(path) == {"a.wav": "it rains"}
    assert read_references([path]) == {"a.wav": ["rain", "rain, again"]} and holds_both(load(path))
    path = write_csv(tmp_path / "dcase.csv", ["file_name", "caption_reference_01"], [["a.wav", "rain"]])
    assert read_references([path]) == {"a.wav": ["rain"]} and not holds_both(load(path))


def test_pairs_in_one_file_need_no_ids(tmp_path):
    pairs = [{"prediction": CANDIDATES[id], "captions": REFERENCES[id]} for id in CANDIDATES]
    lists = {"prediction": list(CANDIDATES.values()), "references": list(REFERENCES.values())}
    by_id = {id: {"prediction": CANDIDATES[id], "references": REFERENCES[id]} for id in CANDIDATES}
    single = [{"id": id, "hypothesis": CANDIDATES[id], "caption": REFERENCES[id][0]} for id in CANDIDATES]
    for content in (pairs, lists, by_id, single):
        read = load(write(tmp_path / "pairs.json", content))
        assert holds_both(read) and candidates_in(read) == CANDIDATES
        expected = REFERENCES if content is not single else {id: texts[:1] for id, texts in REFERENCES.items()}
        assert references_in([read]) == expected
    published = {id: [{"caption": text} for text in texts] for id, texts in REFERENCES.items()}
    assert read_references([write(tmp_path / "gts.json", published)]) == REFERENCES
    wrapped = {"results": [{"image_id": id, "caption": text} for id, text in CANDIDATES.items()]}
    assert read_candidates(write(tmp_path / "results.json", wrapped)) == CANDIDATES


def test_lines_of_text_belong_together_by_their_number(tmp_path):
    candidates = write(tmp_path / "candidates.txt", "\ufeffa dog runs\n\na cat\u2028sleeps")
    files = [write(tmp_path / "1.txt", "a dog\na bird\ncats\n"), write(tmp_path / "2.txt", "it runs\n\na cat\n")]
    assert read_candidates(candidates) == {"1": "a dog runs", "2": "", "3": "a cat\u2028sleeps"}
    assert read_references(files) == {"1": ["a dog", "it runs"], "2": ["a bird"], "3": ["cats", "a cat"]}
    with pytest.raises(ValueError, match=r"3\.txt has 1 lines, .*1\.txt has 3; expected a line for each candidate$"):
        read_references([*files, write(tmp_path / "3.txt", "a dog\n")])
    (tmp_path / "4.txt").write_bytes(b"a dog\n\xff")
    with pytest.raises(ValueError, match=r"4\.txt, line 2: not UTF-8 \(invalid start byte\); save the file as UTF-8$"):
        read_candidates(tmp_path / "4.txt")


IMAGES = [{"id": 1}, {"id": "1"}]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (
            "a.json",
            [{"id": 1, "references": [1, 2]}],
            r"a\.json, entry 1: the references of '1' are a list of 2; expected a",
        ),
        (
            "a.json",
            [{"id": 1, "references": []}],
            r"a\.json, entry 1: the references of '1' are a list of 0; expected a te",
        ),
        ("a.json", {"1": 5}, r"a\.json: the references of '1' are 5; expected a text or a list of texts$"),
        (
            "a.json",
            [{"id": 1, "references": ["a"]}, {"id": 2, "caption": "b"}],
            r"entry 2: found \{'id': 2.* \(references",
        ),
        ("a.json", [{"id": True, "caption": "b"}], r"a\.json, entry 1: found \{'id': True"),
        ("a.json", {"images": [{}], "annotations": []}, r"a\.json: image 1 is \{\}; expected an id in it$"),
        ("a.json", {"images": 3, "annotations": []}, r"a\.json: images is 3; expected a list$"),
        ("a.json", {"images": IMAGES, "annotations": []}, r"a\.json: two images have the id '1'$"),
        ("a.json", {"annotations": [{"image_id": 1, "caption": 2}]}, r"a\.json: annotation 1 is .*; expected an id"),
        (
            "a.json",
            {"prediction": ["a"], "references": []},
            r"a\.json: found 1 of prediction and 0 of references; expected as",
        ),
        (
            "a.json",
            {"v": {"timestamps": [[0, 1], [1, 2]], "sentences": ["a"]}},
            r"a\.json: found 2 timestamps, 1 sentences",
        ),
        ("a.json", "[" * 100_000, r"a\.json, line 1: (not JSON|brackets are nested deeper than 100)"),
        ("a.json", "[" + "1" * 6000 + "]", r"a\.json, line 1: the number 111.* has more than 100 characters$"),
        ("a.csv", "id,caption\n1,a dog, running\n", r"a\.csv, line 2: found 3 cells, expected 2 \(id, caption\)"),
        ("a.csv", 'id,references\n1,"[1, 2"\n', r"a\.csv, line 2, references, line 1: not JSON"),
        ("a.csv", "id,references\n1,\n", r"a\.csv, line 2: no references$"),
        ("a.csv", "id,caption\n1,a\n,b\n", r"a\.csv, line 3: found \{'id': '', 'caption': 'b'\}; expected an id"),
        ("a.csv", "id,caption_1\n1,\n", r"a\.csv, line 2: the references of '1' are a list of 0; expected"),
    ],
)
def test_references_that_cannot_be_read_are_named(tmp_path, name, content, error):
    with pytest.raises(ValueError, match=error) as refused:
        read_references([write(tmp_path / name, content)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"results": {"v_a": None}}, r"a\.json: the events of 'v_a' are None; expected a list$"),
        ({"results": {"v_a": [{"sentence": "a", "timestamp": ["nan", 1]}]}}, r"found the event .* times being finite"),
        ({"results": {"v_a": [{"sentence": "a", "timestamp": [0, True]}]}}, r"found the event .* times being finite"),
        ({"results": {"v_a": [{"sentence": 5, "timestamp": [0, 1]}]}}, r"found the event \{'sentence': 5"),
        ({"results": {"v_a": [None]}}, r"found the event None of 'v_a'; expected"),
        (
            '{"results": {"v_a": [{"sentence": "a", "timestamp": [0, 1e999]}]}}',
            r"line 1: the number 1e999 is too large$",
        ),
        ('{"results": {"v_a": [{"sentence": "a", "timestamp": [0, NaN]}]}}', r"line 1: NaN is not a JSON number$"),
        ({"v_a": {"timestamps": [[0, 1]]}}, r"a\.json: found no list 'sentences' for 'v_a'; expected ActivityNet"),
        ({"v_a": {"timestamps": [[0, 1], [1, 2]], "sentences": ["a"]}}, r"found 2 timestamps, 1 sentences and kinds"),
    ],
)
def test_events_that_cannot_be_read_are_named(tmp_path, content, error):
    with pytest.raises(ValueError, match=error):
        read_events(write(tmp_path / "a.json", content))


MSRVTT = {
    "videos": [{"video_id": f"video{i}", "category": i, "split": s} for i, s in enumerate(("train", "test", "test"))],
    "sentences": [{"video_id": f"video{i}", "caption": f"text {n} of  {i}"} for n in range(2) for i in range(3)],
}
OF_TEST = {f"video{i}": [f"text {n} of {i}" for n in range(2)] for i in (1, 2)}


def test_a_published_datasets_references_are_of_a_split_or_of_a_list(tmp_path):
    whole = write(tmp_path / "videodatainfo.json", MSRVTT)
    with pytest.raises(
        ValueError, match=r"holds the splits train \(1 videos\), test \(2 videos\); say which with --sp"
    ):
        read_references([whole])
    assert references_in([load(whole)], ["video1"], "test") == OF_TEST
    assert references_in([load(whole)], ["video1#0"], "test") == {f"{id}#0": texts for id, texts in OF_TEST.items()}
    for name, content in (("list.csv", "video_id\nvideo2\n"), ("list.txt", "video2\n")):
        assert read_references([whole, write(tmp_path / name, content)]) == {"video2": OF_TEST["video2"]}
    with pytest.raises(ValueError, match=r"no video of split 'val'; it has train, test"):
        references_in([load(whole)], [], "val")
    with pytest.raises(ValueError, match=r"videodatainfo\.json: found references, or a list of videos; expected COCO"):
        read_candidates(whole)

    corpus = "VideoID,Start,End,Language,Description\na,1,2,English,a dog\na,1,2,Dutch,een hond\n"
    assert read_references([write(tmp_path / "msvd.csv", corpus)]) == {"a_1_2": ["a dog"]}
    vatex = [{"videoID": "a_000001_000002", "enCap": ["a dog", "dogs"]}]
    assert read_references([write(tmp_path / "vatex.json", vatex)]) == {"a_000001_000002": ["a dog", "dogs"]}
    tokens = write(tmp_path / "tokens.txt", "1.jpg#0\tA dog .\n1.jpg#1\tDogs .\n")
    assert references_in([load(tokens)], ["1.jpg"]) == {"1.jpg": ["A dog .", "Dogs ."]}
    one_k_a = write(tmp_path / "1ka.csv", "key,vid_key,video_id,sentence\nret0,msr2,video2,a text\n")
    assert (
        read_references([one_k_a])
        == {"video2": ["a text"]}
        == {id: [text] for id, text in read_candidates(one_k_a).items()}
    )
    assert read_references([one_k_a, whole]) == {"video2": OF_TEST["video2"]}
