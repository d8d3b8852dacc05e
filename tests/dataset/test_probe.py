"""What a file is. Every fault of a file is made from a good one."""

import struct
import zlib
from pathlib import Path

import av
import pytest

from pipeline.dataset import probe
from pipeline.features import frames
from pipeline.features.frames import Sampling, Source
from tests.conftest import run_ffmpeg

PICTURES = "testsrc2=s=64x48:r=25:d=4"


def film(path: Path, *options: str, source: str = PICTURES, before: tuple[str, ...] = ()) -> Path:
    run_ffmpeg(*before, "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *options, str(path))
    return path


def count(path: Path) -> tuple[int, str | None]:
    """Frames at 5 a second, and what is said of them."""
    found = probe.probe(path)
    sampled = frames.sample(Source("v", path, found.duration_s, found.kind == "picture"), Sampling(5, 32, 3))
    return len(sampled.jpegs), sampled.reason


@pytest.mark.parametrize("options", [("-f", "matroska"), ("-f", "h264"), ("-f", "webm", "-c:v", "libvpx")])
def test_a_video_whose_file_does_not_say_how_long_it_is_is_a_video(tmp_path, options):
    path = film(tmp_path / "a.video", "-flags:v", "+bitexact", *options)
    if options[1] != "h264":  # as through a pipe, which cannot be gone back in to fill in the length
        path = tmp_path / "piped"
        run_ffmpeg("-i", str(tmp_path / "a.video"), "-c", "copy", *options[:2], "-live", "1", str(path))
    found = probe.probe(path)
    assert (found.kind, found.duration_s) == ("video", None)
    assert probe.check(path) == probe.Probed("video", None, 4.0)
    assert count(path) == (20, None)
    several = [Source(f"v{i}", path, None) for i in range(3)]  # neighbours, which pictures are sampled together
    assert [len(one.jpegs) for one in frames.sample_all(several, Sampling(5, 32, 3), workers=2)] == [20] * 3


def test_a_header_that_was_never_finished_and_jpegs_in_a_row_lose_no_video(tmp_path):
    path = film(tmp_path / "a.ivf", "-c:v", "libvpx")
    path.write_bytes(path.read_bytes()[:24] + b"\xff" * 4 + path.read_bytes()[28:])  # as of a pipe: 2**32 - 1 pictures
    assert probe.check(path) == probe.Probed("video", None, 3.96) and count(path) == (20, None)
    path = film(tmp_path / "a.mjpeg")
    assert probe.check(path) == probe.Probed("video", None, 4.0) and count(path) == (20, None)
    assert probe.check(path.rename(tmp_path / "photo.jpg")).kind == "picture"  # some have a second one behind them


def test_a_damaged_first_packet_loses_no_more_than_its_pictures(tmp_path):
    path = film(tmp_path / "a.mp4", "-bf", "3", "-g", "25", "-movflags", "+faststart")
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at : at + 30] = b"?" * 30
    path.write_bytes(data)
    found = probe.check(path)
    assert found.kind == "video" and found.reason and found.reason.startswith("damaged (Invalid NAL unit size")
    assert count(path)[0] == 20


def test_a_broken_off_end_and_damage_are_the_reason_of_a_video_that_is_there(tmp_path):
    whole = film(tmp_path / "a.mkv", "-g", "10", source=f"{PICTURES},noise=alls=20:allf=t").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    found = probe.check(tmp_path / "cut.mkv")
    assert found.kind == "video" and found.duration_s == pytest.approx(4)
    assert found.reason == count(tmp_path / "cut.mkv")[1] and found.reason.startswith("pictures for ")
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 300] = b"?" * 300
    (tmp_path / "damaged.mkv").write_bytes(damaged)
    assert "damaged (" in str(probe.check(tmp_path / "damaged.mkv").reason)


