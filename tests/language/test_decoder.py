import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline.language.decoder import load_decoder, save_decoder, tokenize

END = "<|endoftext|>"


def words(*, end=True) -> PreTrainedTokenizerFast:
    """Like GPT-2's: no padding token, and id 0 is a real word, '!'."""
    vocabulary = {word: i for i, word in enumerate(["!", "a", "red", "star", END])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"eos_token": END} if end else {}))


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=5, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=4, eos_token_id=4)
    return GPT2LMHeadModel(config)


def test_a_saved_decoder_comes_back_the_same(tmp_path):
    model, tokenizer = gpt2().eval(), words()
    save_decoder(tmp_path, model, tokenizer)
    loaded, its_tokenizer = load_decoder(tmp_path)
    ids = torch.tensor([tokenizer("a red star !")["input_ids"]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert not loaded.training
    assert its_tokenizer("a red star !")["input_ids"] == ids[0].tolist()
    assert its_tokenizer.eos_token_id == 4


def test_captions_end_with_the_end_token_and_are_not_padded():
    assert tokenize(words(), ["a star", "! a red star !", ""], 10) == [[1, 3, 4], [0, 1, 2, 3, 0, 4], [4]]


def test_a_caption_that_is_too_long_is_cut_and_still_ends():
    assert tokenize(words(), ["a red star !"], 3) == [[1, 2, 4]]


def test_no_captions_are_no_tokens():
    assert tokenize(words(), [], 3) == []


def test_an_empty_folder_is_explained(tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no config.json with \*.safetensors; make it with: dvc repro backbones"
    ):
        load_decoder(tmp_path)


def test_a_pickle_in_place_of_safetensors_is_refused(tmp_path):
    save_decoder(tmp_path, gpt2(), words())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no config.json with \*.safetensors"):
        load_decoder(tmp_path)


def test_code_that_comes_with_a_decoder_is_not_run(tmp_path):
    save_decoder(tmp_path, gpt2(), words())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        load_decoder(tmp_path)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    save_decoder(tmp_path, gpt2(), words(end=False))
    with pytest.raises(ValueError, match="its tokenizer has no end token, which a caption must end with"):
        load_decoder(tmp_path)
