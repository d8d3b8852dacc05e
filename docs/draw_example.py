"""Draw docs/example.png: a test video's segments, with what the two variants of `make demo` said of them.

    python -m docs.draw_example

The first video, by id, of four segments of which something comes back and of which the memory got everything right.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.captioner.sequences import frames_of_segment
from pipeline.dataset.shapes.grammar import read_facts
from pipeline.features import shards
from pipeline.process import command
from pipeline.scoring.segment_scores import read_scores

FRAMES = Path("data/videos/frames")
OUT = Path("docs/example.png")
SIDE, GAP, LINE, MARGIN = 126, 2, 20, 22  # px
PICTURES = 3  # of each segment, the last one its last frame
WIDTH = PICTURES * (SIDE + GAP)


def main() -> None:
    baseline, memory = (read_scores(name).set_index("segment_id") for name in ("baseline", "memory"))
    right = (segments for _, segments in memory.groupby("video_id") if len(segments) == 4 and segments["facts"].all())
    segments = next((segments for segments in right if segments["references"].map(comes_back).any()), None)
    if segments is None:
        raise SystemExit("draw_example: the memory got no video right of four segments in which something comes back")
    [(_, frames)] = shards.iterate(FRAMES, [segments["video_id"].iloc[0]], columns=["timestamp_s", "jpeg"])
    times = frames["timestamp_s"].to_pylist()
    height = SIDE + 3 * LINE + MARGIN
    sheet = Image.new("RGB", (2 * WIDTH + MARGIN, 2 * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (segment_id, segment) in enumerate(segments.sort_values("start_s").iterrows()):
        left, top = (i % 2) * (WIDTH + MARGIN), (i // 2) * height
        own = frames_of_segment(segment["start_s"], segment["end_s"], times)
        for n, at in enumerate(np.linspace(len(own) * 0.15, len(own) - 1, PICTURES).astype(int)):
            picture = Image.open(BytesIO(frames["jpeg"][own[at]].as_py())).resize((SIDE, SIDE))
            sheet.paste(picture, (left + n * (SIDE + GAP), top))
        description = (
            ("reference", segment["references"][0]),
            ("16 frames", baseline.loc[segment_id, "caption"]),
            ("memory", segment["caption"]),
        )
        for n, (who, caption) in enumerate(description):
            y = top + SIDE + 4 + n * LINE
            draw.text((left, y), who, "#777777", font)
            draw.text((left + 76, y), caption, "black", font)
    sheet.save(OUT, optimize=True)


def comes_back(references: list[str]) -> bool:
    facts = read_facts(references[0])
    return facts is not None and facts.event == "comes_back"


if __name__ == "__main__":
    command.run("docs.draw_example", __doc__, main)
