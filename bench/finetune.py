"""Training steps: ours beside the published memory's and ClipCap's, on the prior report's setting.

    pip install --no-deps -r requirements-dev.txt     # has the published memory
    python -m bench.finetune [--segments 40] [--frames 150 250] [--layers 8] [--width 768]

Fine-tuning: segments of random embeddings, a mapper with memory in the two layers of its middle (k 32), GPT-2 with
random weights, frozen. The published way goes frame by frame: all segments' next frames go through the mapper, whose
memory layers (KNNAttention of memorizing-transformers-pytorch) search and add; where a segment ends, its caption is
learned. Some steps of it are timed, with a caption and without, and added up. Ours takes whole segments: detached, as
the published memory is, and with the gradient through what was stored, which that cannot do: there some segments at
once, their gradients added up to one step.

Pretraining: ClipCap's step (one frame each) with GPT-2 "frozen" as published, that is with its weights' gradients
computed, logits everywhere and fp32; against ours. Counted in captions, of which COCO's pictures have five: ClipCap
takes each by itself; so do ours, and then five of a picture together (`of five`).

Ours run in fp32 and in bf16 autocast, in a process that keeps freed memory, as the stages do. The bf16 rate is that of
a large matrix product in the same run; the share reached counts only the products of linear layers, forward and, where
there is one, backward. Prints tables and, as its last line, JSON.
"""

import argparse
import json
import tempfile

import numpy as np
import torch
from memorizing_transformers_pytorch import KNNAttention
from memorizing_transformers_pytorch.knn_memory import KNNMemory
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from bench.step import (
    EMBEDDING_WIDTH,
    K,
    captions,
    flops_of,
    loss,
    matmul_rate,
    median_s,
    random_gpt2,
    report_captioner,
    report_mapper,
    time_finetuning,
)
from pipeline.baselines import LAST
from pipeline.captioner.mapper import Layer, MapperConfig, TransformerMapper
from pipeline.captioner.memory import Moments
from pipeline.captioner.model import Captioner, CaptionerConfig
from pipeline.captioner.training import set_trainable
from pipeline.device import autocast, keep_freed_memory

CPU = torch.device("cpu")


