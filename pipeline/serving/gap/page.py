"""The study of the modality gap as one page that needs no network: its figures, its curves, its pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.files.aside import write_text
from pipeline.serving.web import assemble, webp

PICTURE_PX = 1600
PICTURES = {
    "svd.png": "Pairs along the first two singular vectors, a line from each picture to its text",
    "cones.png": "Cosines of two pictures, of two texts, and of a pair",
    "umap.png": "UMAP of the same pairs. Distances between groups, and sizes of groups, mean nothing here",
}
OF_PAIRS = {  # column: the measure of metrics/gap/gaps.json
    "distance": "distance.centroids",
    "cone, pictures": "cone.image.mean",
    "cone, texts": "cone.text.mean",
    "RMG": "rmg",
    "one dimension": "separability.best_single",
    "R@1 by facts": "facts.R@1.i2t",
}
SHOWN = {
    "distance.centroids": "distance",
    "cone.image.mean": "cone, pictures",
    "cone.text.mean": "cone, texts",
    "rmg": "RMG",
}


def write_gap_page(metrics: Path, out: Path) -> str:
    """Write the page; returns a line on its content.

    Args:
        metrics: the study's folder: gaps.json, causes.json, decoder.json and plots/.
    """
    content = {"parts": [_gap(metrics), _training(metrics), _causes(metrics), _shift(metrics), _consequence(metrics)]}
    write_text(out, assemble(Path(__file__).parent, "The modality gap", content))
    return f"{len(content['parts'])} parts, {out.stat().st_size / 1e6:.1f} MB"


def _gap(metrics: Path) -> dict[str, Any]:
    rows = []
    for gap in json.loads((metrics / "gaps.json").read_text()):
        plain, shifted = gap["plain"], gap["shifted"]["values"]
        cells = [_with_interval(plain, name) for name in OF_PAIRS.values()]
        name = f"{gap['encoder']}, {gap['weights']}: {gap['level']}"
        rows.append([name, str(gap["pairs"]), *cells, f"{shifted['facts.R@1.i2t']:.2f}"])
    pictures = [
        {"title": title, "picture": webp(path.read_bytes(), PICTURE_PX)}
        for name, title in PICTURES.items()
        if (path := metrics / "plots" / name).is_file()
    ]
    about = (
        "Distance: of the two centroids, of unit vectors. Cone: mean cosine of two. RMG: relative modality gap. One "
        "dimension: how well the best one alone tells the modalities apart. R@1 by facts: the text found first states "
        "the picture's facts. With 95 % intervals over videos where there are some."
    )
    table = {"heads": ["pairs of", "pairs", *OF_PAIRS, "R@1, shifted"], "rows": rows}
    return _part("The gap", about, tables=[table], pictures=pictures)


def _training(metrics: Path) -> dict[str, Any]:
    charts, path = [], metrics / "plots/training.csv"
    if path.read_text().strip():  # of a CoCa that was fetched no training is known
        steps = pd.read_csv(path)
        lines = [_line(label, steps["step"], steps[name]) for name, label in SHOWN.items()]
        charts.append(_chart("Along the CoCa's training, held-out pairs", "steps", lines, logarithmic=True))
    depth = pd.read_csv(metrics / "plots/depth.csv")
    lines = [
        _line(f"{label}, {weights}", own["block"], own[column])
        for weights, own in depth.groupby("weights", sort=False)
        for column, label in {"cone.image": "pictures", "cone.text": "texts"}.items()
    ]
    charts.append(_chart("Cones by depth: mean cosine of two, behind each block (0: before the first)", "block", lines))
    return _part("When it arises", "At initialisation, along the training, and by depth.", charts=charts)


def _causes(metrics: Path) -> dict[str, Any]:
    causes = json.loads((metrics / "causes.json").read_text())
    charts = []
    titles = {
        "temperature": ("temperatures", "Fixed temperatures of the contrastive loss", True),
        "facts": ("facts", "Captions that name so many of colour, shape, place, size", False),
    }
    for key, (name, title, logarithmic) in titles.items():
        own = pd.DataFrame(causes[name])
        own = own[own["when"] == "after"]  # training; before it they are all alike
        lines = [_line(label, own[key], own[column]) for column, label in SHOWN.items()]
        charts.append(_chart(title, key, lines, logarithmic=logarithmic))
    seeds = pd.DataFrame(causes["seeds"])
    rows = [
        [f"seed {row['seed']}, {row['when']} training", *(f"{row[column]:.3f}" for column in SHOWN)]
        for row in seeds.to_dict("records")
    ]
    table = {"heads": ["initialisation", *SHOWN.values()], "rows": rows}
    return _part(
        "What makes it", "Small CLIPs, trained anew with one thing changed each.", tables=[table], charts=charts
    )


def _shift(metrics: Path) -> dict[str, Any]:
    shift = pd.read_csv(metrics / "plots/shift.csv")
    losses = [column for column in map(str, shift) if column.startswith("loss.")]
    charts = []
    for name, own in shift.groupby("set", sort=False):
        lines = [_line(f"temperature {column.removeprefix('loss.')}", own["delta"], own[column]) for column in losses]
        charts.append(_chart(f"{name}: contrastive loss along the shift", "delta", lines))
    about = "Both modalities moved along the line between their centroids: 0 as they are, 1 with centroids that meet."
    return _part("Closing it by hand", about, charts=charts)


def _consequence(metrics: Path) -> dict[str, Any]:
    given = json.loads((metrics / "decoder.json").read_text())["given"]
    names = sorted({key for scores in given.values() for key in scores if key != "examples"})
    rows = [[name, *(f"{scores[key]:.1f}" for key in names)] for name, scores in given.items()]
    about = "A decoder trained on embeddings of texts alone, given those of texts, of pictures, and of pictures moved."
    return _part("Why care", about, tables=[{"heads": ["given", *names], "rows": rows}])


def _with_interval(measures: Mapping[str, Any], name: str) -> str:
    value, interval = measures["values"][name], measures.get("intervals", {}).get(name)
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _part(
    title: str,
    about: str,
    *,
    tables: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Mapping[str, str]] = (),
    charts: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    return {"title": title, "about": about, "tables": tables, "pictures": pictures, "charts": charts}


def _chart(title: str, x: str, lines: Sequence[Mapping[str, Any]], *, logarithmic: bool = False) -> dict[str, Any]:
    return {"title": title, "x": x, "logarithmic": logarithmic, "lines": [line for line in lines if line["points"]]}


def _line(name: str, x: "pd.Series[Any]", y: "pd.Series[Any]") -> dict[str, Any]:
    """Without the points that are not known."""
    there = y.notna()
    return {
        "name": name,
        "points": [[a, round(b, 4)] for a, b in zip(x[there].tolist(), y[there].tolist(), strict=True)],
    }
