"""The optimizer Muon, with products in the dtype that the hardware multiplies fastest."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pipeline.device import multiplies_bf16


class Muon(torch.optim.Muon):
    """torch's Muon. Its steps have the length of AdamW's (Liu et al. 2025), so that one learning rate serves both.

    torch's multiplies in bf16 on all hardware. On a CPU without bf16 that takes 13 to 23 times as long as float32, and
    most of a training step. There the products are in float32, and fewer of them for matrices at least twice as long
    as wide. If the hardware has bf16, the result equals torch's to the bit.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                average = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                direction = weight.grad.lerp(average, group["momentum"])  # Nesterov's
                dtype = torch.bfloat16 if multiplies_bf16(weight.device) else torch.float32
                update = orthogonal(direction, dtype, group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * (0.2 * math.sqrt(max(weight.shape))))
        return loss


def orthogonal(
    matrix: Tensor, dtype: torch.dtype, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """The matrix [A, B] with its singular values brought near 1, by Newton-Schulz steps in `dtype`; of that dtype."""
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.to(dtype, copy=True)
    if tall:
        x = x.T
    x.div_(x.norm().clamp(min=eps))
    # In bf16 as in torch: only float32 can afford the rounding errors of the shorter way.
    shorter = dtype == torch.float32 and 2 * x.size(0) <= x.size(1)
    x = _polynomial(x @ x.T, coefficients, steps) @ x if shorter else _newton_schulz(x, coefficients, steps)
    return x.T if tall else x


def _newton_schulz(x: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _polynomial(gram: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """The matrix that maps x to the result of the Newton-Schulz steps, computed from its gram matrix x @ x.T.

    A step multiplies x by a polynomial Q of its gram matrix G, which becomes Q @ G @ Q. This does not need x, so it
    multiplies less if x is much wider than high.
    """
    a, b, c = coefficients
    product: Tensor | None = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    assert product is not None
    return product
