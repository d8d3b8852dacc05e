"""Draw the diagrams of docs/memory.md: docs/memory_layer.svg, docs/memory_mask.svg, docs/memory_scope.svg.

    python -m docs.draw_diagrams

They stand on a light ground of their own, so that they can be read on a dark page, too.
"""

import itertools
from pathlib import Path

from pipeline.process import command

FOLDER = Path("docs")
GROUND, INK, SOFT, LINE, FAINT = "#fbfcfd", "#1f2933", "#5f6b78", "#aeb8c2", "#e9edf1"
OWN, OWN_PALE, EARLIER, EARLIER_PALE = "#2f6fbe", "#cfe1f5", "#d9731a", "#fbe3cf"  # as in docs/draw_memory.py
CONSTANT, CONSTANT_PALE = "#7a5195", "#e6dcee"
KEYFRAMES = ("#7a5195", "#2a9d8f", "#bc8a00", "#c44569")


class Drawing:
    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="Helvetica, Arial, sans-serif" font-size="15">',
            f"<title>{title}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
            f' orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{SOFT}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="10" fill="{GROUND}" stroke="{LINE}"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, fill: str, stroke: str = "none", rx: float = 3) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{rx:g}" fill="{fill}" stroke="{stroke}"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = INK,
        size: int = 15,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="{anchor}"{weight}>{text}</text>'
        )

    def line(self, *points: tuple[float, float], colour: str = SOFT, tip: bool = True, width: float = 1.6) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        end = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{end}/>')

    def save(self, name: str) -> None:
        (FOLDER / name).write_text("\n".join([*self.parts, "</svg>"]) + "\n", encoding="utf-8")


def main() -> None:
    layer().save("memory_layer.svg")
    mask().save("memory_mask.svg")
    scope().save("memory_scope.svg")
    print(f"draw_diagrams: 3 diagrams -> {FOLDER}")


def layer() -> Drawing:
    d = Drawing(1000, 560, "The two passes: remember every frame, recall from a segment's last one")
    d.text(30, 40, "remember", bold=True, size=19)
    d.text(30, 64, "all frames at once", SOFT)
    d.text(580, 40, "recall", bold=True, size=19)
    d.text(580, 64, "what becomes the prefix", SOFT)

    def tokens(x: float, y: float, constants_only: bool = False, size: float = 14) -> None:
        for i in range(3 if constants_only else 6):
            colours = (CONSTANT_PALE, CONSTANT) if constants_only or i > 2 else (OWN_PALE, OWN)
            d.box(x + i * (size + 3), y, size, 22, *colours)

    def slab(x: float, y: float, w: float, *lines: str, memory: bool = False) -> None:
        d.box(x, y, w, 50, EARLIER_PALE if memory else "#ffffff", EARLIER if memory else LINE, 6)
        for i, line in enumerate(lines):
            d.text(x + w / 2, y + 30 + 18 * (i - (len(lines) - 1) / 2), line, INK, 14, "middle")

    # From bottom to top, as the layers are counted.
    for x, name in ((30, "frame 0"), (175, "frame 1"), (320, "frame 2"), (620, "the last frame")):
        tokens(x, 490)
        d.text(x + 50, 532, name, SOFT, 14, "middle")
        d.line((x + 50, 484), (x + 50, 456))
        d.line((x + 50, 404), (x + 50, 370))
    d.text(440, 507, "...", SOFT, 20)
    slab(30, 405, 400, "layers below: each frame and, in memory", "layers, the k nearest of what came before it")
    slab(580, 405, 180, "layers below,", "likewise")
    slab(30, 318, 400, "top memory layer: only stores", memory=True)
    slab(455, 318, 100, "keys and", "values", memory=True)
    slab(580, 318, 180, "top memory layer: its", "own and k nearest", memory=True)
    d.line((430, 343), (453, 343), colour=EARLIER)
    d.line((555, 343), (578, 343), colour=EARLIER)
    d.text(30, 296, "Above it nobody asks these frames anything: they go no further.", SOFT, 14)
    d.line((670, 317), (670, 284))
    slab(580, 232, 180, "layers above")
    d.line((760, 343), (798, 343))
    slab(800, 318, 170, "keyframes: where it", "looked, in 4 parts")
    d.line((885, 317), (885, 284))
    slab(800, 232, 170, "all layers,", "without memory")
    for x in (670, 885):
        d.line((x, 231), (x, 203))
        d.line((x, 172), (x, 146))
    tokens(645, 176, constants_only=True)
    for i in range(4):
        tokens(804 + i * 43, 176, constants_only=True, size=9)
    prefix = (
        "prefix: the keyframes in order, then the last frame,",
        "P tokens each; the decoder goes on from it",
    )
    slab(580, 94, 390, *prefix)

    d.text(30, 122, "A frame is N = C + P tokens:", SOFT)
    d.box(30, 139, 14, 22, OWN_PALE, OWN)
    d.text(56, 156, "C tokens that its embedding is projected to,", SOFT)
    d.box(30, 169, 14, 22, CONSTANT_PALE, CONSTANT)
    d.text(56, 186, "P learned constants, the same in every frame.", SOFT)
    return d


