"""Explain captions and score the explanations: `python -m studies.attend.explain`.

Reads the section explain of studies/attend/params.yaml, studies/attend/cells/, models/ and out/ of the attention that
it names, data/videos/frames/, and the built-in dataset's scenes.json and boxes.parquet. Writes
metrics/attend/explanations.json, and studies/attend/explained/: pointing.csv (means with intervals, by method and class
of word), words.csv (each word), and of some segments SEGMENT-METHOD.png and SEGMENT.mp4. Of other datasets there is
nothing to score, only to look at.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

import stages
from pipeline.dataset.annotations import subset_order
from pipeline.dataset.segments import from_table
from pipeline.device import keep_freed_memory
from pipeline.features import shards
from pipeline.files.aside import aside, write_text
from pipeline.params import load_params
from pipeline.process import progress
from pipeline.scoring.caption_table import read_captions
from studies.attend import pictures, pointing
from studies.attend.cams import explain
from studies.attend.cells import shape_of
from studies.attend.examples import Example, make_examples, middles, to_batch
from studies.attend.learn import MODELS, SEGMENTS, load, read_cells
from studies.attend.model import AttendingCaptioner
from studies.attend.pointing import Pointed
from studies.attend.settings import CELLS, METRICS, OUT, load_attend
from studies.attend.truth import class_of, read_world

EXPLAINED = Path("studies/attend/explained")
FRAMES = Path("data/videos/frames")
RANDOM_SEED = 1  # of the captioner that has learned nothing


def main() -> None:
    keep_freed_memory()
    attend, params = load_attend(), load_params()
    own = attend.explain
    name = f"seed-{attend.learn.seeds[0]}"
    captioner, vocabulary = load(MODELS / own.attention / name, params.device)
    torch.manual_seed(RANDOM_SEED)
    untrained = AttendingCaptioner(captioner.config).to(captioner.mean.device).eval()
    untrained.mean, untrained.std = captioner.mean, captioner.std

    captions = read_captions(OUT / own.attention / f"{name}.parquet").to_pandas()
    texts = dict(zip(captions["segment_id"], captions["caption"], strict=True))
    segments = {one.segment_id: one for one in from_table(pq.read_table(SEGMENTS)) if one.segment_id in texts}
    chosen = [segments[id] for id in subset_order(segments)][: own.segments]
    examples = make_examples(chosen, read_cells(one.video_id for one in chosen))
    h, w, _ = shape_of(CELLS)
    world = read_world()

    draw = np.random.default_rng(params.seed)
    found: list[Pointed] = []
    with aside(EXPLAINED) as out:
        out.mkdir(parents=True)
        for number, example in enumerate(progress.bar(examples, desc="attend explain", unit="segment")):
            segment = example.segment
            tokens = vocabulary.encode(texts[segment.segment_id])
            words = [vocabulary.words[id] for id in tokens[:-1]]
            batch = to_batch([example], h * w).to(captioner.mean.device)
            maps = {m: v.cpu().numpy() for m, v in explain(captioner, batch, tokens, own.methods, h=h).items()}
            truth = world.of(example, (h, w), attend.cells.size_px, own.visible) if world else None
            if truth:
                blind = explain(untrained, batch, tokens, own.methods, h=h)
                every = maps | {f"{m}{pointing.RANDOM}": v.cpu().numpy() for m, v in blind.items()}
                found += pointing.score(every, words, truth, draw)
            if number < own.videos:
                show(out, example, words, maps)
        if not found:
            print(f"explain: {len(examples)} captions, {own.videos} drawn in {EXPLAINED}; no boxes to score them with")
            write_text(METRICS / "explanations.json", "{}\n")
            return
        table = pointing.summary(found)
        table.to_csv(out / "pointing.csv", index=False)
        pd.DataFrame([vars(one) for one in found]).to_csv(out / "words.csv", index=False)
    write_text(METRICS / "explanations.json", json.dumps(flat(table), indent=2) + "\n")
    rows = {row["method"]: row for row in table.to_dict("records") if row["kind"] == pointing.EVERY}
    shown = ", ".join(
        f"{m} {rows[m]['hit']:.2f} (in time {rows[m]['in_time']:.2f})" for m in (*own.methods, "chance") if m in rows
    )
    print(f"explain {own.attention}: {len(examples)} captions; of their words point at what they are about: {shown}")


def flat(table: pd.DataFrame) -> dict[str, float]:
    """For DVC: {"gradcam.colour.hit": ...}."""
    rows = table.to_dict("records")
    return {
        f"{row['method']}.{row['kind']}.{name}": round(float(row[name]), 4)
        for row in rows
        for name in ("words", "hit", "lift", "in_time")
        if np.isfinite(row[name])
    }


def show(out: Path, example: Example, words: Sequence[str], maps: dict[str, NDArray[np.float32]]) -> None:
    """The segment's strips by every method, and its video by the first."""
    segment = example.segment
    rows = shards.read(FRAMES, segment.video_id, ["timestamp_s", "jpeg"])
    times = np.asarray(rows["timestamp_s"].to_pylist())
    inside = np.flatnonzero((times >= segment.start_s) & (times < segment.end_s))
    frames = [pictures.decoded(rows["jpeg"][int(i)].as_py()) for i in inside]
    if not frames:
        return
    nearest = np.abs(middles(example)[:, None] - times[inside]).argmin(1)  # [T], a frame for each cell
    cell = np.abs(times[inside][:, None] - middles(example)).argmin(1)  # [frames], a cell for each frame
    content = [i for i, word in enumerate(words) if class_of(word) not in (None, "function")] or [0]
    name = segment.segment_id.replace("#", "-")
    for method, own in maps.items():
        of_cells = [frames[i] for i in nearest]
        pictures.strip(
            out / f"{name}-{method}.png",
            of_cells,
            middles(example).tolist(),
            [*(words[i] for i in content), "whole caption"],
            own[[*content, -1]],
        )
    first = next(iter(maps.values()))
    fps = 1 / max(float(np.diff(times[:2]).mean()) if len(times) > 1 else 0.2, 1e-3)
    pictures.movie(out / f"{name}.mp4", frames, words, first[: len(words)][:, cell], fps=fps)


if __name__ == "__main__":
    stages.run(kept=None)
