"""Compute the cells of every video: `python -m studies.attend.cells [--shards 3/16]`.

Reads data/videos/frames/, studies/attend/models/net/ and the section cells of studies/attend/params.yaml. Writes
studies/attend/cells/shard-*.parquet, a row for each cell in time: video_id, cell_index, timestamp_s (when it begins),
end_s, and cells, float16 [h * w * C] of the net's layer; their metadata say h, w, C and of what net they are. Only
videos whose frames, net, settings or code changed are computed.
"""

import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import stages
from pipeline.device import choose_device, keep_freed_memory
from pipeline.features import engine, provenance, shards
from pipeline.features.shards import Entry, Slice, VideoRows
from pipeline.features.work import Work
from pipeline.params import load_params
from pipeline.process import progress
from studies.attend import nets
from studies.attend.nets import Net, Windows
from studies.attend.settings import CELLS, NET, CellsParams, load_attend

FRAMES = Path("data/videos/frames")
TITLE = "attend cells"


@dataclass(frozen=True)
class Extract:
    """`work.Compute` of cells; its items are what the shards of `frames` say of a video."""

    settings: CellsParams
    fps: float  # of the stored frames
    device: str
    shape: tuple[int, int, int]  # h, w, C

    @cached_property
    def net(self) -> Net:
        net = nets.load_net(NET, self.settings.layer)
        net.module.to(choose_device(self.device))
        return net

    def __call__(self, items: Mapping[str, Entry], *, cores: int) -> Iterator[VideoRows]:
        keep_freed_memory()
        there = [video_id for video_id, entry in items.items() if entry.rows]
        tables = shards.iterate(FRAMES, there, ["jpeg", "timestamp_s"])
        device = choose_device(self.device)
        workers = cores if device.type == "cpu" else 1
        net, waiting = self.net, deque[Future[VideoRows]]()
        # One video on one core, with sums in one order however many there are.
        with (
            ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
            progress.bar(total=len(items), desc=TITLE, unit="video", smoothing=0.05) as bar,
        ):
            coming = iter(items.items())
            try:
                while True:
                    while len(waiting) < 2 * workers and (item := next(coming, None)):
                        video_id, entry = item
                        table = next(tables)[1] if entry.rows else None
                        waiting.append(pool.submit(self._rows, net, device, video_id, entry, table))
                    if not waiting:
                        return
                    yield waiting.popleft().result()
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)

    def _rows(self, net: Net, device: torch.device, video_id: str, entry: Entry, table: pa.Table | None) -> VideoRows:
        final = bool(entry.fingerprint)  # else its frames are to be tried again
        if table is None:
            return VideoRows(video_id, None, entry.reason, final)
        own, reason = self.settings, entry.reason
        jpegs = table["jpeg"].to_pylist()[:: own.every]
        windows = Windows(len(jpegs), own.window, own.stride)
        if len(jpegs) < own.window:
            short = f"{len(jpegs)} frames, a window has {own.window}: its last frame stands for the others"
            reason = f"{reason}; {short}" if reason else short
        try:
            cells, begins = nets.video_cells(
                net, jpegs, windows, side=own.size_px, batch_size=own.batch_size, device=device
            )
        except ValueError as error:
            raise ValueError(f"{video_id}: {error}") from None
        start_s, frame_s = float(table["timestamp_s"][0].as_py()), own.every / self.fps
        edges = [start_s + begin * frame_s for begin in begins] + [start_s + len(jpegs) * frame_s]
        cells = nets.aligned(cells, own.align)
        if len(cells) != len(begins):
            edges = list(np.linspace(edges[0], edges[-1], len(cells) + 1))
        return VideoRows(video_id, to_table(video_id, cells.half().flatten(1).numpy(), edges), reason, final)


