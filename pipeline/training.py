"""Training a captioner: what `pretrain` and `finetune` share.

Lightning runs the loop (precision, devices, checkpoints, early stopping), DVCLive writes the curves. A run that
is killed goes on from its last whole epoch and ends with the weights it would have had: batches are a function of
(seed, epoch), and the checkpoint holds the optimizer.
"""

import hashlib
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from dvclive.lightning import DVCLiveLogger
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from pipeline.captioner import Captioner, save_captioner
from pipeline.decoder import tokenize
from pipeline.device import choose_device, choose_dtype
from pipeline.params import TrainingParams
from pipeline.sequences import Batch, Example, collate, pad_tokens, plan_batches


@dataclass(frozen=True)
class Optimization:
    """How to train; see the sections pretrain and finetune of params.yaml."""

    epochs: int
    batch_size: int  # segments
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    patience: int
    precision: str  # Lightning's name: 32-true | bf16-mixed | ...
    devices: int
    accelerator: str  # cpu | cuda | mps
    seed: int

    @classmethod
    def of(cls, params: TrainingParams, *, seed: int, device: str) -> "Optimization":
        kind = choose_device(device).type
        dtype = choose_dtype(params.precision, torch.device(kind))
        return cls(
            **params.model_dump(exclude={"decoder", "precision", "max_caption_tokens", "baseline_frame"}),
            precision="bf16-mixed" if dtype == torch.bfloat16 else "32-true",
            accelerator=kind,
            seed=seed,
        )


@dataclass(frozen=True)
class Outcome:
    best_epoch: int  # counted from 0
    best_loss: float  # validation, nats per token
    epochs: int  # run in all


class EpochBatches(Sampler[list[int]]):
    """Batches of one epoch, the same for the same (seed, epoch), shared out over processes in turn."""

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int, rank: int, world: int) -> None:
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:  # Lightning calls it
        self.epoch = epoch

    def _batches(self) -> list[list[int]]:
        batches = plan_batches(self.examples, self.batch_size, seed=(self.seed, self.epoch))
        # Every process must take as many steps as the others: whoever comes short takes one from the front.
        share = math.ceil(len(batches) / self.world)
        return [batches[(self.rank + step * self.world) % len(batches)] for step in range(share)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())


class Examples(Dataset[Example]):
    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


class ExampleData(L.LightningDataModule):
    def __init__(self, train: Sequence[Example], val: Sequence[Example], batch_size: int, seed: int) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.seed = batch_size, seed

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        sampler = EpochBatches(
            self.train, self.batch_size, self.seed, self.trainer.global_rank, self.trainer.world_size
        )
        return DataLoader(Examples(self.train), batch_sampler=sampler, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Any]:
        batches = plan_batches(self.val, self.batch_size, seed=None)
        return DataLoader(Examples(self.val), batch_sampler=batches, collate_fn=collate)


class WholeRunBar(Callback):
    """One bar for all epochs: Lightning's own starts anew each epoch and never says when the run will be over."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps = name, steps

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        hidden = not trainer.is_global_zero
        self.bar = tqdm(total=self.steps, initial=trainer.global_step, desc=self.name, unit="step", disable=hidden)

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        self.bar.set_postfix_str(f"epoch {trainer.current_epoch + 1}, validation loss {loss:.3f}")

    def on_train_end(self, *_: Any) -> None:
        self.bar.close()


class CaptionTraining(L.LightningModule):
    """Mean negative log-likelihood per caption token, all captions of a segment from one prefix."""

    def __init__(
        self, captioner: Captioner, token_ids: dict[str, list[int]], optimization: Optimization, steps: int
    ) -> None:
        super().__init__()
        self.captioner = captioner
        self.token_ids = token_ids  # of every caption, tokenized once
        self.optimization = optimization
        self.steps = steps

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        total, tokens = self._loss(batch)
        loss = total / tokens
        self.log("train/loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=tokens, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        total, tokens = self._loss(batch)
        # Weighted by tokens, so that the epoch's figure does not depend on how batches were cut.
        self.log("val/loss", total / tokens, prog_bar=True, batch_size=tokens, sync_dist=True)

    def _loss(self, batch: Batch) -> tuple[Tensor, int]:
        captions = [self.token_ids[caption] for segment in batch.segments for caption in segment.captions]
        counts = torch.tensor([len(segment.captions) for segment in batch.segments], device=self.device)
        tokens, lengths = (part.to(self.device) for part in pad_tokens(captions))
        prefixes = self.captioner.prefixes(batch.embeddings, batch.moments, batch.real)  # [S, P, D]
        log_probs = self.captioner.token_log_probs(prefixes.repeat_interleave(counts, dim=0), tokens, lengths)
        return -log_probs.sum(), int(lengths.sum())

    def configure_optimizers(self) -> Any:
        options = self.optimization
        # Biases, norms, gates, scales and tables are not decayed towards zero: nothing says zero is right there.
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() == 2], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.dim() != 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
        rate = warmup_then_linear(options.warmup_steps, self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_end(self) -> None:
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A frozen decoder is hundreds of megabytes that nobody changes.
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}


def warmup_then_linear(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear warm-up, then linear to zero (as in ClipCap)."""
    warmup = min(warmup_steps, steps // 2)

    def rate(step: int) -> float:
        return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))

    return rate


