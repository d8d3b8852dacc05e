"""Sample every video's frames: `python -m stages.frames coco|activitynet [--shards 3/16]`.

Reads segments.parquet and ledger.parquet of data/{dataset}/ (videos that are ok and have segments), and the files in
videos/ of those to sample. Writes data/{dataset}/frames/shard-*.parquet, computing only videos whose sha256 in the
ledger, settings or code changed; with --shards every 16th shard from the 3rd on and no other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline import engine, frames, ledger, media
from pipeline.frames import Sampling, Source
from pipeline.ledger import Row
from pipeline.params import load_params
from pipeline.shards import Made, Slice
from stages import run


@dataclass(frozen=True)
class Sample:
    """`engine.Compute` of frames; its items are rows of the ledger."""

    videos: Path
    sampling: Sampling
    title: str

    def __call__(self, items: Mapping[str, Row], *, cores: int) -> Iterator[Made]:
        return self.sampled(find_sources(list(items.values()), self.videos), len(items), cores)

    def sampled(self, sources: Iterator[Source], count: int, cores: int) -> Iterator[Made]:
        found = frames.sample_all(sources, self.sampling, workers=cores)
        for one in tqdm(found, total=count, desc=self.title, unit="video", smoothing=0.05):
            table = frames.to_table(one, fps=self.sampling.fps) if one.jpegs else None
            yield Made(one.video_id, table, one.reason, one.final)


def main(dataset: str, part: str = "1/1") -> None:
    params, only = load_params(), Slice.parse(part)
    data, title = Path("data") / dataset, f"frames {dataset}"
    rows = ledger.read(data / "ledger.parquet")
    named = set(pq.read_table(data / "segments.parquet", columns=["video_id"])["video_id"].to_pylist())
    ok = {video_id: rows[video_id] for video_id in sorted(named) if rows[video_id].status == "ok"}
    sampling = Sampling(params.frames.fps, params.frames.short_side_px, params.frames.jpeg_quality)
    work = engine.Work(
        title,
        data / "frames",
        schema=frames.SCHEMA,
        shards=params.frames.shards,
        fingerprints=frames.fingerprints({video_id: str(row.sha256) for video_id, row in ok.items()}, sampling),
        items=ok,
        compute=Sample(data / "videos", sampling, title),
    )
    done = engine.update(work, only, **params.engine.model_dump())
    for video_id, reason in done.reasons.items():
        print(f"  {video_id}: {reason}")
    print(
        f"{title}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} sampled, {done.kept} kept, {done.removed} removed, {done.dropped} dropped)"
    )


def find_sources(rows: Sequence[Row], videos: Path) -> Iterator[Source]:
    """These rows' files in `videos`, each compared with its sha256 when its turn comes.

    Nobody else vouches for them: DVC does not know the files (docs/architecture.md). ValueError; if some are absent or
    of another size, before any is read.
    """
    fetch = f"with: dvc repro -f download@{videos.parent.name}"
    files = media.files(videos) if videos.is_dir() else {}
    lost = [row for row in rows if row.video_id not in files or media.size_of(files[row.video_id]) != row.bytes]
    if lost:
        raise ValueError(
            f"of {len(rows)} videos to sample, {len(lost)} are absent from {videos}, or not the files that the ledger "
            f"knows (first: {lost[0].video_id}); fetch them {fetch}"
        )

    def compared() -> Iterator[Source]:
        for row in rows:
            path = files[row.video_id]
            if ledger.sha256_of(path) != row.sha256:
                raise ValueError(f"{path} is not the file that the ledger knows; delete it, and fetch it {fetch}")
            yield Source(row.video_id, path, row.duration_s)

    return compared()


if __name__ == "__main__":
    run(per_dataset=True, in_parts=True)
