"""A tiny captioner and a tiny answerer with random weights, saved as the stages save them."""

from pathlib import Path

import torch

from pipeline.answerer.reader import OpenConfig, Reader, ReaderConfig
from pipeline.answerer.training import save_reader
from pipeline.answerer.watching import Watching
from pipeline.baselines import BaselineConfig
from pipeline.captioner.mapper import MapperConfig
from pipeline.captioner.model import CaptionerConfig, build_captioner, save_captioner
from pipeline.language.decoder import save_decoder
from tests.colours import make_decoder, make_tokenizer
from tests.memory_config import memory_config
from tests.random_clip import READS, write_random_clip

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
    write_random_clip(Path("models/encoder"), 8, text=READS)
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


def write_answerer(
    folder: Path = Path("studies/questions/models/memory"), way: str = "memory", open: OpenConfig | None = None
) -> None:
    """A tiny reader with random weights, as the study of questions saves it, for the models of `write_models`."""
    watching = Watching(way, "joint" if way == "sparse" else "mean", frames=2, step=1)
    torch.manual_seed(1)
    width = 2 * make_decoder().config.n_embd
    reader = Reader(ReaderConfig(8, width, 16, 2, 1, 1, None, watching.timed, 40.0, answers=7, open=open))
    answers = ["yes", "no", "red", "green", "blue", "1", "2"]
    save_reader(folder / "seed-0", reader, watching, answers)
