"""What the queries of a trained memory really retrieve: the k nearest may be one moment k times.

    python -m bench.retrieved [--split test]      # after `make demo`

For the last frames of all segments of a split, by head of each memory layer and by where the keys lie (in the segment,
or before it): how many keys there were, how many of them were retrieved, of how many distinct frames, of how many
moments (runs of neighbouring frames), and how old. Means over queries that had any key there. Prints a table and, as
its last line, JSON.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.captioner.memory import MemoryAttention
from pipeline.captioner.model import load_captioner
from pipeline.captioner.retrieval import within
from pipeline.captioner.sequences import collate, make_examples
from pipeline.dataset.segments import from_table
from pipeline.features.embeddings import read_embeddings
from pipeline.process.command import guarded

SEGMENTS = Path("data/videos/segments.parquet")
EMBEDDINGS = Path("data/videos/embeddings")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.retrieved")
    parser.add_argument("--split", default="test")
    parser.add_argument("--k", type=int, help="as if the memory had this k")
    parser.add_argument("--models", type=Path, default=Path("models"))
    options = parser.parse_args()
    captioner, _ = load_captioner(options.models / "finetuned", options.models / "decoder")
    mapper = captioner.mapper.with_memory
    assert mapper and mapper.memory, "models/finetuned has no memory"
    segments = [s for s in from_table(pq.read_table(SEGMENTS)) if s.split == options.split]
    videos = read_embeddings(EMBEDDINGS, (segment.video_id for segment in segments))
    examples = make_examples(segments, videos, scope=captioner.config.scope)

    seen: dict[tuple, list[Tensor]] = defaultdict(list)
    for number in mapper.memory.layers:
        attention = mapper._layer(number).attention.memory
        assert attention is not None
        attention.config = replace(attention.config, k=options.k or attention.config.k)
        attention.register_forward_pre_hook(lambda module, args, number=number: look(module, args, number, seen))
    with torch.inference_mode():
        for example in examples:
            batch = collate([example])
            captioner.prefixes(batch.embeddings, batch.moments, batch.real)

    rows = []
    for (number, head, where), found in sorted(seen.items()):
        means = torch.cat(found).mean(0).tolist()
        names = ("keys", "retrieved", "frames", "moments", "age_frames")
        rows.append({"layer": number, "head": head, "keys lie": where, **dict(zip(names, means, strict=True))})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    print(json.dumps(rows))


def look(module: MemoryAttention, args: tuple, number: int, seen: dict[tuple, list[Tensor]]) -> None:
    """Take down what the queries of one sequence's last frames retrieve; other frames' (one at a time each) too."""
    queries, _, _, history, moments, _ = args
    before = module._before(history, moments)
    index, scores = module._retrieve(queries, history, moments, before)
    found = scores.isfinite()
    frames, tokens = history.keys.shape[2:4]
    for where in ("segment", "before"):
        inside = before
        if where == "segment":
            oldest = module.config.oldest(moments, tokens)
            inside = within(frames, oldest.maximum(moments.segment_start), moments.frame)
        inside = inside[:, None, :, None]  # [1, 1, Q, 1, T]
        there = torch.zeros(*index.shape[:-1], frames)
        there.scatter_add_(-1, index // tokens, found.float())  # keys retrieved of each frame
        there = there * inside
        distinct = there > 0
        begins = distinct & ~torch.cat([torch.zeros_like(distinct[..., :1]), distinct[..., :-1]], dim=-1)
        age = moments.frame[:, None, :, None, None] - torch.arange(frames)
        retrieved = there.sum(-1)
        figures = torch.stack(
            [
                (inside.sum(-1) * tokens).expand_as(retrieved).float(),
                retrieved,
                distinct.sum(-1).float(),
                begins.sum(-1).float(),
                (there * age).sum(-1) / retrieved.clamp(min=1),
            ],
            dim=-1,
        )  # [1, H, Q, N, 5]
        for head in range(queries.shape[1]):
            of_head = figures[0, head].flatten(0, 1)
            seen[number, head + 1, where].append(of_head[of_head[:, 0] > 0])


if __name__ == "__main__":
    with guarded("retrieved", kept=None):
        main()
