import time
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import run_ffmpeg

from pipeline import frames, ledger, packets
from pipeline.frames import Sampled, Sampling, Source
from pipeline.shapes.dataset import write_videos

NOISE = "noise=alls=20:allf=t"
SAMPLING = Sampling(fps=5, short_side_px=32, jpeg_quality=3)
RATE = Fraction(5)

B_FRAMES = "b-adapt=0:scenecut=0"  # x264 itself sees none fit for pictures like these
SPARED = {
    "B-frames": ("a.mp4", "64x48", "25", 4.0, NOISE, "-x264-params", B_FRAMES),
    "a pyramid of many": ("b.mp4", "64x48", "30", 4.0, NOISE, "-x264-params", f"{B_FRAMES}:bframes=8:b-pyramid=normal"),
    "open groups": ("c.mkv", "64x48", "25", 4.0, NOISE, "-x264-params", f"{B_FRAMES}:keyint=12:open-gop=1"),
    "23.976 fps": ("d.mov", "64x48", "24000/1001", 4.0, NOISE, "-x264-params", B_FRAMES),
    "variable rate": (
        *("e.mkv", "64x48", "25", 4.0, f"{NOISE},settb=1/1000,setpts='13*N+0.7*N*N'"),
        *("-fps_mode", "passthrough", "-enc_time_base", "1/1000", "-x264-params", B_FRAMES),
    ),
    "a late start": ("f.mp4", "64x48", "25", 3.0, f"{NOISE},setpts=PTS+0.37/TB", "-x264-params", B_FRAMES),
    "fragments": (
        *("g.mp4", "64x48", "25", 4.0, NOISE, "-x264-params", B_FRAMES),
        *("-movflags", "frag_keyframe+empty_moov"),
    ),
    "each picture by itself": ("i.mp4", "64x48", "25", 3.0, NOISE, "-g", "1"),
    "slices": ("h.mp4", "64x64", "25", 3.0, NOISE, "-x264-params", f"{B_FRAMES}:slices=2:repeat-headers=1:aud=1"),
}
NOT_CERTAIN = {
    "a container whose times ffmpeg corrects": ("a.ts", "64x48", "25", 2.0, NOISE, "-x264-params", B_FRAMES),
    "another codec": ("b.webm", "64x48", "25", 2.0, NOISE, "-c:v", "libvpx"),
    "each picture refers to the one before": (
        "c.mp4",
        "64x48",
        "25",
        2.0,
        NOISE,
        "-bf",
        "0",
        "-x264-params",
        "scenecut=0",
    ),
    "interlaced": ("d.mp4", "64x64", "25", 2.0, NOISE, "-x264-params", f"{B_FRAMES}:tff=1"),
    "all are sampled": ("e.mp4", "64x48", "5", 4.0, NOISE, "-x264-params", B_FRAMES),
    "a picture": ("f.png", "64x48", "10", 0.1),
}


def unneeded(path: Path, rate: Fraction = RATE) -> list[bool]:
    return packets.unneeded(path, rate, deadline=time.monotonic() + 60)


@pytest.fixture
def ffmpeg_runs(monkeypatch) -> list[list[str]]:
    """The command lines of ffmpeg that frames.py starts."""
    runs, run = [], frames.subprocess.run
    monkeypatch.setattr(frames.subprocess, "run", lambda line, **how: runs.append(line) or run(line, **how))
    return runs


def sample(path: Path, sampling: Sampling = SAMPLING) -> Sampled:
    return frames.sample(Source("v", path, ledger.examine("v", path).duration_s), sampling)


def sample_plainly(path: Path, sampling: Sampling = SAMPLING) -> Sampled:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packets, "unneeded", lambda *_, **__: [])
        return sample(path, sampling)


@pytest.mark.parametrize("kind", SPARED)
def test_what_is_left_out_changes_no_picture(make_video, ffmpeg_runs, kind):
    path = make_video(*SPARED[kind])
    assert sum(unneeded(path)) > 0.2 * len(unneeded(path))
    for fps in (5, 7.3, 1):
        sampling = Sampling(fps, 32, 3)
        ffmpeg_runs.clear()
        found = sample(path, sampling)
        assert len(ffmpeg_runs) == 1 and "-/bsf:V:0" in ffmpeg_runs[0]
        assert found == sample_plainly(path, sampling) and found.reason is None and len(found.jpegs) > 2


