import dataclasses
import itertools

import numpy as np
import pytest

from pipeline.dataset.shapes.grammar import COLOURS, SHAPES, WHITE
from pipeline.dataset.shapes.render import BACKDROPS, RGB, boxes, picture_size, render
from pipeline.dataset.shapes.scenes import Scene, Track, picture_scene, video_scene


def scene_of(*tracks, **changes):
    return Scene(0.0, (), tracks, 0, 45, **changes)


def track(shape="circle", colour="red", x=0.5, y=0.5, **changes):
    return Track("o0", shape, ((0.0, colour),), ((0.0, x),), ((0.0, y),), **changes)


def test_a_picture_is_a_function_of_scene_and_time():
    scene = video_scene(0, "train", 1)
    first = render(scene, 5.0, 128)
    assert (first.shape, first.dtype) == ((128, 128, 3), np.uint8)
    first[:] = 0  # what is kept between calls must not be what was given out
    assert np.array_equal(render(scene, 5.0, 128), render(scene, 5.0, 128))
    assert render(scene, 5.0, 128).any()


def test_odd_sizes_are_even_and_never_small():
    sizes = {picture_size(video_scene(0, "train", index), 128) for index in range(400)}
    assert len(sizes) > 3 and (128, 128) in sizes
    for width, height in sizes:
        assert width % 2 == height % 2 == 0 and min(width, height) >= 98


@pytest.mark.parametrize("colour", [*COLOURS, WHITE])
def test_a_thing_has_its_colour(colour):
    middle = render(scene_of(track(colour=colour)), 0.0, 128)[64, 64]
    assert np.abs(middle.astype(int) - RGB[colour]).max() < 12


def test_colours_are_far_from_each_other_and_from_every_backdrop():
    colours = [np.array(c) for c in RGB.values()]
    for i, colour in enumerate(colours):
        others = colours[:i] + [np.array(c) for pair in BACKDROPS for c in pair]
        assert min(np.linalg.norm(colour - other) for other in others) > 80


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("x", "y", "turn_deg"), [(0.5, 0.5, 0), (0.313, 0.622, 33), (0.02, 0.89, 0)])
def test_a_box_is_where_the_thing_is(shape, x, y, turn_deg):
    scene = scene_of(track(shape, "yellow", x, y, turn_deg=((0.0, turn_deg),)))
    (box,) = boxes(scene, 0.0, 128)
    yellow = np.linalg.norm(render(scene, 0.0, 128).astype(int) - RGB["yellow"], axis=-1) < 75
    rows, columns = np.flatnonzero(yellow.any(1)), np.flatnonzero(yellow.any(0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(np.array([box.x0, box.y0, box.x1, box.y1]) - found).max() < 2.0
    assert (box.visible == pytest.approx(1.0)) == (x > 0.1)


def test_what_is_not_there_has_no_box_and_leaves_no_trace():
    gone = track(alpha=((0.0, 0.0),))
    outside = track(x=1.4)
    assert boxes(scene_of(gone, outside), 0.0, 128) == []
    assert np.array_equal(render(scene_of(gone, outside), 0.0, 128), render(scene_of(), 0.0, 128))


def test_only_what_rests_has_a_stand():
    floats, rests = (render(scene_of(track(rests=rests)), 0.0, 128).astype(int) for rests in (False, True))
    changed = np.flatnonzero((np.abs(floats - rests).max(-1) > 20).any(1))
    (box,) = boxes(scene_of(track()), 0.0, 128)
    assert len(changed) and changed[0] >= box.y1 - 3


def test_edges_are_soft():
    picture = render(scene_of(track("star", "white")), 0.0, 128)
    assert len(np.unique(picture[..., 0])) > 60


def test_a_thing_moves_by_less_than_a_pixel_at_a_time():
    sums = [render(scene_of(track(x=0.5 + i / 512)), 0.0, 128)[64].astype(int).sum(-1) for i in range(5)]
    centres = [np.average(np.arange(128), weights=row - 180 + 1e-3) for row in sums]
    assert all(0 < b - a < 0.6 for a, b in itertools.pairwise(centres))


def test_the_same_pictures_come_in_any_size():
    scene = dataclasses.replace(picture_scene(0, "train", 1), width=1.5)
    assert render(scene, 0.0, 64).shape == (64, 96, 3)
    small, large = render(scene, 0.0, 64), render(scene, 0.0, 128)
    shrunk = large.reshape(64, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 6
