"""Training a captioner: what `pretrain` and `finetune` share.

Lightning runs the loop (precision, devices, checkpoints, early stopping), DVCLive writes the curves. A run that
is killed goes on from its last whole epoch and ends with the weights it would have had: batches are a function of
(seed, epoch), and the checkpoint holds the optimizer.
"""

import hashlib
import logging
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from dvclive.lightning import DVCLiveLogger
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from pipeline.annotations import Segment
from pipeline.captioner import Captioner, save_captioner
from pipeline.decoder import tokenize
from pipeline.device import choose_device, choose_dtype
from pipeline.imports import code_fingerprint
from pipeline.mapper import TransformerMapper
from pipeline.params import LoraParams, TrainingParams
from pipeline.sequences import Batch, Example, collate, pad_tokens, plan_batches

CURVE_POINTS = 100  # of a curve by steps, about
# What a memory makes of ages when it chooses where to look is added to cosines, which a head's scale multiplies by 30
# and more. AdamW goes the whole learning rate at every step, however small the gradient: at the full one, heads come to
# look into the memory always before they have learned to look there for what is alike.
TASTES, TASTES_RATE = ("memory.age_key", "memory.age_bias"), 0.1
GATES = "gate"  # of these curves: the part of its attention that each head of a memory layer pays to the memory


@dataclass(frozen=True)
class Optimization:
    """How to train; see the sections pretrain and finetune of params.yaml."""

    epochs: int
    batch_size: int  # segments, of all devices together
    captions_drawn: int | None  # captions per segment and epoch; None: all
    optimizer: str  # adamw | muon
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


class Share(Sampler[list[int]]):
    """One process's examples of each batch of an epoch; without a seed every epoch has the same batches.

    A batch is the whole run's, planned from (seed, epoch) alone: how many processes share it changes nothing. One of
    fewer examples than processes leaves some of them with none, but every process takes every step.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int | None, rank: int, world: int) -> None:
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.rank, self.world = rank, world
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:  # Lightning calls it
        seed = None if self.seed is None else (self.seed, epoch)
        self.batches = plan_batches(self.examples, self.batch_size, seed=seed)

    def __iter__(self) -> Iterator[list[int]]:
        # In turn, because a batch is sorted by length: the shares are of like lengths too.
        yield from (batch[self.rank :: self.world] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


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
        return self._loader(self.train, self.seed)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val, None)

    def _loader(self, examples: Sequence[Example], seed: int | None) -> DataLoader[Any]:
        assert self.trainer is not None
        share = Share(examples, self.batch_size, seed, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(Examples(examples), batch_sampler=share, collate_fn=collate)


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
    """Mean negative log-likelihood per caption token, the captions of a segment from one prefix."""

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

    def on_fit_start(self) -> None:
        if self.global_rank:  # the same dropout on other examples would be no independent draw
            torch.manual_seed(self.optimization.seed + self.global_rank)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        total, tokens = self._loss(batch, [self._drawn(segment) for segment in batch.segments])
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"], on_step=True)  # type: ignore[union-attr]
        whole, whole_tokens = self._of_all_processes(total, tokens)
        self.log(
            "train/loss", whole / whole_tokens, on_epoch=True, on_step=False, batch_size=whole_tokens, sync_dist=True
        )
        # The mean over processes, which is what becomes of their gradients, is then the mean over all their tokens.
        return total / (whole_tokens / self.trainer.world_size)

    def validation_step(self, batch: Batch, _: int) -> None:
        whole, tokens = self._of_all_processes(*self._loss(batch, [segment.captions for segment in batch.segments]))
        # Weighted by tokens, so that the epoch's figure does not depend on how batches were cut.
        self.log("val/loss", whole / tokens, batch_size=tokens, sync_dist=True)

    def _of_all_processes(self, total: Tensor, tokens: int) -> tuple[Tensor, int]:
        """Sums over the processes of this step's loss and tokens."""
        if self.trainer.world_size == 1:
            return total.detach(), tokens
        sums = torch.stack([total.detach().double(), total.new_tensor(tokens, dtype=torch.float64)])
        self.trainer.strategy.reduce(sums, reduce_op="sum")  # in place
        return sums[0], int(sums[1])

    def _drawn(self, segment: Segment) -> Sequence[str]:
        """This epoch's captions of a segment: a function of (seed, epoch, segment), so that a run can go on."""
        count = self.optimization.captions_drawn
        if count is None or count >= len(segment.captions):
            return segment.captions
        draw = random.Random(f"{self.optimization.seed} {self.current_epoch} {segment.segment_id}")
        return draw.sample(segment.captions, count)

    def _loss(self, batch: Batch, chosen: Sequence[Sequence[str]]) -> tuple[Tensor, int]:
        """Negative log-likelihood of the chosen captions of each segment, and their tokens."""
        if not chosen:
            # Nothing to learn from, but the other processes wait for a gradient of every parameter.
            total = torch.zeros((), device=self.device)
            return sum((p.sum() for p in self.parameters() if p.requires_grad), total) * 0.0, 0
        captions = [self.token_ids[caption] for of_one in chosen for caption in of_one]
        # Of one caption each there is nothing to share, and one pass takes less time than two.
        several = any(len(of_one) > 1 for of_one in chosen)
        counts = torch.tensor([len(of_one) for of_one in chosen], device=self.device) if several else None
        tokens, lengths = (part.to(self.device) for part in pad_tokens(captions))
        prefixes = self._prefixes(batch)  # [S, P, D]
        log_probs = self.captioner.token_log_probs(prefixes, tokens, lengths, counts)
        return -log_probs.sum(), int(lengths.sum())

    def _prefixes(self, batch: Batch) -> Tensor:
        mapper = self.captioner.mapper
        if not isinstance(mapper, TransformerMapper) or mapper.memory is None:
            return self.captioner.prefixes(batch.embeddings, batch.moments, batch.real)
        recalled = mapper.recalled(batch.embeddings, batch.moments)
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
        )
        rate = warmup_then_linear(options.warmup_steps, self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A frozen decoder is hundreds of megabytes that nobody changes.
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}


