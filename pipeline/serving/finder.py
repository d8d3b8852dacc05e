"""Search in the project's own videos: from a text or a picture to moments, as `python -m pipeline.find` does it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.features import shards
from pipeline.features.encoder import Encoder
from pipeline.features.search import Moment, Search, embed_picture, open_search
from pipeline.features.text_tower import TextTower
from pipeline.params import load_params

VIDEOS = Path("data/videos")
ENCODER = Path("models/encoder")
MOMENTS = 12
APART_S = 5.0  # between moments of a video
MAX_CHARACTERS = 1000  # of a text; a tower reads some dozen words


@dataclass(frozen=True)
class Finder:
    search: Search
    encoder: Encoder
    texts: TextTower
    frames: Path  # shards with the pictures

    @classmethod
    def load(cls, encoder: Encoder) -> "Finder | None":
        """Over the embedded videos of this project; None if there are none.

        Args:
            encoder: that of models/, loaded.

        Raises ValueError, naming the command that helps, if the embeddings are not of that encoder.
        """
        folder = VIDEOS / "embeddings"
        if not folder.is_dir():
            return None
        params = load_params()
        search = open_search(folder, ENCODER, params)
        search.index  # noqa: B018, built now, not while the first search waits
        return cls(search, encoder, TextTower(ENCODER, params.device), VIDEOS / "frames")

    @property
    def about(self) -> str:
        frames = self.search.frames
        return f"{len(frames.video_ids):,} videos, {len(frames):,} frames"

    def of_text(self, text: str) -> list[Moment]:
        """ValueError if there is nothing to look for, or too much."""
        if not text.strip():
            raise ValueError("the text is empty; expected some words")
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"the text has {len(text):,} characters; expected {MAX_CHARACTERS:,} at most")
        return self._moments(self.texts.embed([text.strip()])[0])

    def of_picture(self, picture: bytes) -> list[Moment]:
        """ValueError if the bytes are no picture."""
        return self._moments(embed_picture(self.encoder, picture))

    def _moments(self, query: NDArray[np.float32]) -> list[Moment]:
        return self.search.moments(query, MOMENTS, APART_S)

    def picture(self, moment: Moment) -> bytes | None:
        """The moment's frame, a JPEG; None where the frames are not there (`dvc pull` may have left them out)."""
        if not self.frames.is_dir():
            return None
        try:
            # A long video's pictures do not fit into memory.
            for _, part in shards.iterate(self.frames, [moment.video_id], ["timestamp_s", "jpeg"], whole=False):
                times = part["timestamp_s"].to_numpy()
                if times[-1] >= moment.time_s:
                    return part["jpeg"][int(np.abs(times - moment.time_s).argmin())].as_py()
        except KeyError:
            pass
        return None
