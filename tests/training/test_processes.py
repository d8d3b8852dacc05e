"""What several processes that train one module need of each other."""

from torch import nn

from pipeline.training.processes import zero_of


def test_every_weight_that_learns_has_a_gradient_although_only_some_are_used():
    used, other, frozen = (nn.Linear(2, 1, bias=False) for _ in range(3))
    frozen.requires_grad_(False)
    zero = zero_of(nn.ModuleList([used, other, frozen]))
    (used.weight.sum() + zero).backward()
    assert zero == 0.0 and frozen.weight.grad is None
    assert used.weight.grad is not None and used.weight.grad.tolist() == [[1.0, 1.0]]
    assert other.weight.grad is not None and other.weight.grad.tolist() == [[0.0, 0.0]]
