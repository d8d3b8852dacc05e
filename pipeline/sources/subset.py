"""The first n usable videos of every split, in an order that does not depend on n or on which are unavailable."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from pipeline import ledger
from pipeline.annotations import Annotation, Segment, segments_of, subset_order
from pipeline.ledger import Journal, Row

# (video_id, split, annotation) -> its row, and its file if there is one
Fetch = Callable[[str, str, Annotation], tuple[Row, Path | None]]
_REASONS = 6  # as many are told; the ledger has them all
_AHEAD = 4  # videos begun per worker: one that takes long holds up few others


class Source(Protocol):
    """Where videos come from. identity: what an earlier run found counts as long as it stays the same."""

    identity: str
    workers: int

    def fetch(self, journal: Journal, video_id: str, split: str, annotation: Annotation) -> tuple[Row, Path | None]:
        """The video's row, and its file if there is one: in the videos' folder, under its id. Threads may call it."""

    def close(self) -> None:
        """Whoever waits in `fetch` need not."""


@dataclass
class Fetched:
    """asked: segments by split that there would be if no video had failed."""

    rows: list[Row] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    segments: list[Segment] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # captions repaired or dropped

    def summary(self) -> str:
        """One line of counts."""
        status = Counter(row.status for row in self.rows)
        captions = sum(len(segment.captions) for segment in self.segments)
        videos = ", ".join([f"{status.pop('ok', 0)} ok", *(f"{n} {name}" for name, n in sorted(status.items()))])
        notes = ", ".join(f"{reason}: {n}" for reason, n in sorted(self.reasons.items()))
        lost = self.asked.total() - len(self.segments)
        segments = f"{len(self.segments)} segments" + (f" of {self.asked.total()} asked for" if lost else "")
        return f"videos: {videos}; {segments}, {captions} captions" + (f"; {notes}" if notes else "")

    def failed(self) -> list[Row]:
        """The rows of the videos that were asked for and are not there."""
        return [row for row in self.rows if row.status not in ("ok", "skipped")]

    @staticmethod
    def reasons_of(rows: Iterable[Row]) -> str:
        """The commonest, with how many of these rows have them."""
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

    fetch is called in the order of the subset, `workers` at a time, until a split
    has as many videos that are ok and have segments as it may; the rest of the ledger's rows say `skipped`.
    """
    done = Fetched()
    pool = ThreadPoolExecutor(workers)
    try:
        for split, limit in limits.items():
            waiting = deque(subset_order(video_id for video_id, own in splits.items() if own == split))
            missing = len(waiting) if limit is None else limit
            begun: deque[tuple[str, Future[tuple[Row, Path | None]]]] = deque()
            with tqdm(
                total=min(missing, len(waiting)), desc=f"{title} {split}", unit="video", disable=not waiting
            ) as bar:
                while begun or (waiting and missing):
                    # Never more than are still missing: so the outcome does not depend on `workers`.
                    while waiting and len(begun) < min(missing, _AHEAD * workers):
                        video_id = waiting.popleft()
                        begun.append((video_id, pool.submit(_row, video_id, splits, annotations, fetch)))
                    video_id, future = begun.popleft()
                    row, file = future.result()
                    done.files |= {file} if file else set()
                    usable = _add(done, row, annotations[video_id], split, initial)
                    missing -= usable
                    bar.update(usable)
            done.rows += [Row(video_id, "skipped", "not in the subset") for video_id in waiting]
    finally:  # nobody waits for downloads of a run that was interrupted
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
    """Records the video; True if it counts towards the subset."""
    segments, reasons = segments_of(annotations, split, row.duration_s, initial=initial)
    done.asked[split] += len(segments)
    if row.status != "ok":
        done.rows.append(row)
        return False
    done.segments += segments
    done.reasons += reasons
    notes = [f"{reason} ({count})" for reason, count in sorted(reasons.items())]
    done.rows.append(ledger.with_reason(row, "; ".join(notes if segments else ["no captions left", *notes])))
    return bool(segments)
