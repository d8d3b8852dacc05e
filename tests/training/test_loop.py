"""The loop: checkpoints, resuming, and what a run leaves."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import lightning.pytorch as L
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.captioner.model import save_captioner
from pipeline.captioner.training import finish, set_trainable, train_captioner
from pipeline.language.decoder import save_decoder
from pipeline.training import loop
from pipeline.training.batches import ExampleData
from pipeline.training.loop import train, unfinished
from pipeline.training.optimizers import make_optimizer, with_schedule
from tests.colours import OPTIMIZATION, examples_for, fit, make

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_that_was_killed_ends_with_the_weights_it_would_have_had(tmp_path, decoder, tokenizer):
    save_decoder(tmp_path / "decoder", decoder, tokenizer)
    # The killed run dies in the middle of its third epoch, of two steps, when its curves know of the first.
    killed = (
        "import os, signal, sys; from pathlib import Path; import tests.training.test_loop as t;"
        "from pipeline.captioner.loss import CaptionTraining as T; begin = T.on_train_batch_start;"
        "T.on_train_batch_start = lambda self, *step: os.kill(os.getpid(), signal.SIGKILL) "
        "if (self.current_epoch, step[1]) == (2, 1) else begin(self, *step);"
        "t.torch.set_num_threads(1); t.run_saved(*map(Path, sys.argv[1:]))"
    )
    arguments = [tmp_path / "b", tmp_path / "decoder", tmp_path / "resumed"]
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run([sys.executable, "-c", killed, *arguments], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "b/last.ckpt").exists() and not (tmp_path / "resumed").exists()
    run_saved(*arguments)
    run_saved(tmp_path / "a", tmp_path / "decoder", tmp_path / "whole")

    weights_file = "mapper.safetensors"
    assert (tmp_path / "resumed" / weights_file).read_bytes() == (tmp_path / "whole" / weights_file).read_bytes()
    curves = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a/live").rglob("*.*"))
    assert len(curves) > 5
    for curve in curves:
        assert (tmp_path / "b" / curve).read_text() == (tmp_path / "a" / curve).read_text(), curve


def run_saved(work: Path, decoder: Path, folder: Path) -> None:
    """Train with the decoder that is saved there, with dropout, or go on with that, and save the captioner."""
    captioner = make(AutoModelForCausalLM.from_pretrained(decoder, resid_pdrop=0.2))
    set_trainable(captioner, "full")
    fit(captioner, AutoTokenizer.from_pretrained(decoder), work, optimizer="muon")
    save_captioner(folder, captioner, None)


def test_the_best_epochs_weights_are_kept_not_the_last_ones(decoder, tokenizer, tmp_path):
    set_trainable(captioner := make(decoder), "full")
    # Eighteen training segments learned by heart: validation gets worse long before the epochs are over.
    outcome = fit(captioner, tokenizer, tmp_path / "work", epochs=100, learning_rate=2e-2, patience=3)
    best = torch.load(tmp_path / "work/best.ckpt", weights_only=False)
    assert outcome.epochs == outcome.best_epoch + 1 + 3 < 100  # stopped by patience
    for name, value in captioner.mapper.state_dict().items():
        assert torch.equal(value, best["state_dict"][f"captioner.mapper.{name}"])


def test_training_without_a_split_is_refused(decoder, tokenizer, tmp_path):
    captioner = make(decoder)
    examples = [e for e in examples_for(captioner) if e.targets[0].segment.split == "train"]
    with pytest.raises(ValueError, match="no segment of split 'val' has frames"):
        train_captioner(
            captioner,
            examples,
            {},
            OPTIMIZATION,
            captions_drawn=None,
            age_rate_factor=0.1,
            name="test",
            work=tmp_path / "work",
        )


def test_an_unfinished_run_is_continued_by_the_same_settings_inputs_and_code_only(tmp_path, monkeypatch):
    (tmp_path / "input").write_text("a")
    stage = Path("stages/finetune.py").resolve()
    monkeypatch.chdir(tmp_path)

    def folder(stage: Path, *settings) -> Path:
        with unfinished("finetune", stage, settings, [tmp_path / "input"]) as work:
            return work

    first = folder(stage, 1)
    assert folder(stage, 1) == first
    assert folder(stage, 2) != first
    assert folder(stage.with_name("pretrain.py"), 1) != first
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.loop.versions", lambda *packages: f"{packages} of tomorrow")
        assert folder(stage, 1) != first
    (tmp_path / "input").write_text("b")
    assert folder(stage, 1) != first


def test_a_training_has_its_folder_to_itself_as_long_as_its_process_lives(tmp_path, monkeypatch):
    stage = Path("stages/finetune.py").resolve()
    (tmp_path / "input").touch()
    monkeypatch.chdir(tmp_path)
    with unfinished("finetune", stage, 1, [tmp_path / "input"]) as work:
        assert (work / "lock").read_text() == f"{os.getpid()}\n"
    hold = (  # as a process that knows nothing of torch takes it in no time
        "import fcntl, os, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print(os.getpid(), file=file, flush=True); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, work / "lock"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"is running already, as process {other.pid} .*kill {other.pid}"),
            unfinished("finetune", stage, 1, [tmp_path / "input"]),
        ):
            pass
        other.kill()
        other.wait()
    with unfinished("finetune", stage, 1, [tmp_path / "input"]) as work:
        assert work.is_dir()


def test_a_kill_while_a_finished_run_is_tidied_up_leaves_no_run(decoder, tokenizer, tmp_path, monkeypatch):
    set_trainable(captioner := make(decoder), "frozen")
    fit(captioner, tokenizer, tmp_path / "work", epochs=1)
    monkeypatch.setattr("pipeline.training.loop.remove", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finish(captioner, tokenizer, work=tmp_path / "work", folder=tmp_path / "out", curves=tmp_path / "curves")
    assert not (tmp_path / "work").exists() and (tmp_path / "out/mapper.safetensors").exists()


@pytest.mark.parametrize("broken", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_that_cannot_be_read_is_said_and_training_starts_over(
    broken, decoder, tokenizer, tmp_path, capsys
):
    work = tmp_path / "work"
    set_trainable(captioner := make(decoder), "frozen")
    fit(captioner, tokenizer, work, epochs=1)
    content = (work / broken).read_bytes()
    (work / broken).write_bytes(content[: len(content) // 2])
    set_trainable(captioner := make(decoder), "frozen")
    fit(captioner, tokenizer, work, epochs=1)
    assert "cannot be read" in (warning := capsys.readouterr().err) and "training starts over" in warning
    fit(captioner, tokenizer, work, epochs=2)
    assert "test: continues a killed run, after epoch 1 of 2 (step 2)" in capsys.readouterr().err


class Halving(L.LightningModule):
    """No captioner: learns to halve a number, by one weight behind a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
        self.learned = torch.nn.Linear(1, 1, bias=False)
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros(()))
        torch.nn.init.ones_(self.frozen.weight)
        torch.nn.init.ones_(self.learned.weight)

    def training_step(self, numbers: torch.Tensor, _: int) -> torch.Tensor:
        self.seen += len(numbers)
        return self.loss(numbers)

    def validation_step(self, numbers: torch.Tensor, _: int) -> None:
        self.log("val/loss", self.loss(numbers))

    def loss(self, numbers: torch.Tensor) -> torch.Tensor:
        return (self.learned(self.frozen(numbers)) - numbers / 2).square().mean()

    def configure_optimizers(self):
        return with_schedule(make_optimizer("adamw", self, learning_rate=0.1, weight_decay=0.0), 2, 32)