class Together(torch.optim.Optimizer):
    """Several optimizers, each of its own parameters, as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self.parts = parts
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # schedules write in them

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
    name: str, captioner: Captioner, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW; or Muon (Jordan et al. 2024) for the matrices that map activations, and AdamW for all else.

    Muon's steps are scaled to the length of AdamW's (Liu et al. 2025), so that one learning rate serves both.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

    trained = {id(p): p for p in captioner.parameters() if p.requires_grad}
    tables = {id(module.weight) for module in captioner.modules() if isinstance(module, nn.Embedding)}
    tables.add(id(captioner.decoder.get_output_embeddings().weight))  # one vector a token, tied to the input's or not
    linear = {id(module.weight) for module in captioner.modules() if isinstance(module, nn.Linear | Conv1D)}
    maps = [p for key, p in trained.items() if key in linear - tables]
    words = [p for key, p in trained.items() if key in tables]
    tastes = {id(p): p for name, p in captioner.named_parameters() if name.endswith(TASTES) and id(p) in trained}
    # Biases, norms, gates, scales and the memory's ages are not decayed towards zero: nothing says zero is right.
    others = [p for key, p in trained.items() if key not in linear | tables | tastes.keys()]
    groups = [
        {"params": words if name == "muon" else [*maps, *words], "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
        {"params": [*tastes.values()], "weight_decay": 0.0, "lr": TASTES_RATE * learning_rate},
    ]
    adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)
    if name == "adamw":
        return adamw
    muon = torch.optim.Muon(maps, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return Together([muon, adamw])


def warmup_then_linear(warmup_steps: int, steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear warm-up, then linear to zero (as in ClipCap)."""
    warmup = min(warmup_steps, steps // 2)

    def rate(step: int) -> float:
        return (step + 1) / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))

    return rate


