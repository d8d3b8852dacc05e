"""The study's table: `python -m studies.attend.table`.

Reads metrics/attend/*.json (of the captioners, and floors.json: what captions that saw no picture score),
studies/attend/models/ (what each training cost), studies/attend/explained/pointing.csv and, where they are there,
metrics/captions.json of the experiments `baseline` and `memory`. Writes
metrics/attend/table.csv and prints it, with the explanations' scores below and where to look.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

import stages
from pipeline.files.aside import write_text
from pipeline.files.revision import at_revision
from pipeline.scoring.markdown import aligned
from studies.attend import pointing
from studies.attend.explain import EXPLAINED
from studies.attend.floors import CONSTANT, HUMAN
from studies.attend.learn import CONFIG, MODELS
from studies.attend.settings import KINDS, METRICS

RUNS = ("baseline", "memory")  # experiments of make demo
GROUPS = ("now", "earlier", "order", "before")
SHOWN = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "facts", *(f"facts.{group}" for group in GROUPS))
COLUMNS = ("captioner", *(name.replace(".", " ") for name in SHOWN), "seeds", "CPU s to train")


def main() -> None:
    scores = {kind: json.loads((METRICS / f"{kind}.json").read_text()) for kind in KINDS}
    rows = [row_of(f"attention: {kind}", found, *cost(kind)) for kind, found in scores.items()]
    rows += [row_of(name, found, "1", "") for name in RUNS if (found := of_experiment(name))]
    floors, note = of_floors(json.loads((METRICS / "floors.json").read_text()))
    rows += floors
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_text(METRICS / "table.csv", text.getvalue())
    print(aligned([COLUMNS, *rows]), *note, sep="\n")
    if (EXPLAINED / "pointing.csv").is_file():
        print()
        print(aligned(explanations(pd.read_csv(EXPLAINED / "pointing.csv"))))
    print(
        "\nScores are in percent, of the test split; facts: captions that state the right facts, by kind of segment.\n"
        "Where to look next: studies/attend/explained (strips and videos of maps; pointing.csv has intervals),\n"
        "studies/attend/out (the captions), studies/attend/params.yaml (every number), docs/attend.md."
    )


def row_of(name: str, found: Mapping[str, Any], seeds: str, cpu_s: str) -> list[str]:
    values = [found.get(score) for score in SHOWN]
    return [name, *("" if value is None else f"{value:.1f}" for value in values), seeds, cpu_s]


def of_floors(found: Mapping[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Their rows, and a line where one of them is empty."""
    constant, human = found[CONSTANT], found[HUMAN]
    rows = [row_of(f'"{found["caption"]}"', constant or {}, "", ""), row_of("a person", human or {}, "", "")]
    note = [] if human else ["a person: no segment has a second reference, so a first one cannot be scored"]
    if constant and human and (alone := constant["segments"] - human["segments"]):
        note.append(f"a person: without {alone} segments that have one reference; CIDEr is not comparable")
    return rows, note


def cost(kind: str) -> tuple[str, str]:
    """Number of seeds, and CPU seconds of a training."""
    spent = [json.loads(path.read_text())["cpu_s"] for path in (MODELS / kind).glob(f"seed-*/{CONFIG}")]
    return str(len(spent)), f"{sum(spent) / len(spent):.0f}" if spent else ""


def of_experiment(name: str) -> dict[str, Any] | None:
    """Scores of an experiment, if there is one of that name."""
    try:
        with at_revision(name, "metrics/captions.json") as folder:
            return dict(json.loads((folder / "metrics/captions.json").read_text()))
    except ValueError:
        return None


def explanations(table: pd.DataFrame) -> list[Sequence[str]]:
    """By method: pointing game, lift and in time over all words about things, and the pointing game by class."""
    head = ("explanation", "points", "lift", "in time", *(f"points, {kind}" for kind in pointing.CLASSES))
    rows: list[Sequence[str]] = [head]
    for method in dict.fromkeys(table["method"]):
        own = table[table["method"] == method].set_index("kind")

        def shown(kind: str, name: str, own: pd.DataFrame = own) -> str:
            value = own[name].get(kind, float("nan"))
            return "" if pd.isna(value) else f"{value:.2f}"

        every = pointing.EVERY
        of_all = (shown(every, name) for name in ("hit", "lift", "in_time"))
        rows.append((method, *of_all, *(shown(kind, "hit") for kind in pointing.CLASSES)))
    return rows


if __name__ == "__main__":
    stages.run(kept=None)
