"""The captioner, its loss and its files."""

import json

import pytest
import torch

from pipeline.baselines import BaselineConfig
from pipeline.captioner.generation import caption_batch
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CONFIG_FILE, CaptionerConfig, build_captioner, load_config, save_captioner
from pipeline.captioner.sequences import collate
from tests.colours import BEAM, examples_for, make, make_decoder
from tests.memory_config import memory_config

pytestmark = pytest.mark.usefixtures("one_thread")
MAPPER = MapperConfig("transformer", 2, 2, 16, 1, 2, embedding_width=8, decoder_width=16)


def test_finetuning_starts_from_the_pretrained_mapper(decoder):
    pretrained = make(decoder, memory=False).mapper
    for value in pretrained.parameters():
        value.data.normal_()
    captioner = make(decoder, pretrained=pretrained.state_dict())
    mapper = {name: value.clone() for name, value in captioner.mapper.state_dict().items()}
    for name, value in pretrained.state_dict().items():
        if "attention.query" in name or "log_scale" in name:  # of the heads that seek likeness, set again
            half = len(value) // 2
            mapper[name], value = mapper[name][:half], value[:half]
        assert torch.equal(mapper[name], value), name
    assert {name for name in mapper if name not in pretrained.state_dict()} == {
        f"layers.{layer}.attention.memory.{table}" for layer in (0, 1) for table in ("age_bias", "age_key", "age_value")
    }


def test_pretrained_weights_of_another_mapper_are_refused(decoder):
    state = make(decoder, memory=False).mapper.state_dict()
    without_one = {name: value for name, value in state.items() if name != "constants"}
    with pytest.raises(ValueError, match=r"missing \['constants'\]"):
        make(decoder, pretrained=without_one)
    with pytest.raises(ValueError, match=r"does not match \(its sizes differ\); run `dvc repro pretrain`"):
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
    expected = sum(log_probs[len(prefix) - 1 + i, token] for i, token in enumerate([*words, 0]))
    assert captions[batch.segments[0].segment_id].log_prob == pytest.approx(float(expected), abs=1e-4)


def test_a_captioner_comes_back_from_its_folder_as_it_was(decoder, tokenizer, tmp_path):
    captioner = make(decoder)
    save_captioner(tmp_path / "c", captioner, None)
    assert load_config(tmp_path / "c") == captioner.config
    assert json.loads((tmp_path / "c/config.json").read_text())["memory"]["k"] == 4
    assert not (tmp_path / "c/decoder").exists()


def test_a_missing_captioner_is_said_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ValueError, match="holds no trained captioner; run `dvc repro`"):
        load_config(tmp_path)


def test_a_config_without_what_later_revisions_write_has_what_its_own_did(tmp_path):
    config = CaptionerConfig(
        MAPPER, memory_config(other_side_bias=-1.0, likeness_scale=3.0, side_mark_length=1.0), None
    )
    save_captioner(tmp_path / "c", build_captioner(config, make_decoder()), None)
    assert load_config(tmp_path / "c") == config
    path = tmp_path / "c" / CONFIG_FILE
    written = json.loads(path.read_text())
    assert written.pop("baseline") is None
    written |= {"format": 1, "baseline_frame": None}
    later = ("write_below", "usual_keys", "match_features", "excess_unit")
    for key in ("keyframes", "other_side_bias", "likeness_scale", "side_mark_length", *later):
        del written["memory"][key]
    path.write_text(json.dumps(written))
    assert load_config(tmp_path / "c").memory == memory_config(
        keyframes=0, other_side_bias=-0.5, likeness_scale=30.0, side_mark_length=6.0
    )
    path.write_text(json.dumps({**written, "memory": None, "baseline_frame": "mean"}))
    assert load_config(tmp_path / "c") == CaptionerConfig(MAPPER, None, BaselineConfig("mean", 1))
