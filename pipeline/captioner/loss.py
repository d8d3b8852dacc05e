"""The captioner's loss, as the LightningModule that the training loop runs.

S segments   P prefix tokens   D width of the decoder   H heads
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.captioner.distant import Distant
from pipeline.captioner.mapper import Distractors
from pipeline.captioner.model import Captioner
from pipeline.captioner.sequences import Batch, pad_tokens
from pipeline.training.loop import Optimization
from pipeline.training.module import Training

# These parameters turn ages into a bias that is added to cosines, which a head's scale multiplies by 30 and more. AdamW
# moves a parameter by the whole learning rate at every step, however small the gradient. At the full rate, heads learn
# to look into the memory always, before they learn to look for similar things there. So these learn more slowly.
AGE_PARAMETERS = ("memory.age_key", "memory.age_bias")
GATES = "gate"  # name of the curves: the share of its attention that each head of a memory layer pays to the memory


class CaptionTraining(Training):
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
        super().__init__(optimization, steps=steps)
        self.captioner = captioner
        self.token_ids = token_ids
        self.captions_drawn = captions_drawn
        self.age_rate_factor = age_rate_factor
        self.distant = distant

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        distractors = None
        if self.distant and batch.segments:
            distractors = self.distant.distractors(batch, self.current_epoch, step, self.global_step / self.steps)
        captions = [self.drawn(one.segment_id, one.captions, self.captions_drawn) for one in batch.segments]
        total, tokens = self._loss(batch, captions, distractors)
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"], on_step=True)  # type: ignore[union-attr]
        whole, whole_tokens = self.of_all_processes(total, tokens)
        self.refuse_infinite(whole, "the loss")
        self.log(
            "train/loss", whole / whole_tokens, on_epoch=True, on_step=False, batch_size=whole_tokens, sync_dist=True
        )
        # Gradients are averaged over processes; this makes that the mean over all their tokens.
        loss = total / (whole_tokens / self.trainer.world_size)
        if self.distant and self.distant.options.key_loss:
            mapper = self.captioner.mapper.with_memory
            assert mapper
            of_keys = self.distant.key_loss(mapper, self.current_epoch, step)
            self.refuse_infinite(of_keys.detach(), "the loss on the keys")
            self.log("train/key_loss", of_keys.detach(), on_epoch=True, on_step=False, batch_size=1, sync_dist=True)
            loss = loss + self.distant.options.key_loss * of_keys
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        whole, tokens = self.of_all_processes(*self._loss(batch, [segment.captions for segment in batch.segments]))
        self.refuse_infinite(whole, "the validation loss")
        # Weighted by tokens, so that the epoch's figure does not depend on how batches were cut.
        self.log("val/loss", whole / tokens, batch_size=tokens, sync_dist=True)

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
        return self.scheduled(self.captioner, dict.fromkeys(AGE_PARAMETERS, self.age_rate_factor))
