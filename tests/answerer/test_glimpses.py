import pytest
import torch

from pipeline.answerer.glimpses import random, span, uniform


@pytest.mark.parametrize(
    ("grid", "n", "expected"),
    [
        ("ends", 3, [[0, 2], [4, 6], [7, 9]]),
        ("ends", 1, [[4, 6]]),
        ("centres", 2, [[1, 3], [6, 8]]),
        ("clipbert", 2, [[0, 2], [5, 7]]),
    ],
)
def test_evenly_spaced_glimpses_are_where_their_grid_says(grid, n, expected):
    assert uniform(10, n, 2, 2, grid).tolist() == expected


@pytest.mark.parametrize("n", [2, 4, 8, 32])
def test_only_both_ends_sees_the_first_and_the_last_frame(n):
    assert {0, 99} <= set(uniform(100, n, 2, 2, "ends").flatten().tolist())
    assert 99 not in uniform(100, n, 2, 2, "clipbert").flatten().tolist()


@pytest.mark.parametrize("grid", ["ends", "centres", "clipbert"])
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_a_video_shorter_than_a_glimpse_repeats_its_last_frame(grid, length):
    found = uniform(length, 4, 3, 2, grid)
    assert found.shape == (4, 3) and found.min() >= 0 and found.max() == length - 1


def test_random_glimpses_begin_anywhere_and_lie_in_the_order_of_time():
    found = torch.stack([random(20, 3, 2, 4, torch.Generator().manual_seed(seed)) for seed in range(300)])
    assert span(2, 4) == 5
    assert set(found[..., 0].flatten().tolist()) == set(range(16))
    assert (found[:, 1:, 0] >= found[:, :-1, 0]).all() and (found[..., 1] - found[..., 0] == 4).all()
