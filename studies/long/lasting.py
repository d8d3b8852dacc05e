"""How long a memory lasts: facts of kind `before` against how much lies between the evidence and the segment.

Frames of other test videos, in which the thing in question never appears, are put between what came before a test
segment and the segment. (write_long_videos in pipeline/dataset/shapes/dataset.py renders such videos, but embedding an
hour takes a minute, and here are hundreds of hours.) Every captioner gets the same sequences, and the same segments at
every distance. The evidence's age is the time put in between and what was between them before, 1 to 30 s. A guess is
right in half of the segments.
"""

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline.captioner.cost import remembered_bytes
from pipeline.captioner.generation import caption_batch
from pipeline.captioner.model import Captioner
from pipeline.captioner.sequences import collate, make_examples
from pipeline.dataset.segments import Segment, frames_of_segment, from_table
from pipeline.dataset.shapes.grammar import read_facts
from pipeline.dataset.shapes.looks import Look, looks_in, read_scenes
from pipeline.features.embeddings import VideoEmbeddings, read_embeddings
from pipeline.features.lengthening import drawn, put_into
from pipeline.scoring import paired, plot
from pipeline.scoring.variants import Curve

GUESS = 50.0  # percent
DRAWS = 4000  # of the bootstrap


@dataclass(frozen=True)
class Answer:
    """About one segment."""

    video_id: str
    right: bool  # all facts
    back: bool  # it does come back
    stated_back: bool


@dataclass(frozen=True)
class Videos:
    """The test split of the built-in videos, and what is known of them."""

    segments: list[Segment]
    videos: Mapping[str, VideoEmbeddings]
    shown: Mapping[str, set[Look]]  # of each video all that is ever seen in it

    @classmethod
    def read(cls, data: Path) -> "Videos":
        """Those in this folder."""
        segments = [one for one in from_table(pq.read_table(data / "segments.parquet")) if one.split == "test"]
        videos = read_embeddings(data / "embeddings", {segment.video_id for segment in segments})
        scenes = read_scenes(data / "annotations/scenes.json")
        return cls(segments, videos, {video: looks_in(truth) for video, truth in scenes.items()})


def measure(
    captioner: Captioner, tokenizer: Any, of: Videos, seconds: int, seed: int, generation: Mapping[str, Any]
) -> dict[str, float]:
    """Percentages, the interval of `facts`, and what a caption costs: CPU seconds and MiB held when its segment ends.

    Args:
        seconds: put in between.
        seed: of the choice of other videos.
        generation: as `caption_prefixes`'s.
    """
    answers, started = [], time.process_time()
    for segment, video in stretched(of, seconds, seed):
        examples = make_examples([segment], {segment.video_id: video}, scope=captioner.config.scope)
        (made,) = caption_batch(captioner, tokenizer, collate(examples), **generation).values()
        stated, right = read_facts(made.caption), read_facts(segment.captions[0])
        assert right is not None
        answers.append(
            Answer(
                segment.video_id,
                stated == right,
                right.event == "comes_back",
                stated is not None and stated.event == "comes_back",
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
        "newcomers_stated_back": share([one.stated_back for one in answers if not one.back]),
        "cpu_s": cpu_s,
        "mib": remembered_bytes(captioner.config, video.embeddings[:], len(of_segment)) / 2**20,
    }


def stretched(of: Videos, seconds: int, seed: int) -> Iterator[tuple[Segment, VideoEmbeddings]]:
    """Every segment of kind `before`, in a video with so many seconds of others just before it."""
    for segment in of.segments:
        if segment.kind != "before":
            continue
        own = of.videos[segment.video_id]
        times = own.timestamps[:]
        frames = frames_of_segment(segment.start_s, segment.end_s, times.tolist())
        step = float(times[1] - times[0])
        facts = read_facts(segment.captions[0])
        assert facts is not None
        thing = (facts.things[0].colour, facts.things[0].shape)
        others = sorted(of.videos.keys() - {segment.video_id})
        fitting = [of.videos[other].embeddings for other in others if thing not in of.shown[other]]
        count = round(seconds / step)
        parts = drawn(fitting, count, random.Random(f"{seed} {segment.segment_id}"))
        until = VideoEmbeddings(times[: frames.stop], own.embeddings[: frames.stop])
        later = count * step
        moved = replace(segment, start_s=segment.start_s + later, end_s=segment.end_s + later)
        yield moved, put_into(until, frames.start, parts)


def share(hits: Sequence[bool]) -> float:
    """In percent; of none, not a number."""
    return 100 * sum(hits) / len(hits) if hits else math.nan


def interval(answers: Sequence[Answer]) -> tuple[float, float]:
    """95 % interval of the share that is right, over videos: segments of a video are not independent."""
    videos = paired.videos_of(pd.DataFrame({"video_id": [one.video_id for one in answers]}))
    right = np.array([100.0 * one.right for one in answers])
    low, high = paired.interval(right, videos, np.random.default_rng(0), DRAWS)
    assert low is not None and high is not None, "one video has no interval"
    return low, high


def line(row: Mapping[str, Any], *, header: bool) -> str:
    titles = f"{'captioner':<14}{'between':>9}{'facts':>7}{'95 %':>14}{'back':>7}{'in':>7}{'CPU s':>8}{'MiB':>8}"
    interval = f"{row['low']:.1f}-{row['high']:.1f}"
    text = (
        f"{row['captioner']:<14}{row['seconds']:>7} s{row['facts']:>7.1f}{interval:>14}{row['back']:>7.1f}"
        f"{row['in']:>7.1f}{row['cpu_s']:>8.2f}{row['mib']:>8.1f}"
    )
    return f"{titles}\n{text}" if header else text


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
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
        path,
        title="facts of `before` that are right, %",
        x_label="other videos between the evidence and the segment",
        x_marks={place(seconds): mark for seconds, mark in marks.items() if seconds in options},
    )
