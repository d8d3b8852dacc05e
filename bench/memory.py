"""One memory layer's work for a frame: search, attend, add. Ours beside the published memory and beside its own floor.

    pip install --no-deps -r requirements-dev.txt     # has the published memory
    python -m bench.memory [--rows 8 40] [--keys 1000 8000 64000]

The published one is KNNMemory of memorizing-transformers-pytorch (faiss HNSW), without its process pool, which is
slower. Each row asks 160 queries (8 heads of 20 tokens, as the published layer: one key head for all) and adds 20 keys.
Keys are random, or those of the trained mapper in models/finetuned, where it is, over frames of its videos. The
floor is what exact search cannot do without, in plain torch: all inner products, top-k, fetching keys and values.
Recall is the share of the k with the largest inner products that the published one found. Prints a table and, as its
last line, JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from memorizing_transformers_pytorch.knn_memory import KNNMemory
from torch import Tensor

from bench.step import median_s
from pipeline.captioner.memory import History, MemoryAttention, MemoryConfig, Moments
from pipeline.captioner.model import load_captioner
from pipeline.features import shards
from pipeline.features.embeddings import read_embeddings
from pipeline.process import progress

K, HEADS, TOKENS, WIDTH = 32, 8, 20, 96  # the prior report's: width 768 in 8 heads, 10 + 10 tokens a frame
REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 40])
    parser.add_argument("--keys", type=int, nargs="+", default=[1000, 8000, 64000])
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--embeddings", type=Path, default=Path("data/videos/embeddings"))
    options = parser.parse_args()
    cases = {"random": random_keys}
    if (options.models / "finetuned").exists() and options.embeddings.exists():
        trained = trained_keys(options.models, options.embeddings, max(options.keys))
        cases["trained"] = lambda count: (trained[0][:count], trained[1])
    else:
        print(f"no trained model in {options.models} or no {options.embeddings}: random keys only")
    figures = []
    with progress.bar(total=len(cases) * len(options.keys) * len(options.rows), unit="setting") as bar:
        for kind, of in cases.items():
            for count in options.keys:
                for rows in options.rows:
                    figures.append({"keys": kind, "count": count, "rows": rows, **measure(*of(count), rows)})
                    bar.update()
    print_table(figures)
    print(json.dumps(figures))


def random_keys(count: int) -> tuple[Tensor, Tensor]:
    """Keys [M, d] and queries [160, d], normalised."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(count + HEADS * TOKENS, WIDTH, generator=generator)
    return F.normalize(draw, dim=-1).split([count, HEADS * TOKENS])


