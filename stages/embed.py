"""Embed every frame with the encoder: `python -m stages.embed coco|activitynet`.

Reads data/{dataset}/frames/ and models/encoder/. Writes data/{dataset}/embeddings/shard-*.parquet, computing only
videos whose frames, encoder, settings or code changed.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import encoder, shards
from pipeline.device import choose_device, choose_dtype
from pipeline.imports import code_fingerprint
from pipeline.params import load_params
from pipeline.shards import Made
from stages import run

ENCODER = Path("models/encoder")


def main(dataset: str) -> None:
    params = load_params()
    folder = Path("data") / dataset / "frames"
    frames = shards.index(folder)
    schema = schema_of(encoder.embedding_width(ENCODER))

    # The batch size too: a matrix product of more rows may add in another order.
    settings = f"{encoder.digest(ENCODER)} {params.embed} {code_fingerprint(Path(encoder.__file__))}"
    fingerprints = {
        video_id: hashlib.sha256(f"{entry.fingerprint} {settings}".encode()).hexdigest()
        for video_id, entry in frames.items()
    }

    def compute(video_ids: list[str]) -> Iterator[Made]:
        device = choose_device(params.device)
        loaded = encoder.load_encoder(ENCODER, device=device, dtype=choose_dtype(params.embed.precision, device))
        there = [video_id for video_id in video_ids if frames[video_id].rows]
        tables = shards.iterate(folder, there, [name for name in schema.names if name != "embedding"])
        jpegs = shards.iterate(folder, there, ["jpeg"], whole=False)  # hours of them need not be in memory
        parts = ((video_id, part["jpeg"]) for video_id, part in jpegs)
        embedded = loaded.embed_videos(parts, batch_size=params.embed.batch_size)
        rows = sum(frames[video_id].rows for video_id in there)
        with tqdm(total=rows, desc=f"embed {dataset}", unit="frame", unit_scale=True, smoothing=0.05) as bar:
            for video_id in video_ids:
                entry = frames[video_id]
                final = bool(entry.fingerprint)  # else its frames are to be tried again
                if not entry.rows:
                    yield Made(video_id, None, entry.reason, final)
                    continue
                (_, table), (_, embeddings) = next(tables), next(embedded)
                yield Made(video_id, to_table(table, embeddings, schema), entry.reason, final)
                bar.update(entry.rows)

    done = shards.update(
        folder.with_name("embeddings"),
        schema=schema,
        shards=params.frames.shards,
        fingerprints=fingerprints,
        compute=compute,
    )
    print(
        f"embed {dataset}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
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
    run(main, per_dataset=True)
