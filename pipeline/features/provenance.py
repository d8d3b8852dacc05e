"""What the rows of a video were computed from its frames with: one hash a video, written beside its rows."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import device
from pipeline.features import embedding_rows, encoder
from pipeline.features.shards import Entry
from pipeline.imports import code_fingerprint, file_fingerprint, versions
from pipeline.params import EmbedParams

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "opencv-python-headless", "pillow")


def fingerprints(frames: Mapping[str, Entry], settings: str, code: Path, files: Sequence[Path] = ()) -> dict[str, str]:
    """Of each video what its shard says if its rows are current.

    Args:
        frames: what the shards of the frames say of each video.
        settings: the model's digest and every option that decides the rows.
        code: the module that computes; all that it imports counts.
        files: further files whose own code counts.
    """
    chosen_by = Path(device.__file__)  # the dtype
    codes = (code_fingerprint(code), *map(file_fingerprint, (chosen_by, *files)))
    common = f"{settings} {codes} {versions(*PACKAGES)}"
    return {
        video_id: hashlib.sha256(f"{entry.fingerprint} {common}".encode()).hexdigest()
        for video_id, entry in frames.items()
    }


def of_embeddings(frames: Mapping[str, Entry], folder: Path, options: EmbedParams) -> dict[str, str]:
    """`fingerprints` of the embeddings of this encoder's folder."""
    # The batch size too: a matrix product of more rows may add in another order.
    settings, files = f"{encoder.digest(folder)} {options}", [Path(embedding_rows.__file__)]
    return fingerprints(frames, settings, Path(encoder.__file__), files)
