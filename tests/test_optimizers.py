"""Muon against torch's own; the learning rate's way."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.optimizers import Muon, warmup_then_linear


@settings(deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6),
    seed=st.integers(0, 2**16),
)
def test_muon_takes_the_steps_of_torchs_whatever_the_matrices_that_go_together(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [*shapes, shapes[0], shapes[0][::-1]]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.1}
    optimizers = [Muon(ours, **options), torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        # bfloat16 rounds to 1/256, which five iterations make about a tenth of a step of 0.02 sqrt(longer side).
        torch.testing.assert_close(a, b, rtol=0, atol=0.1 * 3 * 0.02 * max(a.shape) ** 0.5)


def test_muon_leaves_a_matrix_without_gradient_alone():
    still, moved = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    moved.grad = torch.eye(2)
    Muon([still, moved], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(still, torch.ones(2, 2)) and not torch.equal(moved, still)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rate = warmup_then_linear(4, 20)
    assert [rate(0), rate(3), rate(12), rate(20)] == [0.25, 1.0, 0.5, 0.0]
    assert warmup_then_linear(100, 10)(4) == 1.0  # a short run still reaches its rate
