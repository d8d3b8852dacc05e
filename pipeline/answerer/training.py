"""Training a reader: its loss, and how it is handed to the training loop and saved.

V videos   Q texts of a video   K answers in the list
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.answerer.alike import AlikeFrames
from pipeline.answerer.examples import Batch, Example, Target, collate, placed, plan_batches
from pipeline.answerer.glimpses import Grid
from pipeline.answerer.reader import OpenConfig, Reader, ReaderConfig
from pipeline.answerer.saying import Speaker
from pipeline.answerer.seeing import TrainedEncoder
from pipeline.answerer.watching import Seen, Watching, fused, sampler, watch
from pipeline.files.aside import write_text
from pipeline.language.decoder import load_decoder
from pipeline.training import loop
from pipeline.training.batches import ExampleData
from pipeline.training.loop import Optimization, Outcome
from pipeline.training.module import Training
from pipeline.training.optimizers import CombinedOptimizer, make_optimizer, with_schedule
from pipeline.training.processes import zero_of

CONFIG_FILE, WEIGHTS_FILE, ANSWERS_FILE = "config.json", "reader.safetensors", "ans2label.json"
LANGUAGE_MODEL = "language_model"  # folder beside them, of the one that reads questions where it is not the decoder
SPEAKER = "speaker"  # and of the one that says answers, where it has learned
COUNT_WEIGHT = 0.1  # of the squared error of a count, beside the cross-entropy of its classes
LEAST_PAID = 1e-4  # attention whose logarithm is taken


class AnswerTraining(Training):
    """Cross-entropy over the closed list, or over a question's options; binary where labels are soft (VQA).

    With a speaker, in the place of the list: the cross-entropy of the tokens of a right answer, of several the mean.
    """

    def __init__(
        self,
        reader: Reader,
        watching: Watching,
        optimization: Optimization,
        *,
        steps: int,
        glimpses: int,
        val_glimpses: int,
        grid: Grid,
        evidence_loss: float,
        params_file: Path,
        speaker: Speaker | None = None,
        encoder: TrainedEncoder | None = None,
        encoder_rate: float = 1.0,
        alike: AlikeFrames | None = None,
        key_loss: float = 0.0,
    ) -> None:
        """
        Args:
            steps, params_file: as Training's.
            glimpses: drawn at random in a training step; val_glimpses: evenly spaced in validation.
            evidence_loss: weight of `unfound` beside the answers' loss.
            encoder: learns too, at `encoder_rate` times the learning rate.
            alike: its loss is added with the weight `key_loss`.
        """
        super().__init__(optimization, steps=steps, params_file=params_file)
        self.reader, self.watching, self.speaker = reader, watching, speaker
        self.encoder, self.encoder_rate = encoder, encoder_rate
        self.glimpses, self.val_glimpses, self.grid = glimpses, val_glimpses, grid
        self.evidence_loss = evidence_loss
        self.alike, self.key_loss = alike, key_loss

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        # A function of the step, so that a run that was killed goes on as it would have.
        seed = hash((self.optimization.seed, self.current_epoch, step)) % 2**31
        generator = torch.Generator().manual_seed(seed)
        total, right, count, missed = self._loss(batch, self.glimpses, generator)
        questions = self._log("train", "the loss", total, right, count)
        total = total + self.evidence_loss * missed
        if self.trainer.world_size > 1:
            total = total + zero_of(self)
        # Gradients are averaged over processes; this makes that the mean over all their questions.
        loss = total / (questions / self.trainer.world_size)
        if self.alike is None:
            return loss
        of_keys = self.alike.loss(
            self.reader, np.random.default_rng((self.optimization.seed, self.current_epoch, step))
        )
        self.refuse_infinite(of_keys.detach(), "the loss on the keys")
        self.log("train/key_loss", of_keys.detach(), on_epoch=True, on_step=False, batch_size=1, sync_dist=True)
        return loss + self.key_loss * of_keys

    def validation_step(self, batch: Batch, _: int) -> None:
        self._log("val", "the validation loss", *self._loss(batch, self.val_glimpses, self.grid)[:3])

    def _log(self, split: str, name: str, total: Tensor, right: Tensor, count: int) -> int:
        """Means over the questions of all processes; returns how many these are."""
        whole, questions = self.of_all_processes(total, count)
        all_right, _ = self.of_all_processes(right, count)
        self.refuse_infinite(whole, name)
        for what, value in (("loss", whole), ("accuracy", all_right)):
            self.log(
                f"{split}/{what}",
                value / questions,
                on_epoch=True,
                on_step=False,
                batch_size=questions,
                sync_dist=True,
            )
        return questions

    def _loss(self, batch: Batch, glimpses: int, grid: Grid | torch.Generator) -> tuple[Tensor, Tensor, int, Tensor]:
        """The sum of the questions' losses, how many are right, how many there are, and the sum of `unfound`."""
        if not batch.targets:
            nothing = torch.zeros((), device=self.device)
            return nothing, nothing, 0, nothing  # no videos for this process
        questions = batch.lengths.shape[1]
        wanted = self.training and self.evidence_loss > 0
        sample = sampler(self.watching, glimpses, grid)
        seen = watch(self.reader, batch, self.watching, sample, encoder=self.encoder, evidence=wanted)
        said = said_by(self.reader, self.speaker, seen.features, batch) if self.speaker else {}
        of_list = None if self.speaker else fused(self.reader.list_head(seen.features), questions, self.watching)
        of_option = fused(self.reader.option_head(seen.features), questions, self.watching)[..., 0]  # [V, Q]
        numbers = fused(self.reader.count_head(seen.features), questions, self.watching)[..., 0]
        losses, right = [], of_option.new_zeros(())
        listed: list[tuple[int, int, Target]] = []  # most questions: they have one loss, of all at once
        for v, targets in enumerate(batch.targets):
            for q, target in placed(targets):
                if target.question.task == "count":
                    losses.append(COUNT_WEIGHT * (numbers[v, q] - target.number) ** 2)
                if target.question.options is not None:
                    scores, worths = of_option[v, q : q + len(target.texts)], target.scores.to(self.device)
                    losses.append(answer_loss(scores, worths))
                    right += worths[scores.argmax()]
                elif self.speaker:
                    loss, worth = said.get((v, q), (of_option[v, q] * 0.0, 0.0))
                    losses.append(loss)
                    right += worth
                else:
                    listed.append((v, q, target))
        if listed and of_list is not None:
            at_v, at_q, chosen = zip(*listed, strict=True)
            scores = of_list[list(at_v), list(at_q)]
            worths = torch.stack([one.scores for one in chosen]).to(self.device)
            losses.append(answer_loss(scores, worths).sum())
            right += worths.gather(-1, scores.argmax(-1, keepdim=True)).sum()
        count = sum(map(len, batch.targets))
        return torch.stack(losses).sum(), right, count, unfound(seen, questions)

    def configure_optimizers(self) -> Any:
        learning: nn.Module = self.reader
        if self.speaker and self.speaker.learns:
            learning = nn.ModuleList([self.reader, self.speaker.decoder])
        if self.encoder is None:
            return self.scheduled(learning)
        own = self.optimization
        reader = make_optimizer(own.optimizer, learning, learning_rate=own.learning_rate, weight_decay=own.weight_decay)
        # AdamW whatever the reader's: a pretrained tower takes small steps well.
        slow = torch.optim.AdamW(
            self.encoder.parameters(), lr=self.encoder_rate * own.learning_rate, weight_decay=own.weight_decay
        )
        return with_schedule(CombinedOptimizer([reader, slow]), own.warmup_steps, self.steps)