def set_trainable(captioner: Captioner, mode: str, lora: dict[str, Any]) -> None:
    """Freeze the decoder, free it, or give it LoRA adapters (peft); the mapper always trains.

    Frozen means no weight gradients at all and no dropout; the published "frozen" modes still compute them.
    """
    captioner.decoder.requires_grad_(mode == "full").train(mode != "frozen")
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora["rank"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], task_type="CAUSAL_LM"
        )
        captioner.decoder = get_peft_model(captioner.decoder, config)


def merge_adapters(captioner: Captioner) -> None:
    """Fold LoRA adapters into the decoder's own weights, so that whoever loads it needs no peft."""
    if hasattr(captioner.decoder, "merge_and_unload"):
        captioner.decoder = captioner.decoder.merge_and_unload()


def train(
    captioner: Captioner,
    examples: Sequence[Example],
    token_ids: dict[str, list[int]],
    optimization: Optimization,
    *,
    name: str,
    work: Path,
) -> Outcome:
    """Train until the epochs are over or validation stops improving; leaves the best epoch's weights in `captioner`.

    Args:
        examples: those of split train are trained on, those of split val choose the epoch.
        token_ids: tokens of every caption, end token included.
        name: of the progress bar.
        work: the folder of this very run (`unfinished`); a run that was killed goes on from what is there.

    Raises ValueError if a split has no examples.
    """
    train_examples, val_examples = of_split(examples, "train"), of_split(examples, "val")
    for split, found in (("train", train_examples), ("val", val_examples)):
        if not found:
            raise ValueError(f"no segment of split {split!r} has frames; see the ledger in data/*/ledger.parquet")
    _quiet()
    L.seed_everything(optimization.seed, verbose=False)
    sampler = EpochBatches(train_examples, optimization.batch_size, optimization.seed, 0, optimization.devices)
    module = CaptionTraining(captioner, token_ids, optimization, steps=optimization.epochs * len(sampler))
    last = work / "last.ckpt"
    # `resume`: a run that goes on keeps the curves of its earlier epochs.
    logger = DVCLiveLogger(dir=str(work / "live"), resume=last.exists(), save_dvc_exp=False, dvcyaml=None, report=None)
    checkpoints = ModelCheckpoint(work, "best", monitor="val/loss", save_last=True, enable_version_counter=False)
    stopping = EarlyStopping("val/loss", patience=optimization.patience)
    trainer = L.Trainer(
        accelerator="gpu" if optimization.accelerator == "cuda" else optimization.accelerator,
        devices=optimization.devices,
        precision=optimization.precision,  # type: ignore[arg-type]
        max_epochs=optimization.epochs,
        gradient_clip_val=1.0,
        logger=logger,
        callbacks=[checkpoints, stopping, WholeRunBar(name, module.steps)],
        enable_progress_bar=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    data = ExampleData(train_examples, val_examples, optimization.batch_size, optimization.seed)
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=False)
    best = torch.load(checkpoints.best_model_path, map_location="cpu", weights_only=False)
    trained = {name.removeprefix("captioner."): value for name, value in best["state_dict"].items()}
    captioner.load_state_dict(trained, strict=False)
    captioner.eval()
    assert checkpoints.best_model_score is not None
    return Outcome(
        best_epoch=int(best["epoch"]),
        best_loss=float(checkpoints.best_model_score),
        epochs=trainer.current_epoch,
    )


def of_split(examples: Sequence[Example], split: str) -> list[Example]:
    return [example for example in examples if example.targets[0].segment.split == split]


def tokenize_captions(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> dict[str, list[int]]:
    """Token ids, end token included, of every caption of the examples."""
    captions = sorted({caption for e in examples for target in e.targets for caption in target.segment.captions})
    return dict(zip(captions, tokenize(tokenizer, captions, max_tokens), strict=True))


def closing_line(name: str, outcome: Outcome, examples: Sequence[Example]) -> str:
    counts = [sum(len(e.targets) for e in of_split(examples, split)) for split in ("train", "val")]
    return (
        f"{name}: {counts[0]} training and {counts[1]} validation segments, {outcome.epochs} epochs; "
        f"best epoch {outcome.best_epoch + 1}, validation loss {outcome.best_loss:.4f}"
    )


def unfinished(name: str, settings: object, inputs: Sequence[Path]) -> Path:
    """The folder in which this very run keeps its checkpoints: another for other settings, inputs or code."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(hashlib.file_digest(file.open("rb"), "sha256").digest())
    return Path("models/unfinished") / f"{name}-{digest.hexdigest()[:16]}"


def finish(captioner: Captioner, tokenizer: Any, *, work: Path, folder: Path, curves: Path) -> None:
    """Write a trained captioner and its curves to their final places and remove the run's checkpoints."""
    trained_decoder = any(parameter.requires_grad for parameter in captioner.decoder.parameters())
    merge_adapters(captioner)
    save_captioner(folder, captioner, tokenizer if trained_decoder else None)
    shutil.rmtree(curves, ignore_errors=True)
    shutil.copytree(work / "live", curves)
    shutil.rmtree(work)


def _quiet() -> None:
    """Lightning's banners and tips; errors and our own bars stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
