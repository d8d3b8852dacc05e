"""Captions with times for your own videos.

    python -m pipeline.predict holiday.mp4 https://example.org/talk.mp4
    python -m pipeline.predict holiday.mp4 --segments 0-12.5,12.5-40 --json
    python -m pipeline.predict holiday.mp4 --variant baseline --srt --vtt --out subtitles
    python -m pipeline.predict --follow recording.mkv

Takes the captioner in models/, which `dvc repro` or `make demo` trains, or with --variant an experiment's.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline import subtitles
from pipeline.arriving import arriving_frames, is_address
from pipeline.predictor import Captioned, Predictor
from pipeline.sources import youtube


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description="Captions for your own videos.")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="a file or an address; with --follow also - (stdin)")
    parser.add_argument("--variant", help="an experiment or a git revision; default: what is in models/")
    parser.add_argument(
        "--segments",
        default="found",
        type=segments_of,
        help="found (between changes) | whole | 0-12.5,12.5-40 (s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--srt", action="store_true", help="write SubRip subtitles")
    parser.add_argument("--vtt", action="store_true", help="write WebVTT subtitles")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the subtitles; default: this one")
    parser.add_argument("--follow", action="store_true", help="caption a growing file or a stream as it arrives")
    parser.add_argument("--every", type=float, metavar="S", help="--follow: a caption every S seconds, not at changes")
    parser.add_argument("--idle", type=float, default=10.0, metavar="S", help="--follow: end when nothing came for S s")
    asked = parser.parse_args()
    if asked.follow and (len(asked.videos) > 1 or asked.srt or asked.vtt or asked.segments != "found"):
        parser.error("--follow takes one video, and none of --srt, --vtt and --segments")
    failed = False
    try:
        predictor = Predictor.load(asked.variant)
        if asked.follow:
            follow(predictor, asked.videos[0], every_s=asked.every, idle_s=asked.idle, json_lines=asked.json)
            return
        results = {}
        for video in asked.videos:
            try:
                results[video] = caption(predictor, video, asked.segments)
            except (ValueError, OSError) as error:  # the others shall have their captions
                print(f"predict: {error}", file=sys.stderr)
                failed = True
                continue
            for name, write in {"srt": subtitles.srt, "vtt": subtitles.vtt}.items():
                if getattr(asked, name):
                    asked.out.mkdir(parents=True, exist_ok=True)
                    path = asked.out / f"{name_of(video)}.{name}"
                    path.write_text(write(results[video]), encoding="utf-8")
                    print(f"predict: {path}", file=sys.stderr)
            if not asked.json:
                print(table(video, results[video]), flush=True)
        if asked.json:
            told = {video: [as_json(one) for one in found] for video, found in results.items()}
            print(json.dumps(told, indent=2, ensure_ascii=False))
    except ValueError as error:
        sys.exit(f"predict: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(failed)


def caption(predictor: Predictor, video: str, segments: Sequence[tuple[float, float]] | str) -> list[Captioned]:
    """Of a file, or of what is at an address. ValueError says why there is none."""
    if not is_address(video):
        return predictor.caption(Path(video), segments)
    with tempfile.TemporaryDirectory() as folder:
        return predictor.caption(youtube.download(video, Path(folder)), segments)


def follow(predictor: Predictor, source: str, *, every_s: float | None, idle_s: float, json_lines: bool) -> None:
    """Prints each caption when its segment has ended; as JSON a line each."""
    for one in predictor.follow(arriving_frames(source, predictor.sampling, idle_s=idle_s), every_s):
        print(json.dumps(as_json(one), ensure_ascii=False) if json_lines else row(one), flush=True)


def segments_of(text: str) -> str | list[tuple[float, float]]:
    """What --segments says: "found", "whole", or the pairs of "0-12.5,12.5-40"."""
    if text in ("found", "whole"):
        return text
    pairs = [re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", part.strip()) for part in text.split(",")]
    segments = [(float(pair[1]), float(pair[2])) for pair in pairs if pair]
    if len(segments) != len(pairs) or any(start >= end for start, end in segments):
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted found, whole, or START-END,START-END in seconds")
    return segments


def name_of(video: str) -> str:
    """Of the subtitles: the file's name without its ending; of an address what may be one."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", video.split("://")[1]) if is_address(video) else Path(video).stem


def table(video: str, found: Iterable[Captioned]) -> str:
    return "\n".join([video, *map(row, found)])


def row(one: Captioned) -> str:
    return f"{clock(one.start_s)} - {clock(one.end_s)}  {one.caption}"


def clock(seconds: float) -> str:
    tenths = round(seconds * 10)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes:2}:{rest / 10:04.1f}"


def as_json(one: Captioned) -> dict:
    times = {"start_s": round(one.start_s, 3), "end_s": round(one.end_s, 3)}
    return {**times, "caption": one.caption, "log_prob": one.log_prob}


if __name__ == "__main__":
    main()
