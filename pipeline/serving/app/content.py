"""What the page shows for a video: the `content` of pipeline/serving/web/retrieved.js."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.serving.video_captioner import VideoCaptioner, Watch
from pipeline.serving.web import moments, strip, thumbnail

FILM_FRAMES = 60  # most pictures for a browser that cannot play the file


def content_of(captioner: VideoCaptioner, name: str, video: Path, segments: str, watch: Watch) -> dict[str, Any]:
    """Captions of a video file, with pictures of the frames.

    Args:
        name: of the variant.
        segments: found | whole.

    Raises ValueError saying why the file is not a readable video, and whatever `watch` raises.
    """
    jpegs = captioner.frames(video, watch)
    fps = captioner.params.frames.fps
    rows: list[dict[str, Any]] = []
    found = captioner.caption_frames(jpegs, segments, watch)
    for number, one in enumerate(found):
        rows.append(
            {
                "id": str(number),
                "video": "video",
                "kind": None,
                "start": one.start_s,
                "end": one.end_s,
                "captions": [{"text": one.caption}],
                "strip": strip(one.start_s, one.end_s, fps),
                "moments": [moments(one.retrieved)],
            }
        )
    shown: set[int] = {frame for row in rows for frame in row["strip"]}
    shown |= {moment["frame"] for row in rows for moment in row["moments"][0]}
    return {
        "fps": fps,
        "runs": [{"name": name, "remembers": captioner.model.config.memory is not None}],
        "segments": rows,
        "warnings": list(found.warnings),
        "about": None if found.unlikeness and found.unlikeness.is_far else found.about,  # otherwise a warning says it
        "videos": {
            "video": {
                "duration": found.duration_s,
                "thumbnails": {frame: thumbnail(jpegs[frame]) for frame in sorted(shown)},
                "film": film(jpegs),
            }
        },
    }


def film(jpegs: Sequence[bytes]) -> list[list[Any]]:
    """[frame, JPEG in base64] of frames evenly spaced over the video."""
    frames = sorted(set(np.linspace(0, len(jpegs) - 1, FILM_FRAMES).round().astype(int).tolist()))
    return [[frame, base64.b64encode(jpegs[frame]).decode()] for frame in frames]
