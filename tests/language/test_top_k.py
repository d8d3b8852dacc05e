import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.language.top_k import top_k


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
