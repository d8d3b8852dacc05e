"""Pictures of pairs in two dimensions and of cosines, drawn with Pillow: the project has no plotting library."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.files.aside import aside

Array = NDArray[np.float64]
Place = Callable[[Array], list[tuple[float, float]]]  # coordinates [n, 2] -> pixels
PANEL, MARGIN, HEAD = 360, 24, 40  # pixels
FINE = 2  # drawn so many times as large, and scaled down
IMAGE, TEXT, LINE, INK, GREY = "#2b6cb0", "#c05621", "#00000022", "#222222", "#888888"
MAX_PAIRS = 200
BINS = np.linspace(-1, 1, 81)


def draw_pairs(path: Path, sets: Mapping[str, tuple[Array, Array]]) -> None:
    """Embeddings of pairs along the first two singular vectors, a line from each image to its text.

    Above: as they are; below: each modality without its mean. The same input gives the same picture: a vector points to
    where its largest coordinate is positive.
    """
    canvas, pen = _canvas(len(sets), 2)
    for column, (name, (images, texts)) in enumerate(sets.items()):
        chosen = np.linspace(0, len(images) - 1, min(len(images), MAX_PAIRS)).astype(int)
        for row, centred in enumerate((False, True)):
            x, y = (one - one.mean(0) if centred else one for one in (images, texts))
            axes = first_vectors(np.concatenate([x, y]))
            u, v = x[chosen] @ axes.T, y[chosen] @ axes.T  # [pairs, 2]
            _title(pen, column, row, name, "without their means" if centred else "as they are")
            _pairs(pen, _scale(np.concatenate([u, v]), column, row), u, v)
    _legend(pen, {"images": IMAGE, "texts": TEXT})
    _save(canvas, path)


def first_vectors(rows: Array) -> Array:
    """The first two right singular vectors [2, d], their signs fixed."""
    _, vectors = np.linalg.eigh(rows.T @ rows)
    first = vectors[:, ::-1][:, :2].T
    signs = np.sign(first[np.arange(2), np.abs(first).argmax(1)])
    return first * signs[:, None]


def draw_umap(path: Path, sets: Mapping[str, tuple[Array, Array]], seed: int) -> None:
    """UMAP (McInnes et al. 2018) of the pairs, a line from each image to its text.

    Its distances between groups, and the sizes of groups, mean nothing. The same input gives the same picture: one job,
    and a seed. Raises ModuleNotFoundError without umap-learn (requirements-umap.txt).
    """
    import umap

    canvas, pen = _canvas(len(sets), 1)
    for column, (name, (images, texts)) in enumerate(sets.items()):
        chosen = np.linspace(0, len(images) - 1, min(len(images), MAX_PAIRS)).astype(int)
        rows = np.concatenate([images[chosen], texts[chosen]])
        few = min(15, len(rows) - 1)  # umap's own number of neighbours, where there are so many rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one job is used is what is wanted
            flat = umap.UMAP(n_neighbors=few, metric="cosine", random_state=seed, n_jobs=1).fit_transform(rows)
        _title(pen, column, 0, name, "UMAP")
        _pairs(pen, _scale(flat, column, 0), flat[: len(chosen)], flat[len(chosen) :])
    _legend(pen, {"images": IMAGE, "texts": TEXT})
    _save(canvas, path)


def draw_cones(path: Path, sets: Mapping[str, tuple[Array, Array]]) -> None:
    """Histograms of the cosines of two images, of two texts, and of a pair."""
    canvas, pen = _canvas(len(sets), 1)
    for column, (name, (images, texts)) in enumerate(sets.items()):
        some = np.linspace(0, len(images) - 1, min(len(images), 1000)).astype(int)
        _title(pen, column, 0, name, "cosines of two images, two texts, a pair")
        left, top = (column * PANEL + MARGIN) * FINE, (HEAD + MARGIN) * FINE
        width, height = (PANEL - 2 * MARGIN) * FINE, (PANEL - 2 * MARGIN) * FINE
        upper = np.triu_indices(len(some), 1)
        cosines = {
            IMAGE: (images[some] @ images[some].T)[upper],
            TEXT: (texts[some] @ texts[some].T)[upper],
            INK: (images * texts).sum(1),
        }
        for colour, values in cosines.items():
            share = np.histogram(values, BINS)[0] / len(values)
            share = share / max(share.max(), 1e-12)
            steps = [(left + (BINS[i] + 1) / 2 * width, top + (1 - s) * height) for i, s in enumerate(share)]
            outline = [(x + dx * width / len(share), y) for x, y in steps for dx in (0, 1)]
            pen.line(outline, colour, 2 * FINE)
        for mark in (-1, 0, 1):
            x = left + (mark + 1) / 2 * width
            pen.line([(x, top + height), (x, top + height + 4 * FINE)], GREY, FINE)
            pen.text((x, top + height + 6 * FINE), str(mark), GREY, ImageFont.load_default(11 * FINE), anchor="mt")
    _legend(pen, {"two images": IMAGE, "two texts": TEXT, "a pair": INK})
    _save(canvas, path)


def _pairs(pen: ImageDraw.ImageDraw, place: Place, u: Array, v: Array) -> None:
    """Points [pairs, 2] of both modalities, joined."""
    for a, b in zip(place(u), place(v), strict=True):
        pen.line([a, b], LINE, FINE)
    for points, colour in ((place(u), IMAGE), (place(v), TEXT)):
        for x, y in points:
            pen.ellipse([x - 2 * FINE, y - 2 * FINE, x + 2 * FINE, y + 2 * FINE], fill=colour)


def _canvas(columns: int, rows: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    size = (columns * PANEL * FINE, (rows * PANEL + HEAD) * FINE)
    canvas = Image.new("RGB", size, "white")
    return canvas, ImageDraw.Draw(canvas, "RGBA")


def _title(pen: ImageDraw.ImageDraw, column: int, row: int, name: str, what: str) -> None:
    at = ((column * PANEL + MARGIN) * FINE, (HEAD + row * PANEL + 2) * FINE)
    pen.text(at, f"{name}: {what}", INK, ImageFont.load_default(12 * FINE))


def _legend(pen: ImageDraw.ImageDraw, names: Mapping[str, str]) -> None:
    x, font = MARGIN * FINE, ImageFont.load_default(14 * FINE)
    for name, colour in names.items():
        pen.rectangle([x, 14 * FINE, x + 12 * FINE, 26 * FINE], fill=colour)
        pen.text((x + 18 * FINE, 12 * FINE), name, INK, font)
        x += 18 * FINE + int(pen.textlength(name, font)) + 20 * FINE


def _scale(points: Array, column: int, row: int) -> Place:
    """What makes pixels of a panel of coordinates [n, 2], both axes on one scale."""
    low, high = points.min(0), points.max(0)
    factor = (PANEL - 3 * MARGIN) * FINE / max(float((high - low).max()), 1e-9)
    at = np.array([(column + 0.5) * PANEL, HEAD + (row + 0.5) * PANEL + MARGIN / 2]) * FINE

    def place(some: Array) -> list[tuple[float, float]]:
        moved = (some - (low + high) / 2) * [factor, -factor] + at
        return [(float(x), float(y)) for x, y in moved]

    return place


def _save(canvas: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = canvas.resize((canvas.width // FINE, canvas.height // FINE), Image.Resampling.LANCZOS)
    with aside(path) as written:
        small.save(written, "PNG", optimize=True)
