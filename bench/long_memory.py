"""Does a memory last? Facts of kind `before` against how much lies between the evidence and the segment.

    python -m bench.long_memory     # after `make demo`
    python -m bench.long_memory --captioner memory=models/finetuned --captioner mean=../mean/models/finetuned
    python -m bench.long_memory --max-entries 512 2048 64000     # the memory of as many bytes as so many keys take

For captioners that are trained already, and for memories of several sizes; `make long` (studies/long) trains those to
compare with. Prints a table and, as its last line, JSON.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.captioner.model import CaptionerConfig, load_captioner, load_config
from studies.long.lasting import Videos, line, measure

SECONDS = (0, 10, 30, 60, 120, 300, 600, 1200, 3600)
GENERATION = {"method": "beam", "beams": 4, "temperature": 1.0, "top_p": 1.0, "max_tokens": 40, "length_penalty": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.long_memory")
    parser.add_argument(
        "--captioner", action="append", metavar="NAME=FOLDER", help="one or more (memory=models/finetuned)"
    )
    parser.add_argument("--decoder", type=Path, default=Path("models/decoder"), help="of captioners that have none")
    parser.add_argument("--data", type=Path, default=Path("data/videos"))
    parser.add_argument("--seconds", type=int, nargs="+", default=SECONDS, help="put in between")
    parser.add_argument(
        "--max-entries", type=int, nargs="+", metavar="N", help="of captioners with a memory (as they were trained)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of other videos")
    options = parser.parse_args()
    named = [text.partition("=")[::2] for text in options.captioner or ["memory=models/finetuned"]]

    videos, rows = Videos.read(options.data), []
    for name, folder, entries in captioners(named, options.max_entries):
        config = with_entries(load_config(Path(folder)), entries)
        captioner, tokenizer = load_captioner(Path(folder), options.decoder, config)
        for seconds in options.seconds:
            rows.append({"captioner": name, **measure(captioner, tokenizer, videos, seconds, options.seed, GENERATION)})
            print(line(rows[-1], header=len(rows) == 1), flush=True)
    print(json.dumps(rows))


def captioners(named: list[tuple[str, str]], entries: list[int] | None) -> Iterator[tuple[str, str, int | None]]:
    """(name, folder, max_entries) of each captioner; one without a memory, or with its own max_entries: None."""
    for name, folder in named:
        if entries is None or load_config(Path(folder)).memory is None:
            yield name, folder, None
        else:
            for most in entries:
                yield f"{name}, {most}", folder, most


def with_entries(config: CaptionerConfig, entries: int | None) -> CaptionerConfig:
    if entries is None or config.memory is None:
        return config
    return replace(config, memory=replace(config.memory, max_entries=entries))


if __name__ == "__main__":
    main()