def test_packets_that_a_stream_lost_are_damage(tmp_path):
    # Intra pictures alone: of lost ones, only the container's counters tell.
    path = film(tmp_path / "a.ts", "-g", "1", "-c:v", "mpeg2video", source=f"{PICTURES},noise=alls=20:allf=t")
    packets = len(path.read_bytes()) // 188
    data = path.read_bytes()
    path.write_bytes(data[: packets // 2 * 188] + data[(packets // 2 + 30) * 188 :])
    found = probe.check(path)
    assert found.kind == "video" and found.reason and found.reason.startswith("damaged (")


def test_a_video_without_a_frame_is_not_ok(tmp_path):
    path = film(tmp_path / "a.mkv", "-g", "1")
    data = path.read_bytes()
    start = data.index(b"\x1f\x43\xb6\x75") + 30  # in the first cluster
    path.write_bytes(data[:start] + bytes(len(data) - start))
    found = probe.check(path)
    assert found.kind is None and found.reason


@pytest.mark.parametrize("offset", ["5", "50000"])
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv", "nut"])
def test_where_the_time_of_a_file_begins_is_no_part_of_its_length(tmp_path, suffix, offset):
    path = film(tmp_path / f"a.{suffix}", "-output_ts_offset", offset)
    assert probe.probe(path).duration_s == pytest.approx(4, abs=0.1)
    assert count(path) == (20, None)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv"])
def test_a_video_that_begins_after_its_sound_keeps_its_place(tmp_path, suffix):
    sound = ("-f", "lavfi", "-i", "sine=d=5", "-itsoffset", "2")
    path = film(tmp_path / f"a.{suffix}", "-map", "0:a", "-map", "1:v", "-c:v", "libx264", "-c:a", "aac", before=sound)
    assert abs(count(path)[0] - 30) <= 1
    found = frames.sample(Source("v", path, 6.0), Sampling(5, 32, 3)).jpegs
    assert len(set(found[:10])) == 1 and len(set(found[10:])) > 15


def test_a_gap_in_a_stream_holds_the_last_picture(tmp_path):
    path = film(tmp_path / "a.ts", "-fps_mode", "vfr", source=f"{PICTURES},setpts='(N/25+gte(N,50)*30)/TB'")
    assert count(path) == (170, None)
    assert len(set(frames.sample(Source("v", path, 34.0), Sampling(5, 32, 3)).jpegs[10:159])) == 1


def test_a_stream_put_behind_another_goes_on_where_that_ends(tmp_path):
    path = film(tmp_path / "a.ts")
    path.write_bytes(path.read_bytes() * 2)
    found = probe.check(path)
    assert (found.kind, found.duration_s) == ("video", 8.0) and count(path)[0] == 40


def test_the_video_is_what_moves_and_of_several_the_default(tmp_path):
    still, first, second = tmp_path / "still.png", film(tmp_path / "first.mkv"), tmp_path / "second.mkv"
    film(still, "-frames:v", "1", source="color=green:s=80x48")
    film(second, source="testsrc2=s=48x48:r=25:d=4")
    both = ("-map", "0", "-map", "1", "-c", "copy")
    for name in ("still.mkv", "still.mp4"):
        run_ffmpeg("-i", str(still), "-i", str(first), *both, str(tmp_path / f"with {name}"))
        assert count(tmp_path / f"with {name}") == (20, None)
    dispositions = ("-disposition:v:0", "0", "-disposition:v:1", "default")
    run_ffmpeg("-i", str(first), "-i", str(second), *both, *dispositions, str(tmp_path / "two.mkv"))
    assert probe.look(tmp_path / "two.mkv").stream == "1"
    assert count(tmp_path / "two.mkv") == (20, None)


@pytest.mark.parametrize(
    ("name", "options"), [("a.avif", ("-c:v", "libaom-av1", "-cpu-used", "8")), ("a.webp", ("-c:v", "libwebp_anim"))]
)
def test_animated_pictures_are_videos_and_others_are_pictures(tmp_path, name, options):
    animated = film(tmp_path / name, *options, source="testsrc2=s=64x48:r=10:d=1")
    assert probe.check(animated).kind == "video" and count(animated)[0] >= 2
    still = film(tmp_path / f"still-{name}", "-frames:v", "1", *options[:2] if "avif" in name else ())
    assert probe.check(still) == probe.Probed("picture") and count(still) == (1, None)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_of_extreme_shape_is_not_taken(tmp_path):
    (tmp_path / "a.png").write_bytes(png(65_000, 1))
    reason = "frames of 65000x1: more than 100 times as long as wide"
    assert probe.check(tmp_path / "a.png") == probe.Probed(None, reason)
    (tmp_path / "b.png").write_bytes(png(990, 10))
    assert probe.check(tmp_path / "b.png") == probe.Probed("picture")


def test_a_picture_that_ends_in_the_middle_says_so(make_video, tmp_path):
    data = film(tmp_path / "a.jpg", "-frames:v", "1", "-q:v", "2").read_bytes()
    assert probe.check(tmp_path / "a.jpg") == probe.Probed("picture")
    (tmp_path / "a.jpg").write_bytes(data[: 2 * len(data) // 3])
    assert probe.check(tmp_path / "a.jpg") == probe.Probed("picture", "damaged (it is cut off)")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page, not a video"),
        (b'{"error": "no such key"}', "text, not a video"),
        ("Größe: 3\n".encode(), "text, not a video"),
        (b"%PDF-1.7 \0\1", "a PDF, not a video"),
        (b"ID3\4\0\0\0\0\0\0", "sound only, no pictures"),
        (b"#EXTM3U\n", "a playlist or other text, not a video"),
    ],
)
def test_what_is_no_video_is_called_by_its_name(tmp_path, content, reason):
    (tmp_path / "a.mp4").write_bytes(content)
    assert probe.probe(tmp_path / "a.mp4") == probe.Probed(None, reason)


def of_matroska(name: str, content: bytes) -> bytes:
    """An EBML element; name: its id, hexadecimal."""
    return bytes.fromhex(name) + (1 << 56 | len(content)).to_bytes(8, "big") + content


def content_of(data: bytes, at: int) -> tuple[bytes, int]:
    """Of the EBML element whose length is at that byte; and where it ends."""
    width = 9 - data[at].bit_length()
    length = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return data[at + width : at + width + length], at + width + length


def as_encrypted(data: bytes) -> bytes:
    """A Matroska file of one track, which now says that it is encrypted (RFC 9559, 5.1.4.1.31)."""
    tracks_at = data.index(b"\x16\x54\xae\x6b", data.index(b"\x16\x54\xae\x6b") + 4)  # the first is in an index
    tracks, end = content_of(data, tracks_at + 4)
    entry_at = tracks.index(b"\xae")
    entry, entry_end = content_of(tracks, entry_at + 1)
    encryption = of_matroska("5035", of_matroska("47e1", b"\5") + of_matroska("47e2", b"key " * 4))
    encoding = of_matroska("6240", of_matroska("5033", b"\1") + encryption)
    entry = of_matroska("ae", entry + of_matroska("6d80", encoding))
    return data[:tracks_at] + of_matroska("1654ae6b", tracks[:entry_at] + entry + tracks[entry_end:]) + data[end:]


def test_an_encrypted_video_is_called_so(tmp_path, monkeypatch):
    key, name = "76a6c65c5ea762046bd749a2e632ccbb", "a7e61c373e219033c21091fa607bf3b8"
    encryption = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", name)
    assert probe.check(film(tmp_path / "a.mp4", *encryption)) == probe.Probed(None, "encrypted")
    with monkeypatch.context() as patch:  # encrypted pictures may decode by chance
        patch.setattr(probe, "_first", lambda *_: av.VideoFrame(64, 48))
        assert probe.probe(tmp_path / "a.mp4") == probe.Probed(None, "encrypted")
    path = film(tmp_path / "a.mkv", "-live", "1")
    assert probe.check(path).kind == "video"
    path.write_bytes(as_encrypted(path.read_bytes()))
    assert probe.check(path) == probe.Probed(None, "encrypted")
    path = film(tmp_path / "a.ts")
    packets = bytearray(path.read_bytes())
    for at in range(0, len(packets), 188):
        if packets[at + 1] & 0x1F:  # not the tables
            packets[at + 3] |= 0xC0  # scrambled
            packets[at + 4 : at + 188] = b"\x9a" * 184
    path.write_bytes(packets)
    assert probe.check(path) == probe.Probed(None, "encrypted")
