"""Curves with bands, as a picture: axes, grid and labels drawn with Pillow, which the project has anyway."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.files.aside import aside
from pipeline.scoring.variants import Curve

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 110, 34, 48  # margins; curves are named in the right one
SCALE, FINE = 2, 2  # the picture's pixels for each one here; drawn finer still and reduced, for smooth edges
# Of Okabe and Ito, told apart by the colour-blind too; without their yellow, which is not seen on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, GREY, FAINT = "#222222", "#666666", "#e4e4e4"
BAND = 56  # opacity of 255


def draw(
    curves: Mapping[str, Curve], path: Path, *, title: str, x_label: str, x_marks: Mapping[float, str] | None = None
) -> None:
    """Write the named curves to `path`, each in a colour of its own, its name at its right end.

    Args:
        x_marks: what to write at which x; None: round numbers.
    """
    assert 0 < len(curves) <= len(COLOURS)
    px = SCALE * FINE
    x_marks = x_marks or {x: f"{x:g}" for x in ticks(*extent([curve.lengths_s for curve in curves.values()]))}
    y_ticks = ticks(*extent([side for curve in curves.values() for side in (curve.low, curve.high)]))
    x_low, x_high = extent([curve.lengths_s for curve in curves.values()])
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def points(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> list[tuple[float, float]]:
        across = LEFT + (xs - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (ys - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return [(x * px, y * px) for x, y in zip(across.tolist(), down.tolist(), strict=True)]

    sheet = Image.new("RGBA", (WIDTH * px, HEIGHT * px), "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(14 * px), ImageFont.load_default(12 * px)
    for y in y_ticks:
        ends = points(np.array([x_low, x_high]), np.array([y, y]))
        pen.line(ends, FAINT, px)
        pen.text((ends[0][0] - 8 * px, ends[0][1]), f"{y:g}", GREY, small, anchor="rm")
    for x, mark in x_marks.items():
        if x_low <= x <= x_high:
            [(across, down)] = points(np.array([x]), np.array([y_low]))
            pen.line([(across, down), (across, down + 5 * px)], GREY, px)
            pen.text((across, down + 9 * px), mark, GREY, small, anchor="mt")
    pen.line(points(np.array([x_low, x_high]), np.array([y_low, y_low])), GREY, px)
    pen.text((LEFT * px, 10 * px), title, INK, font, anchor="lt")
    pen.text(((WIDTH + LEFT - RIGHT) / 2 * px, (HEIGHT - 8) * px), x_label, GREY, small, anchor="mb")

    named: list[float] = []  # heights that are taken
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        band = Image.new("RGBA", sheet.size, colour + "00")
        outline = points(curve.lengths_s, curve.low) + points(curve.lengths_s, curve.high)[::-1]
        ImageDraw.Draw(band).polygon(outline, fill=f"{colour}{BAND:02x}")
        sheet = Image.alpha_composite(sheet, band)
        pen = ImageDraw.Draw(sheet)
        line = points(curve.lengths_s, curve.mean)
        pen.line(line, colour, 2 * px, joint="curve")
        height = line[-1][1]
        while any(abs(height - other) < 17 * px for other in named):
            height += px
        named.append(height)
        pen.text((line[-1][0] + 8 * px, height), name, colour, font, anchor="lm")
    drawn = sheet.convert("RGB").resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.LANCZOS)
    with aside(path) as written:
        drawn.save(written, "PNG", optimize=True)


def extent(values: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Smallest and largest of all; a little around it where all are equal."""
    low, high = float(min(v.min() for v in values)), float(max(v.max() for v in values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about five steps apart: 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return [round(float(i * step), 10) for i in np.arange(first, last + 1)]
