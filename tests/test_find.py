"""Search as it is typed, on a small CLIP of random weights."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import find
from pipeline.features import shards
from pipeline.features.encoder import WEIGHTS_FILE
from pipeline.features.search import clock
from pipeline.features.text_tower import embed_texts
from stages import embed
from tests.features.test_embed import SHARDS, picture, write_frames
from tests.random_clip import write_random_clip

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
FRAMES = Path("data/videos/frames")


@pytest.fixture
def here(workspace):
    workspace({"frames.shards": SHARDS, "embed.batch_size": 8, "device": "cpu", "embed.precision": "fp32"})
    write_random_clip(find.ENCODER, 24, text=TEXT)
    write_frames(FRAMES, {f"v{i}": (12, i) for i in range(5)})


def typed(monkeypatch, capsys, *arguments: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["find", *arguments])
    find.main()
    return capsys.readouterr().out.splitlines()


def refused(monkeypatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["find", *arguments])
    with pytest.raises(SystemExit) as ended:
        find.main()
    assert "\n" not in str(ended.value)
    return str(ended.value)


def test_a_text_finds_the_frames_most_like_it_and_a_picture_its_own_frame(here, monkeypatch, capsys, tmp_path):
    embed.main("videos")
    capsys.readouterr()
    text = embed_texts(find.ENCODER, ["a red star"], "cpu")[0]
    cosines = {}
    for video, table in shards.iterate(Path("data/videos/embeddings")):
        for frame, time_s in zip(table["embedding"].to_pylist(), table["timestamp_s"].to_pylist(), strict=True):
            cosines[video, round(time_s, 1)] = float(np.dot(frame, text) / np.linalg.norm(frame))
    best = sorted(cosines, key=cosines.__getitem__, reverse=True)[:3]
    shown, head, *lines = typed(monkeypatch, capsys, "a red star", "--count", "3", "--apart", "0")
    assert shown == "a red star" and head.split() == ["cosine", "time", "video"]
    assert lines == [f"{cosines[place]:>8.3f}  {f'0:{place[1]:04.1f}':>9}  {place[0]}" for place in best]

    Path("asked.jpg").write_bytes(picture("v3 3 7"))
    _, _, line = typed(monkeypatch, capsys, "--picture", "asked.jpg", "--count", "1")
    assert line.split() == ["1.000", "0:01.4", "v3"]

    monkeypatch.setattr(sys, "stdin", io.StringIO("a red star\n\na dog\n"))
    found = typed(monkeypatch, capsys, "--count", "1")
    assert [found[0], found[3]] == ["a red star", "a dog"] and len(found) == 6


def test_what_cannot_be_searched_is_said_in_one_line(here, monkeypatch, capsys):
    message = "find: data/videos/embeddings holds no embeddings yet; make them with: dvc repro embed@videos"
    assert refused(monkeypatch, "a red star") == message
    embed.main("videos")
    assert "found an empty text" in refused(monkeypatch, " ")
    Path("broken.jpg").write_bytes(b"no picture")
    assert refused(monkeypatch, "--picture", "broken.jpg") == (
        "find: broken.jpg: 10 bytes that are no picture (JPEG, PNG, ...)"
    )
    assert "No such file" in refused(monkeypatch, "--picture", "none.jpg")

    write_random_clip(find.ENCODER, 24, text=TEXT, seed=1)
    assert refused(monkeypatch, "a red star").startswith(
        "find: data/videos/embeddings was embedded by another encoder than models/encoder"
    )
    FRAMES.rename("data/videos/gone")  # of embeddings that were pulled alone only the width can be compared
    assert typed(monkeypatch, capsys, "a red star")
    (find.ENCODER / WEIGHTS_FILE).unlink()
    write_random_clip(find.ENCODER, 16, text=TEXT)
    assert refused(monkeypatch, "a red star") == (
        "find: models/encoder makes embeddings of 16 numbers, data/videos/embeddings holds 24"
    )


@pytest.mark.parametrize(("seconds", "expected"), [(0.04, "0:00.0"), (59.96, "1:00.0"), (3723.44, "1:02:03.4")])
def test_times_are_written_as_players_show_them(seconds, expected):
    assert clock(seconds) == expected
