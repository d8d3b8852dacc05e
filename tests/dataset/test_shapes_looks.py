"""What is ever seen in a built-in video, by its ground truth."""

import pytest

from pipeline.dataset.shapes.looks import asked_about, empty, looks_in, looks_of, read_scenes, stage_set_s


def shown(from_s, to_s, *colours):
    return {"from_s": from_s, "to_s": to_s, "colours": [[from_s + number, name] for number, name in enumerate(colours)]}


STAR = {"shape": "star", "shown": [shown(1.0, 4.0, "red", "blue"), shown(9.0, 12.0, "blue")]}
RING = {"shape": "ring", "shown": [shown(4.7, 8.0, "red")]}
TRUTH = {"objects": [STAR, RING]}


def test_a_thing_that_changes_colour_has_two_looks():
    assert looks_of(STAR) == {("red", "star"), ("blue", "star")}
    assert looks_of(STAR, 1.5) == {("red", "star")}
    assert looks_in(TRUTH) == {("red", "star"), ("blue", "star"), ("red", "ring")}


def test_a_question_is_about_all_looks_of_what_it_names_in_whatever_colour_it_names_it():
    for colour in ("red", "blue"):
        assert asked_about(f"did the {colour} star flash red before green?", TRUTH) == looks_of(STAR)
    assert asked_about("was the red star red first?", TRUTH, 1.5) == {("red", "star")}
    assert asked_about("has the white star been here before?", TRUTH) == {("white", "star")}
    assert asked_about("how many shapes have been here so far?", TRUTH) == set()


def test_a_stage_is_empty_where_nothing_is_seen_and_not_just_before_or_after():
    times = [0.0, 0.9, 2.0, 4.1, 4.4, 8.5, 8.9, 13.0]
    assert empty(TRUTH, times, 0.2).tolist() == [True, False, False, False, True, True, False, True]


def test_what_a_segment_begins_with_appears_just_before_it():
    assert stage_set_s(TRUTH, {"start_s": 5.0}) == 4.7
    assert stage_set_s(TRUTH, {"start_s": 4.5}) == 4.5


def test_videos_whose_ground_truth_nobody_has_written_down_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"scenes\.json: no such file; only the built-in videos"):
        read_scenes(tmp_path / "scenes.json")
