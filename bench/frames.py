"""What sampling frames costs beside merely decoding: CPU seconds of this process and of ffmpeg.

    python -m bench.frames [--seconds 60] [--rounds 5] [--short-side 224] [--videos FOLDER]

Makes H.264 files of 640x360 with x264's defaults (3 B-frames, the middle one referred to by the others): a zoom into
the Mandelbrot set, moving test pictures, and both with noise; or, with `--videos`, the videos of that folder scaled and
cropped to 640x360 and repeated. Every round measures each way once, one right after the other, as many files at once
as there are cores:

    decode     ffmpeg -i FILE -f null, one thread: nothing is kept
    scale      decode with the stage's filters: fps=5, scaled, and thrown away
    frames     the stage's own, pipeline.features.frames.sample_all: fps=5, scaled, as JPEG
    BT.709     the same, of the same files, which now say that their colours are BT.709's: they are converted

A ratio is that of the least CPU seconds over the rounds: other work on the machine only ever adds to them. The range is
of the rounds' own ratios.

Prints a table and, as its last line, JSON.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imageio_ffmpeg

from bench.usage import cpu_s
from pipeline.dataset import ffmpeg_process
from pipeline.features import frames
from pipeline.features.frames import Sampled, Sampling, Source
from pipeline.process.cores import cores

SIZE = "640x360"
MADE_UP = {
    "mandelbrot": f"mandelbrot=s={SIZE}:r=25:maxiter=500:end_scale=0.0001",
    "testsrc2": f"testsrc2=s={SIZE}:r=30000/1001",
    "mandelbrot with noise": f"mandelbrot=s={SIZE}:r=24:end_scale=0.01,noise=alls=8:allf=t",
    "testsrc2 with noise": f"testsrc2=s={SIZE}:r=25,noise=alls=8:allf=t",
}
CROP = "scale={w}:{h}:force_original_aspect_ratio=increase,crop={w}:{h},setsar=1"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.frames")
    parser.add_argument("--seconds", type=float, default=60, help="length of each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short-side", type=int, default=224)
    parser.add_argument("--videos", type=Path, help="a folder of videos to use instead of made-up pictures")
    options = parser.parse_args()
    sampling = Sampling(fps=5, short_side_px=options.short_side, jpeg_quality=3)
    with TemporaryDirectory() as folder:
        paths = make(Path(folder), options.seconds, options.videos)
        sources = [Source(path.stem, path, options.seconds) for path in paths]
        tagged = [Source(path.stem, tag(path), options.seconds) for path in paths]
        ways: dict[str, Callable[[], object]] = {
            "decode": lambda: decode(paths),
            "scale": lambda: scale(sources, sampling),
            "frames": lambda: sample(sources, sampling),
            "BT.709": lambda: sample(tagged, sampling),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                before = cpu_s()
                way()
                taken[name].append(cpu_s() - before)

    ratios = {name: min(times) / min(taken["decode"]) for name, times in taken.items()}
    print(f"{'':<10}{'CPU s':>10}{'x decode':>10}{'from':>8}{'to':>8}")
    for name, times in taken.items():
        each = [own / decode for own, decode in zip(times, taken["decode"], strict=True)]
        print(f"{name:<10}{min(times):>10.2f}{ratios[name]:>10.2f}{min(each):>8.2f}{max(each):>8.2f}")
    figures = {
        "files": len(paths),
        "seconds_each": options.seconds,
        "short_side_px": options.short_side,
        "rounds": options.rounds,
        "cpu_s": {name: round(min(times), 3) for name, times in taken.items()},
        "times_decode": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }
    print(json.dumps(figures))


def make(folder: Path, seconds: float, videos: Path | None, rate: float | None = None) -> list[Path]:
    """Videos of so many seconds, at one rate or at their own."""
    width, height = SIZE.split("x")
    length = ("-t", str(seconds), *(() if rate is None else ("-r", str(rate))))
    inputs: list[tuple[str, tuple[str, ...]]]
    if videos is None:
        inputs = [(name, ("-f", "lavfi", "-i", source)) for name, source in MADE_UP.items()]
    else:
        crop = CROP.format(w=width, h=height)
        inputs = [
            (path.stem, ("-stream_loop", "-1", "-i", str(path), "-vf", crop)) for path in sorted(videos.iterdir())
        ]
    paths = []
    for name, source in inputs:
        path = folder / f"{name}.mp4"
        try:
            run(*source, *length, "-an", "-pix_fmt", "yuv420p", "-c:v", "libx264", str(path))
        except subprocess.CalledProcessError:
            print(f"{name}: not used, ffmpeg cannot read it", file=sys.stderr)
            continue
        paths.append(path)
    return paths


def tag(path: Path) -> Path:
    """A copy of the H.264 whose header says BT.709."""
    tagged = path.with_name(f"{path.stem} bt709{path.suffix}")
    tags = "h264_metadata=matrix_coefficients=1:colour_primaries=1:transfer_characteristics=1"
    run("-i", str(path), "-c", "copy", "-bsf:v", tags, str(tagged))
    return tagged


def run(*arguments: str) -> None:
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-nostdin", "-y", "-threads", "1", *arguments], check=True)


def decode(paths: list[Path]) -> None:
    at_once(lambda path: run("-i", str(path), "-f", "null", "-"), paths)


def scale(sources: list[Source], sampling: Sampling) -> None:
    """The stage's plain command, but the pictures are thrown away before they are coded."""

    def one(source: Source) -> None:
        pictures = frames.pictures_of(f"file:{source.path.resolve()}", sampling)
        ffmpeg_process.run(pictures.output("-", format="null", pix_fmt="yuvj420p", fps_mode="passthrough"), 3600)

    at_once(one, sources)


def at_once(work: Callable[..., None], *items: Sequence[Any]) -> None:
    """As many at once as the stage does: side by side, each takes more CPU seconds than alone."""
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(work, *items))


def sample(sources: list[Source], sampling: Sampling) -> list[Sampled]:
    return list(frames.sample_all(sources, sampling, workers=cores()))


if __name__ == "__main__":
    main()
