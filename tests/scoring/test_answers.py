"""pipeline/scoring/answers.py and its files: whose answers are right, of all that were asked."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.dataset.questions.formats import read_questions
from pipeline.dataset.questions.question import Question
from pipeline.score import main
from pipeline.scoring.answer_files import read_answer_list, read_answers
from pipeline.scoring.answers import read_answer, score_answers, worth
from tests.dataset.test_questions import write


def question_about(id, answer, *, video="v", question="what is it?", **more):
    return Question(id, video, question, (answer,), (1.0,), **more)


def choice(id, right, options=("left", "right", "2"), **more):
    return Question(id, "v", "where?", (options[right],), (1.0,), options, right_option=right, **more)


OPEN = [
    question_about("a", "dog", video="1", kind="now", answer_type="what"),
    question_about("b", "dog", video="1", kind="now", answer_type="what"),
    question_about("c", "cat", video="2", kind="order", answer_type="what", question="who is it?"),
    question_about("d", "yes", video="2", kind="order", answer_type="yes/no", question="is it?"),
]


def test_activitynets_published_example_gets_its_published_accuracy(real_data):
    folder = real_data / "questions"
    questions = read_questions([folder / "activitynetqa_val_q.json", folder / "activitynetqa_val_a.json"])
    given = read_answers(folder / "activitynetqa_pred_val_example.json", questions)
    result = score_answers(questions, given, draws=200)
    everything = result.group("all")
    assert (round(everything.accuracy, 4), result.asked, result.answered) == (39.8444, 18_000, 18_000)
    assert everything.low is not None and everything.high is not None
    assert everything.low < 39.8 < everything.high
    # A most frequent answer of yes/no questions is right half of the time, and of no other.
    assert result.most_frequent == "yes"
    assert result.group("answer type yes/no").beside["most frequent"] == pytest.approx(51.1, abs=0.1)


def test_what_was_not_answered_is_wrong_and_not_left_out():
    result = score_answers(OPEN, {"a": "Dog ", "c": "dog"})
    assert (result.asked, result.answered, result.unreadable) == (4, 2, 0)
    assert result.group("all").accuracy == 25.0
    assert result.group("kind now").accuracy == 50.0 and result.group("kind order").accuracy == 0.0
    assert result.group("answer type what").accuracy == pytest.approx(100 / 3)
    assert result.macro == 25.0


def test_constant_answers_stand_beside_the_accuracy_counted_in_training_questions_where_there_are_some():
    result = score_answers(OPEN, {})
    everything = result.group("all").beside
    assert (result.most_frequent, everything["most frequent"]) == ("dog", 50.0)
    assert everything["most frequent per question word"] == 100.0
    train = [replace(OPEN[2], question_id="t"), replace(OPEN[2], question_id="u", question="what is it?")]
    result = score_answers(OPEN, {}, train=train)
    assert (result.most_frequent, result.constants_of) == ("cat", "the training questions")
    assert result.group("all").beside["most frequent"] == 25.0


def test_a_closed_list_has_a_ceiling():
    result = score_answers(OPEN, {"a": 0, "b": 1, "c": 7}, answer_list=["dog", "yes"])
    assert (result.outside_list, result.ceiling) == (25.0, 75.0)
    assert list(result.questions["prediction"][:2]) == ["dog", "yes"]
    assert (result.group("all").accuracy, result.unreadable) == (25.0, 1)
    with pytest.raises(ValueError, match=r"the answers to open questions are numbers, as 0: .* --list ans2label.json"):
        score_answers(OPEN, {"a": 0})


def test_intervals_draw_whole_videos():
    # All questions of a video are right or none is: of many videos with one question each it would be the same.
    many = [question_about(f"{v}-{i}", "yes", video=str(v)) for v in range(10) for i in range(50)]
    given = {one.question_id: "yes" if int(one.video_id) < 5 else "no" for one in many}
    wide = score_answers(many, given).group("all")
    apart = score_answers([replace(one, video_id=one.question_id) for one in many], given).group("all")
    assert wide.accuracy == apart.accuracy == 50.0
    widths = [one.high - one.low for one in (wide, apart) if one.low is not None and one.high is not None]
    assert widths[0] > 5 * widths[1]
    alone = score_answers([replace(one, video_id="v") for one in many], given).group("all")
    assert (alone.low, alone.high) == (None, None)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (1, 1), ("1", 1), (1.0, 1), ("right", 1), (" Right", 1), ("B", 1), ("(b)", 1), ("b.", 1),
        ("2", 2),  # an option's text goes before a number
        (3, None), (-1, None), ("d", None), ("up", None), ("", None), (None, None), (0.5, None), ("left, right", None),
    ],
)  # fmt: skip
def test_an_answer_to_multiple_choice_is_a_number_a_letter_or_a_text_and_never_a_guess(given, option):
    assert read_answer(choice("a", 0), given, None) == option


def test_options_that_are_equal_are_told_apart_by_their_number():
    question = choice("a", 1, ("left", "left", "right"))
    assert (worth(question, 1), worth(question, 0)) == (1.0, 0.0)


def test_counts_have_a_squared_error_and_an_accuracy():
    questions = [question_about(str(n), str(n), answer_type="count") for n in (1, 2, 3, 10)]
    result = score_answers(questions, {"1": 1, "2": "four", "3": "3.4", "10": "many"})
    counting = result.counting
    assert (counting.questions, counting.answered, result.unreadable) == (4, 3, 1)
    assert counting.mean_squared_error == pytest.approx((0 + 4 + 0.16) / 3)
    assert counting.accuracy == 50.0
    # Equally frequent: the first by the alphabet, so 1.
    assert counting.beside["most frequent"] == pytest.approx((0 + 1 + 4 + 81) / 4)


def test_votes_and_soft_labels():
    votes = tuple(["a dog"] * 4 + ["dogs"] * 2 + ["cat", "bird", "fish", "cow"])
    question = Question("a", "v", "what?", votes=votes, kind="what")
    assert worth(question, "the dog") == 1.0
    assert worth(question, "dogs") == pytest.approx(0.6)
    soft = Question("b", "v", "what?", ("net", "nets"), (1.0, 0.3))
    none = Question("c", "v", "what?")  # none of the ten answers is in the list
    result = score_answers([soft, none], {"b": "nets", "c": "net"}, answer_list=["nets"])
    assert (result.group("all").accuracy, result.outside_list, result.ceiling) == (15.0, 0.0, 30.0)


def test_answers_are_read_from_every_layout(tmp_path):
    expected = {"a": "dog", "b": "cat"}
    entries = [{"question_id": id, "answer": answer} for id, answer in expected.items()]
    right = [entry | {"prediction": entry["answer"], "answer": "bird"} for entry in entries]
    for name, content in {
        "a.json": entries,
        "a.jsonl": entries,
        "b.json": expected,
        "c.json": {id: {"prediction": answer, "answer": "x"} for id, answer in expected.items()},
        "d.json": right,
        "e.json": {"results": entries},
        "a.csv": "qid,pred\na,dog\nb,cat\n",
    }.items():
        assert read_answers(write(tmp_path / name, content), OPEN) == expected, name
    pd.DataFrame(right).to_parquet(tmp_path / "a.parquet")
    assert read_answers(tmp_path / "a.parquet", OPEN) == expected
    assert read_answers(write(tmp_path / "a.txt", "dog\ncat\n"), OPEN[:2]) == expected
    by_number = [
        {"question_id": 1, "answer": "cat", "data": {"question": "what?"}},
        {"question_id": 0, "answer": "dog"},
    ]
    assert read_answers(write(tmp_path / "a.jsonl", by_number), OPEN) == expected


def test_answers_that_cannot_be_read_are_named(tmp_path):
    def refused(name, content):
        with pytest.raises(ValueError) as error:
            read_answers(write(tmp_path / name, content), OPEN)
        return str(error.value).replace(f"{tmp_path}/", "")

    one = {"question_id": "a", "answer": "dog"}
    assert refused("a.jsonl", [one, one]) == "a.jsonl, line 2: a second answer to the question 'a'; expected one each"
    assert refused("a.json", [{"question_id": "a"}]).startswith(
        "a.json, entry 1: found {'question_id': 'a'}; expected [{"
    )
    assert refused("a.json", {"a": {"said": 1}}).startswith("a.json, 'a': found {'said': 1}; expected [{")
    assert refused("a.json", {"a": ["x", "y"]}) == "a.json, 'a': the answer is a list of 2; expected a text or a number"
    assert refused("a.json", "") == "a.json: the file is empty"
    assert refused("a.txt", "dog\n") == "a.txt: found 1 lines; expected one for each of 4 questions"
    with pytest.raises(ValueError, match=r"2 answers are to questions that were not asked, the first 'y'"):
        score_answers(OPEN, {"y": "dog", "a": "dog", "z": "dog"})
    with pytest.raises(ValueError, match=r"1 questions have no answer, the first 't'; expected one for each"):
        score_answers([*OPEN, Question("t", "v", "what?")], {})


def test_a_list_of_answers_is_read_as_published(tmp_path):
    assert read_answer_list(write(tmp_path / "a.json", {"yes": 1, "dog": 0})) == ["dog", "yes"]
    assert read_answer_list(write(tmp_path / "a.json", ["dog", "yes"])) == ["dog", "yes"]
    with pytest.raises(ValueError, match="labels are not the numbers from 0 to 1, each once"):
        read_answer_list(write(tmp_path / "a.json", {"yes": 1, "dog": 2}))


def test_the_command_scores_answers(tmp_path, monkeypatch, capsys):
    rows = [
        {"question_id": one.question_id, "video_id": one.video_id, "question": one.question, "answer": one.answer}
        for one in OPEN
    ]
    files = [write(tmp_path / "candidates.json", {"a": 0, "c": 1}), write(tmp_path / "asked.jsonl", rows)]
    answers = write(tmp_path / "ans2label.json", {"dog": 0, "cat": 1})
    arguments = ["score", "--answers", *map(str, files), "--list", str(answers)]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    text = capsys.readouterr().out
    assert "2 of 4 questions answered (50.00 %), 0 of them unreadable" in text
    assert "answers outside the list: 25.00 % of the open questions" in text
    monkeypatch.setattr("sys.argv", [*arguments, "--json"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert (found["accuracy"], found["coverage"], found["ceiling"]) == (50.0, 50.0, 75.0)
    monkeypatch.setattr("sys.argv", arguments[:3])
    with pytest.raises(
        SystemExit, match=r"^score: name the files of the questions that .*candidates.json answers, behind it"
    ):
        main()
