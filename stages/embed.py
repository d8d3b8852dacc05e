"""Embed every frame, or every n-th, with the encoder: `python -m stages.embed pictures|videos [--shards 3/16]`.

Reads data/{dataset}/frames/ and models/encoder/. Writes data/{dataset}/embeddings/shard-*.parquet, computing only
videos whose frames, encoder, settings or code changed; with --shards only every 16th shard from the 3rd on.
"""

from pathlib import Path

from pipeline.features import encoder, engine, provenance, shards
from pipeline.features.embedding_rows import EmbeddingRows
from pipeline.features.shards import Slice
from pipeline.features.work import Work
from pipeline.params import load_params
from stages import run

ENCODER = Path("models/encoder")


def main(dataset: str, part: str = "1/1") -> None:
    params, only = load_params(), Slice.parse(part)
    own = params.embed
    folder, title = Path("data") / dataset / "frames", f"embed {dataset}"
    if (found := shards.count(folder)) != params.frames.shards:
        raise ValueError(
            f"{folder} holds {found} shards, params.yaml has frames.shards: {params.frames.shards}; make them with: "
            f"dvc repro frames@{dataset} (or with the missing parts of python -m stages.frames)"
        )
    frames = shards.index(folder, only)
    work = Work(
        title,
        folder.with_name("embeddings"),
        schema=encoder.schema_of(encoder.embedding_width(ENCODER)),
        shards=params.frames.shards,
        fingerprints=provenance.of_embeddings(frames, ENCODER, own),
        items=frames,
        compute=EmbeddingRows(folder, ENCODER, params.device, own.precision, own.batch_size, own.every, title),
        keeps="gpu model" if params.device in ("auto", "cuda") else "model",
    )
    done = engine.update(work, only, **params.engine.model_dump())
    print(
        f"{title}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} embedded, {done.kept} kept, {done.removed} removed, {done.dropped} without frames)"
    )


if __name__ == "__main__":
    run(kept="shards that are complete", per_dataset=True, in_parts=True)
