"""The rows of the embeddings' shards: the frames of one video after the other through the encoder."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

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
        every: of each video's frames, every n-th is embedded, from the first on.
    """

    frames: Path
    encoder_folder: Path
    device: str
    precision: str
    batch_size: int
    every: int
    title: str

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded once, when first needed: an actor embeds one shard after another."""
        device = choose_device(self.device)
        return encoder.load_encoder(self.encoder_folder, device=device, dtype=choose_dtype(self.precision, device))

    def __call__(self, items: Mapping[str, Entry], *, cores: int) -> Iterator[VideoRows]:
        schema = encoder.schema_of(self.encoder.width)
        there = [video_id for video_id, entry in items.items() if entry.rows]
        columns = [name for name in schema.names if name != "embedding"]
        tables = every_nth(shards.iterate(self.frames, there, columns), self.every)
        # In parts, so that hours of them need not be in memory.
        jpegs = every_nth(shards.iterate(self.frames, there, ["jpeg"], whole=False), self.every)
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


def every_nth(tables: Iterable[tuple[str, pa.Table]], every: int) -> Iterator[tuple[str, pa.Table]]:
    """Every n-th row of each video, from its first on; a video may come in consecutive parts."""
    if every == 1:
        yield from tables
        return
    video, seen = None, 0
    for video_id, table in tables:
        if video_id != video:
            video, seen = video_id, 0
        yield video_id, table.filter(pa.array(np.arange(seen, seen + table.num_rows) % every == 0))
        seen += table.num_rows
