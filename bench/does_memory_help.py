"""Does memory help? The memory against every baseline, and a memory of the video against one of the segment.

    source .venv/bin/activate
    python -m bench.does_memory_help     # after `make demo`

Also says what a captioner would score that states the right facts every time: n-gram metrics end where paraphrases
begin. Runs what is missing as DVC experiments (minutes each; those that are there are kept), then compares each with
`memory`, paired over segments, and leaves the workspace at `memory`. Prints tables, and the same figures as JSON in the
last line.
"""

import json
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.baselines import BASELINES
from pipeline.compare import table
from pipeline.dataset.segments import from_table
from pipeline.dataset.shapes.grammar import captions, read_facts
from pipeline.process import command
from pipeline.scoring.paired import compare
from pipeline.scoring.registry import headlines
from pipeline.scoring.scorer import score
from pipeline.scoring.segment_scores import read_scores

SEGMENTS = Path("data/videos/segments.parquet")

SETTINGS = {name: ["memory.enabled=false", f"baseline.frames={name}"] for name in BASELINES} | {
    "segment": ["memory.enabled=true", "memory.scope=segment"],
    "memory": ["memory.enabled=true", "memory.scope=video"],
}


def main() -> None:
    for name, changes in SETTINGS.items():
        if not experiment_exists(name):
            switches = [part for change in changes for part in ("-S", change)]
            dvc("exp", "run", "-n", name, *switches)
    dvc("exp", "apply", "memory")
    memory = read_scores("memory")
    figures = []
    for name in SETTINGS:
        if name == "memory":
            continue
        results = [r for r in compare(read_scores(name), memory) if r.metric in {score.name for score in headlines()}]
        print(f"\n{name} -> memory")
        print(table(results, (name, "memory")))
        figures += [{"baseline": name, **asdict(r), "ratio": r.second / r.first if r.first else None} for r in results]
    print("\nCIDEr, memory over:")
    for figure in figures:
        if (figure["group"], figure["metric"]) == ("all", "CIDEr"):
            print(f"  {figure['baseline']:<10} {figure['ratio']:.2f}")
    ceiling = always_right()
    print(f"\nCIDEr of the right facts in a random paraphrase: {ceiling:.1f}")
    print(json.dumps({"comparisons": figures, "CIDEr_always_right": ceiling}))


def always_right() -> float:
    """CIDEr of captions that state the facts of their references, in a paraphrase drawn at random."""
    draw = random.Random(0)
    candidates, references = {}, {}
    for segment in from_table(pq.read_table(SEGMENTS)):
        facts = read_facts(segment.captions[0])
        if segment.split == "test" and facts:
            candidates[segment.segment_id] = captions(facts, 1, draw)[0]
            references[segment.segment_id] = segment.captions
    return score(candidates, references).corpus["CIDEr"]


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True)


def experiment_exists(name: str) -> bool:
    found = subprocess.run(["git", "for-each-ref", f"refs/exps/**/{name}"], capture_output=True, text=True, check=True)
    return bool(found.stdout.strip())


if __name__ == "__main__":
    command.run("bench.does_memory_help", __doc__, main)
