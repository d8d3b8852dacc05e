"""A made-up world to train captioners on: a frame's embedding says a colour, and so does its caption."""

from dataclasses import replace

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline.baselines import LAST
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CaptionerConfig, build_captioner
from pipeline.captioner.sequences import make_examples
from pipeline.captioner.training import tokenize_captions, train_captioner
from pipeline.dataset.segments import Segment
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.training.loop import Optimization
from tests.memory_config import memory_config

COLOURS = ("red", "green", "blue")
BEAM = {"method": "beam", "beams": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 6, "length_penalty": 1.0}
OPTIMIZATION = Optimization(
    epochs=4,
    batch_size=16,
    optimizer="adamw",
    learning_rate=3e-3,
    weight_decay=0.01,
    gradient_clip=1.0,
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


def make(decoder, *, memory: bool = True, scope: str = "segment", pretrained=None):
    config = CaptionerConfig(
        mapper=MapperConfig("transformer", 2, 2, 16, 1, 2, embedding_width=8, decoder_width=16),
        memory=memory_config(layers=(1, 2), max_entries=64, scope=scope, keyframes=2) if memory else None,
        baseline=None if memory else LAST,
    )
    torch.manual_seed(1)
    return build_captioner(config, decoder, pretrained)


def examples_for(captioner, videos: int = 24):
    segments, embeddings = world(videos)
    return make_examples(segments, embeddings, scope=captioner.config.scope)


def fit(captioner, tokenizer, work, videos: int = 24, distant=None, **changes):
    examples = examples_for(captioner, videos)
    return train_captioner(
        captioner,
        examples,
        tokenize_captions(tokenizer, examples, 8),
        replace(OPTIMIZATION, **changes),
        captions_drawn=None,
        age_rate_factor=0.1,
        name="test",
        work=work,
        distant=distant,
    )
