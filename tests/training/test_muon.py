"""Our Muon against torch's."""

import pytest
import torch

from pipeline.training import muon
from pipeline.training.muon import Muon


def trained(make, shape: tuple[int, int], steps: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(shape))
    optimizer = make([weight])
    for _ in range(steps):
        weight.grad = torch.randn(shape)
        optimizer.step()
    return weight.detach()


def published(params) -> torch.optim.Optimizer:
    return torch.optim.Muon(params, lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")


def ours(params) -> Muon:
    return Muon(params, lr=0.1, weight_decay=0.2)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_where_the_hardware_multiplies_bf16_it_is_torchs_to_the_bit(monkeypatch, shape):
    monkeypatch.setattr(muon, "multiplies_bf16", lambda device: True)
    assert torch.equal(trained(ours, shape), trained(published, shape))


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_in_float32_it_goes_where_torchs_goes(monkeypatch, shape):
    monkeypatch.setattr(muon, "multiplies_bf16", lambda device: False)
    start = trained(ours, shape, steps=0)
    moved, expected = trained(ours, shape) - start, trained(published, shape) - start
    assert 0 < (moved - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("shape", [(8, 8), (96, 192), (128, 512), (512, 128)])
@pytest.mark.parametrize("rank", [4, None])
def test_in_float32_fewer_products_give_what_newton_schulz_steps_give(shape, rank):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    if rank:  # as gradients are: much in a few directions, next to nothing in the others
        matrix = 1e-6 * matrix + torch.randn(shape[0], rank) @ torch.randn(rank, shape[1])
    coefficients = (3.4445, -4.775, 2.0315)
    found = muon.orthogonal(matrix, torch.float32, coefficients, 5, 1e-7)
    expected = muon.orthogonal(matrix.double(), torch.float64, coefficients, 5, 1e-7)
    assert (found - expected).norm() < 1e-3 * expected.norm()  # bf16 is 14e-3 from it


def test_a_weight_without_a_gradient_stays_and_a_closures_loss_is_returned():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    assert ours([weight]).step(lambda: 3.0) == 3.0
    assert torch.equal(weight, torch.ones(2, 2))
