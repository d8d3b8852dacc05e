import io
import shutil
import subprocess
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image

import stages.frames
from pipeline.dataset import ffmpeg_process, ledger, probe, verdict
from pipeline.dataset.segments import Segment, to_table
from pipeline.features import frames, shards
from pipeline.features.frames import Sampled, Sampling, Source, sample
from tests.conftest import run_ffmpeg, write_params

WHOLE = Sampling(fps=5, short_side_px=10_000, jpeg_quality=2)  # nothing is scaled, little is lost
SMALL = Sampling(fps=5, short_side_px=32, jpeg_quality=3)


def sampled(path: Path, sampling: Sampling = SMALL) -> Sampled:
    found = probe.probe(path)
    return sample(Source("v", path, found.duration_s, found.kind == "picture"), sampling)


def picture(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), np.float32)


def by_time(path: Path, fps: float) -> tuple[list[np.ndarray], list[int]]:
    """The oracle: decodes every frame with PyAV; for every i, the last one not later than i / fps.

    Returns all frames in grey and, for every i, which one.
    """
    times, greys, end_s = [], [], 0.0
    with av.open(str(path)) as container:
        start_s = (container.start_time or 0) / av.time_base
        for frame in container.decode(container.streams.video[0]):
            assert frame.pts is not None and frame.time_base
            times.append(float(frame.pts * frame.time_base) - start_s)
            greys.append(np.rot90(frame.reformat(format="gray").to_ndarray(), frame.rotation // 90))
            end_s = times[-1] + float((frame.duration or 0) * frame.time_base)
    count = max(1, int(np.ceil(round(end_s * fps, 3))))
    return greys, [max(0, bisect_right(times, i / fps + 1e-6) - 1) for i in range(count)]


VIDEOS = {
    "10 fps": ("a.mp4",),
    "23.976 fps": ("b.mp4", "64x48", "24000/1001", 3.0),
    "60 fps": ("c.mkv", "64x48", "60"),
    "slower than the sampling": ("d.mp4", "64x48", "3", 3.0),
    "a single frame": ("e.mp4", "64x48", "10", 0.1),
    "variable rate": ("f.mkv", "64x48", "10", 3.0, "setpts='(0.013*N+0.004*N*N)/TB'", "-fps_mode", "passthrough"),
    "variable rate with a pause": ("g.mp4", "64x48", "10", 2.0, "setpts='(N/10+gt(N,7)*1.23)/TB'", "-fps_mode", "vfr"),
    "a start far from zero": ("h.ts", "64x48", "10", 2.0, "", "-output_ts_offset", "3.21"),
    "B-frames": ("i.mp4", "64x48", "25", 2.0, "", "-bf", "3", "-g", "50"),
}


@pytest.mark.parametrize("kind", VIDEOS)
@pytest.mark.parametrize("fps", [5, 2.5, 7.3])
def test_frame_i_is_the_picture_on_screen_after_i_intervals(make_video, kind, fps):
    path = make_video(*VIDEOS[kind])
    found = sampled(path, Sampling(fps, 10_000, 2))
    decoded, expected = by_time(path, fps)
    assert found.reason is None and len(found.jpegs) == len(expected)
    levels = [(grey(picture(jpeg)).mean(), decoded[k].mean()) for jpeg, k in zip(found.jpegs, expected, strict=True)]
    assert all(abs(ours - theirs) < 2 for ours, theirs in levels), levels


def test_a_picture_that_comes_late_stands_for_what_is_before_it(make_video, tmp_path):
    late = tmp_path / "late.mkv"
    sound = ("-f", "lavfi", "-i", "sine=d=2")
    run_ffmpeg(*sound, "-itsoffset", "0.7", "-i", str(make_video("a.mp4")), "-map", "0:a", "-map", "1:v", str(late))
    levels = [round(float(grey(picture(jpeg)).mean())) for jpeg in sampled(late, WHOLE).jpegs]
    assert len(levels) == 14 and len(set(levels[:4])) == 1 and levels[4] > levels[3]


def test_real_videos_agree_with_decoding_every_frame(real_data):
    for path in sorted((real_data / "real_videos" / "videos").iterdir()):
        found = sampled(path, WHOLE)
        if path.name == "broken.mp4":
            assert found.reason == "no frame decodes (moov atom not found)"
            continue
        decoded, expected = by_time(path, 5)
        assert found.reason is None and abs(len(found.jpegs) - len(expected)) <= 1, path.name
        for jpeg, k in list(zip(found.jpegs, expected, strict=False))[::5]:
            ours = grey(picture(jpeg))
            near = {i: decoded[i] for i in range(max(0, k - 2), min(len(decoded), k + 3))}
            if ours.shape != decoded[k].shape:  # its pixels are not square
                assert path.name == "flipping_a_pancake.mkv"
                near = {i: grey(Image.fromarray(one).resize(ours.shape[::-1])) for i, one in near.items()}
            apart = {i: float(np.abs(ours - one).mean()) for i, one in near.items()}
            assert apart[k] < min(apart.values()) + 0.2 and apart[k] < 6, (path.name, k, apart)


RED, SKIN, WHITE = (255, 0, 0), (224, 160, 128), (255, 255, 255)
TAGS = {"bt709": "bt709", "bt2020": "bt2020nc", "bt601": "smpte170m"}  # ffmpeg's two names of a matrix


def coloured(path: Path, rgb: tuple[int, int, int], matrix: str, range_: str, tag: bool, size: str) -> Path:
    """A video of one colour, coded by that matrix; `tag`: and it says so."""
    scale = f"scale=out_color_matrix={matrix}:out_range={range_}:flags=accurate_rnd+full_chroma_int,format=yuv420p"
    tagging = f"setparams=colorspace={TAGS[matrix] if tag else 'unknown'}:range={range_ if tag else 'unknown'}"
    colour = "0x" + bytes(rgb).hex()
    source = f"color={colour}:s={size}:r=5:d=0.4,{scale},{tagging}"
    run_ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-qp", "1", str(path))
    return path


@pytest.mark.parametrize(
    ("matrix", "range_", "tag", "size"),
    [
        ("bt709", "tv", True, "64x48"),
        ("bt709", "pc", True, "64x48"),
        ("bt2020", "tv", True, "64x48"),
        ("bt601", "tv", True, "1280x720"),
        ("bt601", "pc", True, "64x48"),
        ("bt601", "tv", False, "64x48"),
        ("bt709", "tv", False, "1280x720"),  # nobody says so, but HD is
        ("bt709", "tv", False, "480x720"),
    ],
)
def test_colours_are_those_of_the_video_whatever_it_is_coded_by(tmp_path, matrix, range_, tag, size):
    for rgb in (RED, SKIN, WHITE):
        path = coloured(tmp_path / "a.mp4", rgb, matrix, range_, tag, size)
        middle = np.asarray(picture(sampled(path, SMALL).jpegs[0]).convert("RGB"), float)[8:24, 8:24].mean((0, 1))
        assert np.abs(middle - rgb).max() < 5, middle
        if tag:  # another decoder, which reads the tags too
            with av.open(str(path)) as container:
                other = next(container.decode(video=0)).to_ndarray(format="rgb24").mean((0, 1))
            assert np.abs(middle - other).max() < 6, (middle, other)


# From chromaticities to the matrices between red, green and blue of BT.2020 and BT.709, in linear light.
def _to_xyz(primaries: list[tuple[float, float]]) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return columns * np.linalg.solve(columns, white)


FROM_BT2020 = np.linalg.solve(
    _to_xyz([(0.640, 0.330), (0.300, 0.600), (0.150, 0.060)]),
    _to_xyz([(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)]),
)


@pytest.mark.parametrize("rgb", [RED, SKIN, WHITE, (0, 128, 64), (96, 96, 220)])
def test_bt2020s_red_green_and_blue_become_a_screens(tmp_path, rgb):
    """Against ITU-R BT.2020 and BT.709 computed here: decoders at hand convert the matrix alone."""
    curve = np.array(rgb) / 255
    linear = np.where(curve < 0.081, curve / 4.5, ((curve + 0.099) / 1.099) ** (1 / 0.45))
    wide = np.linalg.solve(FROM_BT2020, linear)
    coded = np.where(wide < 0.018, 4.5 * wide, 1.099 * wide**0.45 - 0.099)
    plain = coloured(tmp_path / "plain.mkv", tuple((255 * coded).round().astype(int)), "bt2020", "tv", True, "64x48")
    path = tmp_path / "a.mkv"
    tags = ("-color_primaries", "bt2020", "-color_trc", "bt2020-10", "-colorspace", "bt2020nc")
    tagging = "setparams=color_primaries=bt2020:color_trc=bt2020-10:colorspace=bt2020nc"
    run_ffmpeg("-i", str(plain), "-vf", tagging, *tags, "-c:v", "libx264", "-qp", "1", str(path))
    middle = np.asarray(picture(sampled(path, SMALL).jpegs[0]).convert("RGB"), float)[8:24, 8:24].mean((0, 1))
    assert np.abs(middle - rgb).max() < 12, middle  # small values of a wide gamut are coarse in eight bits


def test_of_videos_in_jpegs_own_colours_nothing_is_converted(make_video, tmp_path):
    path = make_video("a.mp4", "64x48", "10", 2.0, "hue=h=40*t:s=3")
    plain = tmp_path / "plain.mjpeg"
    filters = "fps=5:round=up:start_time=0,scale=w=43:h=32:flags=bicubic,setsar=1"
    run_ffmpeg("-i", str(path), "-vf", filters, "-q:v", "3", "-pix_fmt", "yuvj420p", "-f", "image2pipe", str(plain))
    assert list(frames.Jpegs(plain.read_bytes())) == list(sampled(path, SMALL).jpegs)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_mapped_to_what_jpeg_can_show(tmp_path, transfer):
    found = {}
    for name, rgb in (("red", RED), ("grey", (118, 118, 118)), ("white", WHITE)):
        colour = f"color=0x{bytes(rgb).hex()}:s=64x48:r=5:d=0.4,format=gbrp,setparams=color_trc=bt709"
        coded = f"zscale=pin=709:tin=709:p=2020:t={transfer}:m=2020_ncl:r=tv:npl=203,format=yuv420p10le"
        path = tmp_path / f"{name}.mkv"
        run_ffmpeg("-f", "lavfi", "-i", f"{colour},{coded}", "-c:v", "libx264", "-qp", "1", str(path))
        assert probe.look(path).hdr == transfer
        found[name] = np.asarray(picture(sampled(path, SMALL).jpegs[0]).convert("RGB"), float)[8:24, 8:24].mean((0, 1))
    red, grey, white = found["red"], found["grey"], found["white"]
    assert red[0] > 150 and red[1:].max() < 60, red
    assert np.ptp(grey) < 6 and np.ptp(white) < 6, (grey, white)  # without colour
    assert 90 < grey.mean() < 160 and 225 < white.mean() < 245, (grey, white)


def test_a_change_of_shape_in_the_middle_stretches_nothing(tmp_path):
    for name, size in (("wide", "128x72"), ("tall", "72x128")):
        ring = f"color=black:s={size}:r=10:d=2,geq=lum='if(lt(hypot(X-W/2,Y-H/2),30),235,16)':cb=128:cr=128"
        run_ffmpeg("-f", "lavfi", "-i", ring, str(tmp_path / f"{name}.ts"))
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "wide.ts").read_bytes() + (tmp_path / "tall.ts").read_bytes())
    found = sampled(both, WHOLE)
    assert found.reason and found.reason.endswith("its pictures change their shape; all are fitted into 128x72")
    assert len(found.jpegs) == 20
    for jpeg in found.jpegs:
        disc = grey(picture(jpeg)) > 120
        assert picture(jpeg).size == (128, 72)
        assert abs(disc.any(0).sum() - disc.any(1).sum()) <= 2 and disc.any(0).sum() > 25


