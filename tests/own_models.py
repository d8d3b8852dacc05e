"""A tiny captioner with random weights, saved as the stages save it, for tests of what is done with a trained one."""

from pathlib import Path

import torch
from test_training import make_decoder, make_tokenizer

from bench.random_clip import write_random_clip
from pipeline.captioner import CaptionerConfig, build_captioner, save_captioner
from pipeline.decoder import save_decoder
from pipeline.mapper import MapperConfig
from pipeline.memory import MemoryConfig

PARAMS = {
    "frames.fps": 5,
    "frames.short_side_px": 32,
    "embed.precision": "fp32",
    "caption.max_tokens": 6,
    "caption.beams": 2,
    "device": "cpu",
}


def write_models(memory: bool = True) -> None:
    """Into models/ of the current folder."""
    write_random_clip(Path("models/encoder"), 8)
    save_decoder(Path("models/decoder"), make_decoder(), make_tokenizer())
    config = CaptionerConfig(
        mapper=MapperConfig("transformer", 2, 2, 16, 1, 2, embedding_width=8, decoder_width=16),
        # k: all of them, or rounding decides which of frames that are nearly alike are the nearest
        memory=MemoryConfig((1, 2), 300, 600, "joint", "age", "video", "through", 2) if memory else None,
        baseline_frame=None if memory else "mean",
    )
    torch.manual_seed(1)
    save_captioner(Path("models/finetuned"), build_captioner(config, make_decoder()), None)