@pytest.mark.parametrize("kind", NOT_CERTAIN)
def test_where_it_is_not_certain_nothing_is_left_out(make_video, ffmpeg_runs, kind):
    path = make_video(*NOT_CERTAIN[kind])
    ffmpeg_runs.clear()
    assert not any(unneeded(path))
    assert sample(path).jpegs and len(ffmpeg_runs) == 1 and "-/bsf:V:0" not in ffmpeg_runs[0]


def test_a_cut_by_edit_list_and_a_second_picture_track_are_not_certain(make_video, tmp_path):
    path = make_video(*SPARED["B-frames"])
    cut, two = tmp_path / "cut.mp4", tmp_path / "two.mp4"
    run_ffmpeg("-ss", "1.3", "-i", str(path), "-c", "copy", str(cut))
    run_ffmpeg("-i", str(path), "-i", str(path), "-map", "0", "-map", "1", "-c", "copy", str(two))
    assert unneeded(cut) == unneeded(two) == []
    assert packets.unneeded(path, RATE, deadline=time.monotonic()) == []


def test_real_videos_give_the_same_pictures_either_way(real_data):
    thinned = {path for path in (real_data / "real_videos" / "videos").iterdir() if any(unneeded(path))}
    for path in thinned:
        assert sample(path) == sample_plainly(path), path.name
    # Others of them are H.264 too; awesome_movie.mov has B-frames, but does not say how far it reorders them.
    assert {"bikes.mp4", "chaplin.mp4", "cockatoo.mp4"} < {path.name for path in thinned}
    # It has B-frames, but does not say how far it reorders pictures.
    assert "awesome_movie.mov" not in {path.name for path in thinned}


def test_of_built_in_videos_all_is_decoded(tmp_path):
    counts = {"train": 2, "val": 0, "test": 0}
    write_videos(
        tmp_path, tmp_path / "notes", seed=0, counts=counts, size_px=32, fps=5, captions_per_segment=counts, workers=1
    )
    for path in tmp_path.glob("*.mp4"):
        assert not any(unneeded(path)) and sample(path).jpegs


def test_leaving_out_a_picture_that_others_refer_to_would_show(make_video, monkeypatch):
    path = make_video(*NOT_CERTAIN["each picture refers to the one before"])
    wanted = sample_plainly(path)
    monkeypatch.setattr(packets, "unneeded", lambda *_, **__: [False] * 5 + [True] * 20 + [False] * 25)
    assert sample(path) != wanted


def test_where_ffmpeg_complains_of_what_is_left_the_video_is_decoded_whole(make_video, ffmpeg_runs, monkeypatch):
    path = make_video(*SPARED["B-frames"])
    wanted = sample_plainly(path)
    ffmpeg_runs.clear()
    monkeypatch.setattr(packets, "unneeded", lambda *_, **__: [False] * 5 + [True] * 20 + [False] * 75)
    assert sample(path) == wanted and len(ffmpeg_runs) == 2


def test_a_damaged_video_is_decoded_whole_and_says_so(make_video, tmp_path, ffmpeg_runs):
    path = make_video("long.mkv", "64x48", "25", 8.0, NOISE, "-g", "10", "-x264-params", B_FRAMES)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert any(unneeded(cut))
    found = sample(cut)
    assert found == sample_plainly(cut) and found.reason and found.reason.startswith("pictures for ")


def test_the_filter_drops_the_packets_it_is_told_to(make_video, tmp_path):
    path = make_video(*SPARED["B-frames"])
    drop = [n % 7 in (1, 4) or n > 90 for n in range(100)]
    (tmp_path / "filter.txt").write_text(packets.drop_filter(drop))
    hashes = []
    for name, options in (("all", ()), ("some", ("-/bsf:v", str(tmp_path / "filter.txt")))):
        out = tmp_path / f"{name}.txt"
        run_ffmpeg("-copyts", "-i", str(path), "-c", "copy", *options, "-f", "framehash", "-hash", "md5", str(out))
        hashes.append([line.split(",")[-1] for line in out.read_text().splitlines() if not line.startswith("#")])
    assert hashes[1] == [one for one, gone in zip(hashes[0], drop, strict=True) if not gone]
