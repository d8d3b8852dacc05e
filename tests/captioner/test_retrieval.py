"""Retrieval against sorting everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioner import retrieval
from pipeline.captioner.retrieval import nearest


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    asking=st.integers(1, 4),
    frames=st.integers(1, 12),
    tokens=st.integers(1, 3),
    k=st.integers(1, 40),
    block=st.sampled_from([1, 50, 10**6]),
)
def test_nearest_finds_the_largest_inner_products_of_each_window(seed, batch, heads, asking, frames, tokens, k, block):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, heads, asking, tokens, 4, generator=generator)
    keys = torch.randn(batch, heads, frames, tokens, 4, generator=generator)
    edges = torch.randint(-2, frames + 3, (3, batch, asking), generator=generator).sort(0).values
    some = torch.rand(batch, asking, frames, generator=generator) < 0.5
    windows = [(edges[1], edges[2], None), (edges[0], edges[1], some)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK_CPU", block)
        index, best = nearest(queries, keys, windows, k=k)
    found = best.isfinite()
    for b, h, q, n in torch.cartesian_prod(*map(torch.arange, (batch, heads, asking, tokens))).tolist():
        expected = []
        for first, stop, seen in windows:
            inside = range(max(0, int(first[b, q])), min(frames, int(stop[b, q])))
            scores = [
                (float(queries[b, h, q, n] @ keys[b, h, t, m]), t * tokens + m)
                for t in inside
                for m in range(tokens)
                if seen is None or seen[b, q, t]
            ]
            expected += [place for _, place in sorted(scores, reverse=True)[:k]]
        assert sorted(index[b, h, q, n][found[b, h, q, n]].tolist()) == sorted(expected)
