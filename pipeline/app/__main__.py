"""Serve the page: `python -m pipeline.app [--variant NAME] [--port 7860]`, on this machine alone."""

import argparse
import sys

from pipeline.app.server import Server
from pipeline.predictor import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.app", description="A page to drop a video on.")
    parser.add_argument("--variant", help="an experiment or a git revision; default: what is in models/")
    parser.add_argument("--port", type=int, default=7860)
    asked = parser.parse_args()
    try:
        server = Server(asked.port, Predictor.load(asked.variant), asked.variant or "captioner")
    except (ValueError, OSError) as error:
        sys.exit(f"app: {error}")
    print(f"app: open {server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
