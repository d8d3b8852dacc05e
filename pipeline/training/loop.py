"""The training loop of any LightningModule that logs `val/loss`.

Lightning runs the loop (precision, devices, checkpoints, early stopping), DVCLive writes the curves. A run that
is killed continues from its last complete epoch and ends with the weights it would have had: batches are a function of
(seed, epoch), and the checkpoint includes the optimizer.
"""

import fcntl
import hashlib
import logging
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from dvclive.lightning import DVCLiveLogger
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pipeline.device import choose_device, choose_dtype
from pipeline.files.aside import aside, beside, remove, sweep, write_text
from pipeline.imports import code_fingerprint, versions
from pipeline.params import TrainingParams
from pipeline.process import progress
from pipeline.training.batches import ExampleData

CURVE_POINTS = 100  # approximate number of points in a curve
PACKAGES = ("torch", "lightning", "transformers", "peft")  # that compute a training
CURVES = "live"  # the curves' folder inside a run's folder
SMALL = 10_000_000  # weights; a smaller module is trained on one thread


@dataclass(frozen=True)
class Optimization:
    """How to train; see the sections pretrain and finetune of params.yaml."""

    epochs: int
    batch_size: int  # over all devices
    optimizer: str  # adamw | muon
    learning_rate: float
    weight_decay: float
    gradient_clip: float
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
        values = params.model_dump(include=set(TrainingParams.model_fields))
        values["precision"] = "bf16-mixed" if dtype == torch.bfloat16 else "32-true"
        return cls(**values, accelerator=kind, seed=seed)


@dataclass(frozen=True)
class Outcome:
    best_epoch: int  # counted from 0
    best_loss: float  # validation
    epochs: int  # number of epochs run


class ProgressBar(Callback):
    """One bar for all epochs: Lightning's own restarts each epoch and never says when the run will be over."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps = name, steps

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        hidden = not trainer.is_global_zero
        self.bar = progress.bar(
            total=self.steps, initial=trainer.global_step, desc=self.name, unit="step", disable=hidden
        )

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        self.bar.set_postfix_str(f"epoch {trainer.current_epoch + 1}, validation loss {loss:.3f}")

    def on_train_end(self, *_: Any) -> None:
        self.bar.close()


class WithoutFrozenWeights(Callback):
    """Leaves frozen weights out of checkpoints: a frozen decoder is hundreds of megabytes that never change."""

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        named = module.named_parameters(remove_duplicate=False)
        frozen = {name for name, parameter in named if not parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}


class OneThread(Callback):
    """Trains a small module on one thread where the CPU computes. A second one gains little (docs/benchmarks.md), and
    the core is free for what runs beside it. Nor do the weights depend on how many cores there are."""

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.before = torch.get_num_threads()  # which Lightning has chosen by now
        weights = sum(parameter.numel() for parameter in module.parameters())
        if trainer.strategy.root_device.type == "cpu" and weights < SMALL:
            torch.set_num_threads(1)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        torch.set_num_threads(self.before)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and renames it. Lightning uses the folder for temporary files, which
    may be on another disk, so a kill during the copy would leave half a checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with aside(Path(path)) as written:
            torch.save(checkpoint, written)


def train(
    module: L.LightningModule, data: ExampleData[Any], optimization: Optimization, *, name: str, work: Path
) -> Outcome:
    """Train until the last epoch or until validation stops improving; leaves the best epoch's weights in `module`.

    With optimization.devices > 1 each process calls this with the same arguments and gets the same Outcome.

    Args:
        module: what to train; its steps return the loss, and its validation logs `val/loss`.
        data: its validation examples choose the epoch.
        name: of the progress bar.
        work: the folder of exactly this run (`unfinished`); a killed run continues from it.

    Raises ValueError if a split has no examples.
    """
    for split, examples in (("train", data.train), ("val", data.val)):
        if not examples:
            raise ValueError(f"no segment of split {split!r} has frames; see the ledger in data/*/ledger.parquet")
    _silence_lightning()
    L.seed_everything(optimization.seed, verbose=False)
    steps = optimization.epochs * data.steps_per_epoch()
    last = work / "last.ckpt"
    if not is_helper():
        _prepare_resuming(work, name, optimization.epochs)
    # `resume`: a continued run keeps the curves of its earlier epochs.
    logger = DVCLiveLogger(dir=str(work / CURVES), resume=last.exists(), save_dvc_exp=False, dvcyaml=None, report=None)
    checkpoints = ModelCheckpoint(work, "best", monitor="val/loss", save_last=True, enable_version_counter=False)
    stopping = EarlyStopping("val/loss", patience=optimization.patience)
    module.strict_loading = False  # checkpoints lack frozen weights
    trainer = L.Trainer(
        accelerator="gpu" if optimization.accelerator == "cuda" else optimization.accelerator,
        devices=optimization.devices,
        precision=optimization.precision,  # type: ignore[arg-type]
        max_epochs=optimization.epochs,
        gradient_clip_val=optimization.gradient_clip,
        logger=logger,
        callbacks=[checkpoints, stopping, ProgressBar(name, steps), WithoutFrozenWeights(), OneThread()],
        plugins=[AtomicCheckpoints()],
        enable_progress_bar=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=max(1, steps // CURVE_POINTS),
    )
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=False)
    best = torch.load(checkpoints.best_model_path, map_location="cpu", weights_only=False)
    module.load_state_dict(best["state_dict"], strict=False)
    module.eval()
    trainer.strategy.barrier()  # the first process may remove the checkpoints once all processes have read them
    assert checkpoints.best_model_score is not None
    return Outcome(
        best_epoch=int(best["epoch"]),
        best_loss=float(checkpoints.best_model_score),
        epochs=trainer.current_epoch,
    )


def _prepare_resuming(work: Path, name: str, epochs: int) -> None:
    """Prepare a killed run's folder for continuing or for starting over; returns which."""
    last, best = work / "last.ckpt", work / "best.ckpt"
    if not last.exists():
        for leftover in (best, work / CURVES):  # killed during its first epoch
            remove(leftover)
        return
    try:
        # Mapped, not read: the end of a file shows whether it is complete.
        torch.load(best, map_location="cpu", weights_only=False, mmap=True)
        checkpoint = torch.load(last, map_location="cpu", weights_only=False, mmap=True)
        epoch, step = checkpoint["epoch"], checkpoint["global_step"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        why = str(error).split("\n")[0][:120] or type(error).__name__
        print(
            f"{name}: the checkpoint in {work} cannot be read ({why}); training starts over",
            file=sys.stderr,
        )
        for leftover in (last, best, work / CURVES):
            remove(leftover)
        return
    for curve in (work / CURVES).rglob("*.tsv"):
        head, *rows = curve.read_text().splitlines()
        # Remove the killed run's points of its unfinished epoch; this run writes them again.
        kept = [row for row in rows if int(row.split("\t")[0]) < step]
        write_text(curve, "\n".join([head, *kept]) + "\n")
    print(f"{name}: continues a killed run, after epoch {epoch + 1} of {epochs} (step {step})", file=sys.stderr)


def is_helper() -> bool:
    """Whether Lightning or torchrun started this process as a helper in another's training."""
    return bool(int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0))


