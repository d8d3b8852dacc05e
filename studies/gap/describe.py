"""Caption frames with the CoCa, and embed frames and captions: `python -m studies.gap.describe [--shards 3/16]`.

Reads data/videos/frames/, data/videos/segments.parquet, studies/gap/models/coca and studies/gap/params.yaml (describe).
Writes studies/gap/out/described/shard-*.parquet, computing only videos whose frames, model, settings or code changed,
and appends to studies/gap/out/describing.jsonl what each of these took. That is not in the shards, because their bytes
are those of any run.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.annotations import subset_order
from pipeline.device import choose_device
from pipeline.features import embedding_rows, engine, provenance, shards
from pipeline.features.embedding_rows import every_nth
from pipeline.features.encoder import embedding_width
from pipeline.features.shards import Entry, Slice, VideoRows
from pipeline.features.work import Work
from pipeline.params import embedded_fps, load_params
from pipeline.process import progress
from pipeline.serving import cuts
from stages import run
from studies.gap import coca_model
from studies.gap.coca_model import Caption, Coca
from studies.gap.settings import COCA, DESCRIBED, DESCRIBING, FRAMES, OUT, SEGMENTS, DescribeParams, load_study

MIN_S = 1.0  # cuts are at least so far apart


@dataclass(frozen=True)
class Describe:
    """`work.Compute` of captions; its items are what the shards of frames say of a video."""

    device: str
    options: DescribeParams
    fps: float  # of the frames that are embedded: the others are never chosen
    every: int

    @cached_property
    def coca(self) -> Coca:
        """Loaded once, where it is first needed."""
        return coca_model.load_coca(COCA, device=choose_device(self.device))

    @cached_property
    def parameters(self) -> int:
        return sum(weights.numel() for weights in self.coca.model.parameters())

    def __call__(self, items: Mapping[str, Entry], *, cores: int) -> Iterator[VideoRows]:
        schema = schema_of(self.coca.width)
        with progress.bar(total=len(items), desc="describe", unit="video") as bar:
            for video_id, entry in items.items():
                if entry.rows:
                    # One by one: shards of another count have the videos in another order.
                    stored = shards.read(FRAMES, video_id, ["frame_index", "timestamp_s", "jpeg"])
                    [(_, table)] = every_nth([(video_id, stored)], self.every)
                    started = time.process_time()
                    described = self.describe(video_id, table, schema)
                    self.note(video_id, time.process_time() - started)
                    yield VideoRows(video_id, described, entry.reason, bool(entry.fingerprint))
                else:
                    reason = entry.reason or "no frames"
                    yield VideoRows(video_id, None, reason, bool(entry.fingerprint))
                bar.update()

    def describe(self, video_id: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """The chosen frames of a video's table; a picture that stays is captioned once."""
        jpegs = table["jpeg"]
        chosen = choose(table["timestamp_s"].to_pylist(), self.options, self.fps, jpegs)
        pictures = [jpegs[i].as_py() for i in chosen]
        first = {jpeg: i for i, jpeg in reversed(list(enumerate(pictures)))}
        different = sorted(first.values())
        captions: list[Caption] = []
        images, texts = [], []
        for at in range(0, len(different), self.options.batch_size):
            # A video's own batches: what it says does not depend on which videos are described with it.
            latents, tokens = self.coca.images([pictures[i] for i in different[at : at + self.options.batch_size]])
            search = {name: getattr(self.options, name) for name in ("beams", "max_tokens", "length_penalty")}
            captions += self.coca.captions(tokens, **search)
            images.append(latents.float().cpu().numpy())
            texts.append(self.coca.texts([one.text for one in captions[at:]]).float().cpu().numpy())
        number = {i: row for row, i in enumerate(different)}
        rows = [number[first[jpeg]] for jpeg in pictures]

        def column(arrays: Sequence[np.ndarray]) -> pa.Array:
            wide = np.concatenate(arrays)[rows].astype(np.float16)
            return pa.FixedSizeListArray.from_arrays(pa.array(wide.ravel()), wide.shape[1])

        values: dict[str, Any] = {
            "video_id": [video_id] * len(chosen),
            "frame_index": table["frame_index"].take(chosen),
            "timestamp_s": table["timestamp_s"].take(chosen),
            "caption": [captions[row].text for row in rows],
            "log_prob": [captions[row].log_prob for row in rows],
            "image_embedding": column(images),
            "text_embedding": column(texts),
        }
        return pa.table(values).cast(schema)

    def note(self, video_id: str, cpu_s: float) -> None:
        """Also of a video whose shard a kill loses: what is noted last counts."""
        line = json.dumps({"video_id": video_id, "cpu_s": round(cpu_s, 6), "parameters": self.parameters}) + "\n"
        with DESCRIBING.open("a") as file:
            file.write(line)


