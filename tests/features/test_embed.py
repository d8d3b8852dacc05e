from dataclasses import replace
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.device import choose_dtype
from pipeline.features import encoder, frames, shards
from pipeline.features.encoder import load_encoder, schema_of
from pipeline.features.frames import Sampling, Source
from pipeline.features.shards import VideoRows
from stages import embed
from tests.conftest import write_params
from tests.random_clip import write_random_clip

FRAMES = pa.schema(
    [("video_id", pa.string()), ("frame_index", pa.int32()), ("timestamp_s", pa.float64()), ("jpeg", pa.binary())]
)
SHARDS = 3


@pytest.fixture
def here(workspace):
    folder = workspace({"frames.shards": SHARDS, "embed.batch_size": 8, "device": "cpu"})
    write_random_clip(embed.ENCODER, 24)
    return folder


def write_frames(folder, videos):
    """videos: {video_id: (number of frames, version)}; 0 frames: dropped."""

    def compute(video_ids):
        for video_id in video_ids:
            count, version = videos[video_id]
            table = pa.table(
                {
                    "video_id": [video_id] * count,
                    "frame_index": range(count),
                    "timestamp_s": [i / 5 for i in range(count)],
                    "jpeg": [picture(f"{video_id} {version} {i}") for i in range(count)],
                },
                schema=FRAMES,
            )
            yield VideoRows(video_id, table if count else None, None if count else "no frames")

    fingerprints = {video_id: str(version) for video_id, version in videos.items()}
    shards.update(folder, schema=FRAMES, shards=SHARDS, fingerprints=fingerprints, compute=compute)


def picture(name):
    rng = np.random.default_rng(list(name.encode()))
    file = BytesIO()
    Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((56, 40)).save(file, "JPEG")
    return file.getvalue()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("garbage", [b"", b"PAR1 garbage PAR1", None])
def test_a_damaged_shard_of_frames_ends_the_stage_and_is_named(here, garbage):
    frames = here / "data/pictures/frames"
    write_frames(frames, {f"v_{i}": (2, 0) for i in range(6)})
    damaged = frames / "shard-00001.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 4] ^= 1  # in a picture
    damaged.write_bytes(content if garbage is None else garbage)
    with pytest.raises(ValueError, match=r"shard-00001.parquet is damaged.*; make it again with: dvc repro"):
        embed.main("pictures")


VIDEOS = {f"v_{i:02d}": (1 + 3 * i % 11, 0) for i in range(9)}


def test_adding_changing_and_removing_videos_ends_in_the_bytes_of_a_clean_build(here, capsys):
    frames, embeddings = here / "data/pictures/frames", here / "data/pictures/embeddings"
    write_frames(frames, VIDEOS)
    embed.main("pictures")
    before = dict(shards.iterate(embeddings))

    later = {**VIDEOS, "v_new": (5, 0), "v_03": (4, 1), "v_dark": (0, 0)}
    del later["v_05"]
    write_frames(frames, later)
    capsys.readouterr()
    embed.main("pictures")
    assert "(3 embedded, 7 kept, 1 removed, 1 without frames)" in capsys.readouterr().out
    after = dict(shards.iterate(embeddings))
    assert all(after[video_id].equals(before[video_id]) for video_id in VIDEOS.keys() - {"v_03", "v_05"})

    grown = contents(embeddings)
    for path in embeddings.iterdir():
        path.unlink()
    embed.main("pictures")
    assert contents(embeddings) == grown


def test_rows_say_when_each_frame_was_and_what_the_encoder_made_of_it(here):
    write_frames(here / "data/videos/frames", {"v_a": (9, 0), "v_b": (2, 0)})
    embed.main("videos")
    table = shards.read(here / "data/videos/embeddings", "v_a")
    assert table.schema.equals(schema_of(24))
    assert table["frame_index"].to_pylist() == list(range(9))
    assert table["timestamp_s"].to_pylist() == [i / 5 for i in range(9)]
    device = torch.device("cpu")
    loaded = load_encoder(embed.ENCODER, device=device, dtype=choose_dtype("auto", device))
    expected = loaded.embed([picture(f"v_a 0 {i}") for i in range(9)], batch_size=8)
    assert np.array_equal(np.stack(table["embedding"].to_numpy()), expected)


