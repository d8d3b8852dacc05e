"""CLIPScore (Hessel et al. 2021): how well captions fit what the encoder saw, without any reference.

A frame scores 2.5 * max(cos, 0) of the caption's and the frame's embedding; a segment, the average over its frames,
times 100. Captions do not get the paper's prefix "A photo depicts", which the built-in encoder has never seen.

n captions   T frames of a segment   E embedding width
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.segments import Segment, frames_of_segment
from pipeline.features import shards
from pipeline.features.embeddings import unit, vectors
from pipeline.files import strict_json
from pipeline.process.terminal import printable

WEIGHT = 2.5  # the paper's; it stretches CLIP's cosines to a range of about 0 to 1
BATCH = 256


class NoTextTower(ValueError):
    """The encoder cannot read captions."""


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


def embed_texts(encoder: Path, captions: Sequence[str], device: str) -> NDArray[np.float32]:
    """[n, E], normalised, of at least one caption. A caption too long for the tower is cut. Raises NoTextTower."""
    import open_clip  # here, because it takes seconds
    import torch

    from pipeline.device import choose_device
    from pipeline.features.encoder import CONFIG_FILE

    name = f"local-dir:{encoder}"
    try:
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, ValueError) as error:
        # Transformers' own message suggests packages that do not have it.
        config = strict_json.load(encoder / CONFIG_FILE)
        name = config["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name")
        why = f"it is {printable(name)} on the Hugging Face hub, which did not provide it" if name else str(error)
        raise NoTextTower(f"the tokenizer of {encoder} is not in it ({why})") from error
    where = choose_device(device)
    model = open_clip.create_model(name, precision="fp32", device=where).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(captions), BATCH):
            tokens = tokenizer(list(captions[start : start + BATCH])).to(where)
            rows.append(model.encode_text(tokens).float().cpu().numpy())
    return unit(np.concatenate(rows))
