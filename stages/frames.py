"""Sample every video's frames: `python -m stages.frames pictures|videos [--shards 3/16]`.

Reads segments.parquet and ledger.parquet of data/{dataset}/ (videos that are ok and have segments), and the files in
media/ of those to sample. Writes data/{dataset}/frames/shard-*.parquet, computing only videos whose sha256 in the
ledger, settings or code changed; with --shards only every 16th shard from the 3rd on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.dataset import ledger, media, verdict
from pipeline.dataset.verdict import Row
from pipeline.features import engine, frames
from pipeline.features.frames import Sampling, Source
from pipeline.features.shards import Slice, VideoRows
from pipeline.features.work import Work
from pipeline.params import load_params
from pipeline.process import progress
from pipeline.process.terminal import printable
from stages import run


@dataclass(frozen=True)
class Sample:
    """`work.Compute` of frames; its items are rows of the ledger."""

    videos: Path
    sampling: Sampling
    title: str

    def __call__(self, items: Mapping[str, Row], *, cores: int) -> Iterator[VideoRows]:
        return self.sampled(find_sources(list(items.values()), self.videos), len(items), cores)

    def sampled(self, sources: Iterator[Source], count: int, cores: int) -> Iterator[VideoRows]:
        found = frames.sample_all(sources, self.sampling, workers=cores)
        for one in progress.bar(found, total=count, desc=self.title, unit="video", smoothing=0.05):
            table = frames.to_table(one, fps=self.sampling.fps) if one.jpegs else None
            yield VideoRows(one.video_id, table, one.reason, one.final)


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
        fingerprints=frames.fingerprints({video_id: known_of(row) for video_id, row in ok.items()}, sampling),
        items=ok,
        compute=Sample(data / "media", sampling, title),
    )
    done = engine.update(work, only, **params.engine.model_dump())
    for video_id, reason in done.reasons.items():
        print(f"  {printable(video_id)}: {printable(reason)}")
    print(
        f"{title}: {done.rows} frames of {done.kept + done.made - done.dropped} videos "
        f"({done.made} sampled, {done.kept} kept, {done.removed} removed, {done.dropped} dropped)"
    )


def known_of(row: Row) -> tuple[str, float | None, bool]:
    """What the ledger says of a file, as far as its frames depend on it."""
    return str(row.sha256), row.duration_s, row.kind == "picture"


def find_sources(rows: Sequence[Row], videos: Path) -> Iterator[Source]:
    """The files of these rows in `videos`, each compared with its SHA-256 when its turn comes.

    DVC does not check these files (docs/architecture.md), so this does. Raises ValueError; before any file is read if
    some are missing or differ in size.
    """
    fetch = f"with: dvc repro -f download@{videos.parent.name}"
    files = media.files(videos) if videos.is_dir() else {}
    lost = [row for row in rows if row.video_id not in files or media.size_of(files[row.video_id]) != row.bytes]
    if lost:
        raise ValueError(
            f"of {len(rows)} videos to sample, {len(lost)} are missing from {videos} or differ from the "
            f"ledger (first: {lost[0].video_id}); fetch them {fetch}"
        )

    def compared() -> Iterator[Source]:
        for row in rows:
            path = files[row.video_id]
            if verdict.sha256_of(path) != row.sha256:
                raise ValueError(f"{path} differs from the file in the ledger; delete it, and fetch it {fetch}")
            _, duration_s, is_picture = known_of(row)
            yield Source(row.video_id, path, duration_s, is_picture)

    return compared()


if __name__ == "__main__":
    run(kept="shards that are complete", per_dataset=True, in_parts=True)
