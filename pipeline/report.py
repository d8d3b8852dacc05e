"""Write the page: `python -m pipeline.report [RUN ...]`, a run being a git revision, an experiment or `workspace`."""

import argparse
import sys
from pathlib import Path

from pipeline.files.aside import check_writable
from pipeline.params import load_params
from pipeline.process.terminal import message
from pipeline.serving.report.page import write_page
from pipeline.serving.report.runs import read_run

RUNS = "git revisions, experiments, `workspace`, or any captioner's scores of segments (a file.parquet)"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description="Runs side by side on one page.")
    parser.add_argument(
        "runs",
        nargs="*",
        default=["workspace"],
        help=RUNS,
    )
    parser.add_argument("--out", type=Path, default=Path("metrics/report.html"))
    options = parser.parse_args()
    try:
        check_writable(options.out)  # before the work
        counts = write_page([read_run(name) for name in options.runs], options.out, fps=load_params().frames.fps)
    except (ValueError, OSError) as error:
        sys.exit(f"report: {message(error)}")
    print(f"report: {counts} -> {options.out}")


if __name__ == "__main__":
    main()