def said_by(
    reader: Reader, speaker: Speaker, features: Tensor, batch: Batch
) -> dict[tuple[int, int], tuple[Tensor, float]]:
    """By the place [v, q] of each open question with answers: its loss, and what the answer that it says is worth."""
    rows = [
        (v, q, target.question.question, answer, score)
        for v, targets in enumerate(batch.targets)
        for q, target in placed(targets)
        if target.question.options is None
        for answer, score in zip(target.question.answers, target.question.scores, strict=True)
        if score > 0
    ]
    if not rows:
        return {}
    at_v, at_q, questions, answers, scores = zip(*rows, strict=True)
    places = list(zip(at_v, at_q, strict=True))
    prefixes = reader.prefixes(features, batch.lengths.shape[1], places)
    log_probs, greedy = speaker.said(prefixes, questions, answers)
    found: dict[tuple[int, int], tuple[Tensor, float]] = {}
    for v, q in dict.fromkeys(places):
        own = [number for number, place in enumerate(places) if place == (v, q)]
        weights = log_probs.new_tensor([scores[number] for number in own])
        worth = max(scores[number] * float(greedy[number]) for number in own)
        found[v, q] = -(weights * log_probs[own]).sum() / weights.sum(), worth
    return found


def unfound(seen: Seen, questions: int) -> Tensor:
    """How far the attention is from the evidence, summed over questions: of each interval that frames were seen of, the
    negative logarithm of the most that a word paid to it, averaged over the intervals of a question and its glimpses.
    """
    if seen.found is None or seen.findable is None:
        return seen.features.new_zeros(())
    losses = -seen.found.clamp(min=LEAST_PAID).log() * seen.findable
    of_question, there = (x.unflatten(1, (questions, -1)).sum((2, 3)) for x in (losses, seen.findable))  # [V, Q]
    return (of_question / there.clamp(min=1)).sum()


