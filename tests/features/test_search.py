"""Search against sorting every frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features.search import Frames, Search, unit


def frames_of(seed: int, counts: list[int], width: int = 6, step_s: float = 0.5) -> Frames:
    """Videos whose neighbouring frames are alike, as they are."""
    random = np.random.default_rng(seed)
    walks = [np.cumsum(random.normal(size=(count, width)), axis=0) + random.normal(size=width) for count in counts]
    times = np.concatenate([np.arange(count) * step_s for count in counts])
    ids = [f"v{i}" for i in range(len(counts))]
    return Frames(ids, np.cumsum([0, *counts]), times, unit(np.concatenate(walks)))


def slow(frames: Frames, query: np.ndarray, count: int, apart_s: float) -> list[tuple[str, float]]:
    """The best that is left, again and again."""
    left = {
        (video, float(frames.times_s[row])): float(frames.vectors[row] @ query)
        for i, video in enumerate(frames.video_ids)
        for row in range(frames.begins[i], frames.begins[i + 1])
    }
    found: list[tuple[str, float]] = []
    while left and len(found) < count:
        best = max(left, key=left.__getitem__)
        found.append(best)
        left = {
            place: similarity
            for place, similarity in left.items()
            if place != best and (place[0] != best[0] or abs(place[1] - best[1]) >= apart_s)
        }
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    count=st.integers(1, 12),
    apart_s=st.sampled_from([0.0, 1.0, 5.0, 100.0]),
)
def test_the_best_moments_are_found_and_no_two_of_a_video_are_too_close(seed, counts, count, apart_s):
    frames = frames_of(seed, counts)
    query = unit(np.random.default_rng(seed + 1).normal(size=(1, 6)))[0]
    found = Search(frames).moments(query, count, apart_s)
    assert [(one.video_id, one.time_s) for one in found] == slow(frames, query, count, apart_s)
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


def test_many_frames_are_searched_approximately_and_most_of_the_best_are_found():
    frames = frames_of(0, [40] * 100, width=8)
    search, exact = Search(frames, exact_up_to=len(frames) - 1), Search(frames, exact_up_to=len(frames))
    assert exact.exact and not search.exact
    shared = 0
    for query in frames.vectors[::400]:
        found, best = search.moments(query, 10, 0.0), exact.moments(query, 10, 0.0)
        shared += len({(one.video_id, one.time_s) for one in found} & {(one.video_id, one.time_s) for one in best})
        assert found[0] == best[0]  # the frame itself
    assert 50 < shared <= 100


def test_a_folder_without_a_frame_is_refused(tmp_path):
    with pytest.raises(ValueError):
        Frames.read(tmp_path)