def mask() -> Drawing:
    frames, tokens, cell, k, held = 6, 3, 22, 3, 4
    left, top, gap = 130, 96, 5
    d = Drawing(960, 570, "The frame-parallel pass: which tokens of which frames a query may attend to")
    d.text(30, 40, "one memory layer, all frames at once", bold=True, size=19)

    def place(frame: int, token: int) -> float:
        return frame * (tokens * cell + gap) + token * cell

    d.text(left + place(frames, 0) / 2, 70, "keys: tokens of frames", SOFT, 15, "middle")
    for frame in range(frames):
        d.text(left + place(frame, 1) + cell / 2, 89, f"{frame}", SOFT, 14, "middle")
        d.text(left - 12, top + place(frame, 1) + 16, f"frame {frame}", SOFT, 14, "end")
    for asking in range(frames):
        for asked in range(frames):
            for row in range(tokens):
                for column in range(tokens):
                    x, y = left + place(asked, column), top + place(asking, row)
                    earlier = [(f, n) for f in range(max(0, asking - held), asking) for n in range(tokens)]
                    # Any k will do for a picture; these look scattered and are always the same.
                    chosen = sorted(earlier, key=lambda at: (at[0] * 7 + at[1] * 11 + row * 5 + asking * 3) % 13)[:k]
                    if asked == asking:
                        fill = OWN
                    elif asked > asking:
                        fill = FAINT
                    elif asked < asking - held:
                        fill = LINE
                    else:
                        fill = EARLIER if (asked, column) in chosen else EARLIER_PALE
                    d.box(x + 1, y + 1, cell - 2, cell - 2, fill)
    x, y = 620, 130
    for fill, *lines in (
        (OWN, "its own frame: every layer has this"),
        (EARLIER, "the k nearest keys of earlier frames", f"(here k = {k}, each row its own)"),
        (EARLIER_PALE, "earlier frames' other keys:", "compared, and not attended to"),
        (LINE, "older than max_entries allows", f"(here {held * tokens} keys, {held} frames)"),
        (FAINT, "later frames: never"),
    ):
        d.box(x, y, 20, 20, fill)
        for i, line in enumerate(lines):
            d.text(x + 34, y + 15 + 20 * i, line, INK if i == 0 else SOFT)
        y += 30 + 22 * len(lines)
    for i, line in enumerate(
        (
            "No row needs the result of another row in",
            "the same layer: keys and values depend on the",
            "layers below alone. So all rows are computed",
            "together, with the result of frame by frame.",
        )
    ):
        d.text(x, y + 24 + 21 * i, line, SOFT)
    return d


def scope() -> Drawing:
    d = Drawing(960, 480, "memory.scope: what of a video is remembered when a segment is captioned")
    left, cell, count = 40, 14, 62
    segments = ((3, 17), (21, 36), (42, 59))  # frames; the last is being captioned
    start, end = segments[-1]

    def film(y: float, colours: dict[int, str]) -> None:
        for frame in range(count):
            d.box(left + frame * cell + 1, y, cell - 2, 26, colours.get(frame, FAINT), rx=2)

    def brace(y: float, first: int, stop: int, text: str, colour: str) -> None:
        x0, x1 = left + first * cell, left + stop * cell
        d.line((x0, y), (x0, y + 6), (x1, y + 6), (x1, y), colour=colour, tip=False)
        d.text((x0 + x1) / 2, y + 25, text, colour, 14, "middle")

    d.text(left, 40, "a video's frames, three of its segments", bold=True, size=17)
    film(58, {frame: LINE for first, stop in segments for frame in range(first, stop)} | {end - 1: INK})
    for number, (first, stop) in enumerate(segments, start=1):
        brace(88, first, stop, f"segment {number}" + (", to be captioned from its last frame" * (number == 3)), SOFT)

    own = dict.fromkeys(range(start, end - 1), OWN) | {end - 1: INK}
    d.text(left, 160, "memory.scope: segment", bold=True, size=17)
    film(174, own)
    brace(204, start, end - 1, "k nearest of these", OWN)

    d.text(left, 268, "memory.scope: video", bold=True, size=17)
    film(282, dict.fromkeys(range(start), EARLIER) | own)
    brace(312, 0, start, "and k nearest of these: earlier segments and the frames between", EARLIER)
    brace(312, start, end - 1, "k nearest of these", OWN)

    d.text(left, 376, "memory.keyframes: 4", bold=True, size=17)
    d.text(left + 200, 376, "the segment before its last frame, cut into parts of equal weight", SOFT)
    film(390, {end - 1: INK})
    cuts = (start, 45, 48, 53, end - 1)
    for number, (first, stop) in enumerate(itertools.pairwise(cuts)):
        x = left + first * cell
        d.box(x + 1, 390, (stop - first) * cell - 2, 26, KEYFRAMES[number], rx=2)
        d.text(x + (stop - first) * cell / 2, 438, f"{number + 1}", KEYFRAMES[number], 15, "middle", bold=True)
    d.text(left + start * cell - 16, 438, "each part's mean embedding becomes a frame of its own:", SOFT, 15, "end")
    note = "Half of the weight is spread evenly, half goes where the last frame looked: there the parts are narrow."
    d.text(left, 464, note, SOFT, 14)
    return d


if __name__ == "__main__":
    command.run("docs.draw_diagrams", __doc__, main)
