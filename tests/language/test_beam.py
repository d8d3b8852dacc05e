"""The beam search against transformers' own, on small random decoders that end their captions when they like."""

from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
)
from transformers.cache_utils import DynamicLayer

from pipeline.captioner.model import Captioner, CaptionerConfig
from pipeline.language.beam import CausalLanguageModel, RoomyLayer, beam_search, search, search_best, stay_in_place

WIDTH = 16
END = 2


def gpt2(seed: int, vocabulary: int = 9, end_bias: float = 0.0):
    """A decoder of strong opinions; the bias is added to the logit of the end."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=64,
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,
        tie_word_embeddings=False,
        bos_token_id=END,
        eos_token_id=END,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.lm_head.bias = nn.Parameter(torch.zeros(vocabulary))
    model.lm_head.bias.data[END] = end_bias
    return model


def reference(model, prefixes, *, end, beams, max_tokens, length_penalty):
    rows = model.generate(
        inputs_embeds=prefixes,
        attention_mask=torch.ones(prefixes.shape[:2], dtype=torch.int64),
        num_beams=beams,
        do_sample=False,
        early_stopping=False,
        max_new_tokens=max_tokens,
        length_penalty=length_penalty,
        eos_token_id=end,
        pad_token_id=end,
    ).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(3, 12),
    end_bias=st.floats(-2, 2),
    segments=st.integers(1, 5),
    prefix_tokens=st.integers(1, 4),
    beams=st.integers(1, 6),
    max_tokens=st.integers(1, 12),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
)
def test_captions_are_those_of_transformers_beam_search(
    seed, vocabulary, end_bias, segments, prefix_tokens, beams, max_tokens, length_penalty
):
    model = gpt2(seed, vocabulary, end_bias)
    prefixes = torch.randn(segments, prefix_tokens, WIDTH)
    options = {"end": END, "beams": beams, "max_tokens": max_tokens, "length_penalty": length_penalty}
    assert beam_search(model, prefixes, **options) == reference(model, prefixes, **options)


def test_all_that_a_search_found_is_transformers_with_its_values():
    model = gpt2(seed=3, end_bias=0.5)
    prefixes, beams, most = torch.randn(6, 3, WIDTH), 4, 8
    decoder = CausalLanguageModel(model, prefixes, most)
    found = search_best(decoder, end=END, beams=beams, max_tokens=most, length_penalty=0.0)
    mask = torch.ones(prefixes.shape[:2], dtype=torch.int64)
    sizes = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": most, "length_penalty": 0.0}
    told = {"return_dict_in_generate": True, "output_scores": True, "do_sample": False, "early_stopping": False}
    ends = {"eos_token_id": END, "pad_token_id": END}
    wanted = model.generate(inputs_embeds=prefixes, attention_mask=mask, **sizes, **told, **ends)
    rows = [row[: row.index(END)] if END in row else row for row in wanted.sequences.tolist()]
    assert [one.tokens for own in found for one in own] == rows
    assert [one.value for own in found for one in own] == pytest.approx(wanted.sequences_scores.tolist(), abs=1e-4)


def test_captions_of_a_batch_end_at_different_steps_and_are_those_found_alone():
    model = gpt2(seed=3, end_bias=-1.0)
    prefixes = torch.randn(24, 3, WIDTH)
    options = {"end": END, "beams": 4, "max_tokens": 16, "length_penalty": 0.5}
    together = beam_search(model, prefixes, **options)
    assert len({len(caption) for caption in together}) > 5
    assert together == [caption for row in prefixes for caption in beam_search(model, row[None], **options)]


def test_finished_segments_leave_the_batch():
    model = gpt2(seed=3, end_bias=1.0)
    rows = []
    model.register_forward_pre_hook(lambda _, given, named: rows.append(len(named["inputs_embeds"])), with_kwargs=True)
    beam_search(model, torch.randn(24, 3, WIDTH), end=END, beams=4, max_tokens=16, length_penalty=0.5)
    assert rows[:2] == [24, 24 * 4]  # the prefix is computed once for all beams
    assert sorted(rows[1:], reverse=True) == rows[1:]
    assert rows[-1] < rows[1] / 2


class Recurrent:
    """A decoder whose state is an LSTM cell's, which begins with one of the given."""

    def __init__(self, starts, vocabulary):
        torch.manual_seed(4)
        self.cell, self.embed = nn.LSTMCell(WIDTH, WIDTH), nn.Embedding(vocabulary, WIDTH)
        self.out = nn.Linear(WIDTH, vocabulary)
        for weight in (*self.cell.parameters(), *self.out.parameters()):
            weight.data *= 4
        self.state: tuple[torch.Tensor, ...] = (starts, torch.zeros_like(starts))
        self.next = self.out(starts).log_softmax(-1)

    def advance(self, tokens):
        if tokens is not None:
            self.state = self.cell(self.embed(tokens), self.state)
            self.next = self.out(self.state[0]).log_softmax(-1)
        return self.next

    def reorder(self, rows):
        self.state = tuple(states[rows] for states in self.state)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_with_beams_for_every_caption_any_decoder_finds_the_best_of_all(length_penalty):
    starts, vocabulary, longest = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0)), 4, 4
    found = search(
        Recurrent(starts, vocabulary),
        end=END,
        beams=vocabulary**longest,
        max_tokens=longest,
        length_penalty=length_penalty,
    )

    def value(start, caption):
        decoder = Recurrent(start[None], vocabulary)
        words = [None, *(torch.tensor([word]) for word in caption[:-1])]
        likely = sum(decoder.advance(before)[0, word].item() for before, word in zip(words, caption, strict=True))
        return likely / len(caption) ** length_penalty

    words = [word for word in range(vocabulary) if word != END]
    ended = [(*chosen, END) for length in range(longest) for chosen in product(words, repeat=length)]
    captions = [*ended, *product(words, repeat=longest)]
    with torch.no_grad():
        expected = [max(captions, key=partial(value, start)) for start in starts]
    assert found == [[word for word in caption if word != END] for caption in expected]
    assert len(set(map(tuple, found))) > 2


