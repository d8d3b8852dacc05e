"""Streams of frames, in any pieces, against whole sequences at once."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_memory import make_mapper

from pipeline import retrieval
from pipeline.memory import Moments
from pipeline.streaming import Stream, stream_segments

MEMORY = {
    "layers": st.sampled_from([(2,), (3,), (2, 3), (2, 4)]),
    "k": st.integers(1, 20),
    "max_entries": st.integers(3, 40),
    "gate": st.sampled_from(["joint", "sigmoid"]),
    "time": st.sampled_from(["age", "none"]),
    "keyframes": st.integers(0, 3),
}


def recalled_whole(mapper, frames, start):
    """What segments that end with the last of frames [T, E] recall, computed from all of them at once."""
    return mapper.recalled(frames[None], Moments(torch.full_like(start, len(frames) - 1), start))


@settings(max_examples=100, deadline=None)
# Rows that are not equally far go on together: what one of them stores is not the last of what all have stored.
@example(
    seed=0,
    memory={"layers": (2, 3), "k": 1, "max_entries": 3, "gate": "joint", "time": "age", "keyframes": 0},
    history=[("remember", 0, 1), ("remember", None, 1)],
)
@given(
    seed=st.integers(0, 10_000),
    memory=st.fixed_dictionaries(MEMORY),
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
    seed, memory, history, tmp_path_factory
):
    mapper = make_mapper(seed, **memory)
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
                    held = attended[..., : len(seen[i]) - recalled.first]  # behind it is what other rows hold
                    of_all[..., recalled.first : recalled.first + held.shape[-1]] = held
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
    streamed = stream_segments(mapper, embeddings, moments, index="exact")
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
        with pytest.raises(ValueError, match="the memory of another mapper or of"):
            other.load(tmp_path / "memory.safetensors")
        assert other.frames == [0] * other.rows


def test_a_captioner_without_memory_has_nothing_to_stream():
    mapper = make_mapper(0)
    mapper.memory = None
    with pytest.raises(ValueError, match="has no memory"):
        Stream(mapper)


def assert_alike(rows, others):
    """To rounding: faiss sums in another order."""
    for row, other in zip(rows, others, strict=True):
        torch.testing.assert_close(row.prefixes, other.prefixes, rtol=1e-3, atol=1e-4)


def test_an_approximate_stream_that_looks_into_every_list_is_exact(monkeypatch):
    monkeypatch.setattr(retrieval, "LISTS", 4)
    monkeypatch.setattr(retrieval, "PROBES", 4)
    monkeypatch.setattr(retrieval, "LEAST_KEYS", 20)
    mapper = make_mapper(3, layers=(2, 3), k=5, max_entries=90).float()
    exact, approximate = Stream(mapper, rows=2), Stream(mapper, rows=2, index="approximate")
    generator = torch.Generator().manual_seed(3)
    for at in range(0, 120, 4):  # the rows are full after 30 frames, so they forget many times
        piece = torch.randn(2, 4, 5, generator=generator)
        start = torch.randint(max(0, at - 20), at + 1, (2, 3), generator=generator)
        assert_alike(approximate.recall(piece[:, :1], start), exact.recall(piece[:, :1], start))
        exact.remember(piece)
        approximate.remember(piece)
    assert all(index._files for indices in approximate._indices.values() for index in indices)
    approximate.clear(row=0)
    exact.clear(row=0)
    start = torch.zeros(2, 1, dtype=torch.int64)
    assert_alike(approximate.recall(piece[:, :1], start), exact.recall(piece[:, :1], start))
