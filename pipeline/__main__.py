"""All commands under one name: `python -m pipeline predict ...`, or `video-captions predict ...` once it is installed.

    predict   captions for your own videos
    ask       answers to questions about one
    app       captions on a page to drop videos on
    export    the captioner as one folder
    compare   how one run of the project differs from another
    report    a page of two runs' captions
    score     captions against references
    table     one table of all captioners: what they score and cost
    gap       how far apart embeddings of images and of texts lie
    find      moments in all videos by a text or a picture
    pack      a folder of videos as an LMDB
    plan      what a run will cost on this machine

predict and app work in any folder with --model; score and gap too. The others work in a clone of the project.
`video-captions COMMAND --help` lists the options.
"""

import runpy
import sys

from pipeline.process.command import parser

COMMANDS = ("predict", "ask", "app", "export", "compare", "report", "score", "table", "gap", "find", "pack", "plan")


def main() -> None:
    typed = parser("pipeline", __doc__)
    typed.add_argument("command", choices=COMMANDS)
    command = typed.parse_args(sys.argv[1:2]).command
    sys.argv[:2] = [f"{sys.argv[0]} {command}"]
    runpy.run_module(f"pipeline.{command}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