def test_a_rotated_video_stands_upright(make_video, tmp_path):
    lying, upright = tmp_path / "lying.mp4", tmp_path / "upright.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "color=black:s=64x48:d=1,drawbox=w=8:h=48:color=white:t=fill", str(lying))
    run_ffmpeg("-display_rotation", "90", "-i", str(lying), "-c", "copy", str(upright))
    found, expected = grey(picture(sampled(upright, WHOLE).jpegs[0])), by_time(upright, 5)[0][0]
    assert found.shape == expected.shape == (64, 48)
    assert np.abs(found - expected).mean() < 3
    assert picture(sampled(upright).jpegs[0]).size == (32, 43)


@pytest.mark.parametrize(
    ("size", "sar", "short_side_px", "expected"),
    [
        ("128x96", "1/1", 48, (64, 48)),
        ("96x128", "1/1", 48, (48, 64)),
        ("64x48", "1/1", 128, (64, 48)),  # never enlarged
        ("64x64", "2/1", 128, (64, 32)),  # 2:1 on screen
        ("64x64", "1/2", 128, (32, 64)),
        ("128x96", "4/3", 48, (85, 48)),
        ("66x50", "1/1", 33, (44, 33)),
    ],
)
def test_the_short_side_is_scaled_without_stretching(make_video, size, sar, short_side_px, expected):
    path = make_video(f"sar {size} {sar.replace('/', ' ')}.mp4", size, "10", 0.2, f"setsar={sar}")
    assert picture(sampled(path, Sampling(5, short_side_px, 3)).jpegs[0]).size == expected


