"""The modality gap between anyone's embeddings of images and of texts.

    python -m pipeline.gap images.npy texts.npy              # two arrays [pairs, width]; row i of both is a pair
    python -m pipeline.gap pairs.npy                         # one array [2, pairs, width]: images, then texts
    python -m pipeline.gap test.npz --train train.npz        # shift and standardisation are fitted on train
    python -m pipeline.gap images.npy texts.npy --videos ids.txt --json

Reads .npy; .npz and .pt with the arrays `images` and `texts` (or any two, in this order). Embeddings need not be
normalised.
"""

import argparse
import json
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.process import command
from pipeline.process.terminal import printable
from pipeline.scoring.gap import DRAWS, LABELS, TEMPERATURES, Gap, measure_gap

SUFFIXES = (".npy", ".npz", ".pt")


def main() -> None:
    parser = command.parser("pipeline.gap", __doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="images and texts, or one file of both")
    parser.add_argument("--train", type=Path, nargs="+", metavar="FILE", help="pairs to fit on, in one or two files")
    parser.add_argument(
        "--videos", type=Path, metavar="IDS.txt", help="a line a pair: the bootstrap draws whole videos"
    )
    parser.add_argument(
        "--facts", type=Path, metavar="FACTS.txt", help="a line a pair: texts of equal facts are right too"
    )
    parser.add_argument("--draws", type=_count, default=DRAWS, help=f"of the bootstrap ({DRAWS}); 0: no intervals")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    with command.guarded("gap", kept=None):
        pairs = read_pairs(options.files)
        train = read_pairs(options.train) if options.train else None
        labels = {"groups": options.videos, "facts": options.facts}
        read = {name: path.read_text().splitlines() for name, path in labels.items() if path}
        gap = measure_gap(*pairs, train=train, draws=options.draws, **read)
        print(json.dumps(as_json(gap), indent=2) if options.json else as_text(gap))


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"found {value}, expected 0 or more")
    return value


def read_pairs(paths: Sequence[Path]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(images, texts) of two files with an array each, or of one with both. Raises ValueError."""
    if len(paths) > 2:
        raise ValueError(f"found {len(paths)} files, expected images and texts, or one file of both")
    arrays = [array for path in paths for array in read_arrays(path)]
    if len(paths) == 1 and len(arrays) == 1 and arrays[0].ndim == 3 and len(arrays[0]) == 2:
        return arrays[0][0], arrays[0][1]
    if len(arrays) != 2:
        shapes = ", ".join(str(list(array.shape)) for array in arrays)
        raise ValueError(
            f"{' and '.join(map(str, paths))}: found {len(arrays)} arrays ({shapes}), expected images and texts "
            "[pairs, width], or one array [2, pairs, width]"
        )
    return arrays[0], arrays[1]


def read_arrays(path: Path) -> list[NDArray[Any]]:
    """The arrays of a file: those named images and texts if it has them, else all. Nothing is unpickled."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    try:
        content: Any = _load_torch(path) if path.suffix == ".pt" else np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            content = {name: content[name] for name in content.files}
    except (ValueError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a {path.suffix} file of plain arrays: {_short(error)}") from None
    if isinstance(content, Mapping):
        for names in (("images", "texts"), ("image", "text"), ("image_features", "text_features")):
            if set(names) <= set(content):
                content = [content[name] for name in names]
                break
        else:
            content = list(content.values())
    return [np.asarray(array) for array in (content if isinstance(content, list | tuple) else [content])]


def _load_torch(path: Path) -> Any:
    import torch  # here, because it takes seconds

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().to("cpu", torch.float64).numpy()
        if isinstance(value, Mapping):
            return {name: plain(one) for name, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    return plain(torch.load(path, map_location="cpu", weights_only=True))


def _short(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0], 120)


def as_json(gap: Gap) -> Any:
    """None where a figure is not a number, which JSON does not have."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return plain(asdict(gap))


def as_text(gap: Gap) -> str:
    of = "videos" if gap.groups != gap.pairs else "pairs"
    fitted = "themselves" if gap.fitted_on == gap.pairs else f"{gap.fitted_on} pairs of train"
    lines = [
        f"{gap.pairs} pairs, {gap.width} wide; intervals of 95 % over {gap.groups} {of}",
        f"mean shift and standardisation fitted on {fitted}",
        *(f"note: {note}" for note in gap.notes),
        "",
        f"{'':<52}{'as it is':>9}{'95 %':>20}{'mean shift':>12}{'standardised':>14}",
    ]
    for name, label in LABELS.items():
        if name not in gap.plain.values:
            continue
        low_high = gap.plain.intervals.get(name)
        interval = "" if low_high is None else f"{low_high[0]:.4f} .. {low_high[1]:.4f}"
        values = [_figure(name, one.values.get(name)) for one in (gap.plain, gap.shifted, gap.standardised)]
        lines.append(f"{label:<52}{values[0]:>9}{interval:>20}{values[1]:>12}{values[2]:>14}")
    of_all = "" if gap.loss_pairs == gap.pairs else f", {gap.loss_pairs} of the pairs"
    lines += [
        "",
        f"Along the gap{of_all} (delta 1 closes it, -1 doubles it); contrastive loss at the temperature:",
        f"{'delta':>6}{'distance':>10}{'R@1 i2t':>9}{'R@1 t2i':>9}" + "".join(f"{t:>9g}" for t in TEMPERATURES),
    ]
    for row in gap.curve:
        shown = [f"{row['delta']:>6.1f}{row['distance.centroids']:>10.4f}{row['R@1.i2t']:>9.3f}{row['R@1.t2i']:>9.3f}"]
        lines.append("".join([*shown, *(f"{row[f'loss.{t:g}']:>9.4f}" for t in TEMPERATURES)]))
    return "\n".join(lines)


def _figure(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if name.startswith(("R@", "facts.R@", "separability")):
        return f"{value:.3f}"
    return f"{value:.1f}" if "rank" in name else f"{value:.4f}"


if __name__ == "__main__":
    main()