SMALL = {"vocab_size": 11, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}


OTHER_KINDS = [
    LlamaConfig(**SMALL, intermediate_size=32, num_key_value_heads=2, initializer_range=0.4),
    MistralConfig(**SMALL, intermediate_size=32, num_key_value_heads=2, sliding_window=4, initializer_range=0.4),
    OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=WIDTH, max_position_embeddings=64, init_std=0.4),
    BloomConfig(**SMALL, initializer_range=0.4),
    GPTNeoConfig(
        vocab_size=11,
        hidden_size=WIDTH,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=64,
        initializer_range=0.4,
    ),
]


@pytest.mark.parametrize("config", OTHER_KINDS, ids=lambda config: config.model_type)
def test_decoders_of_other_kinds_give_transformers_captions_too(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    prefixes = torch.randn(5, 3, WIDTH)
    options = {"end": END, "beams": 4, "max_tokens": 12, "length_penalty": 1.0}
    found = beam_search(model, prefixes, **options)
    assert found == reference(model, prefixes, **options)
    assert len({tuple(caption) for caption in found}) > 1


GPT2 = GPT2Config(vocab_size=11, n_embd=WIDTH, n_layer=2, n_head=4, initializer_range=0.4)
HYBRID = Lfm2Config(
    **SMALL, intermediate_size=32, num_key_value_heads=2, layer_types=["conv", "full_attention"], initializer_range=0.4
)


@pytest.mark.parametrize("config", [GPT2, *OTHER_KINDS, HYBRID], ids=lambda config: config.model_type)
@pytest.mark.parametrize("prefix_tokens", [1, 6])
def test_captions_of_one_prefix_are_as_likely_together_as_alone_and_teach_the_same(config, prefix_tokens):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()  # without dropout, which is random
    captioner = Captioner(CaptionerConfig(None, None, None), nn.Identity(), model)
    tokens, lengths = torch.randint(0, 11, (3, 5)), torch.tensor([2, 5, 4])
    prefixes, weights = torch.randn(2, prefix_tokens, WIDTH, requires_grad=True), torch.randn(3, 5)
    found = []
    for of_captions, counts in ((prefixes, torch.tensor([2, 1])), (prefixes[[0, 0, 1]], None)):
        log_probs = captioner.token_log_probs(of_captions, tokens, lengths, counts)
        learning = [prefixes, *model.parameters()]
        gradients = torch.autograd.grad(
            (log_probs * weights).sum(), learning, allow_unused=True, materialize_grads=True
        )
        found.append([log_probs.detach(), *gradients])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
    assert found[0][1].abs().amax((1, 2)).min() > 1e-3  # all prefixes learn


def test_a_half_precision_decoder_is_searched_in_its_own_precision():
    torch.manual_seed(0)
    model, prefixes = gpt2(seed=0).bfloat16(), torch.randn(20, 2, WIDTH).bfloat16()
    options = {"end": END, "beams": 3, "max_tokens": 8, "length_penalty": 1.0}
    expected, multiplied = reference(model, prefixes, **options), set()
    model.lm_head.register_forward_hook(lambda *call: multiplied.add(call[-1].dtype))
    assert beam_search(model, prefixes, **options) == expected
    assert multiplied == {torch.bfloat16}
    assert len({tuple(caption) for caption in expected}) > 5


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_roomy_layer_holds_what_transformers_own_holds(data):
    roomy, own = RoomyLayer(30, shared=data.draw(st.sampled_from([0, 2]))), DynamicLayer()
    rows = data.draw(st.integers(1, 4))
    prefix = [torch.randn(1, 2, 2, width).expand(rows, -1, -1, -1) for width in (3, 5)]  # of one segment's beams
    roomy.update(*prefix)
    own.update(*prefix)
    for _ in range(data.draw(st.integers(1, 6))):
        states = [torch.randn(rows, 2, data.draw(st.integers(1, 3)), width) for width in (3, 5)]
        states[1] = states[1][:, :, :1].expand(-1, -1, states[0].shape[2], -1)
        for shown, expected in zip(roomy.update(*states), own.update(*states), strict=True):
            assert torch.equal(shown, expected)
        order = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=8)))
        rows = len(order)
        roomy.reorder_cache(order)
        own.reorder_cache(order)
        assert torch.equal(roomy.keys, own.keys) and torch.equal(roomy.values, own.values)


@given(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=4))
def test_every_parent_with_children_keeps_its_place_for_one_of_them(rows):
    parents = torch.tensor(rows)
    order = stay_in_place(parents)
    assert torch.equal(order.sort(dim=1).values, torch.arange(5).expand(len(rows), -1))
    for placed, row in zip(parents.gather(1, order).tolist(), rows, strict=True):
        assert all(placed[parent] == parent for parent in row)
