"""Training a captioner and saving it: what `pretrain` and `finetune` share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.captioner.distant import Distant, DistantTraining
from pipeline.captioner.loss import GATES, CaptionTraining
from pipeline.captioner.model import Captioner, save_captioner
from pipeline.captioner.sequences import Example, collate, plan_batches
from pipeline.files.aside import write_text
from pipeline.language.decoder import tokenize, with_adapters
from pipeline.params import FinetuneParams, LoraParams, Params
from pipeline.training import loop
from pipeline.training.batches import ExampleData
from pipeline.training.loop import Optimization, Outcome


def train_and_save(
    captioner: Captioner,
    tokenizer: Any,
    examples: Sequence[Example],
    params: Params,
    stage: Literal["pretrain", "finetune"],
    *,
    work: Path,
    folder: Path,
    curves: Path,
    distant: DistantTraining | None = None,
) -> str:
    """Train a captioner by the stage's section of params and write it to `folder`; returns the stage's closing line.

    With devices > 1 several processes call this (Lightning starts the stage again for each, or torchrun did); all but
    the first exit here.
    """
    own = params.pretrain if stage == "pretrain" else params.finetune
    set_trainable(captioner, own.decoder, params.lora)
    outcome = train_captioner(
        captioner,
        examples,
        tokenize_captions(tokenizer, examples, own.max_caption_tokens),
        Optimization.of(own, seed=params.seed, device=params.device),
        captions_drawn=own.captions_drawn,
        age_rate_factor=own.age_rate_factor if isinstance(own, FinetuneParams) else 1.0,
        name=stage,
        work=work,
        distant=distant,
    )
    loop.exit_if_helper()
    finish(captioner, tokenizer, work=work, folder=folder, curves=curves)
    return closing_line(stage, outcome, examples)


def train_captioner(
    captioner: Captioner,
    examples: Sequence[Example],
    token_ids: dict[str, list[int]],
    optimization: Optimization,
    *,
    captions_drawn: int | None,
    age_rate_factor: float,
    name: str,
    work: Path,
    distant: DistantTraining | None = None,
) -> Outcome:
    """Train on the examples of split train; those of split val choose the epoch whose weights `captioner` gets.

    Args:
        token_ids: of every caption, end token included.
        captions_drawn: captions of each segment, drawn again every epoch; None: all.
        age_rate_factor: factor of the learning rate for the memory's age parameters.
        name, work: as pipeline.training.loop.train's.
        distant: only used by a memory with scope video; within a segment nothing is distant.
    """
    data = ExampleData(
        of_split(examples, "train"),
        of_split(examples, "val"),
        plan=lambda of_split, epoch: plan_batches(of_split, optimization.batch_size, seed=epoch),
        collate=collate,
        seed=optimization.seed,
    )
    steps = optimization.epochs * data.steps_per_epoch()
    memory, others = captioner.config.memory, None
    if distant and memory and memory.scope == "video" and (distant.distractors or distant.key_loss):
        others = Distant(data.train, distant, optimization.seed, memory.write_below)
    module = CaptionTraining(
        captioner,
        token_ids,
        optimization,
        steps=steps,
        captions_drawn=captions_drawn,
        age_rate_factor=age_rate_factor,
        distant=others,
    )
    return loop.train(module, data, optimization, name=name, work=work)


def set_trainable(captioner: Captioner, mode: str, lora: LoraParams | None = None) -> None:
    """Freeze the decoder, free it, or give it LoRA adapters (peft); the mapper always trains.

    Frozen means no weight gradients at all and no dropout; published implementations still compute them when "frozen".
    Trained weights are float32, adapters too, whatever dtype the decoder was stored in: a step is often smaller than
    the precision of bf16. Raises ValueError if peft has no adapters for such a decoder.
    """
    captioner.decoder.requires_grad_(mode == "full").train(mode != "frozen")
    if mode == "full":
        captioner.decoder.float()
    if mode == "lora":
        assert lora is not None
        captioner.decoder = with_adapters(captioner.decoder, lora)


def merge_adapters(captioner: Captioner) -> None:
    """Fold LoRA adapters into the decoder's own weights, so that loading it does not need peft."""
    if hasattr(captioner.decoder, "merge_and_unload"):
        captioner.decoder = captioner.decoder.float().merge_and_unload()  # bf16 would lose small differences


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


def finish(captioner: Captioner, tokenizer: Any, *, work: Path, folder: Path, curves: Path) -> None:
    """Write a trained captioner and its curves to their final places and remove the run's checkpoints."""
    trained_decoder = any(parameter.requires_grad for parameter in captioner.decoder.parameters())
    merge_adapters(captioner)
    save_captioner(folder, captioner, tokenizer if trained_decoder else None)
    loop.finish(work, curves, add=_write_gates)


def _write_gates(curves: Path) -> None:
    """One table, gates.csv, of DVCLive's curves per head: dvc.yaml cannot list a variable number of files."""
    rows = []
    for path in sorted((curves / "plots/metrics" / GATES).glob("*/*.tsv")):
        lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        rows += [f"{step},layer {path.parent.name} head {path.stem},{share}" for step, share in lines]
    write_text(curves / "gates.csv", "\n".join(["step,head,share", *rows]) + "\n")