def test_a_picture_is_a_video_of_one_frame(make_video):
    path = make_video("picture.png", "64x48", "10", 0.1)
    row = verdict.examine("v", path)
    assert (row.kind, row.duration_s) == ("picture", None)
    table = frames.to_table(sampled(path), fps=5)
    assert table.schema == frames.SCHEMA
    assert table.drop_columns("jpeg").to_pylist() == [{"video_id": "v", "frame_index": 0, "timestamp_s": 0.0}]


def test_pictures_sampled_together_are_the_same_as_alone(make_video, tmp_path):
    good = [Source(f"p{i}", make_video(f"p{i}.png", f"{64 + 2 * i}x48", "10", 0.1), None, True) for i in range(3)]
    assert frames.sample_pictures(good, SMALL) == [sample(source, SMALL) for source in good]
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    mixed = [*good, Source("bad", tmp_path / "bad.jpg", None, True)]
    found = list(frames.sample_all(mixed, SMALL, workers=2))
    assert [len(one.jpegs) for one in found] == [1, 1, 1, 0]
    assert found[3].reason and found[3].reason.startswith("no frame decodes (")


def test_several_videos_come_back_in_order(make_video):
    kinds = [VIDEOS["10 fps"], VIDEOS["slower than the sampling"], VIDEOS["60 fps"]]
    sources = [Source(f"v{i}", make_video(*kinds[i % 3]), 2.0) for i in range(7)]
    found = list(frames.sample_all(iter(sources), SMALL, workers=3))
    assert found == [sample(source, SMALL) for source in sources]


