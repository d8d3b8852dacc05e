"""Write the page: `python -m pipeline.report [RUN ...]`, a run being a git revision, an experiment or `workspace`."""

import argparse
import sys
from pathlib import Path

from pipeline.params import load_params
from pipeline.report.page import write_page
from pipeline.report.runs import read_run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description="Runs side by side on one page.")
    parser.add_argument("runs", nargs="*", default=["workspace"], help="git revisions, experiments, or `workspace`")
    parser.add_argument("--out", type=Path, default=Path("metrics/report.html"))
    asked = parser.parse_args()
    try:
        said = write_page([read_run(name) for name in asked.runs], asked.out, fps=load_params().frames.fps)
    except ValueError as error:
        sys.exit(f"report: {error}")
    print(f"report: {said} -> {asked.out}")


if __name__ == "__main__":
    main()
