import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.shapes.grammar import (
    EVENTS,
    LONG_EVENTS,
    Facts,
    Thing,
    all_captions,
    all_facts,
    captions,
    facts_right,
    possible,
    read_facts,
)

EVERY_FACT = list(all_facts())


@given(st.sampled_from(EVERY_FACT), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_every_caption_reads_back_to_exactly_its_facts(facts, rng):
    for caption in captions(facts, 8, rng):
        assert read_facts(caption) == facts


@given(st.sampled_from(EVERY_FACT), st.data())
@settings(max_examples=200, deadline=None)
def test_case_punctuation_and_spacing_do_not_matter(facts, data):
    caption = data.draw(st.sampled_from(all_captions(facts)))
    loud = "  " + caption.upper().replace(" ", "\t ").replace(",", " ,") + " . "
    assert read_facts(loud) == facts


@given(st.sampled_from(EVERY_FACT), st.data())
@settings(max_examples=200, deadline=None)
def test_a_caption_with_a_word_lost_or_doubled_never_reads_as_its_facts(facts, data):
    words = data.draw(st.sampled_from(all_captions(facts))).split()
    at = data.draw(st.integers(0, len(words) - 1))
    if words[at] not in ("small", "large", "tilted", "new", "same"):  # these may go: other facts, or none
        assert read_facts(" ".join(words[:at] + words[at + 1 :])) is None
    assert read_facts(" ".join([*words[:at], words[at], words[at], *words[at + 1 :]])) is None


def test_different_facts_never_share_a_caption():
    owner: dict[Any, Any] = {}
    rng = random.Random(0)
    for facts in EVERY_FACT:
        if facts.event == "float_three" and rng.random() > 0.1:
            continue
        for caption in all_captions(facts):
            assert owner.setdefault(caption, facts) == facts


@pytest.mark.parametrize("event", LONG_EVENTS)
def test_captions_of_several_old_moments_read_back_to_their_facts_and_are_nobody_elses(event):
    things = (Thing("red", "star"), Thing("blue", "ring"))[: LONG_EVENTS[event].things]
    facts = Facts(event, things)
    assert possible(facts)
    made = set(captions(facts, 5, random.Random(0)))
    assert made == set(all_captions(facts)) and len(made) == 5
    assert {read_facts(caption) for caption in made} == {facts}
    assert not made & {caption for one in EVERY_FACT if things[0] in one.things for caption in all_captions(one)}
    if len(things) > 1:  # who came first is what it is about
        assert not made & set(all_captions(Facts(event, things[::-1])))


def test_captions_are_short_and_use_few_words():
    words = set()
    for facts in EVERY_FACT[::7]:
        for caption in captions(facts, 6, random.Random(1)):
            assert 5 <= len(caption.split()) <= 14, caption
            assert caption == caption.lower() and "\n" not in caption
            words.update(caption.replace(",", "").split())
    assert len(words) < 150


def test_every_event_has_five_paraphrases_and_captions_use_them_all_before_repeating():
    for facts in {facts.event: facts for facts in EVERY_FACT}.values():
        assert len(EVENTS[facts.event].templates) >= 5
        assert len(set(captions(facts, 5, random.Random(2)))) == 5


def test_coming_in_and_coming_back_have_paraphrases_of_the_same_lengths():
    star = (Thing("red", "star"),)
    lengths = [[len(c.split()) for c in all_captions(Facts(e, star))] for e in ("comes_in", "comes_back")]
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a dog catches a frisbee",
        "an red star rests on the left",  # article
        "a red star rests at the left",  # preposition
        "a red star turns red",
        "a white star turns red",
        "a red star moves from the left to the left",
        "a red ring flashes blue, then green, then pink",  # only white ones flash
        "a white ring flashes blue, then green, then blue",
        "a red star rests beside a red ring",
        "a small red star turns blue",  # sizes are of pictures only
        "a red circle spins around itself",  # which no one could see
        "a star visits the centre, then the left, then the right",
        "a red star rests on the left a red star",
    ],
)
def test_what_the_grammar_cannot_say_states_no_facts(caption):
    assert read_facts(caption) is None


def test_things_side_by_side_have_no_order():
    assert read_facts("a red star rests beside a blue ring") == read_facts("beside a blue ring rests a red star")


def test_impossible_facts_are_refused():
    assert not possible(Facts("no such event"))
    assert not possible(Facts("turns", (Thing("red", "star"),), colours=("red",)))
    assert not possible(Facts("rests_beside", (Thing("red", "star"), Thing("blue", "ring"))))  # not sorted


def test_facts_are_right_in_any_paraphrase_and_wrong_otherwise():
    references = ["a green circle turns blue", "a green circle becomes blue"]
    assert facts_right("The colour of a green circle changes to blue.", references) is True
    assert facts_right("a blue circle turns green", references) is False
    assert facts_right("a green circle", references) is False


def test_facts_of_another_datasets_references_are_unknown():
    assert facts_right("a green circle turns blue", ["a man is seen speaking to the camera"]) is None
    assert facts_right("a green circle turns blue", []) is None
