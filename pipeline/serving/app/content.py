"""What the page shows for a video, the `content` of pipeline/serving/web/retrieved.js; and for a question about it."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.features.search import clock
from pipeline.serving.finder import Finder
from pipeline.serving.video_answerer import Seen, VideoAnswerer
from pipeline.serving.video_captioner import VideoCaptioner
from pipeline.serving.video_frames import Watch
from pipeline.serving.web import moments, strip, thumbnail

FILM_FRAMES = 60  # most pictures for a browser that cannot play the file


def content_of(
    captioner: VideoCaptioner, name: str, video: Path, segments: str, watch: Watch
) -> tuple[dict[str, Any], Seen]:
    """Captions of a video file, with pictures of the frames; and what questions about it are answered from.

    Args:
        name: of the variant.
        segments: found | whole.

    Raises ValueError saying why the file is not a readable video, and whatever `watch` raises.
    """
    jpegs = captioner.frames(video, watch)
    fps = captioner.sampling.fps
    rows: list[dict[str, Any]] = []
    embeddings = captioner.embed(jpegs, watch)
    found = captioner.caption_frames(jpegs, segments, watch, embeddings)
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
    content = {
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
    return content, Seen(jpegs, embeddings)


def answer_of(answerer: VideoAnswerer, seen: Seen, question: str, at_s: float | None) -> dict[str, Any]:
    """What the page shows of an answer. Raises ValueError for what cannot be asked."""
    [one] = answerer.ask(seen, [question], at_s=at_s)
    return {
        "question": one.question,
        "first": [[answer, round(probability, 4)] for answer, probability in one.first],
        "moments": [
            {
                "start": moment.start_s,
                "end": moment.end_s,
                "time": moment.frame / answerer.sampling.fps,
                "share": round(moment.share, 4),
                "thumbnail": thumbnail(seen.frames[moment.frame]),
            }
            for moment in one.moments
        ],
        "warnings": list(one.warnings),
    }


def found_of(finder: Finder, sought: str | bytes) -> dict[str, Any]:
    """What the page shows of a search for a text or a picture. Raises ValueError for what cannot be sought."""
    rows = []
    for moment in finder.of_text(sought) if isinstance(sought, str) else finder.of_picture(sought):
        jpeg = finder.picture(moment)
        rows.append(
            {
                "video": moment.video_id,
                "at": clock(moment.time_s),
                "similarity": round(moment.similarity, 6),
                "thumbnail": jpeg and thumbnail(jpeg),
            }
        )
    return {"moments": rows}


def film(jpegs: Sequence[bytes]) -> list[list[Any]]:
    """[frame, JPEG in base64] of frames evenly spaced over the video."""
    frames = sorted(set(np.linspace(0, len(jpegs) - 1, FILM_FRAMES).round().astype(int).tolist()))
    return [[frame, base64.b64encode(jpegs[frame]).decode()] for frame in frames]
