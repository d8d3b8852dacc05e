"""The captioner's loss, as the LightningModule that the training loop runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.training.loop import Optimization
from pipeline.training.module import Training
from pipeline.training.processes import zero_of
from studies.attend.examples import Examples
from studies.attend.grounding import Grounds, unlooked
from studies.attend.model import AttendingCaptioner
from studies.attend.settings import FILE
from studies.attend.vocabulary import PAD


class AttendTraining(Training):
    """Mean negative log-likelihood per word; with grounding, in training, plus what attention misses."""

    def __init__(
        self,
        captioner: AttendingCaptioner,
        token_ids: Mapping[str, list[int]],
        optimization: Optimization,
        *,
        steps: int,
        captions_drawn: int | None,
        teacher_forcing: float,
        grounding: float,
        grounds: Mapping[str, Grounds],
    ) -> None:
        """
        Args:
            steps: as Training's.
            grounding: weight of `unlooked`. grounds: of training segments, by segment_id; none, and it is off.
        """
        super().__init__(optimization, steps=steps, params_file=FILE)
        self.captioner, self.token_ids = captioner, token_ids
        self.captions_drawn, self.teacher_forcing = captions_drawn, teacher_forcing
        self.grounding, self.grounds = grounding, grounds

    def transfer_batch_to_device(self, batch: Examples, device: torch.device, dataloader_idx: int) -> Examples:
        return Examples(batch.segments, batch.batch.to(device) if batch.batch else None)

    def training_step(self, batch: Examples, _: int) -> Tensor:
        captions = [self.drawn(one.segment_id, one.captions, self.captions_drawn) for one in batch.segments]
        total, words, attention = self._loss(batch, captions, self.teacher_forcing)
        whole, whole_words = self.of_all_processes(total, words)
        self.refuse_infinite(whole, "the loss")
        self.log(
            "train/loss", whole / whole_words, on_epoch=True, on_step=False, batch_size=whole_words, sync_dist=True
        )
        if self.grounding and self.grounds:
            total = total + self.grounding * self._missed(batch, captions, attention)
        if self.trainer.world_size > 1:
            total = total + zero_of(self)
        # The mean over processes, which is what becomes of their gradients, is then the mean over all their words.
        return total / (whole_words / self.trainer.world_size)

    def _missed(self, batch: Examples, captions: Sequence[Sequence[str]], attention: Tensor | None) -> Tensor:
        """The sum of `unlooked` over this process's words."""
        missed, words = torch.zeros((), device=self.device), 0
        if attention is not None:
            grounds = [self.grounds.get(one.segment_id, {}) for one in batch.segments]
            missed, words = unlooked(attention, self._ids(captions), grounds)
        whole, whole_words = self.of_all_processes(missed, words)
        if whole_words:
            mean = whole / whole_words
            self.log("train/grounding", mean, on_epoch=True, on_step=False, batch_size=whole_words, sync_dist=True)
        return missed

    def validation_step(self, batch: Examples, _: int) -> None:
        total, words, _attention = self._loss(batch, [one.captions for one in batch.segments], 1.0)
        whole, whole_words = self.of_all_processes(total, words)
        self.refuse_infinite(whole, "the validation loss")
        self.log("val/loss", whole / whole_words, batch_size=whole_words, sync_dist=True)

    def _loss(
        self, batch: Examples, captions: Sequence[Sequence[str]], teacher_forcing: float
    ) -> tuple[Tensor, int, Tensor | None]:
        """Negative log-likelihood of these captions of each segment, how many words they have, ends included, and the
        attention at each of them, as `log_probs` gives it."""
        if batch.batch is None:  # no segments for this process
            return torch.zeros((), device=self.device), 0, None
        tokens = pad(self._ids(captions)).to(self.device)
        seen = self.captioner.look(batch.batch)
        log_probs, attention = self.captioner.log_probs(seen, tokens, teacher_forcing=teacher_forcing)
        there = tokens != PAD
        return -(log_probs * there).sum(), int(there.sum()), attention

    def _ids(self, captions: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        return [[self.token_ids[caption] for caption in own] for own in captions]

    def configure_optimizers(self) -> Any:
        return self.scheduled(self.captioner)


def pad(ids: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """[segments, captions, words] of lists as int64 [B, R, L]; what is not there is PAD, which no caption contains."""
    rows, length = max(map(len, ids)), max(len(caption) for own in ids for caption in own)
    tokens = torch.full((len(ids), rows, length), PAD)
    for of_segment, own in zip(tokens, ids, strict=True):
        for row, caption in zip(of_segment, own, strict=False):
            row[: len(caption)] = torch.tensor(caption)
    return tokens
