"""Does a memory last? Facts of kind `before` against how much lies between the evidence and the segment.

    python -m bench.long_memory     # after `make demo`
    python -m bench.long_memory --captioner memory=models/finetuned --captioner mean=../mean/models/finetuned --plot
    python -m bench.long_memory --max-entries 512 2048 64000     # the memory of as many bytes as so many keys take

Frames of other test videos, in which the thing in question never appears, are put between what came before a test
segment and the segment. (write_long_videos in pipeline/dataset/shapes/dataset.py renders such videos, but embedding an
hour takes a minute, and here are hundreds of hours.) Every captioner gets the same sequences, and the same segments at
every distance. The evidence's age is the time put in between and what was between them before, 1 to 30 s. A guess is
right in half of the segments.

Prints a table and, as its last line, JSON; --plot draws it into docs/long_memory.png.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline.captioner.cost import remembered_bytes
from pipeline.captioner.generation import caption_batch
from pipeline.captioner.model import Captioner, CaptionerConfig, load_captioner, load_config
from pipeline.captioner.sequences import collate, make_examples
from pipeline.dataset.segments import Segment, frames_of_segment, from_table
from pipeline.dataset.shapes.grammar import read_facts
from pipeline.features.embeddings import VideoEmbeddings, read_embeddings
from pipeline.scoring import paired, plot
from pipeline.scoring.variants import Curve

SECONDS = (0, 10, 30, 60, 120, 300, 600, 1200, 3600)
GENERATION = {"method": "beam", "beams": 4, "temperature": 1.0, "top_p": 1.0, "max_tokens": 40, "length_penalty": 1.0}
PLOT = Path("docs/long_memory.png")


@dataclass(frozen=True)
class Answer:
    """About one segment."""

    video_id: str
    right: bool  # all facts
    back: bool  # it does come back
    said_back: bool


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
    parser.add_argument("--plot", action="store_true", help=f"draw {PLOT}")
    options = parser.parse_args()
    named = [text.partition("=")[::2] for text in options.captioner or ["memory=models/finetuned"]]

    segments = [one for one in from_table(pq.read_table(options.data / "segments.parquet")) if one.split == "test"]
    videos = read_embeddings(options.data / "embeddings", {segment.video_id for segment in segments})
    shown = shown_in(options.data / "annotations/scenes.json")
    rows = []
    for name, folder, entries in captioners(named, options.max_entries):
        config = with_entries(load_config(Path(folder)), entries)
        captioner, tokenizer = load_captioner(Path(folder), options.decoder, config)
        for seconds in options.seconds:
            rows.append(
                {"captioner": name} | measure(captioner, tokenizer, segments, videos, shown, seconds, options.seed)
            )
            print(line(rows[-1], header=len(rows) == 1), flush=True)
    if options.plot:
        draw(rows)
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


def measure(
    captioner: Captioner,
    tokenizer: object,
    segments: list[Segment],
    videos: dict[str, VideoEmbeddings],
    shown: dict[str, set[tuple[str, str]]],
    seconds: int,
    seed: int,
) -> dict[str, float]:
    answers, started = [], time.process_time()
    for segment, video in stretched(segments, videos, shown, seconds, seed):
        config = captioner.config
        examples = make_examples([segment], {segment.video_id: video}, scope=config.scope)
        (made,) = caption_batch(captioner, tokenizer, collate(examples), **GENERATION).values()
        said, right = read_facts(made.caption), read_facts(segment.captions[0])
        assert right is not None
        answers.append(
            Answer(
                segment.video_id,
                said == right,
                right.event == "comes_back",
                said is not None and said.event == "comes_back",
            )
        )
    cpu_s = (time.process_time() - started) / len(answers)
    low, high = interval(answers)
    of_segment = frames_of_segment(segment.start_s, segment.end_s, video.timestamps[:].tolist())  # the last one
    return {
        "seconds": seconds,
        "segments": len(answers),
        "facts": share([one.right for one in answers]),
        "low": low,
        "high": high,
        "back": share([one.right for one in answers if one.back]),
        "in": share([one.right for one in answers if not one.back]),
        "newcomers_said_back": share([one.said_back for one in answers if not one.back]),
        "cpu_s": cpu_s,
        "mib": remembered_bytes(captioner.config, video.embeddings[:], len(of_segment)) / 2**20,
    }


def stretched(
    segments: list[Segment],
    videos: dict[str, VideoEmbeddings],
    shown: dict[str, set[tuple[str, str]]],
    seconds: int,
    seed: int,
) -> Iterator[tuple[Segment, VideoEmbeddings]]:
    """Every segment of kind `before`, in a video with so many seconds of others just before it."""
    for segment in segments:
        if segment.kind != "before":
            continue
        own = videos[segment.video_id]
        times = own.timestamps[:]
        frames = frames_of_segment(segment.start_s, segment.end_s, times.tolist())
        step = float(times[1] - times[0])
        facts = read_facts(segment.captions[0])
        assert facts is not None
        options = (facts.things[0].colour, facts.things[0].shape)
        draw = random.Random(f"{seed} {segment.segment_id}")
        fitting = [other for other in sorted(videos) if other != segment.video_id and options not in shown[other]]
        count, parts = round(seconds / step), []
        missing = count
        while missing:
            part = videos[draw.choice(fitting)].embeddings[:missing]
            missing -= len(part)
            parts.append(part)
        embeddings = own.embeddings[:]
        long = np.concatenate([embeddings[: frames[0]], *parts, embeddings[frames[0] : frames[-1] + 1]])
        later = count * step
        moved = replace(segment, start_s=segment.start_s + later, end_s=segment.end_s + later)
        yield moved, VideoEmbeddings(np.arange(len(long)) * step, long)


def shown_in(scenes: Path) -> dict[str, set[tuple[str, str]]]:
    """Of each video the (colour, shape) of all that is ever seen in it, from the ground truth."""
    truth = json.loads(scenes.read_text())
    return {
        video: {
            (colour, one["shape"]) for one in scene["objects"] for time in one["shown"] for _, colour in time["colours"]
        }
        for video, scene in truth.items()
    }


def share(hits: list[bool]) -> float:
    return 100 * sum(hits) / len(hits)


def interval(answers: list[Answer], draws: int = 4000) -> tuple[float, float]:
    """95 % interval of the share that is right, over videos: segments of a video are not independent."""
    videos = paired.videos_of(pd.DataFrame({"video_id": [one.video_id for one in answers]}))
    right = np.array([100.0 * one.right for one in answers])
    low, high = paired.interval(right, videos, np.random.default_rng(0), draws)
    assert low is not None and high is not None, "one video has no interval"
    return low, high


def line(row: dict, *, header: bool) -> str:
    titles = f"{'captioner':<14}{'between':>9}{'facts':>7}{'95 %':>14}{'back':>7}{'in':>7}{'CPU s':>8}{'MiB':>8}"
    interval = f"{row['low']:.1f}-{row['high']:.1f}"
    text = (
        f"{row['captioner']:<14}{row['seconds']:>7} s{row['facts']:>7.1f}{interval:>14}{row['back']:>7.1f}"
        f"{row['in']:>7.1f}{row['cpu_s']:>8.2f}{row['mib']:>8.1f}"
    )
    return f"{titles}\n{text}" if header else text


def draw(rows: list[dict]) -> None:
    """Facts over the logarithm of the seconds, nothing in between at a third of the least that was."""
    least = min((row["seconds"] for row in rows if row["seconds"]), default=10)

    def place(seconds: float) -> float:
        return math.log10(max(seconds, least / 3))

    curves = {}
    for name in dict.fromkeys(row["captioner"] for row in rows):
        of_one = [row for row in rows if row["captioner"] == name]
        facts, low, high = (np.array([row[column] for row in of_one]) for column in ("facts", "low", "high"))
        curves[name] = Curve(np.array([place(row["seconds"]) for row in of_one]), facts, low, high)
    marks = {0: "0", 10: "10 s", 60: "1 min", 300: "5", 600: "10", 1800: "30", 3600: "1 h"}
    options = {row["seconds"] for row in rows}
    plot.draw(
        curves,
        PLOT,
        title="facts of `before` that are right, %",
        x_label="other videos between the evidence and the segment",
        x_marks={place(seconds): mark for seconds, mark in marks.items() if seconds in options},
    )


if __name__ == "__main__":
    main()
