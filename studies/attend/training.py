"""The captioner's loss, as the LightningModule that the training loop runs."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from pipeline.dataset.segments import Segment
from pipeline.training.loop import Optimization
from pipeline.training.optimizers import make_optimizer, with_schedule
from studies.attend.examples import Examples
from studies.attend.model import AttendingCaptioner
from studies.attend.vocabulary import PAD


class AttendTraining(L.LightningModule):
    """Mean negative log-likelihood per word."""

    def __init__(
        self,
        captioner: AttendingCaptioner,
        token_ids: Mapping[str, list[int]],
        optimization: Optimization,
        *,
        steps: int,
        captions_drawn: int | None,
        teacher_forcing: float,
    ) -> None:
        super().__init__()
        self.captioner, self.token_ids, self.optimization = captioner, token_ids, optimization
        self.steps, self.captions_drawn, self.teacher_forcing = steps, captions_drawn, teacher_forcing

    def transfer_batch_to_device(self, batch: Examples, device: torch.device, dataloader_idx: int) -> Examples:
        return Examples(batch.segments, batch.batch.to(device) if batch.batch else None)

    def training_step(self, batch: Examples, _: int) -> Tensor:
        total, words = self._loss(batch, [self._drawn(one) for one in batch.segments], self.teacher_forcing)
        whole, whole_words = self._of_all_processes(total, words)
        self.log(
            "train/loss", whole / whole_words, on_epoch=True, on_step=False, batch_size=whole_words, sync_dist=True
        )
        if not math.isfinite(float(whole)):
            raise ValueError(
                f"the loss became {float(whole)} in epoch {self.current_epoch + 1}; lower learn.learning_rate in "
                "studies/attend/params.yaml"
            )
        # The mean over processes, which is what becomes of their gradients, is then the mean over all their words.
        return total / (whole_words / self.trainer.world_size)

    def validation_step(self, batch: Examples, _: int) -> None:
        total, words = self._loss(batch, [one.captions for one in batch.segments], 1.0)
        whole, whole_words = self._of_all_processes(total, words)
        self.log("val/loss", whole / whole_words, batch_size=whole_words, sync_dist=True)

    def configure_optimizers(self) -> Any:
        own = self.optimization
        optimizer = make_optimizer(
            own.optimizer, self.captioner, learning_rate=own.learning_rate, weight_decay=own.weight_decay
        )
        return with_schedule(optimizer, own.warmup_steps, self.steps)

    def _of_all_processes(self, total: Tensor, words: int) -> tuple[Tensor, int]:
        if self.trainer.world_size == 1:
            return total.detach(), words
        sums = torch.stack([total.detach().double(), total.new_tensor(words, dtype=torch.float64)])
        self.trainer.strategy.reduce(sums, reduce_op="sum")  # in place
        return sums[0], int(sums[1])

    def _drawn(self, segment: Segment) -> Sequence[str]:
        """This epoch's captions: a function of (seed, epoch, segment), so that a run can be resumed."""
        count = self.captions_drawn
        if count is None or count >= len(segment.captions):
            return segment.captions
        draw = random.Random(f"{self.optimization.seed} {self.current_epoch} {segment.segment_id}")
        return draw.sample(segment.captions, count)

    def _loss(self, batch: Examples, captions: Sequence[Sequence[str]], teacher_forcing: float) -> tuple[Tensor, int]:
        """Negative log-likelihood of these captions of each segment, and how many words they have, ends included."""
        if batch.batch is None:  # the other processes wait for a gradient of every parameter
            return sum((p.sum() for p in self.parameters()), torch.zeros((), device=self.device)) * 0.0, 0
        tokens = pad([[self.token_ids[caption] for caption in own] for own in captions]).to(self.device)
        seen = self.captioner.look(batch.batch)
        log_probs, _ = self.captioner.log_probs(seen, tokens, teacher_forcing=teacher_forcing)
        there = tokens != PAD
        return -(log_probs * there).sum(), int(there.sum())


def pad(ids: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """[segments, captions, words] of lists as int64 [B, R, L]; what is not there is PAD, which no caption contains."""
    rows, length = max(map(len, ids)), max(len(caption) for own in ids for caption in own)
    tokens = torch.full((len(ids), rows, length), PAD)
    for of_segment, own in zip(tokens, ids, strict=True):
        for row, caption in zip(of_segment, own, strict=False):
            row[: len(caption)] = torch.tensor(caption)
    return tokens
