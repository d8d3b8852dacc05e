import numpy as np
import pytest

from pipeline.captioner.sequences import collate, make_examples, pad_tokens, plan_batches
from pipeline.dataset.segments import Segment, frames_of_segment
from pipeline.features.embeddings import VideoEmbeddings


def segment(name: str, start_s: float, end_s: float, video_id: str = "v", split: str = "train") -> Segment:
    return Segment(name, video_id, split, start_s, end_s, ("a caption",), None)


def video(frames: int) -> VideoEmbeddings:
    """Frame i has the embedding [i, i]."""
    return VideoEmbeddings(np.arange(frames) / 5, np.repeat(np.arange(frames, dtype=np.float16)[:, None], 2, axis=1))


SEGMENTS = [segment("a", 0, 1), segment("b", 1, 2), segment("c", 0.4, 1.4)]


def test_a_segment_takes_the_frames_that_begin_in_it():
    times = [0.0, 0.2, 0.4, 0.6]
    assert list(frames_of_segment(0.2, 0.6, times)) == [1, 2]
    assert list(frames_of_segment(0.0, 9.0, times)) == [0, 1, 2, 3]
    assert list(frames_of_segment(0.0, 9.0, np.array(times))) == [0, 1, 2, 3]
    assert list(frames_of_segment(0.25, 0.35, times)) == [1]  # between two frames: the one on screen
    assert list(frames_of_segment(0.4, 0.4, times)) == [2]
    assert list(frames_of_segment(5.0, 9.0, times)) == [3]  # past the last: it stays on screen
    assert list(frames_of_segment(0.0, 1.0, [0.5])) == [0]
    with pytest.raises(ValueError, match=r"no frames for the segment \[1.0, 2.0\) s: its video has none"):
        frames_of_segment(1.0, 2.0, [])


def test_with_scope_video_a_sequence_runs_to_the_end_of_the_last_segment():
    (example,) = make_examples(SEGMENTS, {"v": video(30)}, scope="video")
    assert len(example) == len(example.read()) == 10
    assert [(t.segment.segment_id, t.start, t.end) for t in example.targets] == [("a", 0, 4), ("c", 2, 6), ("b", 5, 9)]


def test_with_scope_past_a_sequence_is_the_video_up_to_the_end_of_one_segment():
    examples = make_examples(SEGMENTS, {"v": video(30)}, scope="past")
    assert [len(example) for example in examples] == [5, 10, 7]
    assert [(t.segment.segment_id, t.start, t.end) for example in examples for t in example.targets] == [
        ("a", 0, 4),
        ("b", 5, 9),
        ("c", 2, 6),
    ]


def test_with_scope_segment_a_sequence_is_the_segments_own_frames():
    examples = make_examples(SEGMENTS, {"v": video(30)}, scope="segment")
    assert [example.read()[:, 0].tolist() for example in examples] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [2, 3, 4, 5, 6],
    ]
    assert all((t.start, t.end) == (0, 4) for example in examples for t in example.targets)


def test_segments_of_a_video_without_embeddings_are_left_out():
    assert make_examples(SEGMENTS, {}, scope="video") == []


def test_a_batch_pads_sequences_and_keeps_segments_in_order():
    segments = [*SEGMENTS, segment("d", 0, 0.6, "w")]
    batch = collate(make_examples(segments, {"v": video(30), "w": video(4)}, scope="video"))
    assert batch.embeddings.shape == (2, 10, 2)
    assert batch.embeddings[1, :, 0].tolist() == [0, 1, 2] + [0] * 7
    assert batch.real.tolist() == [[True] * 3, [True, False, False]]
    assert [s.segment_id for s in batch.segments] == ["a", "c", "b", "d"]
    assert batch.moments.frame[batch.real].tolist() == [4, 6, 9, 2]
    assert batch.moments.segment_start[batch.real].tolist() == [0, 2, 5, 0]


@pytest.fixture
def examples():
    segments = [segment(f"{v}{n}", n, n + 1, f"v{v}") for v in range(20) for n in range(1 + v % 4)]
    videos = {f"v{v}": video(5 * (1 + v % 4)) for v in range(20)}
    return make_examples(segments, videos, scope="video")


def test_an_epoch_takes_every_example_once_and_depends_on_its_seed_alone(examples):
    batches = plan_batches(examples, 8, seed=(0, 1))
    assert sorted(i for batch in batches for i in batch) == list(range(20))
    assert batches == plan_batches(examples, 8, seed=(0, 1))
    assert batches != plan_batches(examples, 8, seed=(0, 2))


def test_a_batch_is_whole_examples_of_about_so_many_segments(examples):
    for seed in (None, (3, 4)):
        sizes = [sum(len(examples[i].targets) for i in batch) for batch in plan_batches(examples, 8, seed=seed)]
        assert all(8 <= size < 8 + 4 for size in sizes[:-1] if seed is None)
        assert sum(sizes) == 50 and max(sizes) < 8 + 4


def test_lengths_mask_captions_so_token_0_may_be_a_word():
    tokens, lengths = pad_tokens([[0, 5, 0], [7]])
    assert tokens.tolist() == [[0, 5, 0], [7, 0, 0]]
    assert lengths.tolist() == [3, 1]
