import numpy as np
import pyarrow as pa
import pytest

from pipeline.features import shards
from pipeline.features.embeddings import embedding_width, read_embeddings
from pipeline.features.encoder import schema_of
from pipeline.features.shards import VideoRows

WIDTH = 4


@pytest.fixture
def folder(tmp_path):
    """Shards of v0 with 1 frame, v1 with 700, ...; a frame's embedding says its video and its number."""
    frames = {"v0": 1, "v1": 700, "v2": 0, "v3": 3, "v4": 300}

    def compute(video_ids):
        for i in video_ids:
            count = frames[i]
            values = [[int(i[1]), frame, 0, 0] for frame in range(count)]
            rows = {
                "video_id": [i] * count,
                "frame_index": range(count),
                "timestamp_s": np.arange(count) / 5,
                "embedding": [np.array(value, np.float16) for value in values],
            }
            yield VideoRows(i, pa.table(rows, schema=schema_of(WIDTH)), None if count else "no frames")

    shards.update(
        tmp_path / "shards",
        schema=schema_of(WIDTH),
        shards=2,
        fingerprints=dict.fromkeys(frames, "same"),
        compute=compute,
    )
    return tmp_path / "shards"


def test_a_slice_of_a_video_is_what_its_shard_holds(folder, tmp_path):
    videos = read_embeddings(folder, ["v4", "v1", "v0", "v1"], tmp_path / "run/copy")
    assert list(videos) == ["v0", "v1", "v4"]
    for video_id, video in videos.items():
        table = shards.read(folder, video_id)
        values = np.array(table["embedding"].to_pylist(), np.float16)
        for expected in (slice(None), slice(0, 1), slice(250, 600), slice(900, 1000), slice(2, 1)):
            assert np.array_equal(video.embeddings[expected], values[expected])
            assert np.array_equal(video.timestamps[expected], table["timestamp_s"].to_numpy()[expected])
        assert len(video.embeddings) == len(video.timestamps) == len(table)
        assert video.embeddings[:].dtype == np.float16 and video.timestamps[:].dtype == np.float64
    assert embedding_width(videos) == WIDTH


def test_vectors_of_another_name_are_read_as_embeddings_are(tmp_path):
    schema = pa.schema([("video_id", pa.string()), ("timestamp_s", pa.float64()), ("cells", pa.list_(pa.float16(), 3))])
    rows = {
        "video_id": ["a"] * 2,
        "timestamp_s": [0.0, 0.4],
        "cells": list(np.arange(6, dtype=np.float16).reshape(2, 3)),
    }
    made = [VideoRows("a", pa.table(rows, schema=schema))]
    shards.update(tmp_path / "s", schema=schema, shards=1, fingerprints={"a": ""}, compute=lambda _: iter(made))
    found = read_embeddings(tmp_path / "s", ["a"], column="cells")["a"]
    assert found.embeddings[1:2].tolist() == [[3, 4, 5]] and found.timestamps[:].tolist() == [0, 0.4]


def test_videos_without_rows_are_left_out_and_unknown_ones_are_refused(folder, tmp_path):
    assert list(read_embeddings(folder, ["v2", "v3"], tmp_path / "copy")) == ["v3"]
    with pytest.raises(ValueError, match="no video has embeddings; see the ledger"):
        embedding_width(read_embeddings(folder, ["v2"], tmp_path / "other"))
    with pytest.raises(KeyError, match="has no video 'v9'"):
        read_embeddings(folder, ["v3", "v9"], tmp_path / "copy")


def test_a_copy_that_is_there_is_used_and_may_be_deleted_while_it_is_read(folder, tmp_path):
    copy = tmp_path / "copy"
    read_embeddings(folder, ["v1", "v3"], copy)
    written = copy.stat()
    videos = read_embeddings(folder, ["v1", "v3"], copy)
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    copy.unlink()
    assert videos["v3"].embeddings[2:].tolist() == [[3, 2, 0, 0]]


def test_a_copy_that_nobody_asked_for_has_no_name(folder):
    before = sorted(folder.parent.rglob("*"))
    videos = read_embeddings(folder, ["v3"])
    assert sorted(folder.parent.rglob("*")) == before
    assert videos["v3"].timestamps[1:].tolist() == [0.2, 0.4]


def test_a_copy_that_was_being_written_when_the_run_was_killed_is_written_again(folder, tmp_path):
    (tmp_path / "copy.0123abcd.aside").write_bytes(b"half of it" * 1000)
    videos = read_embeddings(folder, ["v3"], tmp_path / "copy")
    assert videos["v3"].embeddings[:].tolist() == [[3, 0, 0, 0], [3, 1, 0, 0], [3, 2, 0, 0]]
    assert not (tmp_path / "copy.0123abcd.aside").exists()
    assert (tmp_path / "copy").stat().st_size == 3 * (8 + 2 * WIDTH)


def test_a_copy_that_is_too_short_is_not_read_as_zeros(folder, tmp_path):
    (tmp_path / "copy").write_bytes(b"0" * 10)
    video = read_embeddings(folder, ["v3"], tmp_path / "copy")["v3"]
    with pytest.raises(OSError, match="found 0 bytes at 24, expected 24; delete it and run again"):
        video.embeddings[:]