def to_table(video_id: str, cells: np.ndarray, edges: list[float]) -> pa.Table:
    """cells: float16 [T, h * w * C]. edges: T + 1 times in seconds."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(cells).ravel()), cells.shape[1])
    values = [[video_id] * len(cells), np.arange(len(cells), dtype=np.int32), edges[:-1], edges[1:], column]
    return pa.table(values, schema=schema_of(cells.shape[1]))


def schema_of(width: int, metadata: dict[str, str] | None = None) -> pa.Schema:
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("cell_index", pa.int32()),
            ("timestamp_s", pa.float64()),
            ("end_s", pa.float64()),
            ("cells", pa.list_(pa.float16(), width)),
        ],
        metadata,
    )


def shape_of(folder: Path) -> tuple[int, int, int]:
    """h, w, C of the shards' cells. Raises ValueError if there are none."""
    first = next(iter(sorted(folder.glob("shard-*.parquet"))), None)
    if first is None:
        raise ValueError(f"{folder} holds no cells; make them with: python -m studies.attend.cells")
    h, w, channels = json.loads(pq.read_schema(first).metadata[b"shape"])
    return h, w, channels


def main(part: str = "1/1") -> None:
    attend, params, only = load_attend(), load_params(), Slice.parse(part)
    own = attend.cells
    shards.count(FRAMES)
    frames = shards.index(FRAMES, only)
    net = nets.load_net(NET, own.layer)
    grid = nets.aligned(
        net.cells(torch.zeros(1, own.window, own.size_px, own.size_px, 3, dtype=torch.uint8))[0], own.align
    )
    shape = (int(grid.shape[1]), int(grid.shape[2]), int(grid.shape[3]))
    metadata = {
        "shape": json.dumps(shape),
        "net": json.loads((NET / nets.CONFIG).read_text()).get("name", "builtin"),
        "cells": own.model_dump_json(),
    }
    work = Work(
        TITLE,
        CELLS,
        schema=schema_of(shape[0] * shape[1] * shape[2], metadata),
        shards=params.frames.shards,
        fingerprints=provenance.fingerprints(
            frames, f"{nets.digest(NET)} {own} {params.frames.fps}", Path(nets.__file__), [Path(__file__)]
        ),
        items=frames,
        compute=Extract(own, params.frames.fps, params.device, shape),
        keeps="gpu model" if params.device in ("auto", "cuda") else "model",
    )
    _say_how_much(work, only, frames, own, shape, len(grid))
    done = engine.update(work, only, **params.engine.model_dump())
    print(
        f"{TITLE}: {done.rows} cells in time, {shape[0]} x {shape[1]} places, {shape[2]} channels, of "
        f"{done.kept + done.made - done.dropped} videos ({done.made} computed, {done.kept} kept, "
        f"{done.removed} removed, {done.dropped} without frames; {len(done.reasons) - done.dropped} cut or padded)"
    )


def _say_how_much(
    work: Work, only: Slice, frames: Mapping[str, Entry], own: CellsParams, shape: tuple[int, int, int], t: int
) -> None:
    """Before the time and the disk are spent. Raises ValueError where the disk has no room for it."""
    todo = [video_id for stale in work.plan(only)[1] for video_id in stale.todo]
    in_time = sum(
        own.align[0] or max(frames[video_id].rows / own.every / own.window * t, 1)
        for video_id in todo
        if frames[video_id].rows
    )
    size = in_time * shape[0] * shape[1] * shape[2] * 2
    print(
        f"{TITLE}: {len(todo)} videos to compute, about {size / 1e6:.0f} MB "
        f"({size / max(len(todo), 1) / 1e6:.2f} MB a video, {shape[0]} x {shape[1]} x {shape[2]} in float16)",
        flush=True,
    )
    CELLS.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(CELLS.parent).free) < size:
        raise ValueError(
            f"the disk of {CELLS} has {free / 1e9:.1f} GB free, the cells need {size / 1e9:.1f} GB: free some, or set "
            "cells.align in studies/attend/params.yaml to fewer places"
        )


if __name__ == "__main__":
    stages.run(kept="shards that are complete", in_parts=True)
