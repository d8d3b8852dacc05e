"""Sample every video's frames: `python -m stages.frames coco|activitynet [--shards 3/16]`.

Reads data/{dataset}/videos/, segments.parquet and ledger.parquet (videos that are ok and have segments). Writes
data/{dataset}/frames/shard-*.parquet, computing only videos whose file, settings or code changed; with --shards every
16th shard from the 3rd on and no other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline import engine, frames, ledger
from pipeline.frames import Sampling, Source
from pipeline.params import load_params
from pipeline.shards import Made, Slice
from stages import run


@dataclass(frozen=True)
class Sample:
    """`engine.Compute` of frames; its items are sources."""

    sampling: Sampling
    title: str

    def __call__(self, items: Mapping[str, Source], *, cores: int) -> Iterator[Made]:
        sampled = frames.sample_all(items.values(), self.sampling, workers=cores)
        for one in tqdm(sampled, total=len(items), desc=self.title, unit="video", smoothing=0.05):
            table = frames.to_table(one, fps=self.sampling.fps) if one.jpegs else None
            yield Made(one.video_id, table, one.reason, one.final)


def main(dataset: str, part: str = "1/1") -> None:
    params, only = load_params(), Slice.parse(part)
    data, title = Path("data") / dataset, f"frames {dataset}"
    rows = ledger.read(data / "ledger.parquet")
    named = set(pq.read_table(data / "segments.parquet", columns=["video_id"])["video_id"].to_pylist())
    ok = {video_id: rows[video_id] for video_id in sorted(named) if rows[video_id].status == "ok"}
    files = {path.stem: path for path in (data / "videos").iterdir()}
    sampling = Sampling(params.frames.fps, params.frames.short_side_px, params.frames.jpeg_quality)
    work = engine.Work(
        title,
        data / "frames",
        schema=frames.SCHEMA,
        shards=params.frames.shards,
        fingerprints=frames.fingerprints({video_id: str(row.sha256) for video_id, row in ok.items()}, sampling),
        items={video_id: Source(video_id, files[video_id], row.duration_s) for video_id, row in ok.items()},
        compute=Sample(sampling, title),
    )
    done = engine.update(work, only, **params.engine.model_dump())
    for video_id, reason in done.reasons.items():
        print(f"  {video_id}: {reason}")
    print(
        f"{title}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} sampled, {done.kept} kept, {done.removed} removed, {done.dropped} dropped)"
    )


if __name__ == "__main__":
    run(main, per_dataset=True, in_parts=True)
