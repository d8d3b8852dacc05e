"""CLIPScore (Hessel et al. 2021): how well captions fit what the encoder saw, without any reference.

A frame scores 2.5 * max(cos, 0) of the caption's and the frame's embedding; a segment, the average over its frames,
times 100. Captions do not get the paper's prefix "A photo depicts", which the built-in encoder has never seen.

n captions   T frames of a segment   E embedding width
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.dataset.segments import Segment, frames_of_segment
from pipeline.features import shards
from pipeline.features.embeddings import unit, vectors
from pipeline.features.text_tower import embed_texts

WEIGHT = 2.5  # the paper's; it stretches CLIP's cosines to a range of about 0 to 1


def clip_scores(
    captions: Mapping[str, str], segments: Mapping[str, Segment], embeddings: Path, encoder: Path, device: str
) -> dict[str, float]:
    """Score of each caption whose segment has frames.

    Args:
        captions: by segment_id.
        segments: the same segments.
        embeddings: the shards that the encoder's image tower made.
        encoder: its folder.
        device: auto | cpu | cuda | mps, where the text tower runs.

    Raises NoTextTower.
    """
    known = {video_id for video_id, entry in shards.index(embeddings).items() if entry.rows}
    of_video: dict[str, list[str]] = {}
    for id in captions:
        if segments[id].video_id in known:
            of_video.setdefault(segments[id].video_id, []).append(id)
    if not of_video:
        return {}
    texts = embed_texts(encoder, [captions[id] for ids in of_video.values() for id in ids], device)
    text = dict(zip((id for ids in of_video.values() for id in ids), texts, strict=True))
    scores = {}
    for video_id, table in shards.iterate(embeddings, list(of_video), ["timestamp_s", "embedding"]):
        timestamps = table["timestamp_s"].to_numpy()
        frames = vectors(table)  # [T of video, E]
        for id in of_video[video_id]:
            seen = frames_of_segment(segments[id].start_s, segments[id].end_s, timestamps)
            cosines = unit(frames[seen.start : seen.stop]) @ text[id]  # [T]
            scores[id] = float(100 * WEIGHT * np.maximum(cosines, 0).mean())
    return {id: scores[id] for id in captions if id in scores}
