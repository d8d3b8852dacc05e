"""Sample every video's frames: `python -m stages.frames pictures|videos [--shards 3/16]`.

Reads segments.parquet and ledger.parquet of data/{dataset}/ (videos that are ok and have segments), and the files in
media/ of those to sample. Writes data/{dataset}/frames/shard-*.parquet, computing only videos whose sha256 in the
ledger, settings or code changed; with --shards only every 16th shard from the 3rd on.
"""

from pathlib import Path

import pyarrow.parquet as pq

from pipeline.dataset import ledger
from pipeline.features import engine, frame_rows, frames
from pipeline.features.frame_rows import FrameRows
from pipeline.features.frames import Sampling
from pipeline.features.shards import Slice
from pipeline.features.work import Work
from pipeline.params import load_params
from pipeline.process.terminal import printable
from stages import run


def main(dataset: str, part: str = "1/1") -> None:
    params, only = load_params(), Slice.parse(part)
    data, title = Path("data") / dataset, f"frames {dataset}"
    rows = ledger.read(data / "ledger.parquet")
    named = set(pq.read_table(data / "segments.parquet", columns=["video_id"])["video_id"].to_pylist())
    ok = {video_id: rows[video_id] for video_id in sorted(named) if rows[video_id].status == "ok"}
    sampling = Sampling(params.frames.fps, params.frames.short_side_px, params.frames.jpeg_quality)
    work = Work(
        title,
        data / "frames",
        schema=frames.SCHEMA,
        shards=params.frames.shards,
        fingerprints=frame_rows.fingerprints(ok, sampling),
        items=ok,
        compute=FrameRows(data / "media", sampling, title),
    )
    done = engine.update(work, only, **params.engine.model_dump())
    for video_id, reason in done.reasons.items():
        print(f"  {printable(video_id)}: {printable(reason)}")
    print(
        f"{title}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} sampled, {done.kept} kept, {done.removed} removed, {done.dropped} dropped)"
    )


if __name__ == "__main__":
    run(kept="shards that are complete", per_dataset=True, in_parts=True)
