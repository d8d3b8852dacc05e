"""The rows of the embeddings' shards: the frames of one video after the other through the encoder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.device import choose_device, choose_dtype
from pipeline.features import encoder, shards
from pipeline.features.encoder import Encoder
from pipeline.features.shards import Entry, VideoRows
from pipeline.process import progress


@dataclass(frozen=True)
class EmbeddingRows:
    """`work.Compute` of embeddings; its items are entries of the shards of frames.

    Args:
        frames: the folder of those shards.
        encoder_folder: of the encoder.
        device, precision: auto, or a name, as in params.yaml.
        batch_size: frames.
    """

    frames: Path
    encoder_folder: Path
    device: str
    precision: str
    batch_size: int
    title: str

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded once, when first needed: an actor embeds one shard after another."""
        device = choose_device(self.device)
        return encoder.load_encoder(self.encoder_folder, device=device, dtype=choose_dtype(self.precision, device))

    def __call__(self, items: Mapping[str, Entry], *, cores: int) -> Iterator[VideoRows]:
        schema = encoder.schema_of(self.encoder.width)
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
                yield VideoRows(video_id, encoder.to_table(table, embeddings, schema), entry.reason, final)
                bar.update(entry.rows)
