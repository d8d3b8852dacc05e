"""Optimizers: AdamW, or Muon for the matrices; and the learning rate's way through a run."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.captioner import Captioner


class Together(torch.optim.Optimizer):
    """Several optimizers, each of its own parameters, as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self.parts = parts
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # schedules write in them

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


class Muon(torch.optim.Muon):
    """torch's Muon with `adjust_lr_fn="match_rms_adamw"`, the matrices of one size orthogonalised together.

    A mapper and a small decoder are dozens of small matrices: one by one they take longer than all the rest of a step.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, params, grads, momenta)
            for momentum, grad in zip(momenta, grads, strict=True):
                momentum.lerp_(grad, 1 - group["momentum"])
            # Orthogonalising a matrix or its transpose is the same.
            flat = [grad.lerp(momentum, group["momentum"]) for momentum, grad in zip(momenta, grads, strict=True)]
            flat = [update.T if update.shape[0] > update.shape[1] else update for update in flat]
            for shape in dict.fromkeys(update.shape for update in flat):
                rows = [i for i, update in enumerate(flat) if update.shape == shape]
                updates = orthogonalised(
                    torch.stack([flat[i] for i in rows]), group["ns_coefficients"], group["ns_steps"]
                )
                rate = group["lr"] * 0.2 * max(shape) ** 0.5  # the length of AdamW's steps (Liu et al. 2025)
                for i, update in zip(rows, updates, strict=True):
                    params[i].mul_(1 - group["lr"] * group["weight_decay"])
                    params[i].add_(update if update.shape == params[i].shape else update.T, alpha=-rate)
        return loss


def orthogonalised(matrices: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """[n, rows, columns], no more rows than columns: nearly the nearest orthogonal matrix of each, by Newton-Schulz
    iteration in bfloat16 (Jordan et al. 2024)."""
    a, b, c = coefficients
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def make_optimizer(
    name: str, captioner: Captioner, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW; or Muon (Jordan et al. 2024) for the matrices that map activations, and AdamW for all else.

    Muon's steps are scaled to the length of AdamW's (Liu et al. 2025), so that one learning rate serves both.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

    trained = {id(p): p for p in captioner.parameters() if p.requires_grad}
    tables = {id(module.weight) for module in captioner.modules() if isinstance(module, nn.Embedding)}
    tables.add(id(captioner.decoder.get_output_embeddings().weight))  # one vector a token, tied to the input's or not
    linear = {id(module.weight) for module in captioner.modules() if isinstance(module, nn.Linear | Conv1D)}
    maps = [p for key, p in trained.items() if key in linear - tables]
    words = [p for key, p in trained.items() if key in tables]
    # Biases, norms, gates, scales and the memory's ages are not decayed towards zero: nothing says zero is right.
    others = {"params": [p for key, p in trained.items() if key not in linear | tables], "weight_decay": 0.0}
    decayed = {"params": words if name == "muon" else [*maps, *words], "weight_decay": weight_decay}
    adamw = torch.optim.AdamW([group for group in (decayed, others) if group["params"]], lr=learning_rate, fused=True)
    if name == "adamw":
        return adamw
    return Together([Muon(maps, lr=learning_rate, weight_decay=weight_decay), adamw])


def warmup_then_linear(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear warm-up, then linear to zero (as in ClipCap)."""
    warmup = min(warmup_steps, steps // 2)

    def rate(step: int) -> float:
        return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))

    return rate