def test_a_reader_that_stops_early_does_not_wait_for_the_rest(make_video, tmp_path):
    # A million pictures each: waiting for them would take an hour, and the test would end as one that hangs.
    run_ffmpeg("-f", "lavfi", "-i", "color=s=1280x720:r=0.0001:d=40000", f"{tmp_path}/long.mp4")
    sources = [Source("short", make_video("a.mp4"), 2.0), *[Source("long", tmp_path / "long.mp4", 40_000.0)] * 4]
    found = frames.sample_all(sources, Sampling(25, 720, 3), workers=2)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert not [one for one in psutil.Process().children() if "ffmpeg" in one.name()]


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4"])
def test_a_truncated_video_is_reported_not_fatal(make_video, tmp_path, name):
    whole = make_video(
        f"long {name}", "64x48", "10", 8.0, "noise=alls=20:allf=t", "-movflags", "+faststart", "-g", "10"
    )
    cut = tmp_path / name
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = sampled(cut)
    assert 5 < len(found.jpegs) < 35
    assert found.reason and found.reason.startswith(f"pictures for {len(found.jpegs) / 5:.1f} of 8.0 s")
    assert "0x" not in found.reason and found == sampled(cut)


def test_a_video_that_takes_too_long_is_tried_again_next_time(make_video, monkeypatch):
    def never_ends(command, limit_s, **_):
        raise subprocess.TimeoutExpired(command, limit_s)

    monkeypatch.setattr(ffmpeg_process, "run", never_ends)
    found = sample(Source("v", make_video("a.mp4"), 200.0), SMALL)
    assert found == Sampled("v", [], "decoding took longer than 300 s", final=False)


