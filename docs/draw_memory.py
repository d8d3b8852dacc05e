"""Draw docs/memory.png: what the memory gave for two test segments, from the run in the workspace.

    python -m docs.draw_memory

Needs a workspace whose run has a memory with keyframes (`make demo` leaves one). Two segments that were captioned with
the right facts:

- of kind `before` the first, by id, in which something comes back and whose caption looked longer at another earlier
  segment than at the one just before it: one that had to look past something;
- of kind `order` the first, by id.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from docs.draw_example import comes_back
from pipeline.captioner.keyframes import keyframe_weights, soft_keyframes
from pipeline.captioner.model import load_captioner
from pipeline.captioner.sequences import collate, make_examples
from pipeline.dataset.segments import frames_of_segment, from_table
from pipeline.features import shards
from pipeline.features.embedding_rows import every_nth
from pipeline.features.embeddings import read_embeddings
from pipeline.params import embedded_fps, load_params
from pipeline.process import command
from pipeline.scoring.caption_table import Retrieved, read_retrieved
from pipeline.scoring.segment_scores import read_scores
from pipeline.serving.report.runs import RETRIEVED
from pipeline.serving.web import MOMENTS, moments, strip
from stages.caption import DECODER, EMBEDDINGS, FINETUNED, SEGMENTS

FRAMES = Path("data/videos/frames")
OUT = Path("docs/memory.png")

# px
WIDTH, MARGIN, LEFT = 1500, 30, 130  # LEFT: what stands beside the rows
SIDE, STRIP, GAP = 150, 132, 8  # of a picture; of one in the strip of the segment, where many stand side by side
HEAD, LINKS, PARTS, PANEL_GAP = 46, 34, 44, 60  # heights: of a head's bars, of what joins things, of keyframe weights
INK, SOFT, LINE = "#1f2933", "#6b7785", "#c9d1d9"
OWN, EARLIER = "#2f6fbe", "#d9731a"  # frames of the segment that is captioned, frames from before it
OWN_PALE, EARLIER_PALE = "#e4eefa", "#f3f4f6"
KEYFRAMES = ("#7a5195", "#2a9d8f", "#bc8a00", "#c44569")
FONTS = {size: ImageFont.load_default(size) for size in (17, 20, 26)}


@dataclass(frozen=True)
class Panel:
    segment: pd.Series  # of metrics/segments.parquet
    earlier: pd.DataFrame  # the same of its video's earlier segments
    retrieved: Sequence[Retrieved]
    jpegs: Mapping[int, bytes]  # of the video's frames
    own: range  # the segment's frames
    keyframes: NDArray[np.float32]  # [keyframes, T]: each frame's weight in each; a row's sum is 1
    fps: float

    @property
    def heads(self) -> list[tuple[int, int]]:
        return sorted({(one.layer, one.head) for one in self.retrieved})

    @property
    def height(self) -> int:
        rows = 2 * SIDE + STRIP + len(self.heads) * HEAD
        return 84 + rows + 52 + LINKS + 62 + 34 + PARTS + LINKS


def main() -> None:
    params = load_params()
    scores, fps = read_scores("workspace").sort_values(["video_id", "start_s"]), embedded_fps(params)
    retrieved = read_retrieved(Path(RETRIEVED))
    if not retrieved:
        raise SystemExit("draw_memory: this run has no memory; run: dvc exp run -n memory -S memory.enabled=true")
    panels = []
    for kind in ("before", "order"):
        right = scores[(scores["kind"] == kind) & scores["facts"].fillna(False)]
        fitting = (row for _, row in right.iterrows() if kind != "before" or looks_past(row, scores, retrieved, fps))
        segment = next(fitting, None)
        if segment is None:
            raise SystemExit(f"draw_memory: no segment of kind {kind} is as the rule above wants it")
        stored = shards.iterate(FRAMES, [segment["video_id"]], columns=["frame_index", "timestamp_s", "jpeg"])
        [(_, table)] = every_nth(stored, params.embed.every)
        own = frames_of_segment(segment["start_s"], segment["end_s"], table["timestamp_s"].to_pylist())
        jpegs = dict(enumerate(table["jpeg"].to_pylist()))
        id = segment["segment_id"]
        panels.append(Panel(segment, earlier_of(segment, scores), retrieved[id], jpegs, own, keyframes_of(id), fps))

    tall = sum(panel.height for panel in panels) + PANEL_GAP * (len(panels) - 1) + 2 * MARGIN
    sheet = Image.new("RGB", (WIDTH, tall), "white")
    top = MARGIN
    for panel in panels:
        draw_panel(sheet, panel, top)
        top += panel.height + PANEL_GAP
    sheet.save(OUT, optimize=True)
    print(f"draw_memory: {', '.join(panel.segment['segment_id'] for panel in panels)} -> {OUT}")


def earlier_of(segment: pd.Series, scores: pd.DataFrame) -> pd.DataFrame:
    return scores[(scores["video_id"] == segment["video_id"]) & (scores["start_s"] < segment["start_s"])]


def looks_past(
    segment: pd.Series, scores: pd.DataFrame, retrieved: Mapping[str, Sequence[Retrieved]], fps: float
) -> bool:
    """Whether something comes back, and another earlier segment than the last got most of what earlier ones got."""
    earlier = earlier_of(segment, scores)
    looked: defaultdict[int, float] = defaultdict(float)
    for one in retrieved[segment["segment_id"]]:
        for number, (start_s, end_s) in enumerate(zip(earlier["start_s"], earlier["end_s"], strict=True)):
            if start_s <= one.frame_index / fps < end_s:
                looked[number] += one.weight
    return (
        comes_back(segment["references"]) and bool(looked) and max(looked, key=looked.__getitem__) != len(earlier) - 1
    )


@torch.no_grad()
def keyframes_of(segment_id: str) -> NDArray[np.float32]:
    """Weights of a video's frames in the keyframes of one of its segments, [keyframes, T], as the mapper has them."""
    [segment] = [one for one in from_table(pq.read_table(SEGMENTS)) if one.segment_id == segment_id]
    captioner, _ = load_captioner(FINETUNED, DECODER)
    mapper = captioner.mapper.with_memory
    if not mapper or not mapper.memory or not mapper.memory.keyframes:
        raise SystemExit("draw_memory: this run has no keyframes; set memory.keyframes and run: dvc repro")
    videos = read_embeddings(EMBEDDINGS, [segment.video_id])
    batch = collate(make_examples([segment], videos, scope="video"))
    attended = mapper.recalled(batch.embeddings, batch.moments).attended
    weights = keyframe_weights(attended[max(attended)].mean(1), batch.moments.segment_start, batch.moments.frame)
    # The mean of rows that each name one frame says how much of it is in the mean.
    every = torch.eye(weights.shape[-1])[None]
    return soft_keyframes(weights, every, mapper.memory.keyframes)[0, 0].numpy()


