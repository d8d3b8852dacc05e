"""Long videos out of embeddings of short ones."""

import random

import numpy as np

from pipeline.features.embeddings import VideoEmbeddings
from pipeline.features.lengthening import drawn, put_into


def rows(value, frames):
    return np.full((frames, 2), value, np.float16)


def test_pieces_are_drawn_until_there_are_so_many_frames_and_the_last_is_cut():
    pieces = [rows(1, 3), rows(2, 4)]
    parts = drawn(pieces, 50, random.Random(0))
    assert sum(map(len, parts)) == 50
    whole = {1.0: 3, 2.0: 4}
    assert all(len(part) == whole[float(part[0, 0])] for part in parts[:-1])
    assert {float(part[0, 0]) for part in parts} == {1.0, 2.0}
    assert drawn(pieces, 0, random.Random(0)) == []


def test_what_follows_is_later_by_what_is_put_in_and_what_was_before_stays():
    video = VideoEmbeddings(np.arange(6) / 5, rows(0, 6))
    long = put_into(video, 4, [rows(1, 3), rows(2, 2)])
    assert long.embeddings[:][:, 0].tolist() == [0] * 4 + [1] * 3 + [2] * 2 + [0] * 2
    assert np.allclose(long.timestamps[:], np.arange(11) / 5)


def test_with_nothing_put_in_a_video_stays_as_it_is():
    video = VideoEmbeddings(np.array([0.0, 0.3, 0.4]), rows(0, 3))
    assert put_into(video, 1, []).timestamps[:].tolist() == [0.0, 0.3, 0.4]