def test_a_module_that_is_no_captioner_is_trained_and_continued(tmp_path, capsys):
    data = ExampleData(
        [1.0, 2.0, 3.0, 4.0],
        [5.0],
        plan=lambda numbers, epoch: [[i] for i in range(len(numbers))],
        collate=lambda numbers: torch.tensor(numbers)[:, None],
        seed=0,
    )
    train(Halving(), data, replace(OPTIMIZATION, epochs=4), name="halving", work=tmp_path)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert saved.keys() == {"learned.weight", "seen"}  # what changes: not what is frozen
    outcome = train(module := Halving(), data, replace(OPTIMIZATION, epochs=8), name="halving", work=tmp_path)
    assert "continues a killed run, after epoch 4 of 8 (step 16)" in capsys.readouterr().err
    assert outcome.best_loss < 0.01 and module.learned.weight.item() == pytest.approx(0.5, abs=0.02)
    assert module.seen == 4 * (outcome.best_epoch + 1)


@pytest.mark.parametrize(("small", "expected"), [(3, {1}), (2, {2})])
def test_a_small_module_is_trained_on_one_thread_and_a_large_one_on_as_many_as_before(
    small, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SMALL", small)
    threads = set()

    class Watched(Halving):  # of two weights
        def training_step(self, numbers: torch.Tensor, step: int) -> torch.Tensor:
            threads.add(torch.get_num_threads())
            return super().training_step(numbers, step)

    data = ExampleData(
        [1.0, 2.0], [5.0], plan=lambda numbers, epoch: [[0]], collate=lambda n: torch.tensor(n)[:, None], seed=0
    )
    torch.set_num_threads(2)  # `one_thread` sets it back
    train(Watched(), data, replace(OPTIMIZATION, epochs=1), name="watched", work=tmp_path)
    assert threads == expected and torch.get_num_threads() == 2


def test_a_gradient_is_cut_to_the_norm_that_is_asked_for(tmp_path):
    norms = []

    class Watched(Halving):
        def on_before_optimizer_step(self, optimizer) -> None:
            norms.append(self.learned.weight.grad.norm().item())

        def optimizer_step(self, *arguments) -> None:
            super().optimizer_step(*arguments)
            norms.append(self.learned.weight.grad.norm().item())

    data = ExampleData([4.0], [5.0], plan=lambda n, epoch: [[0]], collate=lambda n: torch.tensor(n)[:, None], seed=0)
    for clip in (0.5, 1e6):
        train(Watched(), data, replace(OPTIMIZATION, epochs=1, gradient_clip=clip), name="x", work=tmp_path / f"{clip}")
    assert norms == pytest.approx([16.0, 0.5, 16.0, 16.0])  # of (4 w - 2)^2 at w = 1, before and after
