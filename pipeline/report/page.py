"""The page as one file that needs no network: what the runs say, and the frames as small pictures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import ledger, shards
from pipeline.compare import METRICS, SHOWN, bootstrap, by_segment, compare, groups_of, resampled
from pipeline.report.runs import Run, changed
from pipeline.variants import curve_by_length
from pipeline.web import assemble, moments, strip, thumbnail

DATA = Path("data/activitynet")
DRAWS = 2000  # of the bootstrap, here


def write_page(runs: Sequence[Run], out: Path, *, fps: float) -> str:
    """Write the page of the runs to `out`; returns a line on what is in it.

    Raises ValueError if the runs are not of the same segments.
    """
    content = gather(runs, fps=fps)
    html = assemble(Path(__file__).parent, "Captions and what the memory saw", content)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".aside")
    aside.write_text(html, encoding="utf-8")
    aside.replace(out)
    pictures = sum(len(video["thumbnails"]) for video in content["videos"].values())
    return (
        f"{len(runs)} runs, {len(content['segments'])} segments, {pictures} pictures, {out.stat().st_size / 1e6:.1f} MB"
    )


def gather(runs: Sequence[Run], *, fps: float) -> dict[str, Any]:
    """All that the page shows, as JSON has it."""
    first = runs[0].scores
    tables = [by_segment(first, run.scores)[1].sort_values(["video_id", "start_s", "end_s"]) for run in runs]
    segments = [_segment([table.loc[id] for table in tables], fps=fps) for id in tables[0].index]
    for segment in segments:
        segment["moments"] = [moments(run.retrieved.get(segment["id"], ())) for run in runs]
    wanted: dict[str, set[int]] = {}
    for segment in segments:
        shown = [moment["frame"] for of_run in segment["moments"] for moment in of_run]
        wanted.setdefault(segment["video"], set()).update(segment["strip"], shown)
    differences = compare(first, runs[-1].scores, draws=DRAWS) if len(runs) > 1 else []
    return {
        "fps": fps,
        "runs": [{"name": run.name, "corpus": run.corpus, "remembers": bool(run.retrieved)} for run in runs],
        "changed": changed(list(runs)),
        "groups": _groups(tables),
        "differences": [asdict(one) for one in differences],
        "curves": [_curve(table) for table in tables],
        "segments": segments,
        "videos": _videos(wanted),
    }


def _segment(rows: Sequence[pd.Series], *, fps: float) -> dict[str, Any]:
    one = rows[0]
    captions = []
    for row in rows:
        scores = {metric: _number(row[metric]) for metric in METRICS if metric in row.index and metric != "facts"}
        right = row.get("facts")
        captions.append({"text": row["caption"], "scores": scores, "facts": None if pd.isna(right) else bool(right)})
    return {
        "id": one.name,
        "video": one["video_id"],
        "kind": None if pd.isna(one["kind"]) else one["kind"],
        "start": float(one["start_s"]),
        "end": float(one["end_s"]),
        "references": list(one["references"]),
        "captions": captions,
        "strip": strip(one["start_s"], one["end_s"], fps),
    }


def _groups(tables: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Every metric's mean and 95 % interval by group and run."""
    rng = np.random.default_rng(0)
    groups = []
    for name, rows in groups_of(tables[0]):
        scores: dict[str, list[list[float]]] = {}
        weights = resampled(int(rows.sum()), rng, DRAWS)
        for metric in METRICS:
            if metric not in SHOWN or any(metric not in table or table[metric][rows].isna().any() for table in tables):
                continue
            for table in tables:
                values = table[metric][rows].to_numpy(np.float64) * (100 if metric == "facts" else 1)
                low, high, _ = bootstrap(values, weights)
                scores.setdefault(metric, []).append([_number(values.mean()), _number(low), _number(high)])
        groups.append({"name": name, "segments": int(rows.sum()), "scores": scores})
    return groups


def _curve(table: pd.DataFrame) -> list[list[float]]:
    """[length in seconds, mean CIDEr, low, high] at each point."""
    curve = curve_by_length([table.reset_index()], points=60, draws=DRAWS)
    return np.stack([curve.lengths_s, curve.mean, curve.low, curve.high], axis=1).round(2).tolist()


def _videos(wanted: dict[str, set[int]]) -> dict[str, dict[str, Any]]:
    """Of each video its length and the frames asked for, as small pictures."""
    rows = ledger.read(DATA / "ledger.parquet")
    videos = {}
    for video_id, table in shards.iterate(DATA / "frames", sorted(wanted), ["frame_index", "jpeg"]):
        indices = table["frame_index"].to_pylist()
        at = {index: i for i, index in enumerate(indices)}
        # A segment that ends a little behind its video's last frame shows that one.
        shown = {index: at.get(index, len(indices) - 1) for index in sorted(wanted[video_id])}
        videos[video_id] = {
            "duration": rows[video_id].duration_s,
            "thumbnails": {index: thumbnail(table["jpeg"][i].as_py()) for index, i in shown.items()},
        }
    return videos


def _number(value: float) -> float:
    return round(float(value), 2)
