"""Captions with times for your own videos.

    python -m pipeline.predict holiday.mp4 https://example.org/talk.mp4
    python -m pipeline.predict holiday.mp4 --segments 0-12.5,12.5-40 --json
    python -m pipeline.predict holiday.mp4 --variant baseline --srt --vtt --out subtitles
    python -m pipeline.predict --follow recording.mkv
    python -m pipeline.predict holiday.mp4 --model exported

Takes the captioner in models/, which `dvc repro` or `make demo` trains; with --variant an experiment's; with --model
one that `python -m pipeline.export` wrote.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.dataset.media import NOT_VIDEOS, not_a_file
from pipeline.dataset.probe import probe
from pipeline.files.aside import ASIDE, check_writable, write_text
from pipeline.process import progress
from pipeline.process.terminal import message, printable, printable_json
from pipeline.serving import subtitles
from pipeline.serving.arriving import arriving_frames, is_address

if TYPE_CHECKING:  # torch, which takes seconds to load; wrong arguments are reported before that
    from pipeline.serving.video_captioner import Captioned, Prediction, VideoCaptioner

LONGEST_CAPTION = 2000  # characters of a caption that are printed
LONGEST_S = 1e6  # the longest wait
IDLE_S = 10.0  # --follow's
NAME_BYTES = 255 - len(
    f"-123456.srt.01234567{ASIDE}"
)  # of a video's name, so that the names of all its files are short enough
PROGRESS_AFTER_S = 1.0  # shorter work needs no bar
SUBTITLES = {"srt": subtitles.srt, "vtt": subtitles.vtt}
UNITS = {"downloading": "B", "sampling": "second", "captioning": "segment"}  # of what Watch reports; otherwise frames


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        description="Captions for your own videos.",
        epilog="Write a name that begins with a dash as ./-name.mp4, or put it after --.",
    )
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a file, a folder of them, or an address; --follow: also - (stdin)"
    )
    parser.add_argument("--variant", help="an experiment or a git revision; default: what is in models/")
    parser.add_argument("--model", metavar="DIR", help="an exported captioner: its folder, or its name on the Hub")
    parser.add_argument(
        "--segments",
        default="found",
        type=segments_of,
        help="found (between changes) | whole | 0-12.5,12.5-40 (s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--srt", action="store_true", help="write SubRip subtitles")
    parser.add_argument("--vtt", action="store_true", help="write WebVTT subtitles")
    parser.add_argument("--out", type=Path, help="--srt, --vtt: folder for the subtitles; default: the current one")
    parser.add_argument("--force", action="store_true", help="--srt, --vtt: replace existing subtitles")
    parser.add_argument("--follow", action="store_true", help="caption a growing file or a stream as it arrives")
    parser.add_argument(
        "--every", type=seconds, metavar="S", help="--follow: a caption every S seconds instead of at changes"
    )
    parser.add_argument(
        "--idle", type=seconds, metavar="S", help="--follow: stop when nothing has arrived for S s; default: 10"
    )
    options = parser.parse_args([plain_name(argument) for argument in sys.argv[1:]])
    kinds = [kind for kind in SUBTITLES if getattr(options, kind)]
    if options.follow and (len(options.videos) > 1 or kinds or options.segments != "found"):
        parser.error("--follow takes one video, and none of --srt, --vtt and --segments")
    if not options.follow and (options.every is not None or options.idle is not None):
        parser.error("--every and --idle are for --follow")
    if "-" in options.videos and not options.follow:
        parser.error("- (standard input) is for --follow")
    if not kinds and (options.out is not None or options.force):
        parser.error("--out and --force are for --srt and --vtt")
    if options.variant and options.model:
        parser.error("--variant is one of the project's captioners, --model an exported one: name one of them")
    load = partial(load_captioner, options.variant, options.model)
    try:
        if options.follow:
            idle_s = options.idle or IDLE_S
            follow(options.videos[0], load, every_s=options.every, idle_s=idle_s, json_lines=options.json)
            return
        videos, problems = inputs(options.videos)
        for problem in problems:
            say(problem)
        files = outputs(videos, kinds, options.out or Path(), force=options.force)
        if not videos:
            sys.exit(1)
        failed = caption_all(videos, files, load, options.segments, as_json=options.json, force=options.force)
    except (ValueError, OSError) as error:
        sys.exit(f"predict: {message(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(bool(failed or problems))


def load_captioner(variant: str | None, exported: str | None) -> "VideoCaptioner":
    from pipeline.serving.video_captioner import VideoCaptioner

    return VideoCaptioner.from_pretrained(exported) if exported else VideoCaptioner.load(variant)


def inputs(named: Iterable[str]) -> tuple[list[str], list[str]]:
    """The videos among these files, folders and addresses, and a line about each that is not one."""
    videos: list[str] = []
    problems = []
    for name in named:
        if is_address(name):
            videos.append(name)
        elif os.path.isdir(name):  # noqa: PTH112 (Path's raises where a name is too long)
            found = [str(path) for path in sorted(Path(name).iterdir()) if is_video(path)]
            videos += found
            if not found:
                problems.append(f"{name}: a folder without videos (subfolders are not searched)")
        elif problem := not_a_video(name):
            problems.append(f"{name}: {problem}")
        else:
            videos.append(name)
    return list(dict.fromkeys(videos)), problems


def is_video(path: Path) -> bool:
    """Whether a file of a folder is a video; reports a file that looks like one but is not."""
    if not path.is_file() or path.name.startswith(".") or path.suffix.lower() in NOT_VIDEOS:
        return False
    probed = probe(path)
    if probed.kind != "video":
        say(f"{path}: skipped ({probed.reason or 'a picture'})")
    return probed.kind == "video"


def not_a_video(name: str) -> str | None:
    """Why nothing of that name can be captioned, as far as the name tells."""
    problem = not_a_file(Path(name))
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", name, re.IGNORECASE)
    if problem == "no such file" and scheme:
        return (
            f"no such file, and {scheme[1]}:// is not read, only http:// and https://; record it with a program that "
            "knows it, and caption its output: --follow FILE, or --follow - to read it from a pipe"
        )
    return problem


def outputs(videos: Sequence[str], kinds: Sequence[str], folder: Path, *, force: bool) -> dict[str, list[Path]]:
    """The subtitle files of each video, no two the same.

    Raises ValueError if one exists already or cannot be written.
    """
    if not kinds:
        return {video: [] for video in videos}
    files: dict[str, list[Path]] = {}
    taken: set[str] = set()
    for video in videos:
        stem = name_of(video)
        names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(videos) + 2))
        name = next(
            name for name in names if name.casefold() not in taken
        )  # on some file systems a.srt and A.srt are the same file
        taken.add(name.casefold())
        files[video] = [folder / f"{name}.{kind}" for kind in kinds]
    everything = [path for paths in files.values() for path in paths]
    if not force and (there := [str(path) for path in everything if path.exists() or path.is_symlink()]):
        others = f" (and {len(there) - 1} others)" if len(there) > 1 else ""
        raise ValueError(
            f"{there[0]} already exists{others}; replace with --force, or choose another folder with --out"
        )
    for path in everything:
        check_writable(path)
    return files


def caption_all(
    videos: Sequence[str],
    files: Mapping[str, Sequence[Path]],
    load: "Callable[[], VideoCaptioner]",
    segments: Sequence[tuple[float, float]] | str,
    *,
    as_json: bool,
    force: bool,
) -> bool:
    """Captions each video and prints the result; returns whether one failed."""
    say("loading the captioner")
    captioner = load()
    known = captioner.familiarity
    if known:
        say(f"the captioner was {known.trained_on}")
    results: dict[str, Any] = {}
    for video in videos:
        try:
            with Bars(video) as watch:
                found = caption(captioner, video, segments, watch)
            for path in files[video]:
                if not force and path.exists():
                    raise ValueError(f"{path} was created in the meantime and is kept; replace it with --force")
                write_text(path, SUBTITLES[path.suffix[1:]](found))
                say(str(path))
        except (ValueError, OSError) as error:  # the others still get their captions
            say(message(error))
            results[video] = {"error": str(error)}
            continue
        for warning in found.warnings:
            say(f"{video}: warning: {warning}")
        if known and found.unlikeness and not found.unlikeness.is_far and (place := known.place(found.unlikeness)):
            say(f"{video}: {place}")
        results[video] = prediction_as_json(found)
        if not as_json:
            print(table(video, found), flush=True)
    if as_json:
        print(printable_json(json.dumps(results, indent=2, ensure_ascii=False)))
    return any("error" in one for one in results.values())


def caption(
    captioner: "VideoCaptioner", video: str, segments: Sequence[tuple[float, float]] | str, watch: "Bars"
) -> "Prediction":
    """The captions of a file or an address. Raises ValueError saying why there are none."""
    from pipeline.serving.video_frames import local_file

    with local_file(video, captioner.params.predict.model_dump(), watch) as file:
        return captioner.caption(file, segments, watch)


def follow(
    source: str, load: "Callable[[], VideoCaptioner]", *, every_s: float | None, idle_s: float, json_lines: bool
) -> None:
    """Prints each caption when its segment has ended; as JSON, one line each."""
    if source != "-" and not is_address(source) and (problem := not_a_video(source)):
        raise ValueError(f"{source}: {problem}")
    say("loading the captioner")
    captioner = load()
    say("following; press Ctrl-C to stop")
    frames = arriving_frames(source, captioner.sampling, idle_s=idle_s, tell=say)

    def duration_s() -> float | None:
        return None if source == "-" or is_address(source) else probe(Path(source).absolute()).duration_s

    for one in captioner.follow(frames, every_s, tell=say, duration_s=duration_s):
        print(printable_json(json.dumps(as_json(one), ensure_ascii=False)) if json_lines else row(one), flush=True)


class Bars:
    """Shows how far the work on one video has come: one bar after another, each for one kind of work."""

    def __init__(self, video: str) -> None:
        self._name = printable(video if "://" in video else Path(video).name, 40)
        self._doing: str | None = None
        self._bar: Any = None

    def __enter__(self) -> "Bars":
        return self

    def __call__(self, doing: str, done: float, of: float | None) -> None:
        """A `Watch` of pipeline/serving/video_captioner.py."""
        if doing != self._doing:
            self._close()
            self._doing = doing
            self._bar = progress.bar(
                desc=f"{self._name}: {doing}",
                unit=UNITS.get(doing, "frame"),
                unit_scale=doing == "downloading",
                leave=False,
                delay=PROGRESS_AFTER_S,
            )
        self._bar.total = None if of is None else round(of)
        self._bar.update(round(done) - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __exit__(self, *_: object) -> None:
        self._close()


def say(line: str) -> None:
    print(f"predict: {message(line)}", file=sys.stderr, flush=True)


def plain_name(argument: str) -> str:
    """`-clip.mp4` is an option, unless a file has that name."""
    is_short = argument.startswith("-") and not argument.startswith("--") and argument not in ("-", "-h")
    return f"./{argument}" if is_short and os.path.lexists(argument) else argument


def seconds(text: str) -> float:
    """A number of seconds to wait."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected seconds, more than 0 and at most {LONGEST_S:,.0f}")
    return value


