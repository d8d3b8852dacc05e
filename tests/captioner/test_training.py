"""Training captioners on a made-up world."""

import tempfile
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from pipeline.captioner import distant
from pipeline.captioner.distant import DistantTraining
from pipeline.captioner.generation import caption_batch
from pipeline.captioner.loss import CaptionTraining
from pipeline.captioner.mapper import TransformerMapper
from pipeline.captioner.model import load_captioner
from pipeline.captioner.sequences import collate
from pipeline.captioner.training import finish, set_trainable, tokenize_captions
from pipeline.language.decoder import load_decoder, save_decoder
from pipeline.params import LoraParams
from tests.captioner.test_distant import OPTIONS
from tests.colours import BEAM, OPTIMIZATION, examples_for, fit, make, world

pytestmark = pytest.mark.usefixtures("one_thread")


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before)


def test_training_with_a_frozen_decoder_moves_the_mapper_alone(decoder, tokenizer, tmp_path, monkeypatch):
    # Nor does it write a checkpoint among temporary files, which may be on another disk.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "is not there"))
    captioner = make(decoder)
    decoder_before, mapper_before = weights(captioner.decoder), weights(captioner.mapper)
    set_trainable(captioner, "frozen")
    outcome = fit(captioner, tokenizer, tmp_path / "work")
    assert not changed(decoder_before, weights(captioner.decoder))
    assert changed(mapper_before, weights(captioner.mapper))
    assert outcome.epochs == 4
    saved = torch.load(tmp_path / "work/last.ckpt", weights_only=False)["state_dict"]
    assert not any(".decoder." in name for name in saved)  # hundreds of megabytes that nobody changed


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_decoder_that_was_trained_is_saved_and_gives_the_same_captions_back(mode, decoder, tokenizer, tmp_path):
    save_decoder(tmp_path / "decoder", decoder, tokenizer)
    captioner = make(decoder)
    before = weights(decoder)
    set_trainable(captioner, mode, LoraParams(rank=2, alpha=4, dropout=0.0))
    fit(captioner, tokenizer, tmp_path / "work")
    finish(captioner, tokenizer, work=tmp_path / "work", folder=tmp_path / "out", curves=tmp_path / "curves")
    batch = collate(examples_for(captioner)[:5])
    expected = caption_batch(captioner, tokenizer, batch, **BEAM)

    loaded, loaded_tokenizer = load_captioner(tmp_path / "out", tmp_path / "decoder")
    assert changed(before, weights(loaded.decoder))
    assert caption_batch(loaded, loaded_tokenizer, batch, **BEAM) == expected
    assert not (tmp_path / "work").exists()
    assert (tmp_path / "curves/plots/metrics/val/loss.tsv").read_text().count("\n") == 1 + 4


def test_a_memory_learns_what_one_frame_cannot_tell(decoder, tokenizer, tmp_path):
    set_trainable(with_memory := make(decoder), "full")
    memory = fit(with_memory, tokenizer, tmp_path / "memory", videos=160, epochs=12, learning_rate=1e-2)
    torch.manual_seed(0)
    set_trainable(without := make(GPT2LMHeadModel(decoder.config).eval(), memory=False), "full")
    baseline = fit(without, tokenizer, tmp_path / "baseline", videos=160, epochs=12, learning_rate=1e-2)
    # Not knowing the first of three colours costs ln 3 nats a caption of four tokens.
    assert baseline.best_loss > 0.8 * np.log(3) / 4
    assert memory.best_loss < 0.5 * baseline.best_loss


def test_an_epoch_draws_captions_of_its_own_and_the_same_ones_again(decoder):
    module = CaptionTraining(make(decoder), {}, OPTIMIZATION, steps=1, captions_drawn=1, age_rate_factor=0.1)
    segments = [replace(s, captions=(f"first {s.captions[0]}", f"a {s.captions[0]} at last")) for s in world()[0]]

    def epoch(number: int) -> list[str]:
        with mock.patch.object(CaptionTraining, "current_epoch", number):
            drawn = [module.drawn(one.segment_id, one.captions, 1) for one in segments]
        assert all(len(captions) == 1 for captions in drawn)
        return [captions[0] for captions in drawn]

    assert epoch(0) == epoch(0) != epoch(1)
    assert {len(caption.split()) for caption in epoch(0)} == {4, 6}  # both wordings have their turn