def answer_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """Of each question: scores [..., K], and what each answer is worth [..., K] -> [...]."""
    binary = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(-1)
    # No right answer in the list: nothing to learn from, but it counts as a question.
    of_one = -(wanted * scores.log_softmax(-1)).sum(-1)
    soft = ((wanted > 0) & (wanted < 1)).any(-1) | (wanted.sum(-1) > 1)  # VQA's
    return torch.where(soft, binary, of_one)


def train_reader(
    reader: Reader,
    watching: Watching,
    train: Sequence[Example],
    val: Sequence[Example],
    optimization: Optimization,
    *,
    glimpses: int,
    val_glimpses: int,
    grid: Grid,
    evidence_loss: float,
    name: str,
    work: Path,
    params_file: Path,
    speaker: Speaker | None = None,
    encoder: TrainedEncoder | None = None,
    encoder_rate: float = 1.0,
    alike: AlikeFrames | None = None,
    key_loss: float = 0.0,
) -> Outcome:
    """Leaves the weights of the epoch with the best validation loss in `reader`, and in what learns with it.

    Args:
        name, work: as `loop.train`'s.
        params_file: where the settings stand, for messages.
    """
    data = ExampleData(
        train,
        val,
        plan=lambda examples, seed: plan_batches(examples, optimization.batch_size, seed),
        collate=collate,
        seed=optimization.seed,
    )
    module = AnswerTraining(
        reader,
        watching,
        optimization,
        steps=optimization.epochs * data.steps_per_epoch(),
        glimpses=glimpses,
        val_glimpses=val_glimpses,
        grid=grid,
        evidence_loss=evidence_loss,
        params_file=params_file,
        speaker=speaker,
        encoder=encoder,
        encoder_rate=encoder_rate,
        alike=alike,
        key_loss=key_loss,
    )
    return loop.train(module, data, optimization, name=name, work=work)


def save_reader(folder: Path, reader: Reader, watching: Watching, answers: Sequence[str]) -> None:
    """As `load_reader` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in reader.state_dict().items()}, folder / WEIGHTS_FILE)
    config = {"reader": asdict(reader.config), "watching": asdict(watching)}
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    write_text(folder / ANSWERS_FILE, json.dumps({answer: n for n, answer in enumerate(answers)}, indent=1) + "\n")


def load_reader(folder: Path) -> tuple[Reader, Watching, list[str]]:
    """A reader in eval mode, its way of watching and its list of answers. ValueError if it cannot be read."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        answers = json.loads((folder / ANSWERS_FILE).read_text())
        of_open = config["reader"].pop("open")
        reader = Reader(ReaderConfig(**config["reader"], open=of_open and OpenConfig(**of_open)))
        reader.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return reader.eval(), Watching(**config["watching"]), sorted(answers, key=lambda answer: answers[answer])
    except (OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder} holds no reader that this revision can read: {str(error)[:200]}") from None


def load_speaker(folder: Path, decoder: Path, reader: Reader, watching: Watching) -> Speaker | None:
    """What says the answers of the reader in `folder`: the language model that learned with it, or else the decoder of
    that folder; None of a reader that chooses from a list. Raises ValueError as `load_decoder` and Speaker do.
    """
    if reader.config.open is None:
        return None
    own = folder / SPEAKER
    says = own if own.exists() else decoder
    return Speaker(*load_decoder(says), reader.config.open, watching, where=str(says))
