"""How both built-in models are trained: seeded, on one thread, with AdamW."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.process import progress

WARMUP = 0.1  # of the steps
WEIGHT_DECAY, BETAS, GRADIENT_CLIP = 0.05, (0.9, 0.98), 1.0


def minimise(model: nn.Module, loss: Callable[[], Tensor], steps: int, learning_rate: float, *, name: str) -> float:
    """AdamW, warm-up then cosine. Returns the mean loss of the last tenth."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]  # biases, gains and the temperature do not decay
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)
    warmup = max(round(steps * WARMUP), 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * np.cos(np.pi * max(step - warmup, 0) / (steps - warmup + 1))),
    )
    losses: list[float] = []
    model.train()
    with progress.bar(range(steps), desc=name, unit="step", mininterval=0.5) as bar:
        for _ in bar:
            value = loss()
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
            optimizer.step()
            schedule.step()
            losses.append(value.item())
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=False)
    return float(np.mean(losses[-max(steps // 10, 1) :]))


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """The same weights, bit for bit, from the same seed: on one thread, so that sums have one order.

    (Two threads gain little on tensors this small, and lose much when one of the cores is busy.)
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Deterministic mode also fills every new tensor, as a debugging aid.
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
        try:
            # On a CPU, the backward pass of fused attention takes three times as long for rows as short as captions.
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.set_num_threads(threads)
