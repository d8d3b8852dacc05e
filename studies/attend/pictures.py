"""Explanations to look at: a strip of pictures for each word (PNG), and a video, played once for each word (MP4).

A word's heat is scaled by its largest value in the whole segment, never frame by frame: an empty frame stays dark.
"""

from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from studies.attend.nets import Letterbox

SIDE = 224  # of a picture in the video, pixels
SMALL = 112  # of one in a strip
COLUMNS = 10  # of a strip
LABEL = 110  # pixels to the left of a strip's row
SPEED = 3  # times as fast is each word's video
Picture = NDArray[np.uint8]  # [H, W, 3] RGB


def decoded(jpeg: bytes) -> Picture:
    found = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None  # its cells were computed
    return np.ascontiguousarray(found[..., ::-1], dtype=np.uint8)


def overlay(picture: Picture, heat: NDArray[np.float32], side: int) -> Picture:
    """A frame with its heat, [h, w] from 0 to 1, over it; the longer side is `side` pixels."""
    height, width = picture.shape[:2]
    fit = Letterbox.of(width, height, side)
    size = round(width * fit.scale), round(height * fit.scale)
    frame = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    square = cv2.resize(heat, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    left, top = int(fit.left), int(fit.top)
    warm = square[top : top + size[1], left : left + size[0]]
    colours = cv2.cvtColor(cv2.applyColorMap((255 * warm).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    weight = 0.75 * warm[..., None]
    grey = frame.mean(2, keepdims=True)
    base = 0.55 * frame + 0.25 * grey  # so that the heat's colours are the strongest
    return (base * (1 - weight) + colours * weight).clip(0, 255).astype(np.uint8)


def strip(
    path: Path, pictures: Sequence[Picture], times_s: Sequence[float], words: Sequence[str], maps: NDArray[np.float32]
) -> None:
    """A row for each word, a column for each of some times. maps: [words, T, h, w], pictures and times_s: of T."""
    columns = np.unique(np.linspace(0, len(pictures) - 1, COLUMNS).round().astype(int))
    head, gap = 18, 2
    height = head + len(words) * (SMALL + gap)
    sheet = Image.new("RGB", (LABEL + len(columns) * (SMALL + gap), height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for i, column in enumerate(columns):
        draw.text((LABEL + i * (SMALL + gap), 1), f"{times_s[column]:.1f} s", fill="black", font=font)
    for row, (word, own) in enumerate(zip(words, maps, strict=True)):
        y = head + row * (SMALL + gap)
        draw.text((4, y + SMALL // 2 - 8), word[:14], fill="black", font=font)
        scaled = own / max(float(own.max()), 1e-12)
        for i, column in enumerate(columns):
            shown = overlay(pictures[column], scaled[column], SMALL)
            sheet.paste(Image.fromarray(shown), (LABEL + i * (SMALL + gap), y))
    sheet.save(path)


def movie(
    path: Path, pictures: Sequence[Picture], words: Sequence[str], maps: NDArray[np.float32], *, fps: float
) -> None:
    """H.264: for each word the frames once, with its heat, and the caption with that word marked.

    pictures: every frame of the segment, fps a second. maps: [words, frames, h, w].
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=max(1, round(fps * SPEED)), options={"crf": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 2 * SIDE, SIDE + 60, "yuv420p"
        for place, own in enumerate(maps):
            line = caption_line(words, place, 2 * SIDE)
            scaled = own / max(float(own.max()), 1e-12)
            for picture, heat in zip(pictures, scaled, strict=True):
                canvas = np.full((SIDE + 60, 2 * SIDE, 3), 20, np.uint8)
                for x, shown in ((0, heat * 0), (SIDE, heat)):
                    tile = overlay(picture, shown, SIDE) if x else plain(picture, SIDE)
                    y0, x0 = (SIDE - tile.shape[0]) // 2, x + (SIDE - tile.shape[1]) // 2
                    canvas[y0 : y0 + tile.shape[0], x0 : x0 + tile.shape[1]] = tile
                canvas[SIDE:] = line
                container.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        container.mux(stream.encode())


def plain(picture: Picture, side: int) -> Picture:
    height, width = picture.shape[:2]
    scale = side / max(width, height)
    return cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def caption_line(words: Sequence[str], marked: int, width: int) -> Picture:
    """The caption in 60 pixels, wrapped, one word in another colour."""
    image = Image.new("RGB", (width, 60), (20, 20, 20))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=16)
    x, y = 8.0, 6
    for place, word in enumerate(words):
        length = draw.textlength(word + " ", font=font)
        if x + length > width - 8:
            x, y = 8.0, y + 24
        draw.text((x, y), word, fill=(255, 190, 60) if place == marked else (210, 210, 210), font=font)
        x += length
    return np.asarray(image)
