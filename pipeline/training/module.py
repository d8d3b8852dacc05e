"""What every module that the training loop runs has in common, whatever it learns."""

import math
import random
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from pipeline.params import PARAMS_FILE
from pipeline.training.loop import Optimization
from pipeline.training.optimizers import make_optimizer, with_schedule

T = TypeVar("T")


class Training(L.LightningModule):
    """A module whose loss is a mean over units (tokens, words, questions) that a batch has different numbers of.

    Subclasses log `val/loss`.
    """

    def __init__(self, optimization: Optimization, *, steps: int, params_file: Path = PARAMS_FILE) -> None:
        """
        Args:
            steps: of the whole run.
            params_file: where the learning rate stands, for messages.
        """
        super().__init__()
        self.optimization, self.steps, self.params_file = optimization, steps, params_file

    def on_train_batch_start(self, _batch: Any, step: int) -> None:
        """What is drawn in a step, such as dropout, is a function of (seed, epoch, step, process): so that a run can
        resume, and processes do not draw the same for different examples.
        """
        draw = random.Random(f"{self.optimization.seed} {self.current_epoch} {step} {self.global_rank}")
        torch.manual_seed(draw.getrandbits(63))

    def of_all_processes(self, total: Tensor, units: int) -> tuple[Tensor, int]:
        """Sums of this step's loss and units over all processes."""
        if self.trainer.world_size == 1:
            return total.detach(), units
        sums = torch.stack([total.detach().double(), total.new_tensor(units, dtype=torch.float64)])
        self.trainer.strategy.reduce(sums, reduce_op="sum")  # in place
        return sums[0], int(sums[1])

    def refuse_infinite(self, loss: Tensor, name: str) -> None:
        """Raises ValueError, in all processes alike: training cannot recover from this."""
        if not math.isfinite(value := float(loss)):
            raise ValueError(
                f"{name} became {value} in epoch {self.current_epoch + 1}, step {self.global_step + 1} of {self.steps};"
                f" lower its learning_rate ({self.optimization.learning_rate:g}) in {self.params_file}, or set its "
                f"precision to fp32 (it is {self.optimization.precision}), and look at the loss in its curves"
            )

    def drawn(self, of: str, values: tuple[T, ...], count: int | None) -> tuple[T, ...]:
        """This epoch's `count` of the values (None: all): a function of (seed, epoch, of), so that a run can resume."""
        if count is None or count >= len(values):
            return values
        draw = random.Random(f"{self.optimization.seed} {self.current_epoch} {of}")
        return tuple(draw.sample(values, count))

    def scheduled(self, model: nn.Module, rate_factors: dict[str, float] | None = None) -> Any:
        """What `configure_optimizers` returns; rate_factors: as `make_optimizer`'s."""
        own = self.optimization
        optimizer = make_optimizer(
            own.optimizer,
            model,
            learning_rate=own.learning_rate,
            weight_decay=own.weight_decay,
            rate_factors=rate_factors,
        )
        return with_schedule(optimizer, own.warmup_steps, self.steps)
