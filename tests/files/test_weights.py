"""Model folders that a stranger wrote: one line that names the file, nothing fetched, nothing allocated."""

import json
import resource
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.baselines import LAST
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CaptionerConfig, build_captioner, load_captioner, save_captioner
from pipeline.features.encoder import load_encoder
from pipeline.language.decoder import load_decoder, save_decoder
from pipeline.params import load_params
from tests.features.test_encoder import TOWERS, random_encoder
from tests.language.test_decoder import words

MAPPER = MapperConfig("transformer", 1, 2, 16, 1, 2, embedding_width=8, decoder_width=8)
CONFIGS = {"encoder": "open_clip_config.json", "decoder": "config.json", "captioner": "config.json"}
WEIGHTS = {"encoder": "open_clip_model.safetensors", "decoder": "model.safetensors", "captioner": "mapper.safetensors"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in CONFIGS:
        (folder / name).mkdir()
    random_encoder(folder / "encoder", *TOWERS["transformer"])
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    save_decoder(folder / "decoder", gpt2, words())
    save_captioner(folder / "captioner", build_captioner(CaptionerConfig(MAPPER, None, LAST), gpt2), None)
    return folder


@pytest.fixture
def strangers(models, tmp_path, monkeypatch) -> Path:
    shutil.copytree(models, tmp_path / "models")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something was to be fetched"))
    return tmp_path / "models"


def opened(models: Path, name: str):
    opening: dict[str, Callable[[], Any]] = {
        "encoder": partial(load_encoder, models / name, device=torch.device("cpu"), dtype=torch.float32),
        "decoder": partial(load_decoder, models / name),
        "captioner": partial(load_captioner, models / name, models / "decoder"),
    }
    return opening[name]()


def change(path: Path, key: str, value: object) -> None:
    values = json.loads(path.read_text())
    *outer, last = key.split(".")
    inner = values
    for name in outer:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_broken_is_said_in_one_line_with_its_path(strangers, name):
    opened(strangers, name)
    config, weights = strangers / name / CONFIGS[name], strangers / name / WEIGHTS[name]
    whole = config.read_text()
    for broken in ("{}", "[]", "{", "null", "[" * 100_000):
        config.write_text(broken)
        with pytest.raises(ValueError, match=f"^{config}[^\n]*$"):
            opened(strangers, name)
    config.write_text(whole)
    content = weights.read_bytes()
    for cut in (len(content) - 1, len(content) // 2, 4, 0):
        weights.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=f"^{weights} is not a complete safetensors file[^\n]*$"):
            opened(strangers, name)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("encoder", "model_cfg.vision_cfg.layers", 100_000, "a model of 100000 layers, its weights are"),
        ("encoder", "model_cfg.vision_cfg.width", 1 << 20, r"shape \[1048576\], its weights have \[64\]"),
        ("encoder", "model_cfg.vision_cfg.image_size", 1 << 20, r"positional_embedding has the shape"),
        ("encoder", "model_cfg.vision_cfg.patch_size", "x", "does not describe a model that can be built"),
        ("encoder", "model_cfg.vision_cfg.timm_model_name", "hf-hub:a/b", "image tower 'hf-hub:a/b', which timm does"),
        ("encoder", "model_cfg.embed_dim", "many", "model_cfg.embed_dim is 'many', expected a number"),
        ("encoder", "model_cfg.vision_cfg", [], "expected an image tower as model_cfg.vision_cfg"),
        ("encoder", "preprocess_cfg", {"mean": "grey"}, "has settings for pictures that do not work"),
        ("decoder", "n_layer", 100_000, "a model of 100000 layers, its weights are"),
        ("decoder", "vocab_size", 1 << 30, "a model of 8,589,935,608 weights, .* has"),
        ("decoder", "n_positions", 1 << 40, "a model of .* weights"),
        ("decoder", "n_inner", 8, "cannot be loaded as a language model"),
        ("decoder", "model_type", "unknown", "is not the config of a language model"),
        ("decoder", "attn_implementation", "org/kernel", "has attn_implementation, which needs code from elsewhere"),
        ("captioner", "mapper.layers", 100_000, "a model of 100000 layers, its weights are"),
        ("captioner", "mapper.prefix_tokens", 1 << 40, "constants has the shape"),
        ("captioner", "mapper.heads", 3, "does not describe a model that can be built|shape"),
        ("captioner", "mapper.width", -1, "greater than 0"),
        ("captioner", "mapper.kind", "other", "'transformer' or 'mlp'"),
        ("captioner", "baseline.frames", "none", "expected one of last, first, middle, mean"),
        ("captioner", "baseline.count", 1 << 40, "less than or equal to 4096"),
    ],
)
def test_a_config_that_asks_for_more_than_its_weights_are_is_refused_unbuilt(strangers, name, key, value, message):
    config = strangers / name / CONFIGS[name]
    change(config, key, value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"{strangers / name}[^\n]*({message})[^\n]*$"):
        opened(strangers, name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_the_captioner_of_another_decoder_is_refused(strangers):
    wide = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    save_decoder(strangers / "decoder", wide, words())
    with pytest.raises(ValueError, match=r"config.json: decoder_width is 8, its decoder's is 16"):
        opened(strangers, "captioner")


def test_an_adapter_of_a_model_that_is_elsewhere_is_not_followed(strangers):
    (strangers / "decoder/adapter_config.json").write_text('{"base_model_name_or_path": "org/model"}')
    with pytest.raises(ValueError, match=r"adapter_config.json: adapters are not loaded; merge"):
        opened(strangers, "decoder")


def test_params_that_no_reader_of_yaml_survives_are_refused_in_a_line(tmp_path):
    for text in ("a: " + "[" * 1000, "a: \0"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"params.yaml: YAML that cannot be read: [^\n]*$"):
            load_params(tmp_path / "params.yaml")
