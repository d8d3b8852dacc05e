"""Retrieval against sorting everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import retrieval
from pipeline.retrieval import ApproximateIndex, nearest, top_k


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
    windows = [(edges[1], edges[2]), (edges[0], edges[1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK_CPU", block)
        index, best = nearest(queries, keys, windows, k=k)
    found = best.isfinite()
    for b, h, q, n in torch.cartesian_prod(*map(torch.arange, (batch, heads, asking, tokens))).tolist():
        wanted = []
        for first, stop in windows:
            inside = range(max(0, int(first[b, q])), min(frames, int(stop[b, q])))
            scores = [
                (float(queries[b, h, q, n] @ keys[b, h, t, m]), t * tokens + m) for t in inside for m in range(tokens)
            ]
            wanted += [place for _, place in sorted(scores, reverse=True)[:k]]
        assert sorted(index[b, h, q, n][found[b, h, q, n]].tolist()) == sorted(wanted)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 2000) | st.just(70_000),
    k=st.integers(1, 8),
    hidden=st.floats(0, 1),
    lift=st.sampled_from([-3, 0, 3]),  # negative ones are ordered otherwise
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_the_largest_of_many_scores_are_those_that_sorting_gives(seed, count, k, hidden, lift, dtype):
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(2, 3, count, generator=generator) + lift).to(dtype)
    scores[torch.rand(scores.shape, generator=generator) < hidden] = -torch.inf
    k = min(k, count)
    values, index = top_k(scores, k)
    assert torch.equal(values.sort(dim=-1, descending=True).values, scores.topk(k, dim=-1).values)
    assert torch.equal(scores.gather(-1, index), values)
    assert all(len(set(row)) == k for row in index.flatten(0, 1).tolist())


def test_an_index_finds_most_of_the_nearest_of_clustered_keys_and_only_such_as_are_in_the_window():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=generator)
    # A thing is in view for a while, then another.
    keys = centres.repeat_interleave(200, 0) + 0.3 * torch.randn(8000, 16, generator=generator)
    keys = torch.nn.functional.normalize(keys, dim=-1).view(1, 1, 4000, 2, 16)
    at = torch.randint(1000, 4000, (1, 50), generator=generator)
    queries = keys[:, :, at[0]]
    index = ApproximateIndex()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "LEAST_KEYS", 4000)
        patch.setattr(retrieval, "LISTS", 64)
        patch.setattr(retrieval, "PROBES", 16)
        for frames in range(500, 4001, 500):  # as they arrive
            index.follow(keys[0, :, :frames], new=500)
        windows = [(at - 1000, at)]
        places, scores = index.search(queries, keys, windows, k=32)
        exact, best = nearest(queries, keys, windows, k=32)
    found, there = scores.isfinite(), best.isfinite()
    shared = [
        len(set(a[f].tolist()) & set(b[t].tolist())) / int(t.sum())
        for a, f, b, t in zip(*(x.flatten(0, 3) for x in (places, found, exact, there)), strict=True)
    ]
    assert sum(shared) / len(shared) > 0.9
    frame = places // 2
    stop = at[:, None, :, None, None]
    assert ((frame >= stop - 1000) & (frame < stop))[found].all()


def test_an_index_of_few_keys_is_exact():
    keys = torch.randn(1, 2, 10, 3, 4)
    index = ApproximateIndex()
    index.follow(keys[0], new=10)
    windows = [(torch.tensor([[2]]), torch.tensor([[7]]))]
    places, scores = index.search(keys[:, :, 8:9], keys, windows, k=4)
    wanted, best = nearest(keys[:, :, 8:9], keys, windows, k=4)
    assert torch.equal(places, wanted) and torch.equal(scores, best)
