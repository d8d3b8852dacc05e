"""Accuracy against cost: a line for each model, a dot for each number of glimpses; the cost on a log scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.files.aside import aside
from pipeline.scoring.plot import FAINT, GREY, INK, ticks

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 58, 100, 34, 48
SCALE, FINE = 2, 2  # the picture's pixels for each one here; drawn finer still and reduced, for smooth edges
# Of Okabe and Ito, the last of Tol.
COLOURS = ("#666666", "#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#0072b2", "#882255")
RADIUS = 4


@dataclass(frozen=True)
class Dot:
    x: float  # > 0; 0 is drawn at the left edge
    y: float
    mark: str


def draw(dots: Mapping[str, Sequence[Dot]], path: Path, *, title: str, x_label: str) -> None:
    """Write the named dots to `path`; a model of one dot is named beside it, others at their last one."""
    px = SCALE * FINE
    every = [dot for of in dots.values() for dot in of]
    least = min((dot.x for dot in every if dot.x > 0), default=1.0)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(max(max(dot.x for dot in every), 10 * least)))
    y_ticks = ticks(min(dot.y for dot in every) - 1, max(dot.y for dot in every) + 1)

    def place(dot: Dot) -> tuple[float, float]:
        across = (math.log10(dot.x) - low) / (high - low) if dot.x > 0 else 0.0
        down = (dot.y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (LEFT + across * (WIDTH - LEFT - RIGHT)) * px, (HEIGHT - BOTTOM - down * (HEIGHT - TOP - BOTTOM)) * px

    sheet = Image.new("RGB", (WIDTH * px, HEIGHT * px), "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(14 * px), ImageFont.load_default(11 * px)
    for y in y_ticks:
        across, down = place(Dot(0.0, y, ""))
        pen.line([(across, down), ((WIDTH - RIGHT) * px, down)], FAINT, px)
        pen.text((across - 8 * px, down), f"{y:g}", GREY, small, anchor="rm")
    for power in range(low, high + 1):
        across, down = place(Dot(10.0**power, y_ticks[0], ""))
        pen.line([(across, down), (across, down + 5 * px)], GREY, px)
        pen.text((across, down + 9 * px), f"{10.0**power:g}", GREY, small, anchor="mt")
    pen.text((LEFT * px, 10 * px), title, INK, font, anchor="lt")
    pen.text(((WIDTH + LEFT - RIGHT) / 2 * px, (HEIGHT - 8) * px), x_label, GREY, small, anchor="mb")
    named: list[tuple[float, float]] = []
    every_place = [place(dot) for dot in every]
    for number, (name, of) in enumerate(dots.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = [place(dot) for dot in of]
        if len(at) > 1:
            pen.line(at, colour, 2 * px, joint="curve")
        for (across, down), dot in zip(at, of, strict=True):
            pen.ellipse([across - RADIUS * px, down - RADIUS * px, across + RADIUS * px, down + RADIUS * px], colour)
            if len(at) > 1:
                pen.text((across, down + 7 * px), dot.mark, colour, small, anchor="mt")
        across, down = at[-1][0] + 9 * px, at[-1][1]
        if len(at) == 1 and any(0 < x - across < 50 * px and abs(y - down) < 12 * px for x, y in every_place):
            pen.text((at[0][0] - 9 * px, down), name, colour, font, anchor="rm")
            continue
        while any(abs(across - x) < 90 * px and abs(down - y) < 15 * px for x, y in named):
            down -= px
        named.append((across, down))
        pen.text((across, down), name, colour, font, anchor="lm")
    drawn = sheet.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.LANCZOS)
    with aside(path) as written:
        drawn.save(written, "PNG", optimize=True)
