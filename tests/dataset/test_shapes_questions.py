"""pipeline/dataset/shapes/questions.py: what is asked about the built-in videos, and that the words tell nothing."""

from collections import Counter, defaultdict

import pytest

from pipeline.dataset.shapes.dataset import _ground_truth, video_id
from pipeline.dataset.shapes.grammar import COLOURS, PLACES
from pipeline.dataset.shapes.questions import HAPPENED, KINDS, _candidates, picture_questions, video_questions
from pipeline.dataset.shapes.scenes import video_scene

VIDEOS = {"train": 1000, "val": 20, "test": 1000}


@pytest.fixture(scope="module")
def truths():
    return {
        video_id(split, index): _ground_truth(video_scene(0, split, index), split, 128, 5.0)
        for split, count in VIDEOS.items()
        for index in range(count)
    }


@pytest.fixture(scope="module")
def questions(truths):
    return video_questions(truths, per_video={"train": 10, "val": 7, "test": 7}, seed=0)


def test_every_kind_is_asked_and_as_many_of_each_video_as_wanted(truths, questions):
    assert {question.kind for question in questions} == set(KINDS)
    assert len({question.question_id for question in questions}) == len(questions)
    of_video = Counter(question.video_id for question in questions if question.split == "test")
    possible = {name: len(list(_candidates(truth))) for name, truth in truths.items() if truth["split"] == "test"}
    assert of_video == {name: min(7, count) for name, count in possible.items()}
    assert of_video.total() > 6.9 * VIDEOS["test"]  # a video that offers fewer is rare
    counts = Counter(question.kind for question in questions if question.split == "test")
    assert min(counts.values()) > 600  # a seventh of 7,000 would be 1,000; not every video ends in each kind


def test_whoever_sees_no_video_scores_what_the_most_frequent_answer_scores(questions):
    # The best that can be done with the words alone: the most frequent answer to this very question, in training.
    by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        if question.split == "train":
            by_text[question.question][question.answer] += 1
            by_kind[question.kind][question.answer] += 1
    for kind in KINDS:
        test = [question for question in questions if question.split == "test" and question.kind == kind]
        frequent = max(Counter(question.answer for question in test).values()) / len(test)
        best = {text: counts.most_common(1)[0][0] for text, counts in by_text.items()}
        otherwise = by_kind[kind].most_common(1)[0][0]
        blind = sum(best.get(one.question, otherwise) == one.answer for one in test) / len(test)
        assert blind < frequent + 0.03, kind


def test_all_answers_of_a_kind_are_of_one_type(questions):
    found: defaultdict[str, set[str]] = defaultdict(set)
    for question in questions:
        found[question.kind].add(question.answer)
    assert found == {
        "now": set(COLOURS),
        "earlier": set(HAPPENED.values()),
        "order": {"yes", "no"},
        "before": {"yes", "no"},
        "count": {"1", "2", "3", "4", "5"},
        "where": set(PLACES),
    }


def test_answers_and_evidence_are_those_of_the_ground_truth(truths, questions):
    for question in questions:
        truth = truths[question.video_id]
        assert question.evidence and all(0 <= from_s < to_s for from_s, to_s in question.evidence)
        assert min(from_s for from_s, _ in question.evidence) < question.end_s <= truth["duration_s"]
        segments = [one for one in truth["segments"] if one["end_s"] <= question.end_s]
        if question.kind == "before":
            assert {"yes": "comes_back", "no": "comes_in"}[question.answer] == segments[-1]["facts"]["event"]
            assert len(question.evidence) == (2 if question.answer == "yes" else 1)
        elif question.kind == "now":
            assert segments[-1]["facts"]["things"][0]["colour"] == question.answer
        elif question.kind == "order":
            # The event that shows the first colour or place is before the other one's, or it is not.
            [segment] = [
                one
                for one in segments
                if one["kind"] == "order"
                and f"{one['facts']['things'][0]['colour']} {one['facts']['things'][0]['shape']}" in question.question
            ]
            named = segment["facts"]["places"] or segment["facts"]["colours"]
            rest = question.question.split(segment["facts"]["things"][0]["shape"])[1]
            first, second = sorted((word for word in named if f" {word}" in rest), key=rest.index)
            assert (named.index(first) < named.index(second)) == (question.answer == "yes")


def test_more_videos_change_no_earlier_question(truths, questions):
    some = dict(list(truths.items())[:50])
    found = video_questions(some, per_video={"train": 10, "val": 7, "test": 7}, seed=0)
    assert found == questions[: len(found)]


def test_pictures_are_asked_what_their_captions_state():
    captions = {
        "a": ("train", ["a red star rests on the left"]),
        "b": ("train", ["a red star and a blue ring float together"]),
    }
    found = picture_questions(captions, seed=0)
    truth = {"what colour is the star?": "red", "what shape is there?": "star", "where is the star?": "left"}
    assert len(found) == 2 and all(truth[one.question] == one.answer for one in found)
    assert {(one.video_id, one.kind, one.split) for one in found} == {("a", "now", "train")}
