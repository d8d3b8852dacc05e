"""What the study's models look at: embeddings of videos and pictures, or the words of our captions of them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.answerer.captions import TimedCaption, caption_videos
from pipeline.features import shards
from pipeline.features.embeddings import VideoEmbeddings, read_embeddings
from studies.questions.settings import CAPTIONS, EMBEDDINGS, FRAMES, PICTURE_EMBEDDINGS, PICTURE_FRAMES

FOLDERS = (
    EMBEDDINGS,
    PICTURE_EMBEDDINGS,
)  # a picture is a video of one frame


def rows_there() -> dict[str, int]:
    """Frames of every video and picture."""
    found: dict[str, int] = {}
    for folder in reversed(FOLDERS):
        if folder.is_dir():
            found |= {video_id: entry.rows for video_id, entry in shards.index(folder).items()}
    return found


def read_videos(video_ids: Iterable[str], copy: Path | None = None) -> dict[str, VideoEmbeddings]:
    """Those of them that have frames; copy: as for `read_embeddings`."""
    found: dict[str, VideoEmbeddings] = {}
    rest = set(video_ids)
    for folder in FOLDERS:
        own = rest & shards.index(folder).keys() if folder.is_dir() else set()
        rest -= own
        if own:
            found |= read_embeddings(folder, own, copy and copy.with_name(f"{copy.name}-{folder.parent.name}"))
    if rest:
        raise ValueError(f"{EMBEDDINGS} has no video {min(rest)!r}; bring the questions up to date: make questions")
    return found


def read_jpegs(video_id: str, numbers: Sequence[int]) -> list[bytes]:
    """These frames of a video or picture."""
    for folder in (FRAMES, PICTURE_FRAMES):
        with suppress(KeyError):  # it may be in the other
            return shards.read(folder, video_id, ["jpeg"])["jpeg"].take(list(numbers)).to_pylist()
    raise ValueError(
        f"{FRAMES} has no video {video_id!r}, which an encoder is trained on; make it with: dvc repro frames"
    )


def read_captions(video_ids: Iterable[str], decoder: Any, tokenizer: Any) -> dict[str, VideoEmbeddings]:
    """Our captions of these videos as the decoder reads them, a word in a frame's place."""
    return caption_videos(timed_captions(video_ids), decoder, tokenizer)


def timed_captions(video_ids: Iterable[str]) -> dict[str, list[TimedCaption]]:
    """Our captions of these videos. ValueError if one has none."""
    wanted = set(video_ids)
    captions: defaultdict[str, list[TimedCaption]] = defaultdict(list)
    for path in sorted(CAPTIONS.glob("*/captions.parquet")):
        for row in pq.read_table(path, columns=["video_id", "end_s", "caption"]).to_pylist():
            if row["video_id"] in wanted:
                captions[row["video_id"]].append(TimedCaption(row["end_s"], row["caption"]))
    if missing := wanted - captions.keys():
        raise ValueError(
            f"{CAPTIONS} has no captions of {len(missing)} videos that are asked about, as {min(missing)!r}"
        )
    return captions
