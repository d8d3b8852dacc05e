"""One GPU: embed, fine-tune and caption at the prior report's setting, each beside what the hardware allows.

    python -m bench.gpu [--device cuda]

Random weights (ViT-B/32, GPT-2 124M), random pictures and frames; no network. The floors are of the same run: the bf16
matrix-product rate for embedding and fine-tuning, the bandwidth of copying for captioning, whose every token reads all
of the decoder's weights. Shares count the products of linear layers alone. Prints a table and, as its last line, JSON.
"""

import argparse
import copy
import json
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.step import matmul_rate, median_s, random_gpt2, report_captioner, report_mapper, time_finetuning
from pipeline.device import choose_device
from pipeline.features.encoder import load_encoder, save_encoder
from pipeline.language.beam import beam_search


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--encoder", default="ViT-B-32", help="an open_clip model")
    parser.add_argument("--pictures", type=int, default=8192)
    parser.add_argument("--embed-batch", type=int, default=256)
    parser.add_argument("--segments", type=int, default=40)
    parser.add_argument("--frames", type=int, nargs=2, default=[150, 250], help="of a segment, at least and at most")
    parser.add_argument("--at-once", type=int, default=40, help="segments in one pass of fine-tuning")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--decoder-layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--side", type=int, default=8192, help="of the matrices whose product sets the rate")
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.manual_seed(0)
    rate = matmul_rate(torch.bfloat16, device, options.side)
    bandwidth = copy_bandwidth(device, 4 * options.side**2)
    rows = [*embed(options, device, rate), *finetune(options, device, rate), *caption(options, device, bandwidth)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"\n{name}, torch {torch.__version__}: ", end="")
    print(f"bf16 products {rate / 1e12:.2f} TFLOP/s, copying {bandwidth / 1e9:.0f} GB/s")
    print(f"{'':<32}{'per s':>12}{'share of the floor':>20}")
    for row in rows:
        print(f"{row['what']:<32}{row['per_s']:>12,.1f}{row['share']:>20.0%}")
    print(json.dumps({"device": name, "bf16_flops_per_s": rate, "copied_bytes_per_s": bandwidth, "rows": rows}))


def copy_bandwidth(device: torch.device, count: int) -> float:
    """Bytes read and written per second."""
    a = torch.zeros(count, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * count / median_s(lambda: b.copy_(a), 9)


def embed(options: argparse.Namespace, device: torch.device, rate: float) -> list[dict]:
    """Frames from JPEGs, as the stage `embed` takes them, and the tower alone on pictures that are there already."""
    import open_clip

    random = np.random.default_rng(0)
    jpegs = []
    for _ in range(64):  # of 320 x 240, smooth as pictures are
        buffer = BytesIO()
        small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    pictures = [jpegs[i % len(jpegs)] for i in range(options.pictures)]
    with tempfile.TemporaryDirectory() as folder:
        config = open_clip.get_model_config(options.encoder)
        assert config is not None
        save_encoder(Path(folder), config, open_clip.create_model(options.encoder))
        encoder = load_encoder(Path(folder), device=device, dtype=torch.bfloat16)
    side = encoder.preprocess.side
    inputs = torch.randn(options.embed_batch, 3, side, side, device=device, dtype=torch.bfloat16)
    with torch.inference_mode():
        bare = options.embed_batch / median_s(lambda: encoder.visual(inputs), options.steps)
    from_jpegs = options.pictures / median_s(lambda: encoder.embed(pictures, batch_size=options.embed_batch), 1)
    # Every weight of a vision transformer's matrices multiplies every patch's token, the class token's too.
    tower: Any = encoder.visual
    tokens = (side // tower.patch_size[0]) ** 2 + 1
    flops = 2 * tokens * sum(p.numel() for p in tower.transformer.parameters() if p.dim() > 1)
    return [
        {"what": "embed: frames, tower alone", "per_s": bare, "share": bare * flops / rate},
        {"what": "embed: frames, from JPEGs", "per_s": from_jpegs, "share": from_jpegs * flops / rate},
    ]


def finetune(options: argparse.Namespace, device: torch.device, rate: float) -> list[dict]:
    lengths = np.random.default_rng(0).integers(options.frames[0], options.frames[1] + 1, options.segments)
    rows = []
    for gradient in ("detached", "through"):
        config = report_mapper(options.layers, options.width)
        captioner = report_captioner(config, random_gpt2(options.decoder_layers, options.width), gradient).to(device)
        seconds, flops = time_finetuning(captioner, lengths, "bf16", options.at_once, options.steps)
        per_s = options.segments / seconds
        rows.append({"what": f"fine-tune: segments, {gradient}", "per_s": per_s, "share": flops / seconds / rate})
    return rows


def caption(options: argparse.Namespace, device: torch.device, bandwidth: float) -> list[dict]:
    """5 beams and 20 tokens, no caption ends earlier."""
    decoder = random_gpt2(options.decoder_layers, options.width).eval().to(device)
    rows, tokens = [], 20
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        model = copy.deepcopy(decoder).to(dtype)
        prefixes = torch.randn(options.segments, 10, options.width, device=device, dtype=dtype)

        def search(model: Any = model, prefixes: Tensor = prefixes) -> None:
            beam_search(model, prefixes, end=-1, beams=5, max_tokens=tokens, length_penalty=1.0)

        seconds = median_s(search, options.steps)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        floor = tokens * weights / (bandwidth / 2)  # copying reads and writes; here weights are only read
        rows.append(
            {"what": f"caption: {name}, 5 beams", "per_s": options.segments / seconds, "share": floor / seconds}
        )
    return rows


if __name__ == "__main__":
    main()
