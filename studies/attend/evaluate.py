"""Score the captions of one kind of attention as the main pipeline's: `python -m studies.attend.evaluate none|...`.

Reads studies/attend/out/KIND/ and what the stage evaluate reads beside captions. Writes metrics/attend/KIND.json, the
corpus's scores, averaged over seeds, and studies/attend/scores/KIND/seed-N/: metrics.json, coverage.json,
segments.parquet (each segment's scores, for pipeline.compare) and kinds.csv.
"""

import json
from pathlib import Path
from typing import Any

import stages
from pipeline.files.aside import aside, write_text
from pipeline.params import load_params
from studies.attend.settings import METRICS, OUT, load_attend

SCORES = Path("studies/attend/scores")
TABLES = ("metrics.json", "coverage.json", "segments.parquet", "kinds.csv")  # in the order of `evaluate`


def main(kind: str) -> None:
    from stages.evaluate import evaluate

    params = load_params().on_split(load_attend().caption.split)
    found = []
    with aside(SCORES / kind) as scores:
        for captions in sorted((OUT / kind).glob("seed-*.parquet")):
            out = scores / captions.stem
            print(
                f"{kind}, {captions.stem}: {evaluate(params, captions, *(out / name for name in TABLES))}", flush=True
            )
            found.append(json.loads((out / "metrics.json").read_text()))
    write_text(METRICS / f"{kind}.json", json.dumps(averaged(found), indent=2) + "\n")


def averaged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each number; what is no number is the same in all."""
    return {
        name: round(sum(one[name] for one in found) / len(found), 4) if isinstance(value, int | float) else value
        for name, value in found[0].items()
    }


if __name__ == "__main__":
    stages.run(kept=None, takes="attention")
