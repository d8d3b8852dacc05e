"""Files made to do harm, tried on the two that look into files from anywhere: download's probe and `frames`."""

import os
import struct
import zlib
from pathlib import Path

import pytest

from pipeline.dataset import verdict
from pipeline.features import frames
from pipeline.features.frames import Sampled, Sampling, Source
from tests.conftest import run_ffmpeg

SAMPLING = Sampling(fps=5, short_side_px=32, jpeg_quality=3)


def sample(path: Path, claimed_s: float | None = 2.0) -> Sampled:
    """As of a file whose header claims so many seconds."""
    return frames.sample(Source("v", path, claimed_s), SAMPLING)


@pytest.fixture
def secret(tmp_path) -> Path:
    """What an attack is after: a local file. Its pictures would come out."""
    path = tmp_path / "secret.ts"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2", "-bf", "3", str(path))
    return path


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
    "hls with a space first": "\n#EXTM3U\n#EXTINF:2,\nfile://{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "dash": '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation mimeType="video/mp2t">'
    "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".jpg"])
def test_a_playlist_posing_as_a_video_reads_no_other_file(secret, tmp_path, kind, suffix):
    posing = tmp_path / f"posing{suffix}"
    posing.write_text(PLAYLISTS[kind].format(secret))
    assert verdict.examine("v", posing).status == "corrupt"
    found = sample(posing)
    assert found.jpegs == [] and found.reason and found.reason.startswith("no frame decodes (")


def alias(name: str) -> bytes:
    """A QuickTime data reference: the samples are in the file of this name, in the same folder."""
    path = b":" + name.encode()
    path += bytes(len(path) % 2)
    record = bytes(10 + 28 + 12 + 64 + 16) + struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(path)) + path + struct.pack(">HH", 0xFFFF, 0)
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def with_data_reference(movie: bytes, entry: bytes) -> bytes:
    """A QuickTime movie's header without its samples, which it says are where `entry` points."""
    end = movie.index(b"mdat") - 4
    found = movie.index(b"url ", movie.index(b"dref")) - 4  # of the one track
    size = struct.unpack_from(">I", movie, found)[0]
    grown = bytearray(movie[:found] + entry + movie[found + size : end])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = grown.index(box) - 4
        struct.pack_into(">I", grown, at, struct.unpack_from(">I", grown, at)[0] + len(entry) - size)
    return bytes(grown)


def test_a_movie_whose_samples_are_another_files_reads_no_other_file(secret, tmp_path):
    movie, posing = tmp_path / "movie.mov", tmp_path / "posing.mov"
    run_ffmpeg("-i", str(secret), "-c", "copy", "-movflags", "+faststart", str(movie))
    posing.write_bytes(with_data_reference(movie.read_bytes(), alias("movie.mov")))
    # ffmpeg would follow the reference if it were told to.
    run_ffmpeg("-enable_drefs", "1", "-i", str(posing), "-frames:v", "1", str(tmp_path / "leaked.png"))
    assert (tmp_path / "leaked.png").exists()

    assert verdict.examine("v", posing).status == "corrupt"
    found = sample(posing)
    assert found.jpegs == [] and found.reason and found.reason.startswith("no frame decodes (")


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [100_000, 20_000])
def test_a_header_of_100000_by_100000_pixels_gets_no_memory(tmp_path, side):
    path = tmp_path / "huge.png"
    path.write_bytes(png(side, side))
    assert verdict.examine("v", path).status == "corrupt"
    assert sample(path, None) == Sampled("v", [], f"no frame decodes (Picture size {side}x{side} is invalid)")


@pytest.fixture(scope="module")
def bomb(tmp_path_factory) -> Path:
    """Two noisy pictures of 1080p, the second one ten hours after the first: at 5 frames a second, 180,000."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.mp4"
    noise = "color=gray:s=1920x1080:r=1:d=2,noise=alls=60,setpts=N*36000/TB"
    run_ffmpeg("-f", "lavfi", "-i", noise, "-fps_mode", "passthrough", "-crf", "40", "-preset", "ultrafast", str(path))
    return path


def test_a_decompression_bomb_ends_with_its_time(bomb, monkeypatch):
    assert bomb.stat().st_size < 1_000_000
    monkeypatch.setattr(frames, "decoding_limit_s", lambda *_: 1.0)
    found = sample(bomb, 36_001.0)
    assert found == Sampled("v", [], "decoding took longer than 1 s", final=False)


def test_a_header_is_not_believed_how_long_it_may_take(bomb):
    size = bomb.stat().st_size
    assert frames.decoding_limit_s(1e9, size) < 400
    assert frames.decoding_limit_s(7200, 300_000_000) > 4 * 7200


@pytest.mark.parametrize("claimed_s", [36_001.0, 2.0])
def test_a_decompression_bomb_ends_at_the_longest_video(bomb, monkeypatch, claimed_s):
    monkeypatch.setattr(frames, "MAX_VIDEO_S", 3600)
    found = frames.sample(Source("v", bomb, claimed_s), Sampling(0.01, 32, 31))
    assert found == Sampled("v", [], "longer than 1 hours")


def test_a_decompression_bomb_ends_with_its_room(bomb, monkeypatch):
    monkeypatch.setattr(frames, "MAX_PICTURES_BYTES", 1 << 20)
    assert sample(bomb) == Sampled("v", [], "pictures of more than 0 GiB")


def test_a_file_that_makes_ffmpeg_wait_is_not_opened(tmp_path):
    pipe = tmp_path / "endless.mp4"
    os.mkfifo(pipe)
    assert sample(pipe) == Sampled("v", [], "no frame decodes (not a file)")
    assert sample(Path("/dev/zero")).jpegs == []
    assert frames.sample_pictures([Source("v", pipe, None, True)], SAMPLING)[0].jpegs == []


def test_a_stream_in_an_unknown_code_is_corrupt(tmp_path):
    path = tmp_path / "unknown.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", str(path))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert verdict.examine("v", path).reason == "pictures in an unknown codec"
    assert sample(path).jpegs == []
