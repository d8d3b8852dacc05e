"""Search of moments: which frames of all videos are most like a text or a picture, by the encoder's own embeddings.

n frames of all videos   q queries   E embedding width
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.features import shards
from pipeline.features.embeddings import unit, vectors
from pipeline.params import Params
from pipeline.safety import MAX_FRAME_PX

if TYPE_CHECKING:
    from pipeline.features.encoder import Encoder  # loads torch

# Of more frames than these an inverted file is searched: it takes seconds to build, and then a fraction of the time of
# comparing with every frame (bench/find.py). Of fewer, comparing takes less than reading them did.
EXACT_UP_TO = 1_000_000
ORIENTATION = 0x0112  # EXIF tag
LISTS_PER_ROOT, PROBES_SHARE, TRAINED_ON = 1, 1 / 32, 40  # lists: sqrt(n); of these a 32nd is looked into


@dataclass(frozen=True)
class Moment:
    """One frame that was found."""

    video_id: str
    time_s: float
    similarity: float  # cosine


@dataclass(frozen=True)
class Frames:
    """All frames of all videos, video after video."""

    video_ids: Sequence[str]
    begins: NDArray[np.int64]  # [videos + 1], row of each video's first frame
    times_s: NDArray[np.float64]  # [n]
    vectors: NDArray[np.float32]  # [n, E], of length 1

    @classmethod
    def read(cls, folder: Path) -> "Frames":
        """Those that the shards of a folder of embeddings have. ValueError if there are none."""
        ids, counts, times, rows = [], [], [], []
        for video_id, table in shards.iterate(folder, columns=["timestamp_s", "embedding"]):
            ids.append(video_id)
            counts.append(len(table))
            times.append(table["timestamp_s"].to_numpy())
            rows.append(unit(vectors(table)))
        if not ids:
            raise ValueError(f"{folder} has no frame of any video")
        return cls(ids, np.cumsum([0, *counts]), np.concatenate(times), np.concatenate(rows))

    def __len__(self) -> int:
        return len(self.times_s)

    def moment(self, row: int, similarity: float) -> Moment:
        video = int(np.searchsorted(self.begins, row, side="right")) - 1
        return Moment(self.video_ids[video], float(self.times_s[row]), similarity)


def check_encoder(folder: Path, encoder: Path, params: Params) -> None:
    """ValueError, naming the command that helps, if the embeddings are missing or are not those of this encoder."""
    command = f"dvc repro embed@{folder.parent.name}"
    try:
        embedded = shards.index(folder)
    except (ValueError, FileNotFoundError):
        raise ValueError(f"{folder} holds no embeddings yet; make them with: {command}") from None
    frames = folder.with_name("frames")
    if not frames.is_dir():
        return  # of what was pulled alone nobody can tell
    from pipeline.features import provenance  # imports torch

    current = provenance.of_embeddings(shards.index(frames), encoder, params.embed)
    if not any(entry.fingerprint == current.get(video_id) for video_id, entry in embedded.items()):
        raise ValueError(
            f"{folder} was embedded by another encoder than {encoder} (or with other settings or code); make it anew "
            f"with: {command}"
        )


class Search:
    """Finds moments among frames: exactly, or approximately where there are many."""

    def __init__(self, frames: Frames, exact_up_to: int = EXACT_UP_TO) -> None:
        self.frames = frames
        self.exact = len(frames) <= exact_up_to

    @cached_property
    def index(self) -> "faiss.Index":
        width = self.frames.vectors.shape[1]
        if self.exact:
            flat = faiss.IndexFlatIP(width)
            flat.add(self.frames.vectors)
            return flat
        lists = round(LISTS_PER_ROOT * len(self.frames) ** 0.5)
        file = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        # Neighbouring frames are alike: every so many of them show the centres as much as all.
        file.train(self.frames.vectors[:: max(1, len(self.frames) // (TRAINED_ON * lists))])
        file.add(self.frames.vectors)
        file.nprobe = max(1, round(PROBES_SHARE * lists))
        return file

    def moments(self, query: NDArray[np.float32], count: int, apart_s: float) -> list[Moment]:
        """The `count` most similar frames, none within `apart_s` seconds of a better one of its video.

        Args:
            query: [E], of length 1.
        """
        wanted = 8 * count
        while True:
            wanted = min(wanted, len(self.frames))
            # A list that is looked into may have fewer: row -1, without a similarity.
            similarities, rows = self.index.search(query[None], wanted)
            there = rows[0] >= 0
            found = list(self._apart(rows[0][there], similarities[0][there], count, apart_s))
            if len(found) == count or wanted == len(self.frames) or not there.all():
                return found
            wanted *= 4  # the best were neighbours of one another

    def _apart(
        self, rows: NDArray[np.int64], similarities: NDArray[np.float32], count: int, apart_s: float
    ) -> Iterator[Moment]:
        taken: dict[str, list[float]] = {}
        for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True):
            moment = self.frames.moment(row, similarity)
            times = taken.setdefault(moment.video_id, [])
            if all(abs(moment.time_s - time) >= apart_s for time in times):
                times.append(moment.time_s)
                yield moment
                count -= 1
                if not count:
                    return


def open_search(folder: Path, encoder: Path, params: Params) -> Search:
    """Over a folder of embeddings that this encoder made. ValueError, naming the command that helps, if it did not."""
    from pipeline.features.encoder import embedding_width  # imports torch

    check_encoder(folder, encoder, params)
    search = Search(Frames.read(folder))
    if (own := embedding_width(encoder)) != (width := search.frames.vectors.shape[1]):
        raise ValueError(f"{encoder} makes embeddings of {own} numbers, {folder} holds {width}")
    return search


def embed_picture(encoder: "Encoder", content: bytes) -> NDArray[np.float32]:
    """The embedding [E] of a picture file's bytes, of length 1; upright, as the frames of videos are.

    Raises ValueError if it is no picture, or one of more pixels than a frame may have.
    """
    try:
        with Image.open(BytesIO(content)) as opened:
            if opened.width * opened.height > MAX_FRAME_PX:
                raise ValueError(f"{opened.width} x {opened.height} pixels are more than {MAX_FRAME_PX:,}")
            if opened.getexif().get(ORIENTATION, 1) != 1:
                turned = BytesIO()
                ImageOps.exif_transpose(opened).convert("RGB").save(turned, "PNG")
                content = turned.getvalue()
        return unit(encoder.embed([content], batch_size=1))[0]
    except (OSError, Image.DecompressionBombError):
        raise ValueError(f"{len(content):,} bytes that are no picture (JPEG, PNG, ...)") from None


def clock(seconds: float) -> str:
    """1:02:03.4, or 2:03.4 where there are no hours."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
