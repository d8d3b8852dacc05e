import io
import shutil
import subprocess
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from conftest import run_ffmpeg, write_params
from PIL import Image

import stages.frames
from pipeline import annotations, frames, ledger, shards
from pipeline.annotations import Segment
from pipeline.frames import Sampled, Sampling, Source, sample

WHOLE = Sampling(fps=5, short_side_px=10_000, jpeg_quality=2)  # nothing is scaled, little is lost
SMALL = Sampling(fps=5, short_side_px=32, jpeg_quality=3)


def sampled(path: Path, sampling: Sampling = SMALL) -> Sampled:
    return sample(Source("v", path, ledger.examine("v", path).duration_s), sampling)


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
    decoded, wanted = by_time(path, fps)
    assert found.reason is None and len(found.jpegs) == len(wanted)
    levels = [(grey(picture(jpeg)).mean(), decoded[k].mean()) for jpeg, k in zip(found.jpegs, wanted, strict=True)]
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
        decoded, wanted = by_time(path, 5)
        assert found.reason is None and abs(len(found.jpegs) - len(wanted)) <= 1, path.name
        for jpeg, k in list(zip(found.jpegs, wanted, strict=False))[::5]:
            ours = grey(picture(jpeg))
            near = {i: decoded[i] for i in range(max(0, k - 2), min(len(decoded), k + 3))}
            if ours.shape != decoded[k].shape:  # its pixels are not square
                assert path.name == "flipping_a_pancake.mkv"
                near = {i: grey(Image.fromarray(one).resize(ours.shape[::-1])) for i, one in near.items()}
            apart = {i: float(np.abs(ours - one).mean()) for i, one in near.items()}
            assert apart[k] < min(apart.values()) + 0.2 and apart[k] < 6, (path.name, k, apart)


def test_a_rotated_video_stands_upright(make_video, tmp_path):
    lying, upright = tmp_path / "lying.mp4", tmp_path / "upright.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "color=black:s=64x48:d=1,drawbox=w=8:h=48:color=white:t=fill", str(lying))
    run_ffmpeg("-display_rotation", "90", "-i", str(lying), "-c", "copy", str(upright))
    found, wanted = grey(picture(sampled(upright, WHOLE).jpegs[0])), by_time(upright, 5)[0][0]
    assert found.shape == wanted.shape == (64, 48)
    assert np.abs(found - wanted).mean() < 3
    assert picture(sampled(upright).jpegs[0]).size == (32, 43)


