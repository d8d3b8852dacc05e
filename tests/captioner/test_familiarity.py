"""How unlike a video is to the training videos."""

import numpy as np
import pytest

from pipeline.captioner import familiarity
from pipeline.features.embeddings import VideoEmbeddings

WIDTH = 6


@pytest.fixture(scope="module")
def draw():
    """draw(videos, offset): embeddings of videos whose frames spread alike, `offset` away in every direction."""
    random = np.random.default_rng(0)
    spread = random.normal(size=(WIDTH, WIDTH))

    def make(videos: int, offset: float = 0.0) -> list[VideoEmbeddings]:
        frames = random.normal(size=(videos, 20, WIDTH)) @ spread + offset
        return [VideoEmbeddings(np.arange(20) / 5, one.astype(np.float16)) for one in frames]

    return make


def test_the_distance_is_mahalanobis_of_frames_per_dimension(draw):
    training = draw(50)
    known = familiarity.summarize(training, draw(3), ["a cat"])
    frames = np.concatenate([one.embeddings[[0, 3, 5, 8, 11, 14, 16, 19]] for one in training]).astype(np.float64)
    video = draw(1, 2.0)[0].embeddings
    apart = video.astype(np.float64) - frames.mean(0)
    inverse = np.linalg.inv(np.cov(frames.T, bias=True))
    expected = np.mean([np.sqrt(one @ inverse @ one / WIDTH) for one in apart])
    assert known.unlikeness(video).distance == pytest.approx(expected, rel=0.02)


def test_videos_like_the_training_videos_are_among_the_held_out_ones_and_others_are_far(draw, tmp_path):
    familiarity.save(
        tmp_path / familiarity.FILE, familiarity.summarize(draw(200), draw(40), ["a cat", "a dog \x1b[2J"])
    )
    known = familiarity.load(tmp_path, WIDTH)
    near = [known.unlikeness(one.embeddings) for one in draw(40)]
    assert sum(one.is_far for one in near) <= 3 and 0.2 < np.mean([one.further for one in near]) < 0.8
    far = known.unlikeness(draw(1, 9.0)[0].embeddings)
    assert far.is_far and far.further == 0
    assert "less like the training videos than each of 40 held-out ones" in str(known.place(far))
    assert known.about(near[0]).startswith("the captioner was trained on 200 videos, with captions such as “a cat” or")
    assert "\x1b" not in known.about(far)


def test_directions_in_which_training_frames_do_not_differ_count(draw):
    flat = [VideoEmbeddings(one.timestamps, one.embeddings * np.array([1, 1, 1, 1, 1, 0])) for one in draw(50)]
    known = familiarity.summarize(flat[:40], flat[40:], [])
    assert known.unlikeness(flat[0].embeddings + np.array([0, 0, 0, 0, 0, 5])).is_far


def test_without_held_out_videos_there_is_no_place_among_them(draw, tmp_path):
    known = familiarity.summarize(draw(5), [], [])
    unlike = known.unlikeness(draw(1)[0].embeddings)
    assert not unlike.is_far and known.about(unlike) == "the captioner was trained on 5 videos"
    with pytest.raises(ValueError, match="no training video has frames"):
        familiarity.summarize([], draw(1), [])


def test_a_file_of_another_encoder_or_none_is_refused_and_an_older_folder_has_none(draw, tmp_path):
    assert familiarity.load(tmp_path, WIDTH) is None
    path = tmp_path / familiarity.FILE
    familiarity.save(path, familiarity.summarize(draw(5), draw(2), []))
    with pytest.raises(ValueError, match=r"made from embeddings of shape \(6, 6\), but the encoder's have width 8"):
        familiarity.load(tmp_path, 8)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"familiarity.safetensors: not a file that fine-tuning wrote"):
        familiarity.load(tmp_path, WIDTH)


def test_the_same_videos_give_the_same_bytes(draw, tmp_path):
    known = familiarity.summarize(draw(5), draw(2), ["a cat"])
    written = set()
    for number in range(16):
        familiarity.save(tmp_path / f"{number}", known)
        written.add((tmp_path / f"{number}").read_bytes())
    assert len(written) == 1
