"""The optimizers and the learning rate schedule."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipeline.training.muon import Muon


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers as one, each with its own parameters."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self.parts = parts
        self._share_groups()

    def _share_groups(self) -> None:
        # The same group objects, not copies: a schedule writes learning rates into them.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

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


def make_optimizer(
    name: str,
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    rate_factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW; or Muon (Jordan et al. 2024) for the weights of linear layers, and AdamW for the rest.

    Args:
        name: adamw | muon.
        rate_factors: {end of a parameter's name: factor}; these parameters are trained by AdamW at `factor` times the
            learning rate and without weight decay.
    """
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

    trained = {id(p): p for p in model.parameters() if p.requires_grad}
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        # An output layer has one vector per token, whether or not it is tied to the input embedding.
        if isinstance(module, PreTrainedModel) and (output := module.get_output_embeddings()) is not None:
            tables.add(id(output.weight))
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | Conv1D)}
    factors = {
        id(p): factor
        for name, p in model.named_parameters()
        for end, factor in (rate_factors or {}).items()
        if name.endswith(end) and id(p) in trained
    }
    matrices = [p for key, p in trained.items() if key in linear - tables]
    vectors = [p for key, p in trained.items() if key in tables]
    # No weight decay for biases, norms, gates and scales: zero is not a sensible default for them.
    others = [p for key, p in trained.items() if key not in linear | tables | factors.keys()]
    groups = [
        {"params": vectors if name == "muon" else [*matrices, *vectors], "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    for factor in dict.fromkeys(factors.values()):
        slow = [trained[key] for key, of_one in factors.items() if of_one == factor]
        groups.append({"params": slow, "weight_decay": 0.0, "lr": factor * learning_rate})
    adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)
    if name == "adamw":
        return adamw
    return CombinedOptimizer([Muon(matrices, lr=learning_rate, weight_decay=weight_decay), adamw])


def with_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int) -> dict[str, Any]:
    """What a LightningModule's configure_optimizers returns: the optimizer with `warmup_then_linear`."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_then_linear(warmup_steps, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_then_linear(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """The learning rate's factor at a step: linear warm-up, then linear to zero (as in ClipCap)."""
    warmup = min(warmup_steps, steps // 2)

    def rate(step: int) -> float:
        return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))

    return rate
