"""The built-in dataset on disk, in the formats of the real ones: COCO pictures and captions, ActivityNet videos and
captions; and beside them the ground truth, which real datasets lack.

Videos are encoded in this process by PyAV: started once per video, ffmpeg's program takes three times as long.
Every file is written aside and renamed, so that a file with its final name is complete.
"""

import functools
import io
import json
import math
import multiprocessing
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset.shapes.grammar import captions
from pipeline.dataset.shapes.render import Picture, boxes, picture_size, render
from pipeline.dataset.shapes.scenes import Scene, long_video_scene, picture_scene, several_moments_scene, video_scene
from pipeline.process import progress

SPLITS = ("train", "val", "test")
ACTIVITYNET_FILES = {"train": "train.json", "val": "val_1.json", "test": "val_2.json"}
JPEG_QUALITY = 92
X264 = {"preset": "ultrafast", "crf": "23", "threads": "1"}  # one thread: the same bytes on any number of cores
AAC = {"flags": "+bitexact", "aac_coder": "fast", "b": "24k"}  # its default encoder costs more than all of the pictures
TONE_RATE = 8_000  # samples per second
FRAMES_TOGETHER = 50  # length of the stretches of a video for which visible things are looked up together

BOXES = pa.schema(
    [
        ("video_id", pa.string()),
        ("frame_index", pa.int32()),  # at the video's own rate
        ("timestamp_s", pa.float64()),
        ("object_id", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("visible", pa.float32()),
    ]
)

T = TypeVar("T")
R = TypeVar("R")


def picture_id(split: str, index: int) -> str:
    return f"shapes_{split}_{index:06d}"


def video_id(split: str, index: int) -> str:
    return f"v_shapes_{split}_{index:04d}"


def write_pictures(
    media_dir: Path,
    annotations_dir: Path,
    *,
    seed: int,
    counts: dict[str, int],
    size_px: int,
    captions_per_picture: int,
    workers: int,
) -> list[str]:
    """Pictures as `media_dir/{video_id}.jpg`, captions as COCO's `annotations_dir/captions_{split}.json`.

    Splits without pictures get an empty file. Returns the ids written.
    """
    _check(counts, size_px)
    media_dir.mkdir(parents=True, exist_ok=True)
    annotations_dir.mkdir(parents=True, exist_ok=True)
    items = [(split, index) for split in SPLITS for index in range(counts.get(split, 0))]
    write = functools.partial(_write_picture, media_dir, seed, size_px)
    sizes = dict(zip(items, _spread(write, items, workers, "shapes pictures", "picture"), strict=True))
    for number, split in enumerate(SPLITS):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(counts.get(split, 0)):
            image_id = number * 1_000_000 + index
            width, height = sizes[split, index]
            file_name = f"{picture_id(split, index)}.jpg"
            images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
            facts = picture_scene(seed, split, index).segments[0].facts
            rng = random.Random(f"shapes picture captions {seed} {split} {index}")
            for caption in captions(facts, captions_per_picture, rng):
                annotations.append(
                    {"id": len(annotations) + number * 10_000_000, "image_id": image_id, "caption": caption}
                )
        info = {"description": "built-in shapes", "version": "1", "seed": seed}
        document = {"info": info, "images": images, "annotations": annotations}
        _write(annotations_dir / f"captions_{split}.json", json.dumps(document).encode())
    return [picture_id(*item) for item in items]


def write_videos(
    media_dir: Path,
    annotations_dir: Path,
    *,
    seed: int,
    counts: dict[str, int],
    size_px: int,
    fps: float,
    captions_per_segment: dict[str, int],
    workers: int,
) -> list[str]:
    """Videos as `media_dir/{video_id}.mp4`; in `annotations_dir` ActivityNet's train.json, val_1.json (val) and
    val_2.json (test), each with a list `kinds` parallel to its timestamps, and the ground truth, scenes.json and
    boxes.parquet.

    A segment's several captions are several sentences with the same timestamps. Returns the ids written.
    """
    _check(counts, size_px)
    media_dir.mkdir(parents=True, exist_ok=True)
    annotations_dir.mkdir(parents=True, exist_ok=True)
    items = [(split, index) for split in SPLITS for index in range(counts.get(split, 0))]
    write = functools.partial(_write_video, media_dir, seed, size_px, fps)
    tables = dict(zip(items, _spread(write, items, workers, "shapes videos", "video"), strict=True))

    truth = {}
    for split in SPLITS:
        document = {}
        for index in range(counts.get(split, 0)):
            scene = video_scene(seed, split, index)
            rng = random.Random(f"shapes video captions {seed} {split} {index}")
            document[video_id(split, index)] = _activitynet_entry(scene, fps, captions_per_segment[split], rng)
            truth[video_id(split, index)] = _ground_truth(scene, split, size_px, fps)
        _write(annotations_dir / ACTIVITYNET_FILES[split], json.dumps(document).encode())
    _write(annotations_dir / "scenes.json", json.dumps(truth).encode())

    in_order = sorted(items, key=lambda item: video_id(*item))
    table = pa.concat_tables([tables[item] for item in in_order]) if items else BOXES.empty_table()
    stream = io.BytesIO()
    pq.write_table(table.combine_chunks(), stream, compression="zstd")
    _write(annotations_dir / "boxes.parquet", stream.getvalue())
    return [video_id(*item) for item in items]


def write_long_videos(
    media_dir: Path,
    annotations_dir: Path,
    *,
    seed: int,
    count: int,
    minutes: float,
    age_s: float,
    size_px: int,
    fps: float,
    captions_per_segment: int,
    workers: int,
    kind: Literal["before", "times", "first"] = "before",
) -> list[str]:
    """Test videos of any length whose last segment is about what was seen `age_s` before it, and with `times` and
    `first` also earlier: something comes back, or in (before); for which time it comes back (times); which of two
    things was there first.

    Like `write_videos`, but without boxes: `media_dir/{video_id}.mp4`, val_2.json and scenes.json. An hour of 5 frames
    a second is written in seconds; sampling and embedding it takes longer. Returns the ids written.
    """
    _check({"test": count}, size_px)
    media_dir.mkdir(parents=True, exist_ok=True)
    annotations_dir.mkdir(parents=True, exist_ok=True)
    name = "long" if kind == "before" else kind
    ids = [f"v_shapes_{name}_{minutes:g}m_{age_s:g}s_{index:04d}" for index in range(count)]
    scenes = [
        long_video_scene(seed, "test", index, minutes=minutes, age_s=age_s)
        if kind == "before"
        else several_moments_scene(seed, "test", index, minutes=minutes, age_s=age_s, kind=kind)
        for index in range(count)
    ]
    write = functools.partial(_write_scene, media_dir, size_px, fps)
    list(_spread(write, list(zip(ids, scenes, strict=True)), workers, "long shapes videos", "video"))
    document, truth = {}, {}
    for video, scene in zip(ids, scenes, strict=True):
        rng = random.Random(f"shapes long video captions {seed} {video}")
        document[video] = _activitynet_entry(scene, fps, captions_per_segment, rng)
        truth[video] = _ground_truth(scene, "test", size_px, fps)
    _write(annotations_dir / ACTIVITYNET_FILES["test"], json.dumps(document).encode())
    _write(annotations_dir / "scenes.json", json.dumps(truth).encode())
    return ids


def video_frames(scene: Scene, size_px: int, fps: float) -> Iterator[tuple[float, Picture]]:
    """(timestamp_s, picture) of every frame of a video's file, before encoding."""
    times = _frame_times(scene, fps)
    for some in (times[start : start + FRAMES_TOGETHER] for start in range(0, len(times), FRAMES_TOGETHER)):
        then = scene.between(some[0], some[-1])
        for time_s in some:
            yield time_s, render(then, time_s, size_px)


def _rate(scene: Scene, fps: float) -> Fraction:
    return scene.rate or Fraction(fps).limit_denominator(1001)


def _frame_times(scene: Scene, fps: float) -> list[float]:
    """When each frame appears: the last one begins before the scene's end, and stays until then or longer."""
    rate = _rate(scene, fps)
    count = math.ceil(Fraction(str(scene.duration_s)) * rate)
    return [index * rate.denominator / rate.numerator for index in range(count)]


def _file_duration_s(scene: Scene, fps: float) -> float:
    return float(len(_frame_times(scene, fps)) / _rate(scene, fps))


def _activitynet_entry(scene: Scene, fps: float, captions_each: int, rng: random.Random) -> dict[str, Any]:
    timestamps, sentences, kinds = [], [], []
    for segment in scene.segments:
        for caption in captions(segment.facts, captions_each, rng):
            timestamps.append([segment.start_s, segment.end_s])
            sentences.append(caption)
            kinds.append(segment.kind)
    return {
        "duration": round(_file_duration_s(scene, fps), 2),
        "timestamps": timestamps,
        "sentences": sentences,
        "kinds": kinds,
    }


def _ground_truth(scene: Scene, split: str, size_px: int, fps: float) -> dict[str, Any]:
    width, height = picture_size(scene, size_px)
    objects: dict[str, dict[str, Any]] = {}
    for track in scene.tracks:
        found = objects.setdefault(track.object_id, {"id": track.object_id, "shape": track.shape, "shown": []})
        found["shown"].append(
            {
                "from_s": round(max(track.alpha[0][0], 0.0), 3),
                "to_s": round(track.alpha[-1][0], 3),
                "rests": track.rests,
                "colours": [[round(max(from_s, 0.0), 3), colour] for from_s, colour in track.colours],
            }
        )
    for found in objects.values():
        found["colour"] = found["shown"][0]["colours"][0][1]  # the first colour it has
    return {
        "split": split,
        "duration_s": _file_duration_s(scene, fps),
        "fps": float(_rate(scene, fps)),
        "frames": len(_frame_times(scene, fps)),
        "width_px": width,
        "height_px": height,
        "sound": scene.tone_hz is not None,
        "objects": list(objects.values()),
        "segments": [
            {
                "start_s": segment.start_s,
                "end_s": segment.end_s,
                "kind": segment.kind,
                "facts": asdict(segment.facts),
                "events": [
                    asdict(happening) | {"start_s": round(happening.start_s, 3), "end_s": round(happening.end_s, 3)}
                    for happening in segment.happenings
                ],
            }
            for segment in scene.segments
        ],
    }


def _write_picture(media_dir: Path, seed: int, size_px: int, item: tuple[str, int]) -> tuple[int, int]:
    scene = picture_scene(seed, *item)
    picture = render(scene, 0.0, size_px)
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok
    _write(media_dir / f"{picture_id(*item)}.jpg", jpeg.tobytes())
    return picture_size(scene, size_px)


def _write_video(media_dir: Path, seed: int, size_px: int, fps: float, item: tuple[str, int]) -> pa.Table:
    """Write one video; returns its boxes."""
    scene = video_scene(seed, *item)
    _write_scene(media_dir, size_px, fps, (video_id(*item), scene))
    rows = [
        (video_id(*item), index, time_s, box.object_id, box.x0, box.y0, box.x1, box.y1, box.visible)
        for index, time_s in enumerate(_frame_times(scene, fps))
        for box in boxes(scene, time_s, size_px)
    ]
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=BOXES)


