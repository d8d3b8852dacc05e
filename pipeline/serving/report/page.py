"""The page as one file that needs no network: the runs' results, and frames as small pictures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.dataset import ledger
from pipeline.features import shards
from pipeline.files import strict_json
from pipeline.files.aside import write_text
from pipeline.scoring.paired import bootstrap, compare, groups_of, means, resampled, sums, videos_of
from pipeline.scoring.registry import MAIN, SCORES, in_tables
from pipeline.scoring.segment_scores import by_segment
from pipeline.scoring.variants import curve_by_length
from pipeline.serving.report.runs import Run, changed
from pipeline.serving.web import assemble, moments, strip, thumbnail, webp

DATA = Path("data/videos")
CAPTIONERS = Path("metrics/captioners.json")  # pipeline.table's, if it was made
EXPLAINED = Path("studies/attend/explained")  # strips of the study of attention, if it was run: SEGMENT-METHOD.png
METHODS = ("attention", "hirescam", "gradcam", "gradcam++")  # the first of them is shown first
STRIP_PX = 1280  # longer side, at most
DRAWS = 2000  # draws of the bootstrap of each run by itself


def write_page(runs: Sequence[Run], out: Path, *, fps: float) -> str:
    """Write the page of the runs to `out`; returns a line on its content.

    Raises ValueError if the runs do not have the same segments.
    """
    content = gather(runs, fps=fps)
    html = assemble(Path(__file__).parent, "Captions and what the memory saw", content)
    write_text(out, html)
    pictures = sum(len(video["thumbnails"]) for video in content["videos"].values())
    return (
        f"{len(runs)} runs, {len(content['segments'])} segments, {pictures} pictures, {out.stat().st_size / 1e6:.1f} MB"
    )


def gather(runs: Sequence[Run], *, fps: float) -> dict[str, Any]:
    """Everything the page shows, as JSON values."""
    first = runs[0].scores
    tables = [by_segment(first, run.scores)[1].sort_values(["video_id", "start_s", "end_s"]) for run in runs]
    values = [pd.DataFrame({name: one.values(table) for name, one in SCORES.items()}, table.index) for table in tables]
    segments = [
        _segment([table.loc[id] for table in tables], [table.loc[id].dropna() for table in values], fps=fps)
        for id in tables[0].index
    ]
    for segment in segments:
        segment["moments"] = [_moments(run, segment["id"], fps=fps) for run in runs]
        segment["explained"] = _explained(segment["id"])
    wanted: dict[str, set[int]] = {}
    for segment in segments:
        shown = [moment["frame"] for of_run in segment["moments"] for moment in of_run]
        wanted.setdefault(segment["video"], set()).update(segment["strip"], shown)
    differences = compare(first, runs[-1].scores) if len(runs) > 1 else []
    return {
        "fps": fps,
        "runs": [{"name": run.name, "corpus": run.corpus, "remembers": bool(run.retrieved)} for run in runs],
        "changed": changed(list(runs)),
        "main": MAIN,
        "scores": [
            {"name": one.name, "meaning": one.meaning, "boolean": one.boolean, "higher": one.higher_is_better}
            for one in in_tables()
        ],
        "groups": _groups(tables),
        "differences": [asdict(one) for one in differences if one.low is not None],
        "curves": [_curve(table) for table in tables],
        "captioners": strict_json.load(CAPTIONERS) if CAPTIONERS.is_file() else None,
        "segments": segments,
        "videos": _videos(wanted),
    }


def _segment(rows: Sequence[pd.Series], values: Sequence[pd.Series], *, fps: float) -> dict[str, Any]:
    """Each run's row and scores for a segment."""
    one = rows[0]
    captions = [
        {"text": row["caption"], "scores": {str(name): _number(value) for name, value in scores.items()}}
        for row, scores in zip(rows, values, strict=True)
    ]
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
    """Every metric's mean and 95 % interval (over videos) by group and run."""
    rng = np.random.default_rng(0)
    groups = []
    for name, rows in groups_of(tables[0]):
        scores: dict[str, list[list[float]]] = {}
        of_runs = []  # metric, and a run's column of it
        for score in in_tables():
            of_each = [score.values(table[rows]) for table in tables]
            if np.isfinite(of_each).all():
                of_runs += [(score.name, values) for values in of_each]
        videos = videos_of(tables[0][rows])
        columns = [sums(values, videos) for _, values in of_runs]
        resamples = means(columns, resampled(np.bincount(videos), rng, DRAWS))
        for i, (metric, values) in enumerate(of_runs):
            low, high, _ = bootstrap(resamples[:, i], values.mean())
            scores.setdefault(metric, []).append([_number(values.mean()), _number(low), _number(high)])
        groups.append({"name": name, "segments": int(rows.sum()), "scores": scores})
    return groups


def _curve(table: pd.DataFrame) -> list[list[float]]:
    """[length in seconds, mean of the main score, low, high] at each point."""
    curve = curve_by_length([table.reset_index()], points=60, draws=DRAWS)
    return np.stack([curve.lengths_s, curve.mean, curve.low, curve.high], axis=1).round(2).tolist()


def _moments(run: Run, segment_id: str, *, fps: float) -> list[dict[str, Any]]:
    """Of the frames of the page, whatever rate the run saw its own at."""
    found = moments(run.retrieved.get(segment_id, ()))
    rate = fps / float(run.params.get("frames.fps", fps)) * float(run.params.get("embed.every", 1))
    return [{**moment, "frame": round(moment["frame"] * rate)} for moment in found]


def _explained(segment_id: str) -> list[dict[str, str]]:
    """What the attention captioner looked at for each word, by every method: strips as WebP, base64."""
    name = segment_id.replace("#", "-")
    paths = {method: EXPLAINED / f"{name}-{method}.png" for method in METHODS}
    return [
        {"method": method, "strip": webp(path.read_bytes(), STRIP_PX)}
        for method, path in paths.items()
        if path.is_file()
    ]


def _videos(wanted: dict[str, set[int]]) -> dict[str, dict[str, Any]]:
    """Each video's length, and the frames that are shown, as small pictures.

    Raises ValueError for a video whose frames are not in the workspace.
    """
    rows = ledger.read(DATA / "ledger.parquet")
    if absent := sorted(wanted.keys() - shards.index(DATA / "frames").keys()):
        raise ValueError(
            f"{DATA / 'frames'} has no frames of {absent[0]!r}, whose captions were scored; get the data of a run that "
            "has them: git checkout the run, then dvc checkout"
        )
    videos = {}
    for video_id, table in shards.iterate(DATA / "frames", sorted(wanted), ["frame_index", "jpeg"]):
        indices = table["frame_index"].to_pylist()
        at = {index: i for i, index in enumerate(indices)}
        # A segment that ends slightly after its video's last frame shows that frame.
        shown = {index: at.get(index, len(indices) - 1) for index in sorted(wanted[video_id])}
        videos[video_id] = {
            "duration": rows[video_id].duration_s,
            "thumbnails": {index: thumbnail(table["jpeg"][i].as_py()) for index, i in shown.items()},
        }
    return videos


def _number(value: float) -> float:
    return round(float(value), 2)
