"""Print what the study of the gap found, and where to look: the end of `make gap`.

Reads metrics/gap/ and studies/gap/out/pairs/. Writes metrics/gap.html, a page of the same with its curves and pictures;
with umap-learn (requirements-umap.txt) also metrics/gap/plots/umap.png.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.params import load_params
from pipeline.process import command
from pipeline.serving.gap.page import write_gap_page
from studies.gap.plots import draw_umap
from studies.gap.settings import CAPTIONS, EVIDENCE, METRICS, PAIRS, load_study

MAIN = Path("metrics/captions.json")
PAGE = Path("metrics/gap.html")


def main() -> None:
    print("\n".join(lines()))
    draw_with_umap()
    print(f"show: {write_gap_page(METRICS, PAGE)} -> {PAGE} (open it in a browser)")


def draw_with_umap() -> None:
    """The pairs of svd.png by UMAP, if umap-learn is installed (requirements-umap.txt)."""
    picture, level = METRICS / "plots/umap.png", load_study().gap.levels[0]
    picture.unlink(missing_ok=True)  # of other pairs
    pairs = {path.stem.removesuffix(f"-{level}"): np.load(path) for path in sorted(PAIRS.glob(f"*-{level}.npy"))}
    if not pairs or not find_spec("umap"):
        return
    sets = {name: (own[0].astype(np.float64), own[1].astype(np.float64)) for name, own in pairs.items()}
    draw_umap(picture, sets, load_params().seed)


def lines() -> list[str]:
    gaps, causes = read("gaps.json"), read("causes.json")
    found = [
        f"{'encoder':<10}{'weights':<9}{'level':<9}{'pairs':>6}{'distance':>10}{'cone i':>8}{'cone t':>8}{'RMG':>7}"
        f"{'R@1':>7}{'shifted':>9}{'one dim':>9}"
    ]
    for gap in gaps:
        plain, shifted = gap["plain"]["values"], gap["shifted"]["values"]
        found.append(
            f"{gap['encoder']:<10}{gap['weights']:<9}{gap['level']:<9}{gap['pairs']:>6}"
            f"{plain['distance.centroids']:>10.3f}{plain['cone.image.mean']:>8.3f}{plain['cone.text.mean']:>8.3f}"
            f"{plain['rmg']:>7.3f}{plain['facts.R@1.i2t']:>7.3f}{shifted['facts.R@1.i2t']:>9.3f}"
            f"{plain['separability.best_single']:>9.3f}"
        )
    found += ["R@1: from pictures to texts of the same facts; shifted: after the mean shift.", ""]
    for name, first in (("seeds", "seed"), ("temperatures", "temperature"), ("facts", "facts")):
        for row in causes[name]:
            found.append(
                f"{first} {row[first]:<6}{row.get('when', ''):<8}distance {row['distance.centroids']:.3f}  "
                f"cones {row['cone.image.mean']:.3f} {row['cone.text.mean']:.3f}  RMG {row['rmg']:.3f}  "
                f"R@1 {row['facts.R@1.i2t']:.3f}"
            )
    found.append("")
    for name, scores in read("decoder.json")["given"].items():
        figures = "  ".join(f"{key} {value:.1f}" for key, value in scores.items() if key != "examples")
        found.append(f"decoder trained on texts alone, given {name:<24}{figures}")
    summed, whole = read("captions.json"), json.loads(MAIN.read_text()) if MAIN.is_file() else {}
    found += ["", "Captions of segments, scored alike:"]
    for name, scores in (("frame captions, summed up", summed), (f"the captioner ({MAIN})", whole)):
        if scores:
            shown = "  ".join(f"{key} {scores[key]:.1f}" for key in ("CIDEr", "METEOR", "facts") if key in scores)
            found.append(f"{name:<40}{shown}")
    return [
        *found,
        "",
        f"Where to look next: {METRICS}/plots (svd.png, cones.png, tables of every curve; dvc plots show",
        f"studies/gap/dvc.yaml), {METRICS}/gaps.json (every figure and interval), {CAPTIONS.with_suffix('.csv')} and",
        f"{EVIDENCE} (which frames a sentence came from), studies/gap/params.yaml (every number), docs/gap.md.",
    ]


def read(name: str) -> Any:
    return json.loads((METRICS / name).read_text())


if __name__ == "__main__":
    command.run("studies.gap.show", __doc__, main)
