"""The rows of the frames' shards: a dataset's files, as its ledger lists them, sampled one after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset import media, verdict
from pipeline.dataset.verdict import Row
from pipeline.features import frames
from pipeline.features.frames import Sampling, Source
from pipeline.features.shards import VideoRows
from pipeline.process import progress


@dataclass(frozen=True)
class FrameRows:
    """`work.Compute` of frames; its items are rows of the ledger."""

    videos: Path
    sampling: Sampling
    title: str

    def __call__(self, items: Mapping[str, Row], *, cores: int) -> Iterator[VideoRows]:
        return self._sampled(find_sources(list(items.values()), self.videos), len(items), cores)

    def _sampled(self, sources: Iterator[Source], count: int, cores: int) -> Iterator[VideoRows]:
        found = frames.sample_all(sources, self.sampling, workers=cores)
        for one in progress.bar(found, total=count, desc=self.title, unit="video", smoothing=0.05):
            table = frames.to_table(one, fps=self.sampling.fps) if one.jpegs else None
            yield VideoRows(one.video_id, table, one.reason, one.final)


def fingerprints(rows: Mapping[str, Row], sampling: Sampling) -> dict[str, str]:
    """Of each of the ledger's rows what its frames' shard records if they are current."""
    return frames.fingerprints({video_id: _known_of(row) for video_id, row in rows.items()}, sampling)


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
            _, duration_s, is_picture = _known_of(row)
            yield Source(row.video_id, path, duration_s, is_picture)

    return compared()


def _known_of(row: Row) -> tuple[str, float | None, bool]:
    """What the ledger knows of a file, as far as its frames depend on it."""
    return str(row.sha256), row.duration_s, row.kind == "picture"
