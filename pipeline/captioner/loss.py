"""The captioner's loss, as the LightningModule that the training loop runs.

S segments   P prefix tokens   D width of the decoder   H heads
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from pipeline.captioner.distant import Distant
from pipeline.captioner.mapper import Distractors
from pipeline.captioner.model import Captioner
from pipeline.captioner.sequences import Batch, pad_tokens
from pipeline.dataset.segments import Segment
from pipeline.training.loop import Optimization
from pipeline.training.optimizers import make_optimizer, with_schedule

# These parameters turn ages into a bias that is added to cosines, which a head's scale multiplies by 30 and more. AdamW
# moves a parameter by the whole learning rate at every step, however small the gradient. At the full rate, heads learn
# to look into the memory always, before they learn to look for similar things there. So these learn more slowly.
AGE_PARAMETERS = ("memory.age_key", "memory.age_bias")
GATES = "gate"  # name of the curves: the share of its attention that each head of a memory layer pays to the memory


class CaptionTraining(L.LightningModule):
    """Mean negative log-likelihood per caption token, the captions of a segment from one prefix."""

    def __init__(
        self,
        captioner: Captioner,
        token_ids: dict[str, list[int]],
        optimization: Optimization,
        *,
        steps: int,
        captions_drawn: int | None,
        age_rate_factor: float,
        distant: Distant | None = None,
    ) -> None:
        """
        Args:
            token_ids: of every caption, end token included.
            steps: of the whole run.
            captions_drawn: captions of each segment, drawn again every epoch; None: all.
            age_rate_factor: factor of the learning rate for AGE_PARAMETERS.
            distant: distractors and the loss on the keys, which train a memory for long videos.
        """
        super().__init__()
        self.captioner = captioner
        self.token_ids = token_ids
        self.optimization = optimization
        self.steps = steps
        self.captions_drawn = captions_drawn
        self.age_rate_factor = age_rate_factor
        self.distant = distant

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_fit_start(self) -> None:
        if self.global_rank:  # otherwise processes would draw the same dropout for different examples
            torch.manual_seed(self.optimization.seed + self.global_rank)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        distractors = None
        if self.distant and batch.segments:
            distractors = self.distant.distractors(batch, self.current_epoch, step, self.global_step / self.steps)
        total, tokens = self._loss(batch, [self._drawn(segment) for segment in batch.segments], distractors)
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"], on_step=True)  # type: ignore[union-attr]
        whole, whole_tokens = self._of_all_processes(total, tokens)
        self._refuse_infinite(whole, "the loss")
        self.log(
            "train/loss", whole / whole_tokens, on_epoch=True, on_step=False, batch_size=whole_tokens, sync_dist=True
        )
        # Gradients are averaged over processes; this makes that the mean over all their tokens.
        loss = total / (whole_tokens / self.trainer.world_size)
        if self.distant and self.distant.options.key_loss:
            mapper = self.captioner.mapper.with_memory
            assert mapper
            of_keys = self.distant.key_loss(mapper, self.current_epoch, step)
            self._refuse_infinite(of_keys.detach(), "the loss on the keys")
            self.log("train/key_loss", of_keys.detach(), on_epoch=True, on_step=False, batch_size=1, sync_dist=True)
            loss = loss + self.distant.options.key_loss * of_keys
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        whole, tokens = self._of_all_processes(*self._loss(batch, [segment.captions for segment in batch.segments]))
        self._refuse_infinite(whole, "the validation loss")
        # Weighted by tokens, so that the epoch's figure does not depend on how batches were cut.
        self.log("val/loss", whole / tokens, batch_size=tokens, sync_dist=True)

    def _refuse_infinite(self, loss: Tensor, name: str) -> None:
        """Raises ValueError, in all processes alike: training cannot recover from this."""
        if not math.isfinite(value := float(loss)):
            raise ValueError(
                f"{name} became {value} in epoch {self.current_epoch + 1}, step {self.global_step + 1} of {self.steps};"
                f" lower its learning_rate ({self.optimization.learning_rate:g}) in params.yaml, or set its precision "
                f"to fp32 (it is {self.optimization.precision}), and look at the loss in its curves"
            )

    def _of_all_processes(self, total: Tensor, tokens: int) -> tuple[Tensor, int]:
        """Sums of this step's loss and tokens over all processes."""
        if self.trainer.world_size == 1:
            return total.detach(), tokens
        sums = torch.stack([total.detach().double(), total.new_tensor(tokens, dtype=torch.float64)])
        self.trainer.strategy.reduce(sums, reduce_op="sum")  # in place
        return sums[0], int(sums[1])

    def _drawn(self, segment: Segment) -> Sequence[str]:
        """This epoch's captions of a segment: a function of (seed, epoch, segment), so that a run can be resumed."""
        count = self.captions_drawn
        if count is None or count >= len(segment.captions):
            return segment.captions
        draw = random.Random(f"{self.optimization.seed} {self.current_epoch} {segment.segment_id}")
        return draw.sample(segment.captions, count)

    def _loss(
        self, batch: Batch, chosen: Sequence[Sequence[str]], distractors: Distractors | None = None
    ) -> tuple[Tensor, int]:
        """Negative log-likelihood of the chosen captions of each segment, and their tokens."""
        if not chosen:
            # No examples here, but the other processes wait for a gradient of every parameter.
            total = torch.zeros((), device=self.device)
            return sum((p.sum() for p in self.parameters() if p.requires_grad), total) * 0.0, 0
        captions = [self.token_ids[caption] for of_one in chosen for caption in of_one]
        # With one caption each there is no prefix to share, and one pass is faster than two.
        several = any(len(of_one) > 1 for of_one in chosen)
        counts = torch.tensor([len(of_one) for of_one in chosen], device=self.device) if several else None
        tokens, lengths = (part.to(self.device) for part in pad_tokens(captions))
        prefixes = self._prefixes(batch, distractors)  # [S, P, D]
        log_probs = self.captioner.token_log_probs(prefixes, tokens, lengths, counts)
        return -log_probs.sum(), int(lengths.sum())

    def _prefixes(self, batch: Batch, distractors: Distractors | None) -> Tensor:
        recalled = self.captioner.mapper.recalled(batch.embeddings, batch.moments, distractors)
        if self.training:
            for layer, attended in recalled.attended.items():
                shares = attended.detach().sum(-1).transpose(1, 2)[batch.real].mean(0)  # [H]
                for head, share in enumerate(shares, start=1):
                    self.log(f"{GATES}/{layer}/{head}", share, on_step=True)
        return recalled.prefixes[batch.real]

    def configure_optimizers(self) -> Any:
        options = self.optimization
        optimizer = make_optimizer(
            options.optimizer,
            self.captioner,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            rate_factors=dict.fromkeys(AGE_PARAMETERS, self.age_rate_factor),
        )
        return with_schedule(optimizer, options.warmup_steps, self.steps)
