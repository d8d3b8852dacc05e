"""Captioner and training on a made-up world: a frame's embedding says a colour, and so does its caption."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline.annotations import Segment
from pipeline.captioner import (
    CaptionerConfig,
    build_captioner,
    load_captioner,
    load_config,
    save_captioner,
)
from pipeline.captioning import caption_batch, recall
from pipeline.decoder import save_decoder
from pipeline.embeddings import VideoEmbeddings
from pipeline.mapper import MapperConfig
from pipeline.memory import MemoryConfig
from pipeline.params import LoraParams
from pipeline.sequences import collate, make_examples
from pipeline.streaming import stream_segments
from pipeline.training import (
    CaptionTraining,
    Optimization,
    finish,
    make_optimizer,
    set_trainable,
    tokenize_captions,
    train,
    unfinished,
    warmup_then_linear,
)

COLOURS = ("red", "green", "blue")
BEAM = {"method": "beam", "beams": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 6, "length_penalty": 1.0}
BEAM["index"] = "exact"
OPTIMIZATION = Optimization(
    epochs=4,
    batch_size=16,
    captions_drawn=None,
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=0.01,
    warmup_steps=5,
    patience=10,
    precision="32-true",
    devices=1,
    accelerator="cpu",
    seed=0,
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<end>", "a", "then", *COLOURS]  # no padding token, like GPT-2's
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def make_decoder() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=6, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def decoder():
    return make_decoder()


def world(videos: int = 24) -> tuple[list[Segment], dict[str, VideoEmbeddings]]:
    """Videos of 4 frames: first one colour, then another; the caption tells both, so the last frame is not enough."""
    random = np.random.default_rng(0)
    codes = random.normal(size=(3, 8)).astype(np.float16)
    segments, embeddings = [], {}
    for v in range(videos):
        first, second = random.integers(3), random.integers(3)
        split = "val" if v % 4 == 0 else "train"
        segments.append(Segment(f"{v}#0", f"{v}", split, 0.0, 0.8, (f"{COLOURS[first]} then {COLOURS[second]}",), None))
        embeddings[f"{v}"] = VideoEmbeddings(np.arange(4) / 5, codes[[first, first, second, second]])
    return segments, embeddings


def make(decoder, *, memory: bool = True, pretrained=None):
    config = CaptionerConfig(
        mapper=MapperConfig("transformer", 2, 2, 16, 1, 2, embedding_width=8, decoder_width=16),
        memory=MemoryConfig((1, 2), 4, 64, "joint", "age", "segment", "through", 2) if memory else None,
        baseline_frame=None if memory else "last",
    )
    torch.manual_seed(1)
    return build_captioner(config, decoder, pretrained)


def examples_for(captioner, videos: int = 24):
    segments, embeddings = world(videos)
    return make_examples(
        segments, embeddings, scope=captioner.config.scope, baseline_frame=captioner.config.baseline_frame
    )


def fit(captioner, tokenizer, work, videos: int = 24, **changes):
    examples = examples_for(captioner, videos)
    return train(
        captioner,
        examples,
        tokenize_captions(tokenizer, examples, 8),
        replace(OPTIMIZATION, **changes),
        name="test",
        work=work,
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before)


def test_training_with_a_frozen_decoder_moves_the_mapper_alone(decoder, tokenizer, tmp_path):
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
    wanted = caption_batch(captioner, tokenizer, batch, **BEAM)

    loaded, loaded_tokenizer = load_captioner(tmp_path / "out", tmp_path / "decoder")
    assert changed(before, weights(loaded.decoder))
    assert caption_batch(loaded, loaded_tokenizer, batch, **BEAM) == wanted
    assert not (tmp_path / "work").exists()
    assert (tmp_path / "curves/plots/metrics/val/loss.tsv").read_text().count("\n") == 1 + 4


def test_videos_that_outgrow_the_memory_are_streamed_and_captioned_as_they_would_be_whole(decoder, tokenizer):
    captioner = make(decoder)
    config = replace(captioner.config, memory=replace(captioner.config.memory, max_entries=9))  # 3 frames
    forgetful = build_captioner(config, decoder, captioner.mapper.state_dict())
    batch = collate(examples_for(forgetful)[:5])
    assert batch.embeddings.shape[1] > 3
    whole = forgetful.mapper.recalled(batch.embeddings, batch.moments)
    with mock.patch("pipeline.captioning.stream_segments", side_effect=stream_segments) as streamed:
        prefixes, retrieved = recall(forgetful, batch, "exact")
        torch.testing.assert_close(prefixes, whole.prefixes[batch.real])
        assert streamed.call_count == 5
        assert caption_batch(forgetful, tokenizer, batch, **BEAM).keys() == {s.segment_id for s in batch.segments}
        streamed.reset_mock()
        recall(captioner, batch, "exact")
        assert not streamed.called  # it holds them all
        torch.testing.assert_close(recall(forgetful, batch, "approximate")[0], prefixes)  # few keys: exact
        assert streamed.called
    for seen, (b, r) in zip(retrieved, batch.real.nonzero().tolist(), strict=True):
        for one in seen:
            wanted = whole.attended[one.layer][b, one.head - 1, r, one.frame_index - batch.begins[b]]
            assert one.weight == pytest.approx(float(wanted), rel=1e-4) and one.weight > 0


def test_a_memory_learns_what_one_frame_cannot_tell(decoder, tokenizer, tmp_path):
    set_trainable(with_memory := make(decoder), "full")
    memory = fit(with_memory, tokenizer, tmp_path / "memory", videos=160, epochs=12, learning_rate=1e-2)
    torch.manual_seed(0)
    set_trainable(without := make(GPT2LMHeadModel(decoder.config).eval(), memory=False), "full")
    baseline = fit(without, tokenizer, tmp_path / "baseline", videos=160, epochs=12, learning_rate=1e-2)
    # Not knowing the first of three colours costs ln 3 nats a caption of four tokens.
    assert baseline.best_loss > 0.8 * np.log(3) / 4
    assert memory.best_loss < 0.5 * baseline.best_loss


def test_the_best_epochs_weights_are_kept_not_the_last_ones(decoder, tokenizer, tmp_path):
    set_trainable(captioner := make(decoder), "full")
    # Eighteen training segments learned by heart: validation gets worse long before the epochs are over.
    outcome = fit(captioner, tokenizer, tmp_path / "work", epochs=100, learning_rate=2e-2, patience=3)
    best = torch.load(tmp_path / "work/best.ckpt", weights_only=False)
    assert outcome.epochs == outcome.best_epoch + 1 + 3 < 100  # stopped by patience
    for name, value in captioner.mapper.state_dict().items():
        assert torch.equal(value, best["state_dict"][f"captioner.mapper.{name}"])


def test_a_run_that_was_killed_ends_with_the_weights_it_would_have_had(tmp_path, decoder, tokenizer):
    save_decoder(tmp_path / "decoder", decoder, tokenizer)
    # The killed run dies as it starts its third epoch.
    killed = (
        "import os, signal, sys; sys.path.insert(0, 'tests'); from pathlib import Path; import test_training as t;"
        "t.CaptionTraining.on_train_epoch_start = "
        "lambda self: os.kill(os.getpid(), signal.SIGKILL) if self.current_epoch == 2 else None;"
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
    curve = "live/plots/metrics/train/loss.tsv"
    assert (tmp_path / "b" / curve).read_text() == (tmp_path / "a" / curve).read_text()


def run_saved(work: Path, decoder: Path, folder: Path) -> None:
    """Train with the decoder that is saved there, or go on with that, and save the captioner."""
    captioner = make(AutoModelForCausalLM.from_pretrained(decoder).eval())
    set_trainable(captioner, "frozen")
    fit(captioner, AutoTokenizer.from_pretrained(decoder), work, optimizer="muon")
    save_captioner(folder, captioner, None)


def test_finetuning_starts_from_the_pretrained_mapper(decoder):
    pretrained = make(decoder, memory=False).mapper
    for value in pretrained.parameters():
        value.data.normal_()
    captioner = make(decoder, pretrained=pretrained.state_dict())
    mapper = weights(captioner.mapper)
    for name, value in pretrained.state_dict().items():
        if "attention.query" in name or "log_scale" in name:  # of the heads that seek likeness, set anew
            half = len(value) // 2
            mapper[name], value = mapper[name][:half], value[:half]
        assert torch.equal(mapper[name], value), name
    assert {name for name in mapper if name not in pretrained.state_dict()} == {
        f"layers.{layer}.attention.memory.{table}" for layer in (0, 1) for table in ("age_bias", "age_key", "age_value")
    }


def test_pretrained_weights_of_another_mapper_are_refused(decoder):
    state = make(decoder, memory=False).mapper.state_dict()
    without_one = {name: value for name, value in state.items() if name != "constants"}
    with pytest.raises(ValueError, match=r"lacks \['constants'\]"):
        make(decoder, pretrained=without_one)
    with pytest.raises(ValueError, match="other sizes; run `dvc repro pretrain`"):
        make(decoder, pretrained={**state, "constants": torch.zeros(3, 16)})


def test_padding_behind_a_caption_changes_nothing(decoder):
    captioner = make(decoder)
    prefixes = torch.randn(2, 2, 16)
    tokens = torch.tensor([[3, 2, 0, 0, 0], [4, 2, 5, 5, 0]])
    with torch.no_grad():
        together = captioner.token_log_probs(prefixes, tokens, torch.tensor([3, 5]))
        alone = captioner.token_log_probs(prefixes[:1], tokens[:1, :3], torch.tensor([3]))
    torch.testing.assert_close(together[0, :3], alone[0])
    assert together[0, 3:].tolist() == [0, 0]
    assert (together[1] < 0).all()


def test_the_log_probability_of_a_caption_is_the_decoders_own(decoder, tokenizer):
    captioner = make(decoder).eval()
    batch = collate(examples_for(captioner)[:3])
    captions = caption_batch(captioner, tokenizer, batch, **BEAM)
    with torch.no_grad():
        prefix = captioner.prefixes(batch.embeddings, batch.moments, batch.real)[0]
        words = tokenizer(captions[batch.segments[0].segment_id].caption)["input_ids"]
        inputs = torch.cat([prefix, decoder.get_input_embeddings()(torch.tensor(words, dtype=torch.int64))])
        log_probs = decoder(inputs_embeds=inputs[None]).logits[0].log_softmax(-1)
    wanted = sum(log_probs[len(prefix) - 1 + i, token] for i, token in enumerate([*words, 0]))
    assert captions[batch.segments[0].segment_id].log_prob == pytest.approx(float(wanted), abs=1e-4)


def test_drawn_captions_are_a_function_of_the_seed_and_no_longer_than_asked(decoder, tokenizer):
    captioner = make(decoder).eval()
    batch = collate(examples_for(captioner))
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(caption_batch(captioner, tokenizer, batch, **{**BEAM, "method": "sample"}))
    assert drawn[0] == drawn[1] != drawn[2]
    assert max(len(made.caption.split()) for made in drawn[0].values()) == BEAM["max_tokens"]


def test_a_captioner_comes_back_from_its_folder_as_it_was(decoder, tokenizer, tmp_path):
    captioner = make(decoder)
    save_captioner(tmp_path / "c", captioner, None)
    assert load_config(tmp_path / "c") == captioner.config
    assert json.loads((tmp_path / "c/config.json").read_text())["memory"]["k"] == 4
    assert not (tmp_path / "c/decoder").exists()


def test_a_missing_captioner_is_said_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ValueError, match="holds no trained captioner; run `dvc repro`"):
        load_config(tmp_path)


def test_training_without_a_split_is_refused(decoder, tokenizer, tmp_path):
    captioner = make(decoder)
    examples = [e for e in examples_for(captioner) if e.targets[0].segment.split == "train"]
    with pytest.raises(ValueError, match="no segment of split 'val' has frames"):
        train(captioner, examples, {}, OPTIMIZATION, name="test", work=tmp_path / "work")


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rate = warmup_then_linear(4, 20)
    assert [rate(0), rate(3), rate(12), rate(20)] == [0.25, 1.0, 0.5, 0.0]
    assert warmup_then_linear(100, 10)(4) == 1.0  # a short run still reaches its rate


def test_an_epoch_draws_captions_of_its_own_and_the_same_ones_again(decoder):
    module = CaptionTraining(make(decoder), {}, replace(OPTIMIZATION, captions_drawn=1), steps=1)
    segments = [replace(s, captions=(f"first {s.captions[0]}", f"a {s.captions[0]} at last")) for s in world()[0]]

    def epoch(number: int) -> list[str]:
        with mock.patch.object(CaptionTraining, "current_epoch", number):
            drawn = [module._drawn(segment) for segment in segments]
        assert all(len(captions) == 1 for captions in drawn)
        return [captions[0] for captions in drawn]

    assert epoch(0) == epoch(0) != epoch(1)
    assert {len(caption.split()) for caption in epoch(0)} == {4, 6}  # both wordings have their turn


def test_muon_moves_the_maps_and_adamw_the_tables(decoder):
    set_trainable(captioner := make(decoder), "full")
    muon, adamw = make_optimizer("muon", captioner, learning_rate=1e-3, weight_decay=0.01).parts
    parts = [{id(p) for group in part.param_groups for p in group["params"]} for part in (muon, adamw)]
    assert parts[0] | parts[1] == {id(p) for p in captioner.parameters()} and not parts[0] & parts[1]
    memory = captioner.mapper.layers[0].attention.memory
    tables = [decoder.transformer.wte.weight, decoder.transformer.wpe.weight]
    assert {id(table) for table in (*tables, captioner.mapper.constants, memory.age_bias)} <= parts[1]
    assert id(captioner.mapper.project.weight) in parts[0]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_where_ages_send_a_head_is_learned_more_slowly_than_all_else(decoder, name):
    captioner = make(decoder)
    optimizer = make_optimizer(name, captioner, learning_rate=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
    slow = {key for key, rate in rates.items() if rate == pytest.approx(0.5e-4)}
    memories = [layer.attention.memory for layer in captioner.mapper.layers]
    assert slow == {id(table) for memory in memories for table in (memory.age_key, memory.age_bias)}
    assert {rate for key, rate in rates.items() if key not in slow} == {0.5e-3}


def test_an_unfinished_run_is_continued_by_the_same_settings_inputs_and_code_only(tmp_path):
    (tmp_path / "input").write_text("a")
    stage = Path("stages/finetune.py").resolve()
    first = unfinished("finetune", stage, ("settings", 1), [tmp_path / "input"])
    assert unfinished("finetune", stage, ("settings", 1), [tmp_path / "input"]) == first
    assert unfinished("finetune", stage, ("settings", 2), [tmp_path / "input"]) != first
    assert unfinished("finetune", stage.with_name("pretrain.py"), ("settings", 1), [tmp_path / "input"]) != first
    (tmp_path / "input").write_text("b")
    assert unfinished("finetune", stage, ("settings", 1), [tmp_path / "input"]) != first
