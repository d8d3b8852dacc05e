"""Serve the page: `python -m pipeline.app [--variant NAME] [--port 7860]`, on this machine alone."""

import argparse
import asyncio
import sys

from pipeline.process.terminal import message
from pipeline.serving.app.server import Server, listen
from pipeline.serving.video_captioner import VideoCaptioner


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.app", description="A page to drop a video on.")
    parser.add_argument("--variant", help="an experiment or a git revision; default: what is in models/")
    parser.add_argument("--model", metavar="DIR", help="an exported captioner: its folder, or its name on the Hub")
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
        server = Server(listening, captioner, name, allowed_hosts=options.allow_host)
        print(f"app: open {server.url} (press Ctrl-C to stop)", flush=True)
        sys.exit(128 + asyncio.run(server.serve_until_signal()))
    except (ValueError, OSError) as error:
        sys.exit(f"app: {message(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
