"""Sample every video's frames: `python -m stages.frames coco|activitynet`.

Reads data/{dataset}/videos/, segments.parquet and ledger.parquet (videos that are ok and have segments). Writes
data/{dataset}/frames/shard-*.parquet, computing only videos whose file, settings or code changed.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline import frames, ledger, media, shards
from pipeline.cores import cores
from pipeline.frames import Sampling, Source
from pipeline.params import load_params
from pipeline.shards import Made
from stages import run


def main(dataset: str) -> None:
    params = load_params().frames
    data = Path("data") / dataset
    rows = ledger.read(data / "ledger.parquet")
    named = set(pq.read_table(data / "segments.parquet", columns=["video_id"])["video_id"].to_pylist())
    ok = {video_id: rows[video_id] for video_id in sorted(named) if rows[video_id].status == "ok"}
    files = media.files(data / "videos")
    sampling = Sampling(params.fps, params.short_side_px, params.jpeg_quality)

    def compute(video_ids: list[str]) -> Iterator[Made]:
        sources = (Source(video_id, files[video_id], ok[video_id].duration_s) for video_id in video_ids)
        sampled = frames.sample_all(sources, sampling, workers=cores())
        for one in tqdm(sampled, total=len(video_ids), desc=f"frames {dataset}", unit="video", smoothing=0.05):
            table = frames.to_table(one, fps=params.fps) if one.jpegs else None
            yield Made(one.video_id, table, one.reason, one.final)

    done = shards.update(
        data / "frames",
        schema=frames.SCHEMA,
        shards=params.shards,
        fingerprints=frames.fingerprints({video_id: str(row.sha256) for video_id, row in ok.items()}, sampling),
        compute=compute,
    )
    for video_id, reason in done.reasons.items():
        print(f"  {video_id}: {reason}")
    print(
        f"frames {dataset}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} sampled, {done.kept} kept, {done.removed} removed, {done.dropped} dropped)"
    )


if __name__ == "__main__":
    run(main, per_dataset=True)