def test_whoever_watches_hears_how_many_frames_there_are_and_can_end_it(tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=1280x720:r=25:d=20", "-preset", "ultrafast", f"{tmp_path}/a.mp4")
    source, sampling, counts = Source("v", tmp_path / "a.mp4", 20.0), Sampling(25, 64, 3), []

    def watch(count: int) -> None:
        counts.append(count)
        if count > 50:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        frames.sample(source, sampling, watch)
    assert counts == sorted(counts) and 50 < counts[-1] < 500
    assert frames.sample(source, sampling, lambda _: None) == frames.sample(source, sampling)


def test_a_change_of_size_in_the_middle_does_not_lose_the_time(make_video, tmp_path):
    first = make_video("first.ts", "64x48", "10", 2.0)
    for size in ("96x72", "96x48", "48x96"):
        second = make_video(f"{size}.ts", size, "10", 2.0, "", "-output_ts_offset", "2")
        both = tmp_path / "both.ts"
        both.write_bytes(first.read_bytes() + second.read_bytes())
        found = sample(Source("v", both, 4.0), SMALL)
        levels = [float(grey(picture(jpeg))[16, 21]) for jpeg in found.jpegs]
        assert len(levels) == 20 and all(np.diff(levels[:10]) > 5) and all(np.diff(levels[10:]) > 5)


def test_jpegs_are_split_at_their_ends_not_at_bytes_that_look_like_ends():
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(thumbnail, "JPEG")
    jpegs = []
    for restart in (0, 1):
        file = io.BytesIO()
        noise = Image.fromarray(np.random.default_rng(restart).integers(0, 255, (64, 64, 3), np.uint8))
        noise.save(file, "JPEG", quality=95, comment=thumbnail.getvalue(), restart_marker_blocks=restart)
        jpegs.append(file.getvalue())
    assert jpegs[0].count(b"\xff\xd9") > 1
    assert list(frames.Jpegs(b"".join(jpegs))) == jpegs
    for missing in (1, 2, 500, len(jpegs[1]) - 1, len(jpegs[1]) - 3, len(jpegs[1]) - 60):
        assert list(frames.Jpegs(b"".join(jpegs)[:-missing])) == jpegs[:1]
    with pytest.raises(AssertionError, match="no JPEG at byte"):
        list(frames.Jpegs(jpegs[0] + b"not a JPEG"))


def test_timestamps_do_not_drift():
    table = frames.to_table(Sampled("v", [b""] * 16_000), fps=5)
    assert table["timestamp_s"].to_pylist() == [i / 5 for i in range(16_000)]


def test_a_fingerprint_changes_with_the_file_and_the_sampling(monkeypatch):
    files = {"a": ("00", 1.0, False), "b": ("01", 1.0, False), "c": ("00", 2.0, False), "d": ("00", 1.0, True)}
    one = frames.fingerprints(files, SMALL)
    assert len(set(one.values())) == 4 and one == frames.fingerprints(files, SMALL)
    assert frames.fingerprints(files, Sampling(5, 32, 4))["a"] != one["a"]
    monkeypatch.setattr(frames, "versions", lambda *packages: f"{packages} of tomorrow")
    assert frames.fingerprints(files, SMALL)["a"] != one["a"]


def write_videos(data: Path, contents: dict[str, bytes], named: list[str]) -> None:
    """What the download writes of videos that it found good; those `named` have a segment."""
    (data / "media").mkdir(parents=True, exist_ok=True)
    rows = []
    for video_id, content in contents.items():
        path = data / "media" / f"{video_id}.mp4"
        path.write_bytes(content)
        rows.append(replace(verdict.examine(video_id, path), status="ok", duration_s=2.0))
    ledger.write(data / "ledger.parquet", [*rows, verdict.Row("gone", "missing", "no file")])
    segments = [Segment(f"{i}#0", i, "train", 0.0, 1.0, ("x",), None) for i in named]
    pa.parquet.write_table(to_table(segments), data / "segments.parquet")


def test_the_stage_writes_frames_of_videos_that_are_ok_and_have_segments(make_video, workspace, capfd):
    data = workspace({"frames.shards": 2, "frames.short_side_px": 32}) / "data" / "videos"
    good = make_video("a.mp4").read_bytes()
    write_videos(data, {"good": good, "unnamed": good, "damaged": good[:900]}, named=["good", "damaged"])
    stages.frames.main("videos")
    printed = capfd.readouterr().out
    assert "frames videos: 10 frames of 1 videos (2 sampled, 0 kept, 0 removed, 1 dropped)" in printed
    assert "  damaged: no frame decodes (" in printed
    assert shards.read(data / "frames", "good")["frame_index"].to_pylist() == list(range(10))
    assert shards.read(data / "frames", "damaged").num_rows == 0
    stages.frames.main("videos")
    assert "(0 sampled, 2 kept, 0 removed, 1 dropped)" in capfd.readouterr().out


def test_videos_whose_frames_are_kept_need_no_files_and_absent_ones_stop_the_stage_before_any_work(
    make_video, workspace, capfd
):
    here = workspace({"frames.shards": 2, "frames.short_side_px": 32})
    data = here / "data" / "videos"
    good = make_video("a.mp4").read_bytes()
    write_videos(data, {"v_a": good, "v_b": good}, named=["v_a", "v_b"])
    stages.frames.main("videos")
    shutil.rmtree(data / "media")
    stages.frames.main("videos")
    assert "(0 sampled, 2 kept, 0 removed, 0 dropped)" in capfd.readouterr().out

    kept = {path: path.read_bytes() for path in (data / "frames").iterdir()}
    write_params(here / "params.yaml", here / "params.yaml", {"frames.shards": 1})  # the other shard would go
    write_videos(data, {"v_a": good, "v_b": good, "v_c": good, "v_d": good}, named=["v_a", "v_b", "v_c", "v_d"])
    for video_id in ("v_a", "v_b", "v_d"):
        (data / "media" / f"{video_id}.mp4").unlink()
    (data / "media/v_d.mp4").write_bytes(good[:-1])
    with pytest.raises(
        ValueError,
        match=r"of 4 videos to sample, 3 are missing from data/videos/media or differ from the ledger "
        r"\(first: v_\w\); fetch them with: dvc repro -f download@videos$",
    ):
        stages.frames.main("videos")
    assert kept == {path: path.read_bytes() for path in (data / "frames").iterdir()}


def test_a_file_that_is_not_what_the_ledger_says_is_not_sampled_in_its_name(make_video, workspace):
    data = workspace({"frames.shards": 1}) / "data" / "videos"
    good = make_video("a.mp4").read_bytes()
    write_videos(data, {"v_a": good}, named=["v_a"])
    (data / "media/v_a.mp4").write_bytes(good[:-1] + b"?")
    with pytest.raises(ValueError, match=r"media/v_a.mp4 differs from the file in the ledger; delete it, and fetch"):
        stages.frames.main("videos")