def set_trainable(captioner: Captioner, mode: str, lora: LoraParams | None = None) -> None:
    """Freeze the decoder, free it, or give it LoRA adapters (peft); the mapper always trains.

    Frozen means no weight gradients at all and no dropout; the published "frozen" modes still compute them.
    """
    captioner.decoder.requires_grad_(mode == "full").train(mode != "frozen")
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        assert lora is not None
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, task_type="CAUSAL_LM")
        captioner.decoder = get_peft_model(captioner.decoder, config)


def merge_adapters(captioner: Captioner) -> None:
    """Fold LoRA adapters into the decoder's own weights, so that whoever loads it needs no peft."""
    if hasattr(captioner.decoder, "merge_and_unload"):
        captioner.decoder = captioner.decoder.merge_and_unload()


def train_and_save(
    captioner: Captioner,
    tokenizer: Any,
    examples: Sequence[Example],
    params: TrainingParams,
    lora: LoraParams,
    *,
    seed: int,
    device: str,
    name: str,
    work: Path,
    folder: Path,
    curves: Path,
) -> str:
    """Train a captioner as a section of params.yaml says and write it to `folder`; returns the stage's closing line.

    With devices > 1 several processes come here (Lightning starts the stage again for each, or torchrun did); all but
    the first exit here.
    """
    set_trainable(captioner, params.decoder, lora)
    outcome = train(
        captioner,
        examples,
        tokenize_captions(tokenizer, examples, params.max_caption_tokens),
        Optimization.of(params, seed=seed, device=device),
        name=name,
        work=work,
    )
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        sys.exit()  # it was started to help with the training; what follows is to be done once
    finish(captioner, tokenizer, work=work, folder=folder, curves=curves)
    return closing_line(name, outcome, examples)


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

    With optimization.devices > 1 each process calls this with the same arguments and gets the same Outcome.

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
    steps = optimization.epochs * len(Share(train_examples, optimization.batch_size, optimization.seed, 0, 1))
    module = CaptionTraining(captioner, token_ids, optimization, steps)
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
        log_every_n_steps=max(1, steps // CURVE_POINTS),
    )
    data = ExampleData(train_examples, val_examples, optimization.batch_size, optimization.seed)
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=False)
    best = torch.load(checkpoints.best_model_path, map_location="cpu", weights_only=False)
    trained = {name.removeprefix("captioner."): value for name, value in best["state_dict"].items()}
    captioner.load_state_dict(trained, strict=False)
    captioner.eval()
    trainer.strategy.barrier()  # the first process may remove the checkpoints once all have read them
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


def unfinished(name: str, stage: Path, settings: object, inputs: Sequence[Path]) -> Path:
    """The folder in which this very run keeps its checkpoints: another for other settings, inputs or code.

    Args:
        stage: the stage's file; its code is everything that it imports.
        settings: whatever of the params it reads.
    """
    digest = hashlib.sha256(f"{code_fingerprint(stage)} {settings!r}".encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
    return Path("models/unfinished") / f"{name}-{digest.hexdigest()[:16]}"


def finish(captioner: Captioner, tokenizer: Any, *, work: Path, folder: Path, curves: Path) -> None:
    """Write a trained captioner and its curves to their final places and remove the run's checkpoints."""
    trained_decoder = any(parameter.requires_grad for parameter in captioner.decoder.parameters())
    merge_adapters(captioner)
    save_captioner(folder, captioner, tokenizer if trained_decoder else None)
    shutil.rmtree(curves, ignore_errors=True)
    shutil.copytree(work / "live", curves)
    _write_gates(curves)
    shutil.rmtree(work)


def _write_gates(curves: Path) -> None:
    """One table, gates.csv, of what DVCLive wrote head by head: how many there are, dvc.yaml cannot know."""
    rows = []
    for path in sorted((curves / "plots/metrics" / GATES).glob("*/*.tsv")):
        lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        rows += [f"{step},layer {path.parent.name} head {path.stem},{share}" for step, share in lines]
    (curves / "gates.csv").write_text("\n".join(["step,head,share", *rows]) + "\n")


def _quiet() -> None:
    """Lightning's banners and tips; errors and our own bars stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
