"""The first n usable videos of every split, in an order that does not depend on n or on which are unavailable."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from pipeline import ledger
from pipeline.annotations import Annotation, Segment, segments_of, subset_order
from pipeline.ledger import Row

# (video_id, split, annotation) -> its row, and its file if there is one
Fetch = Callable[[str, str, Annotation], tuple[Row, Path | None]]
_BATCH = 64  # where all videos are wanted; only so that the bar moves


@dataclass
class Fetched:
    rows: list[Row] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    segments: list[Segment] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # captions repaired or dropped

    def summary(self) -> str:
        """One line of counts."""
        status = Counter(row.status for row in self.rows)
        captions = sum(len(segment.captions) for segment in self.segments)
        videos = ", ".join([f"{status.pop('ok', 0)} ok", *(f"{n} {name}" for name, n in sorted(status.items()))])
        notes = ", ".join(f"{reason}: {n}" for reason, n in sorted(self.reasons.items()))
        return f"videos: {videos}; {len(self.segments)} segments, {captions} captions" + (f"; {notes}" if notes else "")

    def failures(self) -> str:
        """The reasons why videos are not usable, commonest first."""
        reasons = Counter(f"{row.status} ({row.reason})" if row.reason else row.status for row in self.rows)
        return ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(3)) or "the annotations name none"


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
    with ThreadPoolExecutor(workers) as pool:
        for split, limit in limits.items():
            waiting = subset_order(video_id for video_id, own in splits.items() if own == split)
            missing = len(waiting) if limit is None else limit
            with tqdm(
                total=min(missing, len(waiting)), desc=f"{title} {split}", unit="video", disable=not waiting
            ) as bar:
                while waiting and missing:
                    # Never more than are still missing: so the outcome does not depend on `workers`.
                    batch, waiting = waiting[: min(missing, _BATCH)], waiting[min(missing, _BATCH) :]
                    rows = pool.map(lambda video_id: _row(video_id, splits, annotations, fetch), batch)
                    for video_id, (row, file) in zip(batch, rows, strict=True):
                        done.files |= {file} if file else set()
                        usable = _add(done, row, annotations[video_id], split, initial)
                        missing -= usable
                        bar.update(usable)
            done.rows += [Row(video_id, "skipped", "not in the subset") for video_id in waiting]
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
    segments: list[Segment] = []
    if row.status == "ok":
        segments, reasons = segments_of(annotations, split, row.duration_s, initial=initial)
        done.segments += segments
        done.reasons += reasons
        notes = [f"{reason} ({count})" for reason, count in sorted(reasons.items())]
        row = ledger.with_reason(row, "; ".join(notes if segments else ["no captions left", *notes]))
    done.rows.append(row)
    return bool(segments)
