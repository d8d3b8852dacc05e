"""What several processes that train one module need of each other."""

import torch
from torch import Tensor, nn


def zero_of(module: nn.Module) -> Tensor:
    """0, to be added to a process's loss: with it every weight that learns has a gradient.

    The other processes wait for all of them (DistributedDataParallel), and few batches use every weight.
    """
    return sum((p.sum() for p in module.parameters() if p.requires_grad), torch.zeros(())) * 0.0