def test_a_loss_that_is_no_number_ends_the_training_and_says_when(decoder, tokenizer, tmp_path):
    captioner = make(decoder)
    set_trainable(captioner, "frozen")
    with pytest.raises(ValueError, match=r"^the loss became nan in epoch \d+, step \d+ of 8; lower its learning_rate"):
        fit(captioner, tokenizer, tmp_path / "work", learning_rate=1e30, warmup_steps=0)
    captioner = make(decoder)
    with torch.no_grad():
        captioner.mapper.project.bias.fill_(torch.nan)
    examples = [e for e in examples_for(captioner) if e.targets[0].segment.split == "val"]
    module = CaptionTraining(
        captioner,
        tokenize_captions(tokenizer, examples, 8),
        OPTIMIZATION,
        steps=8,
        captions_drawn=None,
        age_rate_factor=0.1,
    ).eval()
    module.trainer = SimpleNamespace(world_size=1, current_epoch=1, global_step=6)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"the validation loss became nan in epoch 2, step 7 of 8"):
        module.validation_step(collate(examples), 0)


@pytest.mark.parametrize("mode", ["frozen", "full", "lora"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_what_is_trained_is_float32_whatever_the_decoder_was_stored_as(stored, mode, decoder, tokenizer, tmp_path):
    save_decoder(tmp_path / "decoder", decoder.to(stored), tokenizer)
    for requested in (torch.float32, torch.bfloat16):
        loaded, _ = load_decoder(tmp_path / "decoder", dtype=requested)
        assert loaded.dtype == (torch.bfloat16 if stored == requested else torch.float32)
        captioner = make(loaded)
        set_trainable(captioner, mode, LoraParams(rank=2, alpha=4, dropout=0.0))
        assert {p.dtype for p in captioner.parameters() if p.requires_grad} == {torch.float32}
        # Several captions of a segment share the prefix's keys.
        log_probs = captioner.token_log_probs(
            torch.randn(2, 3, 16), torch.tensor([[3, 0]] * 3), torch.tensor([2] * 3), torch.tensor([1, 2])
        )
        assert log_probs.isfinite().all()


def test_ages_learn_at_their_factor_of_the_learning_rate(decoder):
    module = CaptionTraining(
        captioner := make(decoder), {}, OPTIMIZATION, steps=1, captions_drawn=1, age_rate_factor=0.25
    )
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    for memory in [layer.attention.memory for layer in captioner.mapper.layers]:
        assert rates[id(memory.age_key)] == rates[id(memory.age_bias)] == 0.25 * OPTIMIZATION.learning_rate
        assert rates[id(memory.age_value)] == OPTIMIZATION.learning_rate


def test_a_memory_of_videos_learns_with_distractors_and_a_loss_on_its_keys(decoder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(distant, "RARE", 1.1)  # there are but three colours
    seen = []
    remembered = TransformerMapper.recalled

    def recalled(self, embeddings, moments, distractors=None):
        seen.append(distractors)
        return remembered(self, embeddings, moments, distractors)

    monkeypatch.setattr(TransformerMapper, "recalled", recalled)
    options = DistantTraining(**OPTIONS | {"distractors": 60, "key_loss": 0.5})
    for scope in ("segment", "video"):
        captioner = make(decoder, scope=scope)
        set_trainable(captioner, "full")
        fit(captioner, tokenizer, tmp_path / scope, distant=options)
        curve = tmp_path / scope / "live/plots/metrics/train/key_loss.tsv"
        assert curve.exists() == (scope == "video")
        assert any(seen) == (scope == "video")  # a memory of segments has nothing from before them
    losses = [float(line.split("\t")[1]) for line in curve.read_text().splitlines()[1:]]
    assert len(losses) == 4 and losses[-1] < losses[0]