@pytest.mark.parametrize(
    ("size", "sar", "short_side_px", "wanted"),
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
def test_the_short_side_is_scaled_without_stretching(make_video, size, sar, short_side_px, wanted):
    path = make_video(f"sar {size} {sar.replace('/', ' ')}.mp4", size, "10", 0.2, f"setsar={sar}")
    assert picture(sampled(path, Sampling(5, short_side_px, 3)).jpegs[0]).size == wanted


def test_a_picture_is_a_video_of_one_frame(make_video):
    path = make_video("picture.png", "64x48", "10", 0.1)
    assert ledger.examine("v", path).duration_s is None
    table = frames.to_table(sampled(path), fps=5)
    assert table.schema == frames.SCHEMA
    assert table.drop_columns("jpeg").to_pylist() == [{"video_id": "v", "frame_index": 0, "timestamp_s": 0.0}]


def test_pictures_sampled_together_are_the_same_as_alone(make_video, tmp_path):
    good = [Source(f"p{i}", make_video(f"p{i}.png", f"{64 + 2 * i}x48", "10", 0.1), None) for i in range(3)]
    assert frames.sample_pictures(good, SMALL) == [sample(source, SMALL) for source in good]
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    mixed = [*good, Source("bad", tmp_path / "bad.jpg", None)]
    found = list(frames.sample_all(mixed, SMALL, workers=2))
    assert [len(one.jpegs) for one in found] == [1, 1, 1, 0]
    assert found[3].reason and found[3].reason.startswith("no frame decodes (")


def test_several_videos_come_back_in_order(make_video):
    kinds = [VIDEOS["10 fps"], VIDEOS["slower than the sampling"], VIDEOS["60 fps"]]
    sources = [Source(f"v{i}", make_video(*kinds[i % 3]), 2.0) for i in range(7)]
    found = list(frames.sample_all(iter(sources), SMALL, workers=3))
    assert found == [sample(source, SMALL) for source in sources]


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
    def never_ends(arguments, timeout, **_):
        raise subprocess.TimeoutExpired(arguments, timeout)

    monkeypatch.setattr(frames.subprocess, "run", never_ends)
    found = sample(Source("v", make_video("a.mp4"), 200.0), SMALL)
    assert found == Sampled("v", [], "decoding took longer than 300 s", final=False)


def test_a_change_of_size_in_the_middle_does_not_lose_the_time(make_video, tmp_path):
    first = make_video("first.ts", "64x48", "10", 2.0)
    for size in ("96x72", "96x48", "48x96"):
        second = make_video(f"{size}.ts", size, "10", 2.0, "", "-output_ts_offset", "2")
        both = tmp_path / "both.ts"
        both.write_bytes(first.read_bytes() + second.read_bytes())
        found = sample(Source("v", both, 4.0), SMALL)
        levels = [float(grey(picture(jpeg)).mean()) for jpeg in found.jpegs]
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


def test_a_fingerprint_changes_with_the_file_and_the_sampling():
    one = frames.fingerprints({"a": "00", "b": "01"}, SMALL)
    assert one["a"] != one["b"] and one == frames.fingerprints({"a": "00", "b": "01"}, SMALL)
    assert frames.fingerprints({"a": "00"}, Sampling(5, 32, 4))["a"] != one["a"]


def write_videos(data: Path, contents: dict[str, bytes], named: list[str]) -> None:
    """What the download writes of videos that it found good; those `named` have a segment."""
    (data / "videos").mkdir(parents=True, exist_ok=True)
    rows = []
    for video_id, content in contents.items():
        path = data / "videos" / f"{video_id}.mp4"
        path.write_bytes(content)
        rows.append(replace(ledger.examine(video_id, path), status="ok", duration_s=2.0))
    ledger.write(data / "ledger.parquet", [*rows, ledger.Row("gone", "missing", "no file")])
    segments = [Segment(f"{i}#0", i, "train", 0.0, 1.0, ("x",), None) for i in named]
    pa.parquet.write_table(annotations.to_table(segments), data / "segments.parquet")


def test_the_stage_writes_frames_of_videos_that_are_ok_and_have_segments(make_video, workspace, capfd):
    data = workspace({"frames.shards": 2, "frames.short_side_px": 32}) / "data" / "activitynet"
    good = make_video("a.mp4").read_bytes()
    write_videos(data, {"good": good, "unnamed": good, "damaged": good[:900]}, named=["good", "damaged"])
    stages.frames.main("activitynet")
    said = capfd.readouterr().out
    assert "frames activitynet: 10 frames of 1 videos (2 sampled, 0 kept, 0 removed, 1 dropped)" in said
    assert "  damaged: no frame decodes (" in said
    assert shards.read(data / "frames", "good")["frame_index"].to_pylist() == list(range(10))
    assert shards.read(data / "frames", "damaged").num_rows == 0
    stages.frames.main("activitynet")
    assert "(0 sampled, 2 kept, 0 removed, 1 dropped)" in capfd.readouterr().out


def test_videos_whose_frames_are_kept_need_no_files_and_absent_ones_stop_the_stage_before_any_work(
    make_video, workspace, capfd
):
    here = workspace({"frames.shards": 2, "frames.short_side_px": 32})
    data = here / "data" / "activitynet"
    good = make_video("a.mp4").read_bytes()
    write_videos(data, {"v_a": good, "v_b": good}, named=["v_a", "v_b"])
    stages.frames.main("activitynet")
    shutil.rmtree(data / "videos")
    stages.frames.main("activitynet")
    assert "(0 sampled, 2 kept, 0 removed, 0 dropped)" in capfd.readouterr().out

    kept = {path: path.read_bytes() for path in (data / "frames").iterdir()}
    write_params(here / "params.yaml", here / "params.yaml", {"frames.shards": 1})  # the other shard would go
    write_videos(data, {"v_a": good, "v_b": good, "v_c": good, "v_d": good}, named=["v_a", "v_b", "v_c", "v_d"])
    for video_id in ("v_a", "v_b", "v_d"):
        (data / "videos" / f"{video_id}.mp4").unlink()
    (data / "videos/v_d.mp4").write_bytes(good[:-1])
    with pytest.raises(
        ValueError,
        match=r"of 4 videos to sample, 3 are absent from data/activitynet/videos, or not the files that the ledger "
        r"knows \(first: v_\w\); fetch them with: dvc repro -f download@activitynet$",
    ):
        stages.frames.main("activitynet")
    assert kept == {path: path.read_bytes() for path in (data / "frames").iterdir()}


def test_a_file_that_is_not_what_the_ledger_says_is_not_sampled_in_its_name(make_video, workspace):
    data = workspace({"frames.shards": 1}) / "data" / "activitynet"
    good = make_video("a.mp4").read_bytes()
    write_videos(data, {"v_a": good}, named=["v_a"])
    (data / "videos/v_a.mp4").write_bytes(good[:-1] + b"?")
    with pytest.raises(ValueError, match=r"videos/v_a.mp4 is not the file that the ledger knows; delete it, and fetch"):
        stages.frames.main("activitynet")