def exit_if_helper() -> None:
    """End the helper processes of a training: what follows is done once."""
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        sys.exit()


@contextmanager
def unfinished(name: str, stage: Path, settings: object, inputs: Sequence[Path]) -> Iterator[Path]:
    """The folder in which this very run keeps its checkpoints: another for other settings, inputs, code or packages.

    It belongs to this process, and to those it starts, until the end of the block or of the process.

    Args:
        stage: the stage's file; its imports are part of the code.
        settings: the params that it reads.

    Raises ValueError if another process has it.
    """
    digest = hashlib.sha256(f"{code_fingerprint(stage)} {versions(*PACKAGES)} {settings!r}".encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
    work = Path("models/unfinished") / f"{name}-{digest.hexdigest()[:16]}"
    work.mkdir(parents=True, exist_ok=True)
    sweep(work)  # of runs that were killed after they had finished
    with _locked(work / "lock"):
        yield work


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold the lock until the end of the block or of the process. Raises ValueError if another process has it."""
    if is_helper():
        yield  # the first process of the training holds it
        return
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(
                f"the same training is running already, as process {holder} ({lock.parent}); wait until it is over, "
                f"or end it (kill {holder}) and run this again: it continues from the last complete epoch"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def finish(work: Path, curves: Path, add: Callable[[Path], None] = lambda curves: None) -> None:
    """Move a run's curves to their place and remove its checkpoints; to be called when its result is saved.

    Args:
        add: writes more files into the folder of the curves before it is moved.
    """
    with aside(curves) as written:
        shutil.copytree(work / CURVES, written)
        add(written)
    done = beside(work)  # renamed first: a kill during the removal must not leave half a run to continue
    work.rename(done)
    remove(done)


def _silence_lightning() -> None:
    """No banners and tips; errors and our own bars stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
