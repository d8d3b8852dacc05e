"""Search of moments: milliseconds among a million frames, and how many right moments a text finds.

    python -m bench.find [--frames 1000000]     # after `make demo`

Time: the built-in dataset's embeddings, again and again with a little noise until there are so many, one thread; exact
(faiss IndexFlatIP) and approximate (an inverted file), its recall of the ten nearest frames, and what building takes.
Right moments: one caption of every fact that the test segments of a kind state, searched among all videos. A moment is
right if the segment in which it lies, of whatever video, states the same facts. Beside it what a random moment would
give. Only kind `now` can be seen in one frame. Prints two tables and, as its last line, JSON.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.table import show
from pipeline.dataset.segments import Segment, frames_of_segment, from_table
from pipeline.dataset.shapes.grammar import Facts, read_facts
from pipeline.features.search import Frames, Search, unit
from pipeline.features.text_tower import embed_texts

DATA, ENCODER = Path("data/videos"), Path("models/encoder")
NEAREST, QUERIES = 10, 100
RANKS = (1, 5, 10)  # moments looked at
APART_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.find")
    parser.add_argument("--frames", type=int, default=1_000_000)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    frames = Frames.read(DATA / "embeddings")
    segments = [one for one in from_table(pq.read_table(DATA / "segments.parquet")) if read_facts(one.captions[0])]
    texts, of_kind = queries(segments)
    found = dict(zip(texts, embed_texts(ENCODER, [texts[facts] for facts in texts], "cpu"), strict=True))

    rights = [right(frames, segments, kind, facts, found) for kind, facts in of_kind.items()]
    show(rights)
    times = speed(frames, np.stack(list(found.values()))[:QUERIES], asked.frames)
    show(times)
    print(json.dumps({"right": rights, "speed": times}))


def queries(segments: list[Segment]) -> tuple[dict[Facts, str], dict[str, list[Facts]]]:
    """A caption of each of the test segments' facts, and which facts are of a kind."""
    texts: dict[Facts, str] = {}
    of_kind: dict[str, list[Facts]] = defaultdict(list)
    for segment in segments:
        facts = read_facts(segment.captions[0])
        if segment.split == "test" and segment.kind and facts and facts not in texts:
            texts[facts] = segment.captions[0]
            of_kind[segment.kind].append(facts)
    return texts, of_kind


def right(
    frames: Frames,
    segments: list[Segment],
    kind: str,
    facts: list[Facts],
    vectors: dict[Facts, NDArray[np.float32]],
) -> dict[str, float | str]:
    """Of the kind's texts, the share of which a right moment is among the first so many, %."""
    number = {video_id: i for i, video_id in enumerate(frames.video_ids)}
    spans: dict[Facts, list[tuple[str, float, float]]] = defaultdict(list)
    rows: dict[Facts, int] = defaultdict(int)
    for segment in segments:
        stated = read_facts(segment.captions[0])
        if stated and segment.video_id in number:
            spans[stated].append((segment.video_id, segment.start_s, segment.end_s))
            begin, end = frames.begins[number[segment.video_id] :][:2]
            rows[stated] += len(frames_of_segment(segment.start_s, segment.end_s, frames.times_s[begin:end].tolist()))
    search, hits, by_chance = Search(frames), dict.fromkeys(RANKS, 0), 0.0
    for asked in facts:
        moments = search.moments(vectors[asked], max(RANKS), APART_S)
        good = [any(v == one.video_id and a <= one.time_s <= b for v, a, b in spans[asked]) for one in moments]
        for rank in RANKS:
            hits[rank] += any(good[:rank])
        by_chance += 1 - (1 - rows[asked] / len(frames)) ** max(RANKS)
    shares = {f"right_in_{rank}": round(100 * hits[rank] / len(facts), 1) for rank in RANKS}
    return {"kind": kind, "texts": len(facts), **shares, "by_chance_in_10": round(100 * by_chance / len(facts), 1)}


def speed(frames: Frames, texts: NDArray[np.float32], count: int) -> list[dict[str, float | str]]:
    random = np.random.default_rng(0)
    rows = np.arange(count) % len(frames)
    vectors = frames.vectors[rows]
    vectors += random.normal(size=vectors.shape).astype(np.float32) * (0.05 / vectors.shape[1] ** 0.5)
    many = Frames(["all"], np.array([0, count]), np.arange(count) / 5, unit(vectors))
    figures: list[dict[str, float | str]] = []
    best: list[NDArray[np.int64]] = []
    for name, exact_up_to in (("exact", count), ("approximate", 0)):
        search = Search(many, exact_up_to)
        build_s, index = timed(lambda search: search.index, search)
        took_s, found = timed(lambda index: [index.search(text[None], NEAREST)[1][0] for text in texts], index)
        best = best or found
        shared = np.mean([len(np.intersect1d(a, b)) / NEAREST for a, b in zip(found, best, strict=True)])
        figures.append(
            {
                "search": name,
                "frames": count,
                "width": int(vectors.shape[1]),
                "build_s": round(build_s, 1),
                "ms_a_text": round(1000 * took_s / len(texts), 2),
                "recall": round(float(shared), 3),
            }
        )
    return figures


def timed(work: Callable[[Any], Any], given: Any) -> tuple[float, Any]:
    """CPU seconds (one thread, whatever else the machine does), and what the work returns."""
    started = time.process_time()
    result = work(given)
    return time.process_time() - started, result


if __name__ == "__main__":
    main()
