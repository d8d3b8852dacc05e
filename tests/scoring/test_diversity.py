import pytest

from pipeline.scoring.diversity import diversity, words


def test_words_are_runs_of_letters_and_digits_whatever_the_case():
    assert words("A dog's café, 2 dogs — END.") == ["a", "dog's", "café", "2", "dogs", "end"]
    assert words("🐕 ...") == []


def test_captions_that_are_all_the_same_are_not_diverse():
    captions = {str(i): "a dog runs" for i in range(10)}
    found = diversity(captions)
    assert (found["distinct-1"], found["distinct-2"], found["vocabulary"]) == (10, 10, 3)
    assert "copied" not in found


def test_repetition_counts_pairs_of_words_that_stood_before_in_the_same_caption():
    # Of 5 pairs in the first, "a dog" and "dog a" come again; to say what another said is no stutter.
    assert diversity({"1": "a dog a dog a cat", "2": "a dog"})["repetition"] == pytest.approx(100 * 2 / 6)


def test_a_copy_is_a_copy_whatever_its_case_and_punctuation():
    found = diversity({"1": "A dog runs.", "2": "a dog runs fast"}, training=["a dog runs", "a cat"])
    assert found["copied"] == 50


def test_nothing_said_is_no_error():
    assert set(diversity({"1": ""}, []).values()) == {0}
