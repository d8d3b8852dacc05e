"""Which frames, encoder, settings and code embeddings were made with: one hash a video, written beside its rows."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pipeline import device
from pipeline.features import encoder
from pipeline.features.shards import Entry
from pipeline.imports import code_fingerprint, file_fingerprint, versions
from pipeline.params import EmbedParams

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "opencv-python-headless", "pillow")


def fingerprints(frames: Mapping[str, Entry], folder: Path, options: EmbedParams) -> dict[str, str]:
    """Of each video what its embeddings' shard says if they are current.

    Args:
        frames: what the shards of the frames say of each video.
        folder: of the encoder.
    """
    code = code_fingerprint(Path(encoder.__file__)), file_fingerprint(Path(device.__file__))  # that chooses the dtype
    # The batch size too: a matrix product of more rows may add in another order.
    settings = f"{encoder.digest(folder)} {options} {code} {versions(*PACKAGES)}"
    return {
        video_id: hashlib.sha256(f"{entry.fingerprint} {settings}".encode()).hexdigest()
        for video_id, entry in frames.items()
    }