@pytest.mark.parametrize("seconds", [0.05, 2.0, 2.37])
def test_every_third_of_15_frames_a_second_has_the_embeddings_of_5_a_second(here, make_video, monkeypatch, seconds):
    monkeypatch.setattr(shards, "GROUP_ROWS", 4)
    monkeypatch.setattr(shards, "LONGEST_GROUP_ROWS", 4)  # a video comes in parts, of which 3 is no divisor
    video = make_video(f"{seconds}.mp4", "64x48", "30", seconds)
    found = {}

    def store(fps):
        sampled = frames.sample(Source("", video, seconds), Sampling(fps, 48, 3))
        shards.update(
            here / "data/videos/frames",
            schema=FRAMES,
            shards=SHARDS,
            fingerprints=dict.fromkeys(("v_a", "v_b"), str(fps)),
            compute=lambda ids: (VideoRows(id, frames.to_table(replace(sampled, video_id=id), fps=fps)) for id in ids),
        )

    for fps, every in ((5, 1), (15, 3)):
        store(fps)
        write_params(here / "params.yaml", here / "params.yaml", {"frames.fps": fps, "embed.every": every})
        embed.main("videos")
        found[every] = dict(shards.iterate(here / "data/videos/embeddings"))
    assert found[3].keys() == found[1].keys() == {"v_a", "v_b"}
    for video_id, table in found[3].items():
        expected = found[1][video_id]
        assert table["timestamp_s"].to_pylist() == pytest.approx(expected["timestamp_s"].to_pylist(), abs=1e-9)
        assert table["embedding"].equals(expected["embedding"])
        assert table["frame_index"].to_pylist() == [3 * i for i in range(len(expected))]


def test_another_every_embeds_again_and_ends_in_the_bytes_of_a_clean_build(here, capsys):
    write_frames(here / "data/videos/frames", VIDEOS)
    embeddings = here / "data/videos/embeddings"
    embed.main("videos")
    first = contents(embeddings)
    write_params(here / "params.yaml", here / "params.yaml", {"embed.every": 4})
    embed.main("videos")
    assert f"({len(VIDEOS)} embedded, 0 kept, 0 removed, 0 without frames)" in capsys.readouterr().out
    assert {id: len(rows) for id, rows in shards.iterate(embeddings)} == {
        id: -(-count // 4) for id, (count, _) in VIDEOS.items()
    }
    write_params(here / "params.yaml", here / "params.yaml", {"embed.every": 1})
    embed.main("videos")
    assert contents(embeddings) == first


def test_a_video_without_frames_keeps_its_reason(here):
    write_frames(here / "data/pictures/frames", {"v_a": (1, 0), "v_dark": (0, 0)})
    embed.main("pictures")
    entry = shards.index(here / "data/pictures/embeddings")["v_dark"]
    assert (entry.rows, entry.reason) == (0, "no frames")


def test_nothing_new_loads_no_encoder(here, monkeypatch, capsys):
    write_frames(here / "data/pictures/frames", VIDEOS)
    embed.main("pictures")
    monkeypatch.setattr(encoder, "load_encoder", lambda *_, **__: pytest.fail("loaded"))
    embed.main("pictures")
    assert f"(0 embedded, {len(VIDEOS)} kept, 0 removed, 0 without frames)" in capsys.readouterr().out


def test_another_encoder_embeds_everything_again_in_its_own_width(here):
    write_frames(here / "data/pictures/frames", VIDEOS)
    embed.main("pictures")
    write_random_clip(embed.ENCODER, 40, seed=1)
    embed.main("pictures")
    paths = sorted((here / "data/pictures/embeddings").iterdir())
    assert [pq.read_schema(path).field("embedding").type.list_size for path in paths] == [40] * SHARDS
    assert set(dict(shards.iterate(here / "data/pictures/embeddings"))) == set(VIDEOS)
