"""What several processes that train one module need of each other."""

from torch import nn

from pipeline.training.processes import zero_of


def test_every_weight_that_learns_has_a_gradient_although_only_some_are_used():
    module = nn.ModuleDict({"used": nn.Linear(2, 1), "not": nn.Linear(2, 1), "frozen": nn.Linear(2, 1)})
    module["frozen"].requires_grad_(False)
    zero = zero_of(module)
    (module["used"].bias.sum() + zero).backward()
    assert zero == 0.0
    assert module["used"].bias.grad.tolist() == [1.0]
    assert module["not"].weight.grad.tolist() == [[0.0, 0.0]]
    assert module["frozen"].weight.grad is None
