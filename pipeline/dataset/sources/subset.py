"""The first n usable videos of every split, in an order that does not depend on n or on which are unavailable."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.dataset import ledger
from pipeline.dataset.annotations import Annotation, subset_order
from pipeline.dataset.ledger import Journal
from pipeline.dataset.segments import Segment, references_of, segments_of
from pipeline.dataset.sources.directory import remove_all_but
from pipeline.dataset.verdict import Row
from pipeline.process import progress

# (video_id, split, annotation) -> its row, and its file if there is one
Fetch = Callable[[str, str, Annotation], tuple[Row, Path | None]]
_REASONS = 6  # how many are shown; the ledger has them all
_AHEAD = 4  # videos begun per worker, so that a slow one delays few others


class Source(Protocol):
    """Where videos come from. identity: rows of earlier runs are reused as long as it stays the same."""

    identity: str
    workers: int

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        """The video's row, and its file if there is one: in the videos' folder, under its id. Threads may call it."""

    def close(self) -> None:
        """Make all calls of `fetch` return soon."""


@dataclass
class Fetched:
    """expected: by split, the segments if no video had failed or were shorter than annotated."""

    rows: list[Row] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    segments: list[Segment] = field(default_factory=list)
    expected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # captions repaired or dropped

    def summary(self) -> str:
        """One line of counts."""
        status = Counter(row.status for row in self.rows)
        captions = sum(len(segment.captions) for segment in self.segments)
        videos = ", ".join([f"{status.pop('ok', 0)} ok", *(f"{n} {name}" for name, n in sorted(status.items()))])
        notes = ", ".join(f"{reason}: {n}" for reason, n in sorted(self.reasons.items()))
        lost = self.expected.total() - len(self.segments)
        segments = f"{len(self.segments)} segments" + (f" of {self.expected.total()} expected" if lost else "")
        return f"videos: {videos}; {segments}, {captions} captions" + (f"; {notes}" if notes else "")

    def failed(self) -> list[Row]:
        """The rows of the videos that were requested but failed."""
        return [row for row in self.rows if row.status not in ("ok", "skipped")]

    @staticmethod
    def reasons_of(rows: Iterable[Row]) -> str:
        """The most common reasons, with their counts."""
        reasons = Counter(f"{row.status} ({row.reason})" if row.reason else row.status for row in rows)
        return ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(_REASONS))


def fetch_subset(
    annotations: Mapping[str, Sequence[Annotation]],
    splits: Mapping[str, str],
    limits: Mapping[str, int | None],
    fetch: Fetch,
    *,
    initial: bool,
    workers: int,
    title: str,
) -> Fetched:
    """annotations, splits: by video id. limits: videos per split, None: all. initial: only first segments.

    fetch is called in the order of the subset, `workers` at a time, until a split has its number of videos that are ok
    and have segments. The rest of the ledger's rows are `skipped`.
    """
    done = Fetched()
    pool = ThreadPoolExecutor(workers)
    try:
        for split, limit in limits.items():
            waiting = deque(subset_order(video_id for video_id, own in splits.items() if own == split))
            missing = len(waiting) if limit is None else limit
            begun: deque[tuple[str, Future[tuple[Row, Path | None]]]] = deque()
            with progress.bar(
                total=min(missing, len(waiting)), desc=f"{title} {split}", unit="video", disable=not waiting
            ) as bar:
                while begun or (waiting and missing):
                    # Never more than are still missing, so that the result does not depend on `workers`.
                    while waiting and len(begun) < min(missing, _AHEAD * workers):
                        video_id = waiting.popleft()
                        begun.append((video_id, pool.submit(_row, video_id, splits, annotations, fetch)))
                    video_id, future = begun.popleft()
                    row, file = future.result()
                    done.files |= {file} if file else set()
                    usable = _add(done, row, annotations[video_id], split, initial)
                    missing -= usable
                    bar.total = bar.n + usable + min(missing, len(begun) + len(waiting))  # failed ones never arrive
                    bar.update(usable)
            done.rows += [Row(video_id, "skipped", "not in the subset") for video_id in waiting]
    finally:  # an interrupted run must not wait for its downloads
        pool.shutdown(wait=False, cancel_futures=True)
    return done


def _row(
    video_id: str,
    splits: Mapping[str, str],
    annotations: Mapping[str, Sequence[Annotation]],
    fetch: Fetch,
) -> tuple[Row, Path | None]:
    if refusal := ledger.refusal(video_id):
        return Row(video_id, "refused", refusal), None
    return fetch(video_id, splits[video_id], annotations[video_id][0])


def _add(done: Fetched, row: Row, annotations: Sequence[Annotation], split: str, initial: bool) -> bool:
    """Record the video; returns whether it counts towards the subset."""
    segments, reasons = segments_of(annotations, split, row.duration_s, initial=initial)
    written = len(references_of(annotations))
    done.expected[split] += min(1, written) if initial else written
    if row.status != "ok":
        done.rows.append(row)
        return False
    done.segments += segments
    done.reasons += reasons
    if row.reason and "skipped: " in row.reason:
        done.reasons["several files share a name; one was taken (the ledger says which were skipped)"] += 1
    notes = [f"{reason} ({count})" for reason, count in sorted(reasons.items())]
    done.rows.append(ledger.with_reason(row, "; ".join(notes if segments else ["no captions left", *notes])))
    return bool(segments)


def refuse_failures(fetched: Fetched, max_failed_fraction: float, dataset: str) -> None:
    """Raises ValueError if more videos failed than allowed, or all of them."""
    failed, requested = fetched.failed(), [row for row in fetched.rows if row.status != "skipped"]
    where = f"data/{dataset}/ledger.parquet has every video's reason"
    if not fetched.segments:
        why = fetched.reasons_of(requested) or "the annotations name none"
        raise ValueError(f"no video is usable: {why}; {where}")
    if len(failed) > max_failed_fraction * len(requested):
        again = sum(row.status == "unavailable" for row in failed)
        raise ValueError(
            f"{len(failed)} of {len(requested)} videos failed, {len(failed) / len(requested):.1%}; "
            f"download.{dataset}.max_failed_fraction in params.yaml allows {max_failed_fraction:.1%}: "
            f"{fetched.reasons_of(failed)}; {where}."
            + (f" {again} of these failures are temporary: try again with `make retry`." if again else "")
            + " To go on without them, raise max_failed_fraction."
        )


def refuse_empty_splits(
    files: Mapping[str, Sequence[Path] | None], fetched: Fetched, splits: Mapping[str, str], dataset: str
) -> None:
    """Raises ValueError if nothing is left of a split that has annotation files; training would only fail hours later.

    Args:
        files: the annotation files of the splits that must not be empty.
        splits: split by video id.
    """
    left = {segment.split for segment in fetched.segments}
    for split, paths in files.items():
        if not paths or split in left:
            continue
        rows = [row for row in fetched.rows if splits[row.video_id] == split]
        if rows:
            why = f"{fetched.reasons_of(rows)}; data/{dataset}/ledger.parquet has every video's reason"
        else:
            why = (
                "its files name no videos, or only videos that other splits name too, and a video belongs to one split "
                "(a hash decides which): give each split videos of its own"
            )
        names = ", ".join(map(str, paths))
        raise ValueError(
            f"no video of split {split!r} ({names}) is usable: {why}; or take the file out of "
            f"download.{dataset}.annotations.{split} in params.yaml"
        )


def remove_abandoned(unfinished: Path, rows: Iterable[Row]) -> None:
    """Remove begun downloads from the folder `unfinished`, except of videos that may be available another time."""
    if unfinished.exists():
        remove_all_but((unfinished / row.video_id for row in rows if row.status == "unavailable"), unfinished)
