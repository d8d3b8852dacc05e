"""pipeline/dataset/questions/: every format as it was published, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.dataset.questions.formats import WANTED, equal_options, read_questions, unique_over_splits
from pipeline.dataset.questions.question import SCHEMA, Question, from_table, to_table
from pipeline.dataset.questions.votes import CONTRACTIONS, accuracy, normalised, soft_scores


def write(path, content):
    lines = path.suffix == ".jsonl"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text("\n".join(map(json.dumps, content)) if lines and not isinstance(content, str) else text)
    return path


def only(path, **named):
    [question] = read_questions([path], **named)
    return question


# What was published


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        (
            "msrvttqa_val_first80.csv",
            80,
            Question("158581", "6513", "what are three people sitting on", ("couch",), (1.0,), answer_type="what"),
        ),
        (
            "tgifqa_frameqa_test_first60.csv",
            60,
            Question(
                "FRAMEQA1159",
                "tumblr_no73q2fm0I1uuf348o1_250",
                "what is being placed in the white ice cream cone ?",
                ("cookie",),
                (1.0,),
                answer_type="object",
                kind="frameqa",
            ),
        ),
        (
            "tgifqa_count_test_first60.csv",
            60,
            Question(
                "COUNT12",
                "tumblr_nezfs4uELd1u1a7cmo1_250",
                "How many times does the man adjust waistband ?",
                ("3",),
                (1.0,),
                answer_type="count",
                kind="count",
            ),
        ),
    ],
)
def test_open_questions_and_counts_of_public_files(real_data, name, count, first):
    questions = read_questions([real_data / "questions" / name])
    assert len(questions) == count and questions[0] == first


@pytest.mark.parametrize(
    ("name", "id", "answer", "right", "kind", "answer_type"),
    [
        ("tgifqa_action_test_first60.csv", "ACTION4", "flap wings", 4, "action", "choice"),
        ("tgifqa_transition_test_first60.csv", "TRANS23", "sing passionately", 4, "transition", "choice"),
        ("nextqa_val_first80.csv", "4010069381_6", "roll the handle", 0, "CH", "causal"),
    ],
)
def test_multiple_choice_of_public_files(real_data, name, id, answer, right, kind, answer_type):
    first = read_questions([real_data / "questions" / name])[0]
    assert (first.question_id, first.answer, first.right_option) == (id, answer, right)
    assert (first.kind, first.answer_type, first.task, len(first.options)) == (kind, answer_type, "choice", 5)


def test_activitynets_answers_lie_in_a_file_of_their_own(real_data):
    names = ["activitynetqa_val_q.json", "activitynetqa_val_a.json"]
    questions = read_questions([real_data / "questions" / name for name in names])
    assert questions == read_questions([real_data / "questions" / name for name in reversed(names)])
    assert len(questions) == 18_000
    first = questions[0]
    assert (first.video_id, first.answer, first.kind, first.answer_type) == ("TIEzvhv6xaI", "yes", "free", "yes/no")


def test_next_counts_previous_as_next(tmp_path):
    head = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    row = "7,369,640,480,what did he do before,1,3,{},a,b,c,d,e\n"
    path = write(tmp_path / "a.csv", head + row.format("TP"))
    found = only(path)
    assert (found.question_id, found.kind, found.answer_type, found.answer) == ("7_3", "TN", "temporal", "b")
    write(path, head + row.format("X"))
    with pytest.raises(ValueError, match=r"line 2: type is 'X'; expected one that begins with C, T or D"):
        only(path)


def test_msrvtts_json_and_clipberts_lines(tmp_path):
    entry = {"answer": "couch", "category_id": 14, "id": 158581, "question": "what is it?", "video_id": 6513}
    own = Question("158581", "6513", "what is it?", ("couch",), (1.0,), answer_type="what")
    assert only(write(tmp_path / "a.json", [entry])) == own
    line = {"answer": "couch", "question": "what is it?", "video_id": "video6513", "answer_type": "what"}
    first, second = read_questions([write(tmp_path / "a.jsonl", [line, line])])
    assert (first.question_id, second.question_id, first.video_id) == ("0", "1", "video6513")
    choice = {"gif_name": "g", "question": "what?", "options": ["a", "b", "c"], "answer": 2}
    found = only(write(tmp_path / "b.jsonl", [choice]))
    assert (found.options, found.right_option, found.answer) == (("a", "b", "c"), 2, "c")
    frame = {"gif_name": "g", "question": "what?", "answer": "cookie", "answer_type": "object"}
    assert only(write(tmp_path / "c.jsonl", [frame])).answer_type == "object"
    soft = {"question": "what?", "image_id": "COCO_1", "question_id": 7, "labels": {"net": 0.3, "nets": 1}}
    found = only(write(tmp_path / "d.jsonl", [soft]))
    assert (found.answers, found.scores, found.votes) == (("nets", "net"), (1.0, 0.3), None)


def test_vqas_questions_and_annotations(tmp_path):
    vqa = {"questions": [{"image_id": 9, "question": "How many?", "question_id": 9000}], "license": {}}
    votes = ["two", "2", "2.", "3", "a pair", "2", "2", "2", "2", "two"]
    annotation = {
        "question_type": "how many",
        "multiple_choice_answer": "2",
        "answers": [{"answer": vote, "answer_confidence": "yes", "answer_id": i} for i, vote in enumerate(votes, 1)],
        "image_id": 9,
        "answer_type": "number",
        "question_id": 9000,
    }
    paths = [write(tmp_path / "q.json", vqa), write(tmp_path / "a.json", {"annotations": [annotation]})]
    [found] = read_questions(paths)
    assert (found.video_id, found.kind, found.answer_type, found.votes) == ("9", "how many", "number", tuple(votes))
    assert found.answers == ("2", "3", "pair")
    assert found.scores == pytest.approx((1.0, 0.3, 0.3))


def test_ones_own_files_in_every_layout(tmp_path):
    rows: list[dict[str, Any]] = [
        {"question_id": "a", "video_id": "v", "question": "where?", "answer": "left", "kind": "where", "split": "val"},
        {"question_id": "b", "video_id": "v", "question": "what?", "options": ["x", "y"], "answer": "y"},
        {"question_id": "c", "video_id": "v", "question": "what?", "answers": ["x", "y"], "scores": [0.5, 1]},
        {"question_id": "d", "video_id": "v", "question": "how many?", "answer": 3, "answer_type": "count"},
    ]
    rows[0] |= {"start_s": 1, "end_s": 2.5, "evidence": [[1, 2]]}
    found = read_questions([write(tmp_path / "a.jsonl", rows)], split="train")
    assert found == read_questions([write(tmp_path / "a.json", rows)], split="train")
    assert (found[0].split, found[1].split, found[0].end_s, found[0].evidence) == ("val", "train", 2.5, ((1, 2),))
    assert (found[1].right_option, found[2].answers, found[3].answer) == (1, ("y", "x"), "3")
    pq.write_table(to_table(found), tmp_path / "a.parquet")
    assert read_questions([tmp_path / "a.parquet"]) == found
    csv = 'question_id,video_id,question,answer,options\na,v,what?,1,"[""x"", ""y""]"\n'
    assert only(write(tmp_path / "a.csv", csv)).answer == "y"


def test_the_table_keeps_a_question_as_it_is():
    questions = [
        Question("a", "v", "what?", ("x", "y"), (1.0, 0.5), kind="now", evidence=((1.0, 2.0), (3.0, 4.0))),
        Question("b", "v", "what?", ("x",), (1.0,), ("x", "z"), right_option=0, end_s=4.0, split="test"),
    ]
    assert to_table(questions).schema.equals(SCHEMA)
    assert from_table(to_table(questions)) == questions


# What is refused


def test_a_file_that_is_none_of_these_is_refused_with_what_was_found(tmp_path):
    def refused(name, content):
        with pytest.raises(ValueError) as error:
            read_questions([write(tmp_path / name, content)])
        return str(error.value).replace(f"{tmp_path}/", "")

    assert refused("a.csv", "video,caption\nv,a dog\n") == f"a.csv, line 2: found video, caption; {WANTED}"
    assert refused("a.json", [{"caption": "a dog"}]) == f"a.json, entry 1: found caption; {WANTED}"
    assert refused("a.json", {"v": 1}) == f"a.json: found no list of questions; {WANTED}"
    assert refused("a.json", "") == "a.json: the file is empty"
    assert refused("a.json", []) == f"a.json: found nothing in it; {WANTED}"
    assert refused("a.csv", "video,question,answer,qid\n") == f"a.csv: found nothing in it; {WANTED}"
    assert refused("a.json", [1]) == "a.json, entry 1: found 1; expected an object"
    good = json.dumps({"question": "q", "answer": "a", "video_id": "v"})
    assert refused("a.jsonl", f"{good}\n{good}\n{{1}}\n").startswith("a.jsonl, line 3: not JSON")
    assert refused("a.parquet", "no parquet").startswith("a.parquet: ")
    assert refused("a.parquet", "") == "a.parquet: the file is empty"
    assert refused("a.csv", "") == "a.csv: no header; expected a first line with the columns' names"
    pq.write_table(to_table([]), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b.parquet: found nothing in it; expected MSRVTT-QA"):
        read_questions([tmp_path / "b.parquet"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "question is ' '; expected some text"),
        ({"question": "why " * 2_500}, "question has 10,000 characters; expected 4,000 at most"),
        ({"video_id": None}, "video_id is None; expected an id"),
        ({"split": "dev"}, "split is 'dev'; expected train, val or test"),
        ({"start_s": 3, "end_s": 2}, "what may be seen is [3, 2.0) s; expected 0 <= start_s < end_s"),
        ({"options": ["x", "y"], "answer": "z"}, "the answer 'z' is none of the options ['x', 'y']"),
        ({"options": ["x", "y"], "answer": 2}, "the answer 2 is none of the options ['x', 'y']"),
        ({"answer_type": "count"}, "answer is 'left'; expected a number"),
        ({"evidence": [[2, 1]]}, "evidence has [2, 1]; expected [[from_s, to_s], ...], in seconds"),
        ({"answers": ["a", "b"], "scores": [1]}, "scores is [1]; expected 2 numbers from 0 to 1"),
    ],
)
def test_an_entry_that_is_wrong_is_named(tmp_path, change, message):
    good = {"question_id": "a", "video_id": "v", "question": "where?", "answer": "left"}
    path = write(tmp_path / "a.jsonl", [good, good | {"question_id": "b"} | change])
    with pytest.raises(ValueError) as error:
        read_questions([path])
    assert str(error.value) == f"{path}, line 2: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": "why " * 2_500}, "question has 10,000 characters; expected 4,000 at most"),
        ({"question": None}, "question is None; expected some text"),
        ({"answers": ("",)}, "answers is ''; expected some text"),
        ({"split": "dev"}, "split is 'dev'; expected train, val or test"),
        ({"start_s": float("nan")}, "what may be seen is [nan, None) s; expected 0 <= start_s < end_s"),
        ({"scores": (2.0,)}, "scores is [2.0]; expected 1 numbers from 0 to 1"),
        ({"options": ("x", "y"), "right_option": 2}, "right_option is 2; expected a number from 0 to 1"),
    ],
)
def test_a_row_of_a_table_that_is_wrong_is_named(tmp_path, change, message):
    good = Question("a", "v", "where?", ("left",), (1.0,))
    pq.write_table(to_table([good, replace(good, question_id="b", **change)]), tmp_path / "a.parquet")
    with pytest.raises(ValueError) as error:
        read_questions([tmp_path / "a.parquet"])
    assert str(error.value) == f"{tmp_path / 'a.parquet'}, row 2: {message}"


def test_two_questions_of_one_id_and_answers_to_none_are_refused(tmp_path):
    good = {"question_id": "a", "video_id": "v", "question": "where?", "answer": "left"}
    path = write(tmp_path / "a.jsonl", [good, good])
    with pytest.raises(ValueError, match=r"line 2: the question_id 'a' stands in .*, line 1 already"):
        read_questions([path])
    answer = write(tmp_path / "b.json", [{"question_id": "z", "answer": "yes", "type": 3}])
    with pytest.raises(ValueError, match=r"b.json has answers only; name the file of their questions as well"):
        read_questions([answer])
    with pytest.raises(ValueError, match=r"answers the question 'z', which is in none of the files"):
        read_questions([write(path, [good]), answer])


def test_equal_options_are_found_and_ids_are_made_unique_where_splits_share_them():
    same = Question("0", "v", "what?", ("x",), (1.0,), ("x", "X"), right_option=0, split="train")
    other = Question("0", "v", "what?", ("x",), (1.0,), ("x", "y"), right_option=0, split="test")
    assert equal_options([same, other]) == [same]
    assert [one.question_id for one in unique_over_splits([same, other])] == ["train_0", "test_0"]
    assert unique_over_splits([same]) == [same]


# VQA's accuracy: these values are of the public code, github.com/GT-Vision-Lab/VQA


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("Two dogs", "2 dogs"),
        ("a T-shirt", "t shirt"),
        ("the U.S.A.", "usa"),
        ("1,000 people", "1000 people"),
        ("3.5", "3.5"),
        ("dont know", "don't know"),
        ("yall'll", "y'all'll"),
        ("somebody'd", "somebodyd"),
        ("its", "its"),
        ("none", "0"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("what?\n", "what"),
    ],
)
def test_answers_are_normalised_as_vqa_does(answer, same):
    assert normalised(answer) == same


def test_the_table_of_contractions_is_vqas():
    # 114 keys of the original that can match (it lower-cases first) and change something.
    assert len(CONTRACTIONS) == 114
    assert (CONTRACTIONS["wouldnt've"], CONTRACTIONS["'ow'sat"]) == ("wouldn't've", "'ow's'at")


@pytest.mark.parametrize(
    ("answer", "agree", "expected"),
    [("dog", 0, 0.0), ("dog", 1, 0.3), ("dog", 2, 0.6), ("dog", 3, 0.9), ("dog", 4, 1.0), ("dog", 10, 1.0)],
)
def test_an_answer_is_worth_a_third_for_each_who_agrees_left_out_in_turn(answer, agree, expected):
    votes = ["dog"] * agree + [f"cat {number}" for number in range(11, 21 - agree)]
    assert accuracy(answer, votes) == pytest.approx(expected)


def test_where_all_say_the_same_nothing_is_normalised():
    assert accuracy("The dog", ["dog"] * 10) == 0.0
    assert accuracy("Dog", ["dog"] * 10) == 1.0
    assert accuracy("The dog", ["dog"] * 9 + ["a dog"]) == 1.0
    assert soft_scores(["the dog"] * 10) == (("the dog",), (1.0,))
