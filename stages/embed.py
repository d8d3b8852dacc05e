"""Embed every frame with the encoder: `python -m stages.embed pictures|videos [--shards 3/16]`.

Reads data/{dataset}/frames/ and models/encoder/. Writes data/{dataset}/embeddings/shard-*.parquet, computing only
videos whose frames, encoder, settings or code changed; with --shards only every 16th shard from the 3rd on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.device import choose_device, choose_dtype
from pipeline.features import encoder, engine, provenance, shards
from pipeline.features.encoder import Encoder, schema_of, to_table
from pipeline.features.shards import Entry, Slice, VideoRows
from pipeline.features.work import Work
from pipeline.params import load_params
from pipeline.process import progress
from stages import run

ENCODER = Path("models/encoder")


@dataclass(frozen=True)
class Embed:
    """`work.Compute` of embeddings; its items are entries of the shards of `frames`."""

    frames: Path
    device: str
    precision: str
    batch_size: int
    title: str

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded once, when first needed: an actor embeds one shard after another."""
        device = choose_device(self.device)
        return encoder.load_encoder(ENCODER, device=device, dtype=choose_dtype(self.precision, device))

    def __call__(self, items: Mapping[str, Entry], *, cores: int) -> Iterator[VideoRows]:
        schema = schema_of(self.encoder.width)
        there = [video_id for video_id, entry in items.items() if entry.rows]
        tables = shards.iterate(self.frames, there, [name for name in schema.names if name != "embedding"])
        jpegs = shards.iterate(self.frames, there, ["jpeg"], whole=False)  # so that hours of them need not be in memory
        parts = ((video_id, part["jpeg"]) for video_id, part in jpegs)
        embedded = self.encoder.embed_videos(parts, batch_size=self.batch_size, workers=cores)
        rows = sum(entry.rows for entry in items.values())
        with progress.bar(total=rows, desc=self.title, unit="frame", unit_scale=True, smoothing=0.05) as bar:
            for video_id, entry in items.items():
                final = bool(entry.fingerprint)  # otherwise its frames will be tried again
                if not entry.rows:
                    yield VideoRows(video_id, None, entry.reason, final)
                    continue
                (_, table), (_, embeddings) = next(tables), next(embedded)
                yield VideoRows(video_id, to_table(table, embeddings, schema), entry.reason, final)
                bar.update(entry.rows)


def main(dataset: str, part: str = "1/1") -> None:
    params, only = load_params(), Slice.parse(part)
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
        schema=schema_of(encoder.embedding_width(ENCODER)),
        shards=params.frames.shards,
        fingerprints=provenance.of_embeddings(frames, ENCODER, params.embed),
        items=frames,
        compute=Embed(folder, params.device, params.embed.precision, params.embed.batch_size, title),
        keeps="gpu model" if params.device in ("auto", "cuda") else "model",
    )
    done = engine.update(work, only, **params.engine.model_dump())
    print(
        f"{title}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} embedded, {done.kept} kept, {done.removed} removed, {done.dropped} without frames)"
    )


if __name__ == "__main__":
    run(kept="shards that are complete", per_dataset=True, in_parts=True)