def _write_scene(media_dir: Path, size_px: int, fps: float, named: tuple[str, Scene]) -> None:
    stream = io.BytesIO()
    _encode(stream, named[1], size_px, fps)
    _write(media_dir / f"{named[0]}.mp4", stream.getvalue())


def _encode(stream: io.BytesIO, scene: Scene, size_px: int, fps: float) -> None:
    """H.264 in MP4, with AAC where the scene has sound. Bit-exact: no dates or program versions in the file."""
    with av.open(stream, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=_rate(scene, fps), options=X264)
        video.width, video.height = picture_size(scene, size_px)
        video.pix_fmt = "yuv420p"
        audio = None
        if scene.tone_hz is not None:
            audio = container.add_stream("aac", rate=TONE_RATE, options=AAC, layout="mono")
        for _, picture in video_frames(scene, size_px, fps):
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(video.encode())
        if audio is not None and scene.tone_hz is not None:
            for block in _tone(scene.tone_hz, _file_duration_s(scene, fps)):
                container.mux(audio.encode(block))
            container.mux(audio.encode())


def _tone(frequency_hz: float, duration_s: float) -> Iterator[av.AudioFrame]:
    """A soft tone that swells and ebbs."""
    time_s = np.arange(int(duration_s * TONE_RATE)) / TONE_RATE
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * time_s / 4.0)
    samples: NDArray[np.float32] = (0.08 * swell * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)
    block = 1024  # what an AAC frame holds
    for start in range(0, len(samples), block):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + block], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = TONE_RATE, start, Fraction(1, TONE_RATE)
        yield frame


def _spread(function: Callable[[T], R], items: Iterable[T], workers: int, what: str, unit: str) -> list[R]:
    """The function's values in the items' order, computed by `workers` processes, with a progress bar."""
    items = list(items)
    if workers <= 1:
        return [function(item) for item in progress.bar(items, desc=what, unit=unit)]
    # spawn: a process that has torch's threads must not fork. One OpenCV thread each: the processes are the threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        chunk = max(1, min(16, len(items) // (4 * workers)))
        return list(progress.bar(pool.map(function, items, chunksize=chunk), desc=what, total=len(items), unit=unit))


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(content)
    aside.replace(path)


def _check(counts: dict[str, int], size_px: int) -> None:
    unknown = set(counts) - set(SPLITS)
    if unknown or min(counts.values(), default=0) < 0:
        raise ValueError(f"counts: found {counts}, expected numbers, 0 or more, for {', '.join(SPLITS)}")
    if size_px < 32 or size_px % 2:
        raise ValueError(f"size_px: found {size_px}, expected an even number, 32 or more")