class PublishedMapper(nn.Module):
    """The prior system's: ClipCap's layers with the published kNN attention in two of them, one frame at a time."""

    def __init__(self, config: MapperConfig, memory_layers: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.memory_layers = config, memory_layers
        self.project = nn.Linear(config.embedding_width, config.clip_tokens * config.width)
        self.constants = nn.Parameter(torch.randn(config.prefix_tokens, config.width))
        self.layers = nn.ModuleList(Layer(config, None) for _ in range(config.layers))
        self.knn = nn.ModuleDict(
            {
                str(number): KNNAttention(
                    dim=config.width,
                    heads=config.heads,
                    dim_head=config.width // config.heads,
                    num_retrieved_memories=K,
                )
                for number in memory_layers
            }
        )

    def forward(self, frames: Tensor, memories: dict[int, KNNMemory]) -> Tensor:
        """frames [B, E] -> prefixes [B, P, D]."""
        x = self.project(frames).unflatten(-1, (self.config.clip_tokens, -1))
        x = torch.cat([x, self.constants.expand(len(x), -1, -1)], dim=1)
        for number, layer in enumerate(self.layers, start=1):
            assert isinstance(layer, Layer)
            if number in self.memory_layers:
                x = x + self.knn[str(number)](layer.norm1(x), knn_memory=memories[number])[0]
                x = x + layer.feed_forward(layer.norm2(x))
            else:
                x = layer(x[:, None], None, Moments(torch.zeros(len(x), 1), torch.zeros(len(x), 1)))[0][:, 0]
        return x[:, self.config.clip_tokens :]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.finetune")
    parser.add_argument("--segments", type=int, default=40)
    parser.add_argument("--frames", type=int, nargs=2, default=[150, 250], help="of a segment, at least and at most")
    parser.add_argument("--at-once", type=int, default=4, help="segments of ours in one pass with gradients")
    parser.add_argument("--timed", type=int, default=8, help="segments of ours in a timed step with gradients")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--decoder-layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3, help="timed of each contender; the median counts")
    options = parser.parse_args()
    torch.manual_seed(0)
    config, decoder = report_mapper(options.layers, options.width), random_gpt2(options.decoder_layers, options.width)
    middle = options.layers // 2
    lengths = np.random.default_rng(0).integers(options.frames[0], options.frames[1] + 1, options.segments)
    rate = {"fp32": matmul_rate(torch.float32, CPU), "bf16": matmul_rate(torch.bfloat16, CPU)}

    published = time_published(config, (middle, middle + 1), decoder, lengths, 5 * options.steps)  # they are short
    figures: dict = {"segments": options.segments, "frames": int(lengths.sum()), "flops_per_s": rate, "finetune": {}}
    figures["finetune"]["published"] = {"segments_per_s": options.segments / published, "ratio": 1.0}
    clipcap, _ = time_pretraining(config, decoder, (options.segments, 1), "fp32", options.steps, published=True)
    keep_freed_memory()  # as our stages do, and the published programs do not
    for gradient in ("detached", "through"):
        captioner = report_captioner(config, decoder, gradient)
        some, at_once = (
            (lengths[: options.timed], options.at_once) if gradient == "through" else (lengths, options.segments)
        )
        for precision in ("fp32", "bf16"):
            seconds, flops = time_finetuning(captioner, some, precision, at_once, options.steps)
            figures["finetune"][f"{gradient} {precision}"] = {
                "segments_per_s": len(some) / seconds,
                "ratio": len(some) / seconds / (options.segments / published),
                "bf16_share": flops / seconds / rate["bf16"],
            }
    figures["pretrain"] = {"ClipCap's": {"segments_per_s": clipcap, "ratio": 1.0}}
    for precision in ("fp32", "bf16"):
        for name, batch in {"": (options.segments, 1), ", of five": (max(1, options.segments // 5), 5)}.items():
            per_s, flops_per_s = time_pretraining(config, decoder, batch, precision, options.steps)
            figures["pretrain"][f"ours {precision}{name}"] = {
                "segments_per_s": per_s,
                "ratio": per_s / clipcap,
                "bf16_share": flops_per_s / rate["bf16"],
            }
    for name in ("finetune", "pretrain"):
        print(f"\n{name:<24}{'per s':>10}{'x published':>13}{'share of bf16 rate':>20}")
        for contender, row in figures[name].items():
            share = f"{row['bf16_share']:>20.0%}" if "bf16_share" in row else ""
            print(f"{contender:<24}{row['segments_per_s']:>10.2f}{row['ratio']:>13.1f}{share}")
    print(f"\nmatrix products: {rate['bf16'] / 1e9:.0f} GFLOP/s in bf16, {rate['fp32'] / 1e9:.0f} in fp32")
    print(json.dumps(figures))


def time_published(
    config: MapperConfig, memory_layers: tuple[int, ...], decoder: GPT2LMHeadModel, lengths: np.ndarray, steps: int
) -> float:
    """Seconds for all segments, from timed steps.

    As in the prior system every row goes on with its next segment where one ends, so that no frame is padding: there
    are frames / rows steps. A step in which a segment ends learns from its caption; when, chance says.
    """
    rows = len(lengths)
    mapper = PublishedMapper(config, memory_layers)
    captioner = Captioner(CaptionerConfig(config, None, LAST), mapper, decoder)  # type: ignore[arg-type]
    # As published: the optimizer leaves GPT-2 alone, but its gradients are computed.
    decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(mapper.parameters(), lr=2e-5)
    frames, tokens = torch.randn(rows, EMBEDDING_WIDTH), captions(1, CPU)
    full = int(lengths.mean()) * config.tokens // 2  # keys there are half way through a segment
    with tempfile.TemporaryDirectory() as folder:
        memories = {}
        for number in memory_layers:
            head = config.width // config.heads
            memories[number] = KNNMemory(head, 64_000, rows, f"{folder}/memory{number}", multiprocessing=False)
            memories[number].add(torch.randn(rows, full, 2, head))

        @torch.no_grad()
        def without_caption() -> None:
            mapper(frames, memories)

        def with_caption() -> None:
            prefix = mapper(frames, memories)[:1]
            loss(captioner, prefix, tokens, everywhere=True).backward()
            optimizer.step()
            optimizer.zero_grad()
            decoder.zero_grad()

        without, with_one = median_s(without_caption, steps), median_s(with_caption, steps)
        for memory in memories.values():
            memory.db._mmap.close()
    decoder.requires_grad_(False)
    count = lengths.sum() / rows
    ending = 1 - (1 - 1 / lengths.mean()) ** rows  # share of the steps in which some segment ends
    return float(count * ((1 - ending) * without + ending * with_one))


def time_pretraining(
    config: MapperConfig,
    decoder: GPT2LMHeadModel,
    batch: tuple[int, int],
    precision: str,
    steps: int,
    *,
    published: bool = False,
) -> tuple[float, float]:
    """Captions, and FLOPs of linear layers, per second of steps with so many pictures, and captions of each."""
    captioner = Captioner(CaptionerConfig(config, None, LAST), TransformerMapper(config), decoder)
    set_trainable(captioner, "frozen")
    decoder.requires_grad_(published)
    optimizer = torch.optim.AdamW(captioner.mapper.parameters(), lr=2e-5)
    pictures, of_each = batch
    frames, tokens = torch.randn(pictures, 1, EMBEDDING_WIDTH), captions(pictures * of_each, CPU)
    now, real = torch.zeros(pictures, 1, dtype=torch.int64), torch.ones(pictures, 1, dtype=torch.bool)

    def step() -> None:
        with autocast(precision, CPU):
            prefixes = captioner.prefixes(frames, Moments(now, now), real)
            loss(captioner, prefixes, tokens, everywhere=published).backward()
        optimizer.step()
        optimizer.zero_grad()
        decoder.zero_grad()

    seconds = median_s(step, steps)
    return len(tokens) / seconds, flops_of(captioner, pictures, pictures, of_each) / seconds


if __name__ == "__main__":
    main()
