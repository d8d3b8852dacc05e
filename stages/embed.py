"""Embed every frame with the encoder: `python -m stages.embed coco|activitynet [--shards 3/16]`.

Reads data/{dataset}/frames/ and models/encoder/. Writes data/{dataset}/embeddings/shard-*.parquet, computing only
videos whose frames, encoder, settings or code changed; with --shards every 16th shard from the 3rd on and no other.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import encoder, engine, shards
from pipeline.device import choose_device, choose_dtype
from pipeline.encoder import Encoder
from pipeline.imports import code_fingerprint
from pipeline.params import load_params
from pipeline.shards import Entry, Made, Slice
from stages import run

ENCODER = Path("models/encoder")


@dataclass(frozen=True)
class Embed:
    """`engine.Compute` of embeddings; its items are what the shards of `frames` say of a video."""

    frames: Path
    device: str
    precision: str
    batch_size: int
    title: str

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded once, where it is first needed: an actor embeds one shard after another."""
        device = choose_device(self.device)
        return encoder.load_encoder(ENCODER, device=device, dtype=choose_dtype(self.precision, device))

    def __call__(self, items: Mapping[str, Entry], *, cores: int) -> Iterator[Made]:
        schema = schema_of(self.encoder.width)
        there = [video_id for video_id, entry in items.items() if entry.rows]
        tables = shards.iterate(self.frames, there, [name for name in schema.names if name != "embedding"])
        jpegs = shards.iterate(self.frames, there, ["jpeg"], whole=False)  # hours of them need not be in memory
        parts = ((video_id, part["jpeg"]) for video_id, part in jpegs)
        embedded = self.encoder.embed_videos(parts, batch_size=self.batch_size, workers=cores)
        rows = sum(entry.rows for entry in items.values())
        with tqdm(total=rows, desc=self.title, unit="frame", unit_scale=True, smoothing=0.05) as bar:
            for video_id, entry in items.items():
                final = bool(entry.fingerprint)  # else its frames are to be tried again
                if not entry.rows:
                    yield Made(video_id, None, entry.reason, final)
                    continue
                (_, table), (_, embeddings) = next(tables), next(embedded)
                yield Made(video_id, to_table(table, embeddings, schema), entry.reason, final)
                bar.update(entry.rows)


def main(dataset: str, part: str = "1/1") -> None:
    params, only = load_params(), Slice.parse(part)
    folder, title = Path("data") / dataset / "frames", f"embed {dataset}"
    if (found := shards.count(folder)) != params.frames.shards:
        raise ValueError(
            f"{folder} holds {found} shards, params.yaml has frames.shards: {params.frames.shards}; make them with: "
            f"dvc repro frames@{dataset} (or with the parts of python -m stages.frames that are missing)"
        )
    frames = shards.index(folder, only)
    # The batch size too: a matrix product of more rows may add in another order.
    settings = f"{encoder.digest(ENCODER)} {params.embed} {code_fingerprint(Path(encoder.__file__))}"
    work = engine.Work(
        title,
        folder.with_name("embeddings"),
        schema=schema_of(encoder.embedding_width(ENCODER)),
        shards=params.frames.shards,
        fingerprints={
            video_id: hashlib.sha256(f"{entry.fingerprint} {settings}".encode()).hexdigest()
            for video_id, entry in frames.items()
        },
        items=frames,
        compute=Embed(folder, params.device, params.embed.precision, params.embed.batch_size, title),
        keeps="gpu model" if params.device in ("auto", "cuda") else "model",
    )
    done = engine.update(work, only, **params.engine.model_dump())
    print(
        f"{title}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} embedded, {done.kept} kept, {done.removed} removed, {done.dropped} without frames)"
    )


def schema_of(width: int) -> pa.Schema:
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("frame_index", pa.int32()),
            ("timestamp_s", pa.float64()),
            ("embedding", pa.list_(pa.float16(), width)),
        ]
    )


def to_table(frames: pa.Table, embeddings: NDArray[np.float16], schema: pa.Schema) -> pa.Table:
    """`frames` (a video's rows without the pictures) with their embeddings, [frames, E]."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    return frames.append_column("embedding", column).cast(schema)


if __name__ == "__main__":
    run(per_dataset=True, in_parts=True)
