"""A stream of frames, in any pieces, against the whole sequence at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_memory import make_mapper

from pipeline.memory import Moments
from pipeline.streaming import Stream


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    layers=st.sampled_from([(2,), (3,), (2, 3), (2, 4)]),
    k=st.integers(1, 20),
    max_entries=st.integers(3, 40),
    gate=st.sampled_from(["joint", "sigmoid"]),
    time=st.sampled_from(["age", "none"]),
    keyframes=st.integers(0, 3),
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    rows=st.integers(1, 3),
)
def test_frames_in_pieces_give_the_prefixes_of_the_whole_sequence(
    seed, layers, k, max_entries, gate, time, keyframes, pieces, rows
):
    memory = {"gate": gate, "time": time, "keyframes": keyframes}
    mapper = make_mapper(seed, layers=layers, k=k, max_entries=max_entries, **memory)
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, sum(pieces) + 1, 5, generator=generator, dtype=torch.float64)
    stream = Stream(mapper)
    at = 0
    for count in pieces:
        stream.remember(embeddings[:, at : at + count])
        at += count
        # Two segments end with the frame that comes next; where each began, chance says.
        start = torch.randint(0, at + 1, (rows, 2), generator=generator)
        streamed = stream.recall(embeddings[:, at : at + 1], start)
        whole = mapper(embeddings[:, : at + 1], Moments(torch.full_like(start, at), start))
        torch.testing.assert_close(streamed, whole, rtol=1e-9, atol=1e-9)


def test_a_long_stream_holds_no_more_than_its_memory():
    mapper = make_mapper(0, layers=(2, 3), max_entries=30)
    stream = Stream(mapper)
    sizes = set()
    for _ in range(500):
        stream.remember(torch.randn(1, 1, 5, dtype=torch.float64))
        buffers = [part for buffer in stream._buffers.values() for part in (buffer.keys, buffer.values)]
        sizes.add(sum(part.numel() for part in [*buffers, stream._embeddings]))
    assert len(sizes) == 1
    per_frame = 2 * 2 * 3 * 8 + 5  # layers, keys and values, tokens, width; and the embedding
    assert sizes.pop() <= 1.25 * 10 * per_frame


def test_a_cleared_stream_starts_anew():
    mapper = make_mapper(1)
    frames = torch.randn(1, 6, 5, dtype=torch.float64)
    start = torch.zeros(1, 1, dtype=torch.int64)
    stream = Stream(mapper)
    first = stream.recall(frames[:, :1], start)
    stream.remember(frames)
    assert not torch.equal(stream.recall(frames[:, :1], start), first)
    stream.clear()
    assert torch.equal(stream.recall(frames[:, :1], start), first)


def test_a_captioner_without_memory_has_nothing_to_stream():
    mapper = make_mapper(0)
    mapper.memory = None
    with pytest.raises(ValueError, match="has no memory"):
        Stream(mapper)
