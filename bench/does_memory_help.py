"""Does memory help? The memory against every one-frame baseline, and a memory of the video against one of the segment.

    source .venv/bin/activate
    python -m bench.does_memory_help     # after `make demo`

Runs what is missing as DVC experiments (minutes each; those that are there are kept), then compares each with `memory`,
paired over segments, and leaves the workspace at `memory`. Prints tables, and the same figures as JSON in the last
line.
"""

import json
import subprocess
import sys
from dataclasses import asdict

from pipeline.compare import compare, read_scores, table

SETTINGS = {
    name: ["memory.enabled=false", f"finetune.baseline_frame={frame}"]
    for name, frame in (("baseline", "last"), ("first", "first"), ("middle", "middle"), ("mean", "mean"))
} | {
    "segment": ["memory.enabled=true", "memory.scope=segment", "finetune.baseline_frame=last"],
    "memory": ["memory.enabled=true", "memory.scope=video", "finetune.baseline_frame=last"],
}
SHOWN = ("CIDEr", "facts")


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
        results = [r for r in compare(read_scores(name), memory) if r.metric in SHOWN]
        print(f"\n{name} -> memory")
        print(table(results, (name, "memory")))
        figures += [{"baseline": name, **asdict(r), "ratio": r.second / r.first if r.first else None} for r in results]
    print("\nCIDEr, memory over:")
    for figure in figures:
        if (figure["group"], figure["metric"]) == ("all", "CIDEr"):
            print(f"  {figure['baseline']:<10} {figure['ratio']:.2f}")
    print(json.dumps(figures))


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True)


def experiment_exists(name: str) -> bool:
    found = subprocess.run(["git", "for-each-ref", f"refs/exps/**/{name}"], capture_output=True, text=True, check=True)
    return bool(found.stdout.strip())


if __name__ == "__main__":
    main()