def draw_panel(sheet: Image.Image, panel: Panel, top: int) -> None:
    draw, segment, fps, now = ImageDraw.Draw(sheet), panel.segment, panel.fps, panel.own[-1]
    left, right = MARGIN + LEFT, WIDTH - MARGIN

    def at(frame: float) -> float:
        return left + (right - left) * frame / (now + 1)

    draw.text((MARGIN, top), f"“{segment['caption']}”", INK, FONTS[26])
    times = f"{segment['start_s']:.1f} to {segment['end_s']:.1f} s"
    notes = (f"kind {segment['kind']}", f"{segment['segment_id']}, {times}", f"reference: “{segment['references'][0]}”")
    draw.text((MARGIN, top + 38), "   |   ".join(notes), SOFT, FONTS[17])

    # The moments that got most, each joined to its place in the video. Those of the segment apart from those before it.
    y = top + 84
    label(draw, y + SIDE / 2, "retrieved,", "with weight", "and age")
    found = moments_of(panel)
    bars = y + SIDE + 52 + LINKS
    for moment, x in zip(found, spread([at(moment["frame"] + 0.5) for moment in found], left, right), strict=True):
        colour = OWN if moment["frame"] in panel.own else EARLIER
        paste(sheet, picture(panel, moment["frame"]), (x - SIDE / 2, y), colour)
        draw.text((x, y + SIDE + 7), f"{moment['weight']:.1%}", colour, FONTS[20], anchor="ma")
        draw.text((x, y + SIDE + 30), f"{(now - moment['frame']) / fps:.1f} s ago", SOFT, FONTS[17], anchor="ma")
        draw.line([(x, y + SIDE + 52), (x, y + SIDE + 58), (at(moment["frame"] + 0.5), bars - 4)], colour, 2)

    # What every head paid to every frame.
    bottom = bars + len(panel.heads) * HEAD
    shown = [(row["start_s"] * fps, row["end_s"] * fps, EARLIER_PALE) for _, row in panel.earlier.iterrows()]
    for number, (start, end, pale) in enumerate([*shown, (panel.own.start, panel.own.stop, OWN_PALE)], start=1):
        draw.rectangle((at(start), bars, at(end), bottom), pale)
        name, colour = (f"segment {number}", SOFT) if pale == EARLIER_PALE else ("this segment", OWN)
        draw.text((at((start + end) / 2), bottom + 28), name, colour, FONTS[17], anchor="ma")
    most = max(one.weight for one in panel.retrieved)
    for number, (layer, head) in enumerate(panel.heads, start=1):
        base = bars + number * HEAD - 1
        draw.line((left, base, right, base), LINE)
        draw.text((left - 12, base - HEAD // 2), f"layer {layer}, head {head}", SOFT, FONTS[17], anchor="rm")
        for one in panel.retrieved:
            if (one.layer, one.head) == (layer, head):
                tall = max(1, round((HEAD - 8) * one.weight / most))
                colour = OWN if one.frame_index in panel.own else EARLIER
                draw.rectangle((at(one.frame_index) + 1, base - tall, at(one.frame_index + 1) - 1, base - 1), colour)
    for second in range(0, int((now + 1) / fps) + 1, 5):
        x = at(second * fps)
        draw.line((x, bottom, x, bottom + 5), SOFT)
        draw.text((x, bottom + 7), f"{second} s", SOFT, FONTS[17], anchor="la" if second == 0 else "ma")

    # The segment, to a scale of its own, and under it what its keyframes are means of.
    y = bottom + 62
    label(draw, y + STRIP / 2, "the segment,", "its last frame", "at the right")

    def along(frame: float) -> float:
        return left + STRIP / 2 + (right - left - STRIP) * (frame - panel.own.start) / max(1, len(panel.own) - 1)

    for frame in sorted({min(max(frame, panel.own.start), now) for frame in strip(*ends(segment), fps)}):
        paste(sheet, picture(panel, frame, STRIP), (along(frame) - STRIP / 2, y), OWN if frame == now else LINE)
        draw.text((along(frame), y + STRIP + 6), f"{frame / fps:.1f} s", SOFT, FONTS[17], anchor="ma")
    base = y + STRIP + 34 + PARTS
    label(draw, base - PARTS / 2 + 8, "weights")
    pictures = base + LINKS
    label(draw, pictures + SIDE / 2, "keyframes", f"1 to {len(panel.keyframes)}")
    broad = (right - left - STRIP) / max(1, len(panel.own) - 1)
    weights = panel.keyframes[:, panel.own.start : panel.own.stop]
    middles = [along(panel.own.start + float(np.arange(len(panel.own)) @ row)) for row in weights]
    for row, x, middle, colour in zip(
        weights, spread(middles, left, right), middles, KEYFRAMES * len(weights), strict=False
    ):
        there = [int(i) for i in np.flatnonzero(row > 1e-4)]
        for i in there:
            tall, centre = max(1, round((PARTS - 4) * row[i] / weights.max())), along(panel.own.start + i)
            draw.rectangle((centre - broad / 2 + 1, base - tall, centre + broad / 2 - 1, base), colour)
        draw.line([(middle, base + 4), (x, pictures - 2)], colour, 2)
        mean = sum(row[i] * np.asarray(picture(panel, panel.own[i]), np.float32) for i in there)
        paste(sheet, Image.fromarray(np.uint8(np.clip(mean, 0, 255))), (x - SIDE / 2, pictures), colour)


def moments_of(panel: Panel) -> list[dict[str, Any]]:
    """`pipeline.serving.web.moments`, those of the segment apart from those before it; as many as it shows of both."""
    found = []
    for inside in (False, True):
        of_side = [one for one in panel.retrieved if (one.frame_index in panel.own) == inside]
        for moment in moments(of_side) if of_side else []:
            # It takes the mean over the heads that it is told of: here over all.
            found.append({**moment, "weight": sum(row[-1] for row in moment["heads"]) / len(panel.heads)})
    found = sorted(found, key=lambda moment: moment["weight"], reverse=True)[:MOMENTS]
    return sorted(found, key=lambda moment: moment["frame"])


def ends(segment: pd.Series) -> tuple[float, float]:
    return float(segment["start_s"]), float(segment["end_s"])


def picture(panel: Panel, frame: int, side: int = SIDE) -> Image.Image:
    return Image.open(BytesIO(panel.jpegs[frame])).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def paste(sheet: Image.Image, shown: Image.Image, corner: tuple[float, float], colour: str) -> None:
    x, y = (round(place) for place in corner)
    sheet.paste(shown, (x, y))
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + shown.width, y + shown.height), outline=colour, width=3)


def label(draw: ImageDraw.ImageDraw, middle: float, *lines: str) -> None:
    for number, line in enumerate(lines):
        draw.text((MARGIN + LEFT - 12, middle + (number - len(lines) / 2) * 24), line, SOFT, FONTS[17], anchor="ra")


def spread(wanted: Sequence[float], left: float, right: float) -> list[float]:
    """Places of pictures side by side, in the same order and near the wanted middles, within left and right."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + SIDE + GAP if places else left + SIDE / 2))
    limit = right - SIDE / 2
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - SIDE - GAP
    return places


if __name__ == "__main__":
    command.run("docs.draw_memory", __doc__, main)
