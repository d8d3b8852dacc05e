"""Training for long videos: which videos are about the same, what distractors are, and the loss on the keys."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.captioner import distant
from pipeline.captioner.distant import Distant, DistantTraining, RarePairs, contrast, likeness
from pipeline.captioner.sequences import collate, make_examples
from pipeline.dataset.segments import Segment
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.params import load_params
from tests.captioner.test_memory import make_mapper, slow_novel


def segment(video: int | str, number: int, *captions: str) -> Segment:
    return Segment(f"{video}#{number}", f"{video}", "train", number, number + 1.0, captions, None)


def crowd() -> list[Segment]:
    """Forty videos of a dog that does something in a place, so that nothing of theirs is rare but what two share."""
    return [segment(f"crowd{i}", 0, f"a dog {i} runs {i} away", f"{i} runs away a dog") for i in range(40)]


def test_a_rare_pair_is_named_by_most_captions_of_a_segment_in_few_segments_of_more_than_one_video():
    one = segment("one", 0, "a red star rests", "there is a Red star, resting", "the red star rests")
    two = segment("two", 0, "a red star rests", "the star is red")  # in half of its captions
    three = segment("three", 0, "the red star comes back")
    alone = segment("alone", 0, "a green heart"), segment("alone", 1, "a green heart")
    pairs = RarePairs([one, two, three, *alone, *crowd()])
    red_star = frozenset(["red", "star"])
    assert pairs.named(one) == {red_star}  # "a red" is in two of its three
    assert not pairs.named(two)
    assert red_star in pairs.named(three)
    assert not pairs.named(alone[0])  # nothing that another video could show
    assert not any(pairs.named(other) for other in crowd())  # "a dog" is not rare, "dog 7" not shared


def test_a_video_may_show_a_pair_wherever_in_one_caption_its_words_are():
    pairs = RarePairs(
        [
            segment("one", 0, "a red star"),
            segment("two", 0, "the red star"),
            segment("flash", 0, "the white star flashes blue, then red"),
            segment("apart", 0, "a red ring"),
            segment("apart", 1, "a blue star"),
            *crowd(),
        ]
    )
    assert pairs.showing(frozenset([frozenset(["red", "star"])])) == {"one", "two", "flash"}
    assert pairs.showing(frozenset()) == set()


THINGS = ("red star", "blue ring", "green heart", "pink square", "cyan circle", "grey cone")


# As few as suit a dataset of sixty short videos; when they come is as in params.yaml.
OPTIONS = {
    "distractors": 500,
    "fewest_distractors": 30,
    "distractor_share": 0.85,
    "distractors_begin": 0.15,
    "distractors_full": 0.45,
    "key_loss": 0.3,
    "key_loss_segments": 64,
    "key_loss_frames": 192,
}


def training(videos=60, frames=20, **options):
    """Of each video half of its frames are as the one before; video i is about thing i modulo 6."""
    random = np.random.default_rng(0)
    segments, embeddings = [], {}
    for v in range(videos):
        segments.append(segment(v, 0, f"a {THINGS[v % 6]} {v}" if v % 10 < 5 else "nothing"))
        embeddings[f"{v}"] = VideoEmbeddings(
            np.arange(frames) / 5, random.normal(size=(frames // 2, 5)).astype(np.float16).repeat(2, axis=0)
        )
    examples = make_examples(segments, embeddings, scope="video")
    below = options.pop("below", 0.99)
    return (
        examples,
        embeddings,
        Distant(examples, DistantTraining(**OPTIONS | options), 0, below),
    )


@pytest.fixture(autouse=True)
def rare_enough(monkeypatch):
    monkeypatch.setattr(distant, "RARE", 0.2)


def drawn(training, batch, count=40, progress=1.0):
    return [found for step in range(count) if (found := training.distractors(batch, 0, step, progress)) is not None]


def test_distractors_are_never_of_a_video_that_may_show_what_a_sequence_is_about():
    examples, embeddings, of_training = training()
    batch = collate([examples[0], examples[5]])  # about the red star; about nothing
    whose = {tuple(frame): video for video, one in embeddings.items() for frame in one.embeddings.tolist()}
    unseen = set()
    for found in drawn(of_training, batch):
        videos = [whose[tuple(frame)] for frame in found.embeddings.to(torch.float16).tolist()]
        for b, own in enumerate(("0", "5")):
            seen = {video for video, sees in zip(videos, found.seen[b].tolist(), strict=True) if sees}
            assert own not in seen
            if b == 0:
                assert not any(int(video) % 6 == 0 and int(video) % 10 < 5 for video in seen)
                unseen |= set(videos) - seen
    assert len(unseen) > 3  # there were such, and others saw them


def test_distractors_are_novel_frames_and_a_function_of_seed_epoch_and_step():
    examples, _, of_training = training()
    batch = collate(examples[:2])
    for found in drawn(of_training, batch):
        frames = found.embeddings
        assert sum(slow_novel(frames, 0.99)) == len(frames)  # but for those that are alike in two videos: none
        assert 30 / 2 <= len(frames) <= 500 / 2
    again = training()[2].distractors(batch, 0, 3, 1.0)
    first = of_training.distractors(batch, 0, 3, 1.0)
    assert torch.equal(first.embeddings, again.embeddings) and torch.equal(first.seen, again.seen)
    other = of_training.distractors(batch, 1, 3, 1.0)
    assert other is None or not torch.equal(first.embeddings[:5], other.embeddings[:5])
    every = training(below=None)[2].distractors(batch, 0, 3, 1.0)
    assert len(every.embeddings) > 1.5 * len(first.embeddings)


def test_distractors_come_after_a_while_in_most_steps_and_become_more():
    examples, _, of_training = training(distractors=400)
    batch = collate(examples[:1])
    assert not drawn(of_training, batch, progress=0.1)
    few = drawn(of_training, batch, progress=0.16)
    many = drawn(of_training, batch, progress=0.9)
    assert 25 <= len(few) <= 39 and 25 <= len(many) <= 39
    assert max(len(found.embeddings) for found in few) < 20 < 100 < max(len(found.embeddings) for found in many)
    assert not drawn(training(distractors=0)[2], batch)


def test_the_schedule_of_distractors_is_that_of_the_params():
    options = DistantTraining.of(load_params(Path("params.yaml")).memory)
    assert [options.most(progress) for progress in (0.0, 0.149, 0.15, 0.45, 1.0)] == [0, 0, 30, 18000, 18000]
    assert math.isclose(options.most(0.3), math.sqrt(30 * 18000))  # half of the way, in octaves
    assert replace(options, distractors_begin=0.45).most(0.45) == 18000  # at once
    assert replace(options, distractors=10).most(1.0) == 30

    # What steps really draw, before and after half of them may have as many as there will be.
    examples, _, of_training = training(below=None, distractors=1000)
    batch = collate(examples[:1])
    counts = {
        progress: [
            len(found.embeddings) if (found := of_training.distractors(batch, 0, step, progress)) else 0
            for step in range(10)
        ]
        for progress in (0.1, 0.3, 0.5)
    }
    assert counts == {
        0.1: [0] * 10,
        0.3: [92, 66, 89, 115, 171, 162, 96, 38, 38, 135],
        0.5: [280, 145, 266, 438, 973, 871, 306, 47, 48, 609],
    }
    sparse = training(below=None, distractors=1000, distractor_share=0.2)[2]
    assert 1 <= len(drawn(sparse, batch)) <= 16
    wide = training(below=None, distractors=1000, fewest_distractors=900)[2]
    assert all(900 <= len(found.embeddings) <= 1000 for found in drawn(wide, batch))


def test_the_loss_on_the_keys_looks_at_as_many_frames_as_the_params_say(monkeypatch):
    seen = []
    found = distant.likeness

    def noted(queries, keys, asking):
        seen.append((keys.shape[1], asking))
        return found(queries, keys, asking)

    monkeypatch.setattr(distant, "likeness", noted)
    mapper = make_mapper(0, layers=(2,), time="segment").float()
    for options in {}, {"key_loss_segments": 5, "key_loss_frames": 7}:
        training(**options)[2].key_loss(mapper, 0, 0)
    assert seen == [(60 + 192, 60), (5 + 7, 5)]  # there are but sixty segments


def test_the_loss_on_the_keys_is_that_of_telling_what_is_alike_from_the_rest():
    scores = torch.tensor([[[3.0, 1.0, 2.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    alike = torch.tensor([[True, False, False, False], [False] * 4])
    unlike = torch.tensor([[False, True, True, False], [True] * 4])
    expected = -math.log(math.exp(3) / (math.exp(3) + math.exp(1) + math.exp(2)))
    assert math.isclose(float(contrast(scores, alike, unlike)), expected, rel_tol=1e-6)
    nobody = scores.clone().requires_grad_()
    loss = contrast(nobody, alike & False, unlike)
    loss.backward()
    assert loss == 0 and not nobody.grad.any()


def test_likeness_is_the_attention_that_a_frames_tokens_would_pay():
    queries, keys = torch.randn(2, 4, 6, 3, 8)
    found = likeness(queries, keys, 2)
    assert found.shape == (2, 2, 6)
    pairs = [float(queries[3, 1, n] @ keys[3, 4, m]) for n in range(3) for m in range(3)]
    assert math.isclose(float(found[1, 1, 4]), math.log(sum(map(math.exp, pairs))), rel_tol=1e-5)


def test_the_loss_on_the_keys_teaches_the_keys_of_videos_about_the_same_to_be_alike():
    segments, embeddings = [], {}
    random = np.random.default_rng(1)
    things = random.normal(size=(6, 5))
    for v in range(60):  # what the segment is about is in its last frames, beneath something that is larger
        segments.append(segment(v, 0, f"a {THINGS[v % 6]} {v}"))
        frames = things[v % 6] + random.normal(size=5) * np.array([0.1, 0.1, 0.1, 3, 3])
        embeddings[f"{v}"] = VideoEmbeddings(np.arange(4) / 5, frames[None].repeat(4, axis=0).astype(np.float16))
    examples = make_examples(segments, embeddings, scope="video")
    of_training = Distant(examples, DistantTraining(**OPTIONS | {"distractors": 0, "key_loss": 1.0}), 0, None)
    mapper = make_mapper(0, layers=(2,), time="segment").float()
    optimizer = torch.optim.Adam(mapper.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        loss = of_training.key_loss(mapper, 0, step)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 1.5
