"""Streams of frames, in any pieces, against whole sequences at once."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.captioner.memory import Moments
from pipeline.captioner.streaming import Stream, stream_segments
from tests.captioner.test_memory import make_mapper

MEMORY = {
    "layers": st.sampled_from([(2,), (3,), (2, 3), (2, 4)]),
    "k": st.integers(1, 20),
    "max_entries": st.integers(3, 40),
    "gate": st.sampled_from(["joint", "sigmoid"]),
    "keyframes": st.integers(0, 3),
    "usual_keys": st.sampled_from([None, 4]),
    "match_features": st.booleans(),
}


def recalled_whole(mapper, frames, start):
    """What segments that end with the last of frames [T, E] recall, computed from all of them at once."""
    return mapper.recalled(frames[None], Moments(torch.full_like(start, len(frames) - 1), start))


@settings(max_examples=100, deadline=None)
# Rows that are not equally far go on together: what one of them stores is not the last of what all have stored.
@example(
    seed=0,
    memory={"layers": (2, 3), "k": 1, "max_entries": 3, "gate": "joint", "keyframes": 0},
    time_and_gate=("age", None),
    history=[("remember", 0, 1), ("remember", None, 1)],
)
@given(
    seed=st.integers(0, 10_000),
    memory=st.fixed_dictionaries(MEMORY),
    # Ages of all that is remembered are known only where nothing is left out of it.
    time_and_gate=st.sampled_from([("age", None), ("segment", None), ("none", 0.3), ("segment", 0.3)]),
    # What is done, and to which row (None: all).
    history=st.lists(
        st.tuples(
            st.sampled_from(["remember", "remember", "remember", "recall", "recall", "clear", "restart"]),
            st.sampled_from([None, None, 0, 1, 2]),
            st.integers(1, 9),
        ),
        min_size=1,
        max_size=16,
    ),
)
def test_whatever_is_done_to_which_row_a_stream_recalls_what_the_whole_sequence_would(
    seed, memory, time_and_gate, history, tmp_path_factory
):
    time, write_below = time_and_gate
    mapper = make_mapper(seed, **memory, time=time, write_below=write_below)
    generator = torch.Generator().manual_seed(seed)
    path = tmp_path_factory.mktemp("stream") / "memory.safetensors"
    stream = Stream(mapper, rows=3)
    seen = [torch.zeros(0, 5, dtype=torch.float64) for _ in range(3)]  # the oracle: everything since a row's start
    for action, row, count in [*history, ("recall", None, 1)]:
        rows = range(3) if row is None else [row]
        new = torch.randn(len(rows), count, 5, generator=generator, dtype=torch.float64)
        if action == "remember":
            stream.remember(new, row=row)
            for i, frames in zip(rows, new, strict=True):
                seen[i] = torch.cat([seen[i], frames])
        elif action == "recall":
            start = torch.stack([torch.randint(0, len(seen[i]) + 1, (2,), generator=generator) for i in rows])
            got = stream.recall(new[:, :1], start, row=row)
            for i, frame, begin, recalled in zip(rows, new[:, :1], start, got, strict=True):
                whole = recalled_whole(mapper, torch.cat([seen[i], frame]), begin[None])
                torch.testing.assert_close(recalled.prefixes, whole.prefixes, rtol=1e-9, atol=1e-9)
                for layer, attended in recalled.attended.items():
                    of_all = torch.zeros(*attended.shape[:3], len(seen[i]) + 1, dtype=attended.dtype)
                    of_all[..., recalled.frames] = attended
                    torch.testing.assert_close(of_all, whole.attended[layer], rtol=1e-9, atol=1e-9)
        elif action == "clear":
            stream.clear(row)
            for i in rows:
                seen[i] = seen[i][:0]
        else:  # the process ends and another goes on
            stream.save(path)
            stream = Stream(mapper, rows=3)
            stream.load(path)


def test_segments_of_a_streamed_video_have_the_prefixes_of_the_whole_in_whatever_order_they_end():
    mapper = make_mapper(5, layers=(2, 3), max_entries=30, keyframes=2)
    embeddings = torch.randn(1, 40, 5, dtype=torch.float64)
    moments = Moments(torch.tensor([[30, 4, 30, 0, 39]]), torch.tensor([[20, 2, 5, 0, 31]]))
    streamed = stream_segments(mapper, embeddings, moments)
    prefixes = torch.cat([segment.prefixes for segment in streamed], dim=1)
    torch.testing.assert_close(prefixes, mapper(embeddings, moments), rtol=1e-9, atol=1e-9)


def test_a_long_stream_holds_no_more_than_its_memory():
    mapper = make_mapper(0, layers=(2, 3), max_entries=30)
    stream = Stream(mapper)
    held = [stream._embeddings, *(part for buffer in stream._buffers.values() for part in (buffer.keys, buffer.values))]
    per_frame = 2 * 2 * 3 * 8 + 5  # layers, keys and values, tokens, width; and the embedding
    assert sum(part.numel() for part in held) <= 1.25 * 10 * per_frame
    for _ in range(500):
        stream.remember(torch.randn(1, 1, 5, dtype=torch.float64))
    assert stream.frames == [500]
    assert [len(part) for part in held] == [1, 1, 1, 1, 1] and stream._embeddings is held[0]


def test_what_was_written_is_remembered_when_the_frames_around_it_are_long_forgotten():
    still, other = torch.randn(2, 5, dtype=torch.float64)
    frames = torch.cat([other[None], still.expand(100, 5)])[None]
    for write_below, remembered in ((0.99, [0, 1]), (None, [])):
        mapper = make_mapper(0, layers=(3,), max_entries=30, k=99, time="segment", write_below=write_below)
        stream = Stream(mapper)
        for piece in frames.split(7, dim=1):
            stream.remember(piece)
        (recalled,) = stream.recall(still[None, None], torch.tensor([[95]]))
        assert recalled.frames is not None
        paid = recalled.attended[3].sum((0, 1, 2))
        assert recalled.frames[paid > 0].tolist() == remembered + list(range(91 if write_below is None else 95, 101))
        assert len(recalled.frames) <= 1.25 * 10 if write_below is None else 2.25 * 10


def test_a_memory_of_another_mapper_or_of_other_rows_is_refused(tmp_path):
    saved = Stream(make_mapper(0, layers=(2, 3)), rows=2)
    saved.remember(torch.randn(2, 4, 5, dtype=torch.float64))
    saved.save(tmp_path / "memory.safetensors")
    for other in (
        Stream(make_mapper(0, layers=(2, 4)), rows=2),
        Stream(make_mapper(0, layers=(2,)), rows=2),
        Stream(make_mapper(0, layers=(2, 3)), rows=1),
        Stream(make_mapper(0, layers=(2, 3)), rows=3),
        Stream(make_mapper(0, layers=(2, 3), max_entries=6), rows=2),
    ):
        with pytest.raises(ValueError, match="was saved by another mapper, or with"):
            other.load(tmp_path / "memory.safetensors")
        assert other.frames == [0] * other.rows


def test_a_captioner_without_memory_has_nothing_to_stream():
    mapper = make_mapper(0)
    mapper.memory = None
    with pytest.raises(ValueError, match="has no memory"):
        Stream(mapper)