def choose(timestamps: Sequence[float], options: DescribeParams, fps: float, jpegs: Any) -> list[int]:
    """Which frames of a video are described, ascending, at most `count`; a video that has frames gives at least one."""
    total = len(timestamps)
    if options.frames == "every_s":
        indices = [0]
        for i, time in enumerate(timestamps):
            if time - timestamps[indices[-1]] >= options.every_s - 1e-6:
                indices.append(i)
    elif options.frames == "cuts":
        stretches = cuts.find_segments((jpeg.as_py() for jpeg in jpegs), fps=fps, least_s=MIN_S)
        indices = [min(int((start + end) / 2 * fps), total - 1) for start, end in stretches]
    else:
        indices = list(range(total))
    if len(indices) <= options.count:
        return indices
    return [
        indices[int((i + 0.5) * len(indices) / options.count)] for i in range(options.count)
    ]  # of equal parts, the middles


def schema_of(width: int) -> pa.Schema:
    embedding = pa.list_(pa.float16(), width)
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("frame_index", pa.int32()),
            ("timestamp_s", pa.float64()),
            ("caption", pa.string()),
            ("log_prob", pa.float64()),
            ("image_embedding", embedding),
            ("text_embedding", embedding),
        ]
    )


def chosen_videos(options: DescribeParams) -> list[str]:
    """At most so many of each split, by a hash of their ids, so that more videos leave those that are there."""
    table = pq.read_table(SEGMENTS["videos"], columns=["video_id", "split"])
    of_split: dict[Any, set[str]] = {}
    for video_id, split in zip(*(table[name].to_pylist() for name in ("video_id", "split")), strict=True):
        of_split.setdefault(split, set()).add(video_id)
    return sorted(
        video_id
        for split, videos in of_split.items()
        for video_id in subset_order(videos)[: options.videos.get(split, 0)]
    )


def main(part: str = "1/1") -> None:
    params, options, only = load_params(), load_study().describe, Slice.parse(part)
    found = shards.index(FRAMES)
    frames = {video_id: found[video_id] for video_id in chosen_videos(options) if video_id in found}
    fps, every = embedded_fps(params), params.embed.every
    settings = f"{coca_model.digest(COCA)} {options} {fps} {every}"
    code, files = Path(coca_model.__file__), [Path(__file__), Path(cuts.__file__), Path(embedding_rows.__file__)]
    work = Work(
        "describe",
        DESCRIBED,
        schema=schema_of(embedding_width(COCA)),
        shards=options.shards,
        fingerprints=provenance.fingerprints(frames, settings, code, files),
        items=frames,
        compute=Describe(params.device, options, fps, every),
        keeps="gpu model" if params.device in ("auto", "cuda") else "model",
    )
    OUT.mkdir(parents=True, exist_ok=True)
    DESCRIBING.touch()
    done = engine.update(work, only, **params.engine.model_dump())
    print(
        f"describe: {done.rows} frames of {done.kept + done.made - done.dropped} videos captioned "
        f"({done.made} videos described, {done.kept} kept, {done.removed} removed, {done.dropped} without frames)"
    )


if __name__ == "__main__":
    run(kept="shards that are complete", in_parts=True)
