"""Serve the page: `python -m pipeline.app [--variant NAME] [--port 7860]`, on this machine alone.

Questions about a video can be asked on it where there is an answerer: that of `make questions` beside the captioner in
models/, or the one that --answerer names. Beside the captioner in models/ the project's own videos can be searched.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from pipeline.process.terminal import message
from pipeline.serving.app.server import Server, listen
from pipeline.serving.finder import Finder
from pipeline.serving.video_answerer import ANSWERER, VideoAnswerer
from pipeline.serving.video_captioner import VideoCaptioner


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.app", description="A page to drop a video on.")
    parser.add_argument("--variant", help="an experiment or a git revision; default: what is in models/")
    parser.add_argument("--model", metavar="DIR", help="an exported captioner: its folder, or its name on the Hub")
    parser.add_argument("--answerer", type=Path, metavar="DIR", help="a reader of the study of questions")
    parser.add_argument("--no-search", action="store_true", help="in the project's videos; takes less memory")
    parser.add_argument("--port", type=int, default=7860, help="on this machine; 0: any free port")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which a proxy on this machine serves the page to others: NAME or NAME:443",
    )
    options = parser.parse_args()
    if options.variant and options.model:
        parser.error("--variant is one of the project's captioners, --model an exported one: name one of them")
    try:
        listening = listen(options.port)  # first, because loading takes long
        print("app: loading the captioner ...", flush=True)
        exported = options.model
        captioner = VideoCaptioner.from_pretrained(exported) if exported else VideoCaptioner.load(options.variant)
        name = exported or options.variant or "captioner"
        answerer, finder = answerer_for(captioner, options), finder_for(captioner, options)
        server = Server(listening, captioner, name, options.allow_host, answerer, finder)
        print(f"app: open {server.url} (press Ctrl-C to stop)", flush=True)
        sys.exit(128 + asyncio.run(server.serve_until_signal()))
    except (ValueError, OSError) as error:
        sys.exit(f"app: {message(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


def answerer_for(captioner: VideoCaptioner, options: argparse.Namespace) -> VideoAnswerer | None:
    if options.answerer:
        return VideoAnswerer.load(options.answerer)
    if options.variant or options.model or not ANSWERER.is_dir():
        return None
    return VideoAnswerer.load(encoder=captioner.encoder)  # both have that of models/


def finder_for(captioner: VideoCaptioner, options: argparse.Namespace) -> Finder | None:
    if options.no_search or options.variant or options.model:
        return None  # of the others the encoder may be another
    try:
        return Finder.load(captioner.encoder)
    except (ValueError, OSError) as error:
        print(f"app: no search: {message(error)}", flush=True)
        return None


if __name__ == "__main__":
    main()
