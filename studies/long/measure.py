"""Measure every captioner at every distance, and set them beside each other.

Reads studies/long/params.yaml, studies/long/models/, models/finetuned/ (as "run"), models/decoder/, data/videos/ and
the section caption of params.yaml. Writes metrics/long/NAME.json, metrics/long/table.csv, docs/long_memory.png and, in
docs/results.md, what stands between two markers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pipeline.captioner.model import CaptionerConfig, load_captioner, load_config
from pipeline.files.aside import write_text
from pipeline.params import load_params
from pipeline.scoring.markdown import insert, table
from pipeline.scoring.plot import COLOURS
from pipeline.scoring.table import write_json
from stages import run
from studies.long.lasting import GUESS, Videos, draw, line, measure
from studies.long.settings import FILE, METRICS, MODELS, RUN, TRAINING, Long, load_long

DATA, DECODER, FINETUNED = Path("data/videos"), Path("models/decoder"), Path("models/finetuned")
REPORT, PLOT = Path("docs/results.md"), Path("docs/long_memory.png")
BEGIN, END = "<!-- studies/long/measure.py writes from here -->", "<!-- and up to here -->"
SHORT_S = 10  # what is kept is said of what there is with so much in between


def main() -> None:
    torch.set_num_threads(1)  # CPU seconds are those of one thread
    long, params, videos = load_long(), load_params(), Videos.read(DATA)
    generation = params.caption.model_dump(exclude={"split", "precision", "batch_size"})
    rows: list[dict[str, Any]] = []
    refuse_too_many(long)
    smaller = {name: with_entries(count) for name, count in long.entries.items()}  # first: an error comes at once
    folders = {RUN: FINETUNED, **{name: MODELS / name for name in long.captioners}}
    for name in (*folders, *smaller):
        if name in folders:
            captioner, tokenizer = load_captioner(folders[name], DECODER)
        else:
            captioner, tokenizer = load_captioner(FINETUNED, DECODER, smaller[name])
        for seconds in long.measuring.seconds:
            found = measure(captioner, tokenizer, videos, seconds, long.measuring.seed, generation)
            rows.append({"captioner": name, **found})
            print(line(rows[-1], header=len(rows) == 1), flush=True)
    for name in dict.fromkeys(row["captioner"] for row in rows):
        own = {row["seconds"]: row for row in rows if row["captioner"] == name}
        write_json(METRICS / f"{name}.json", {f"facts.{seconds}s": row["facts"] for seconds, row in own.items()})
    write_text(METRICS / "table.csv", pd.DataFrame(rows).round(4).to_csv(index=False, lineterminator="\n"))
    draw(rows, PLOT)
    insert(REPORT, report(rows, list(long.captioners)), BEGIN, END)
    print(f"long: {METRICS}/table.csv has every figure, {PLOT} and {REPORT} show them")


def refuse_too_many(long: Long) -> None:
    """ValueError if the plot has too few colours for them."""
    if (curves := 1 + len(long.captioners) + len(long.entries)) > len(COLOURS):
        raise ValueError(f"{FILE}: {RUN}, captioners and entries: found {curves}, the plot has {len(COLOURS)} colours")


def with_entries(count: int) -> CaptionerConfig:
    """The main pipeline's captioner, with a memory of so many keys. ValueError if it has none."""
    config = load_config(FINETUNED)
    if config.memory is None:
        raise ValueError(f"{FINETUNED}: this captioner has no memory; dvc exp run -S memory.enabled=true")
    return replace(config, memory=replace(config.memory, max_entries=count))


def report(rows: Sequence[Mapping[str, Any]], trained: Sequence[str]) -> str:
    """The Markdown between the markers.

    Args:
        trained: captioners that the study has trained.
    """
    names = list(dict.fromkeys(row["captioner"] for row in rows))
    found = {(row["captioner"], row["seconds"]): row for row in rows}
    distances = sorted({row["seconds"] for row in rows})
    segments = int(rows[0]["segments"])

    def facts(row: Mapping[str, Any]) -> str:
        return f"{row['facts']:.1f} ({row['low']:.0f} to {row['high']:.0f})"

    def cost(row: Mapping[str, Any]) -> str:
        return f"{row['cpu_s']:.2f} s, {row['mib']:.2f} MiB"

    shares = []
    for name in names:
        short = found.get((name, SHORT_S))
        # Of who is at a guess there, what is left is chance.
        above = short["facts"] - GUESS if short and short["low"] > GUESS else 0.0
        cells = [f"{(found[name, s]['facts'] - GUESS) / above:.2f}" if above > 0 else "-" for s in distances]
        shares.append([name, *cells])
    heads = ["captioner", *map(clock, distances)]
    return "\n\n".join(
        [
            f"`make long`: facts of `before` that are right, %, of {segments} test segments, by how much of other "
            "videos lies between what is to be remembered and the segment; a guess is right in half. Intervals are of "
            f"95 %, over videos. `{RUN}` is the main pipeline's captioner.",
            table(heads, [[name, *(facts(found[name, s]) for s in distances)] for name in names]),
            f"![Facts of kind before against the time between evidence and segment]({PLOT.name})",
            "CPU seconds of one caption, all frames looked at anew, and what a stream holds when the segment ends"
            + "".join(f"; {name} was trained in {training_cpu_s(name)} CPU s" for name in trained)
            + ":",
            table(heads, [[name, *(cost(found[name, s]) for s in distances)] for name in names]),
            f"What is left of what there is {clock(SHORT_S)} after the evidence, a guess taken away from both:",
            table(heads, shares),
        ]
    )


def training_cpu_s(name: str) -> int:
    return int(json.loads((MODELS / name / TRAINING).read_text())["cpu_s"])


def clock(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds / 3600:g} h"


if __name__ == "__main__":
    run(kept=None)