def trained_keys(models: Path, folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """The same of one head of a trained mapper's first memory layer; the queries are of frames among the keys'."""
    captioner, _ = load_captioner(models / "finetuned", models / "decoder")
    mapper = captioner.mapper.with_memory
    assert mapper and mapper.memory, "models/finetuned has no memory"
    frames, embeddings = -(-count // mapper.config.tokens), []
    for video in read_embeddings(folder, sorted(shards.index(folder))[:400]).values():
        embeddings.append(torch.from_numpy(video.embeddings[:].astype(np.float32)))
    every = torch.cat(embeddings)[None, :frames]
    assert every.shape[1] == frames, f"{folder} has too few frames for {count} keys"
    first = mapper.memory.layers[0]
    layer = mapper._layer(first)
    with torch.no_grad():
        keys = mapper.remember(every)[first].keys[0, 0].flatten(0, 1)
        asking = torch.randint(0, frames, (HEADS * TOKENS // mapper.config.tokens,), generator=torch.Generator())
        x = mapper._tokens(every[:, asking])
        for number in range(1, first):
            x, _ = mapper._layer(number)(x, None, Moments(asking[None], asking[None] * 0))
        queries = layer.attention._split(layer.attention.query(layer.norm1(x)))[0, 0].flatten(0, 1)
    return keys[:count], F.normalize(queries, dim=-1)


def measure(keys: Tensor, queries: Tensor, rows: int) -> dict[str, float]:
    """Milliseconds and recalls of all contenders on keys [M, d] and queries [160, d], the same in each row."""
    width = keys.shape[1]
    values = torch.randn(keys.shape, generator=torch.Generator().manual_seed(1))
    exact = torch.sort((queries @ keys.T).topk(K, dim=-1).indices).values
    scale = torch.full((1, 1, 1, 1), 20.0)

    # Published.
    with tempfile.TemporaryDirectory() as folder:
        published = KNNMemory(width, len(keys) + 10**4, rows, f"{folder}/memory", multiprocessing=False)
        built = published.knns[0]
        built.add(keys.numpy(), ids=range(len(keys)))
        for knn in published.knns[1:]:
            knn.index, knn.ids, knn.is_trained = faiss.clone_index(built.index), built.ids, True
        published.db[:, : len(keys)] = torch.stack([keys, values], dim=1).numpy()
        published.db_offsets += len(keys)
        found = torch.from_numpy(built.search(queries.numpy(), K))
        options = queries.expand(rows, -1, -1).contiguous()
        new = torch.stack([keys[:TOKENS], values[:TOKENS]], dim=1).expand(rows, -1, -1, -1)

        def use_published() -> None:
            memory, mask = published.search(options, K)
            near_keys, near_values = memory.unbind(-2)
            logits = torch.einsum("rqd,rqkd->rqk", options, near_keys) * 20.0
            torch.einsum("rqk,rqkd->rqd", logits.masked_fill(~mask, -1e9).softmax(-1), near_values)
            published.add(new)

        milliseconds = {"published": median_ms(use_published)}
        published.db._mmap.close()

    # Ours, in the layout of a stream's buffers: frames of 20 tokens, and room for the next.
    frames = len(keys) // TOKENS
    kept = frames * TOKENS
    buffers = [torch.zeros(rows, 1, frames + 1, TOKENS, width) for _ in range(2)]
    for buffer, what in zip(buffers, (keys, values), strict=True):
        buffer[:, :, :frames] = what[:kept].view(frames, TOKENS, width)
    config = MemoryConfig(
        (1,), K, 10**9, "joint", "none", "segment", "detached", 0, -0.5, 30.0, 6.0, None, None, False, 5.0
    )
    attention = MemoryAttention(config, 1, width)
    of_heads = options.view(rows, 1, HEADS, TOKENS, width)
    local = of_heads @ of_heads.transpose(-1, -2) * 20.0
    now = torch.full((rows, HEADS), frames)
    history = History(buffers[0][:, :, :frames], buffers[1][:, :, :frames])

    @torch.no_grad()
    def use_exact() -> None:
        attention(of_heads, local, of_heads, history, Moments(now, now * 0), scale)
        for buffer in buffers:
            buffer[:, :, frames] = buffer[:, :, 0]

    milliseconds["exact"] = median_ms(use_exact)
    stored = [buffer[:, 0, :frames].flatten(1, 2) for buffer in buffers]  # [rows, M, d]
    first = torch.arange(rows)[:, None, None] * kept

    def use_floor() -> None:
        near = (options @ stored[0].transpose(-1, -2)).topk(K, dim=-1).indices + first
        for part in stored:
            F.embedding(near, part.reshape(-1, width))

    milliseconds["floor"] = median_ms(use_floor)
    return {
        **{f"{name}_ms": round(ms, 2) for name, ms in milliseconds.items()},
        "published_by_exact": round(milliseconds["published"] / milliseconds["exact"], 2),
        "exact_by_floor": round(milliseconds["exact"] / milliseconds["floor"], 2),
        "recall_published": round(recall(found, exact), 3),
    }


def recall(found: Tensor, wanted: Tensor) -> float:
    """Share of wanted [160, K] that is in found [160, K]."""
    return (found[:, :, None] == wanted[:, None, :]).any(1).float().mean().item()


def median_ms(work: Callable[[], None]) -> float:
    return 1000 * median_s(work, REPEATS)


def print_table(figures: list[dict]) -> None:
    print(f"\nms for search + attend + add, {HEADS * TOKENS} queries a row, k {K}; x: as fast as the published one")
    print(
        f"{'keys':<8}{'count':>7}{'rows':>5}{'published':>11}{'exact':>9}{'x':>6}{'/floor':>8}{'recall: published':>19}"
    )
    for row in figures:
        print(
            f"{row['keys']:<8}{row['count']:>7}{row['rows']:>5}{row['published_ms']:>11.1f}{row['exact_ms']:>9.1f}",
            end="",
        )
        print(f"{row['published_by_exact']:>6.1f}{row['exact_by_floor']:>8.2f}{row['recall_published']:>19.2f}")


if __name__ == "__main__":
    main()