def segments_of(text: str) -> str | list[tuple[float, float]]:
    """The value of --segments: "found", "whole", or the pairs of "0-12.5,12.5-40"."""
    if text in ("found", "whole"):
        return text
    pairs = [re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", part.strip()) for part in text.split(",")]
    segments = [(float(pair[1]), float(pair[2])) for pair in pairs if pair]
    if len(segments) != len(pairs) or any(start >= end for start, end in segments):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected found, whole, or START-END,START-END in seconds")
    return segments


def name_of(video: str) -> str:
    """The name of the subtitles: the file's without its ending, or made from an address. Never too long for a file."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", video.split("://")[1]) if is_address(video) else Path(video).stem
    return os.fsencode(name)[:NAME_BYTES].decode(errors="ignore")


def table(video: str, found: "Iterable[Captioned]") -> str:
    return "\n".join([printable(video), *map(row, found)])


def row(one: "Captioned") -> str:
    return f"{clock(one.start_s)} - {clock(one.end_s)}  {printable(one.caption, LONGEST_CAPTION)}"


def clock(seconds: float) -> str:
    tenths = round(seconds * 10)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes:2}:{rest / 10:04.1f}"


def prediction_as_json(found: "Prediction") -> dict[str, Any]:
    unlike = found.unlikeness
    return {
        "duration_s": round(found.duration_s, 3),
        "captions": [as_json(one) for one in found],
        "warnings": list(found.warnings),
        "about": found.about,
        "distance": unlike and round(unlike.distance, 3),
        "held_out_further": unlike and unlike.further,
    }


def as_json(one: "Captioned") -> dict[str, Any]:
    times = {"start_s": round(one.start_s, 3), "end_s": round(one.end_s, 3)}
    return {**times, "caption": one.caption, "log_prob": one.log_prob}


if __name__ == "__main__":
    main()
