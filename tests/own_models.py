"""A tiny captioner with random weights, saved as the stages save it, for tests of what is done with a trained one."""

from pathlib import Path

import torch

from pipeline.baselines import BaselineConfig
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CaptionerConfig, build_captioner, save_captioner
from pipeline.language.decoder import save_decoder
from tests.colours import make_decoder, make_tokenizer
from tests.memory_config import memory_config
from tests.random_clip import write_random_clip

PARAMS = {
    "frames.fps": 5,
    "frames.short_side_px": 32,
    "embed.precision": "fp32",
    "caption.max_tokens": 6,
    "caption.beams": 2,
    "device": "cpu",
}


def write_models(memory: bool = True, keyframes: int = 2, baseline: str = "mean") -> None:
    """Into models/ of the current folder."""
    write_random_clip(Path("models/encoder"), 8)
    save_decoder(Path("models/decoder"), make_decoder(), make_tokenizer())
    config = CaptionerConfig(
        mapper=MapperConfig("transformer", 2, 2, 16, 1, 2, embedding_width=8, decoder_width=16),
        # k: all of them, or rounding decides which of frames that are nearly alike are the nearest
        memory=memory_config(layers=(1, 2), k=300, max_entries=600, keyframes=keyframes) if memory else None,
        baseline=None if memory else BaselineConfig(baseline, 3),
    )
    torch.manual_seed(1)
    captioner = build_captioner(config, make_decoder())
    if captioner.mapper.marks is not None:
        torch.nn.init.normal_(captioner.mapper.marks)
    save_captioner(Path("models/finetuned"), captioner, None)
