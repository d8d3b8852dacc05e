"""Which cells a word was said for: Grad-CAM, Grad-CAM++, HiResCAM on the stored cells, and the attention itself.

T cells in time   h, w cells in space   C channels   L words of the caption, its end included

The activations are the model's input, so the gradient of a word's log-probability by them is one call of autograd: no
hooks, and one backward pass a word for all times together. A map of the caption is that of its log-probability.
Sources: Selvaraju et al. 2017, Chattopadhay et al. 2018 (the score is exp of y, so that its derivatives are powers of
the first), Draelos and Carin 2020. In all of them what speaks against the word is cut off at 0.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from studies.attend.model import AttendingCaptioner, Batch


def gradcam(cells: Tensor, gradient: Tensor) -> Tensor:
    """Channels weighted by their mean gradient. [T, h, w, C] each, to [T, h, w]."""
    return (cells * gradient.mean((0, 1, 2))).sum(-1).relu()


def gradcam_plus_plus(cells: Tensor, gradient: Tensor) -> Tensor:
    """Channels weighted by their positive gradients, most where only few places carry them."""
    square = gradient**2
    below = 2 * square + cells.sum((0, 1, 2)) * gradient**3 + 1e-6
    alpha = torch.where(gradient != 0, square / below, torch.zeros_like(gradient))
    return (cells * (alpha * gradient.relu()).sum((0, 1, 2))).sum(-1).relu()


def hirescam(cells: Tensor, gradient: Tensor) -> Tensor:
    """Each cell by its own gradient: what would change if it were not there, to first order."""
    return (cells * gradient).sum(-1).relu()


GRADIENT_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
}


def explain(
    captioner: AttendingCaptioner, batch: Batch, tokens: Sequence[int], methods: Sequence[str], *, h: int
) -> dict[str, Tensor]:
    """Maps of one segment for each word of a caption and, last, for the whole caption: [L + 1, T, h, w] by method.

    Args:
        batch: one segment.
        tokens: the caption that the model said, its end included.

    Maps are not scaled: an empty frame stays empty beside others.
    """
    cells = batch.cells.detach().clone().requires_grad_(True)  # [1, T, P, C]
    seen = captioner.look(batch.with_cells(cells))
    caption = torch.tensor(tokens, device=cells.device)[None, None]
    log_probs, attention = captioner.log_probs(seen, caption)
    words = [*log_probs[0, 0], log_probs.sum()]
    grid = cells.detach()[0].unflatten(1, (h, -1))  # [T, h, w, C]
    found: dict[str, list[Tensor]] = {name: [] for name in methods}
    for value in words:
        if any(name in GRADIENT_METHODS for name in methods):
            (gradient,) = torch.autograd.grad(value, cells, retain_graph=True)
        for name in methods:
            if name in GRADIENT_METHODS:
                found[name].append(GRADIENT_METHODS[name](grid, gradient[0].unflatten(1, (h, -1))))
    if "attention" in methods:
        maps = [spread(captioner.config.attention, one, grid) for one in attention.detach()[0, 0]]
        found["attention"] = [*maps, torch.stack(maps).mean(0)]
    return {name: torch.stack(maps) for name, maps in found.items()}


def spread(kind: str, attention: Tensor, grid: Tensor) -> Tensor:
    """Attention over what a kind chooses from, [N], as a map of all cells, [T, h, w]."""
    t, h, w, _ = grid.shape
    match kind:
        case "none":
            return torch.full((t, h, w), 1 / (t * h * w), device=grid.device)
        case "temporal":
            return (attention / (h * w))[:, None, None].expand(t, h, w)
        case "spatial":
            return (attention / t).view(1, h, w).expand(t, h, w)
        case _:
            return attention.view(t, h, w)
