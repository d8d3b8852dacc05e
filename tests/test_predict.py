"""Captions for one's own videos: by the command, from Python, of what still arrives, and from an exported folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import predict
from pipeline.captioner import familiarity
from pipeline.captioner.model import FORMAT
from pipeline.export import export
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.process import progress
from pipeline.serving import subtitles
from pipeline.serving.arriving import arriving_frames
from pipeline.serving.cuts import find_segments
from pipeline.serving.video_captioner import Captioned, VideoCaptioner
from tests.conftest import Page, run_ffmpeg, write_params
from tests.own_models import PARAMS, write_models

ROOT = Path.cwd()


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    """13.5 s: a red, a green and a blue shot, which begin at 0, 5 and 9 s."""
    path = tmp_path_factory.mktemp("shots") / "three shots.mkv"
    colours = [("red", 5), ("green", 4), ("blue", 4.5)]
    inputs = [f"color=c={colour}:s=64x48:r=10:d={seconds}" for colour, seconds in colours]
    arguments = [part for one in inputs for part in ("-f", "lavfi", "-i", one)]
    run_ffmpeg(*arguments, "-filter_complex", "concat=n=3,noise=alls=4:all_seed=1", "-g", "10", str(path))
    return path


@pytest.fixture
def here(workspace) -> Path:
    folder = workspace(PARAMS)
    write_models()
    return folder


@pytest.fixture
def run(typed):
    return partial(typed, predict)


def test_segments_are_found_where_the_picture_changes(here, shots):
    found = VideoCaptioner.load().caption(shots)
    assert [(one.start_s, one.end_s) for one in found] == [(0.0, 5.0), (5.0, 9.0), (9.0, 13.5)]


def test_whoever_watches_hears_how_far_the_work_is_and_can_end_it(here, shots):
    captioner, heard = VideoCaptioner.load(), []
    captioner.caption(shots, watch=lambda *progress: heard.append(progress))
    of = {doing: (done, of) for doing, done, of in heard}  # the last that was heard of each
    assert list(of) == ["sampling", "segmenting", "embedding", "captioning"]
    assert of["segmenting"] == of["embedding"] == (67, 68) and of["captioning"] == (3, 3)

    def end(doing: str, done: float, of: float | None) -> None:
        if doing == "embedding" and done > 20:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        captioner.caption(shots, watch=end)


def test_frames_that_are_stored_and_not_embedded_change_nothing_that_is_said(here, shots):
    expected = VideoCaptioner.load()
    fps = expected.params.frames.fps
    write_params(here / "params.yaml", here / "params.yaml", {"frames.fps": 3 * fps, "embed.every": 3})
    captioner = VideoCaptioner.load()
    assert captioner.params.frames.fps == 3 * fps and list(captioner.frames(shots)) == list(expected.frames(shots))
    assert captioner.caption(shots) == expected.caption(shots)
    arriving = captioner.follow(captioner.frames(shots))
    assert [one.start_s for one in arriving] == [one.start_s for one in expected.caption(shots)]


def test_what_is_too_short_to_be_a_segment_goes_to_the_one_before(shots, here):
    jpegs = VideoCaptioner.load().frames(shots)
    assert find_segments(jpegs[:50], fps=5, least_s=4) == [(0.0, 5.0), (5.0, 10.0)]
    assert find_segments(jpegs[:30], fps=5, least_s=4) == [(0.0, 6.0)]
    assert find_segments([], fps=5, least_s=4) == [(0.0, 0.0)]


@pytest.mark.parametrize("seen", ["memory", "mean", "both", "video", "segment"])
def test_a_video_that_arrives_frame_by_frame_gets_the_captions_of_the_whole(here, shots, seen):
    memory = seen == "memory"
    write_models(memory, baseline="mean" if memory else seen)
    captioner = VideoCaptioner.load()
    seen_frames = captioner.frames(shots)
    whole = captioner.caption(shots)
    arriving = list(captioner.follow(seen_frames, duration_s=lambda: seen_frames.duration_s))
    assert len(whole) == 3
    for one, other in zip(whole, arriving, strict=True):
        assert (other.start_s, other.end_s, other.caption) == (one.start_s, one.end_s, one.caption)
        assert other.log_prob == pytest.approx(one.log_prob, rel=1e-3)
        assert bool(one.retrieved) == bool(other.retrieved) == memory
    every = list(captioner.follow(captioner.frames(shots), every_s=4))
    assert [(one.start_s, one.end_s) for one in every] == [(0, 4), (4, 8), (8, 12), (12, 13.6)]


def test_the_command_prints_captions_with_their_times_and_writes_subtitles(here, shots, run):
    code, out, _ = run(shots, "--segments", "0-2.5,3-12", "--srt", "--vtt", "--out", "subtitles")
    expected = VideoCaptioner.load().caption(shots, [(0, 2.5), (3, 12)])
    assert code == 0
    message = [f" 0:00.0 -  0:02.5  {expected[0].caption}", f" 0:03.0 -  0:12.0  {expected[1].caption}"]
    assert out.splitlines() == [str(shots), *message]
    assert Path("subtitles/three shots.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:02,500\n")
    assert Path("subtitles/three shots.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.500\n")
    code, out, _ = run(shots, "--segments", "whole", "--json")
    found = json.loads(out)[str(shots)]
    assert [(one["start_s"], one["end_s"]) for one in found["captions"]] == [(0, 13.5)] and found["duration_s"] == 13.5


def test_a_bad_video_is_told_and_the_others_have_their_captions(here, shots, run):
    Path("list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    code, out, err = run("list.mp4", "nowhere.mp4", shots, "--segments", "whole")
    assert code == 1 and len(out.splitlines()) == 2
    assert "list.mp4: a playlist or other text, not a video" in err and "nowhere.mp4: no such file" in err


def test_without_a_trained_model_it_says_which_command_makes_one(workspace, shots, run):
    workspace(PARAMS)
    code, _, err = run(shots)
    assert code == 1 and "dvc repro" in err and "Traceback" not in err


@pytest.mark.parametrize("bad", ["5-2", "1,2", "a-b", ""])
def test_segments_that_make_no_sense_are_refused(here, shots, run, bad):
    code, _, err = run(shots, "--segments", bad)
    assert code == 2 and "expected found, whole, or START-END" in err


def test_an_address_is_downloaded_and_captioned(here, shots, run, site):
    site.pages["/three%20shots.mkv"] = Page(shots.read_bytes(), kind="video/x-matroska")
    code, out, err = run(f"{site.url}/three%20shots.mkv", f"{site.url}/nothing.mkv", "--segments", "whole")
    assert out.splitlines()[1:] == [predict.row(VideoCaptioner.load().caption(shots, "whole")[0])]
    assert code == 1 and "nothing.mkv: HTTP 404" in err
    code, _, err = run(
        f"{site.url}/three%20shots.mkv?{'x' * 300}", "--segments", "whole", "--srt", "--out", "subtitles"
    )
    assert code == 0 and len(list(Path("subtitles").iterdir())) == 1, err


@pytest.mark.parametrize(
    ("limit", "page", "reason"),
    [("max_file_gb", False, "larger than predict.max_file_gb"),
     ("max_page_mb", True, "larger than predict.max_page_mb")],
)  # fmt: skip
def test_no_more_is_fetched_from_an_address_than_params_allow(workspace, shots, run, site, limit, page, reason):
    workspace(PARAMS | {f"predict.{limit}": 1e-6})
    write_models()
    html = Page(b"<html>" + b" " * 2**16, kind="text/html")
    site.pages["/large.mkv"] = html if page else Page(shots.read_bytes())
    code, out, err = run(f"{site.url}/large.mkv", "--segments", "whole")
    assert (code, out) == (1, "") and err.splitlines()[-1].endswith(f"/large.mkv: {reason}")


def test_a_file_that_still_grows_is_captioned_as_it_grows(here, shots, tmp_path):
    growing, data = tmp_path / "growing.mkv", shots.read_bytes()
    growing.write_bytes(data[: len(data) // 2])
    captioner = VideoCaptioner.load()
    found = captioner.follow(arriving_frames(str(growing), captioner.sampling, idle_s=3))
    first = next(found)
    assert first == captioner.caption(shots)[0] or first.end_s == 5.0
    with growing.open("ab") as file:  # only now comes the rest
        file.write(data[len(data) // 2 :])
    assert [one.end_s for one in found] == [9.0, 13.6]


def test_standard_input_and_things_that_are_none_are_followed_or_refused(here, shots, run, tmp_path):
    standard_input = os.dup(0)
    with shots.open("rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        code, out, _ = run("--follow", "-", "--every", "5", "--json")
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)
    assert code == 0 and [json.loads(line)["end_s"] for line in out.splitlines()] == [5, 10, 13.6]
    captioner = VideoCaptioner.load()
    text = tmp_path / "text.mp4"
    text.write_text("no video " * 1000)
    with pytest.raises(ValueError, match=r"text.mp4: no frame arrived"):
        list(arriving_frames(str(text), captioner.sampling, idle_s=1))


def test_an_exported_captioner_loads_in_one_call_and_says_the_same(here, shots, tmp_path, monkeypatch):
    Path("metrics").mkdir()
    Path("metrics/captions.json").write_text('{"CIDEr": 12.5, "METEOR": 3.25, "segments": 9, "segments.asked": 10}')
    expected = VideoCaptioner.load().caption(shots)
    export(tmp_path / "out" / "mine")
    monkeypatch.chdir(tmp_path / "out")  # nothing of the project is at hand
    assert VideoCaptioner.from_pretrained("mine").caption(shots) == expected
    files = {path.name for path in Path("mine").rglob("*") if path.is_file()}
    assert {"README.md", "config.json", "mapper.safetensors", "tokenizer.json"} <= files
    assert not {path for path in files if path.endswith((".bin", ".pt", ".pkl"))}
    from huggingface_hub import ModelCard

    results = ModelCard.load("mine/README.md").data.eval_results
    assert {(one.metric_name, one.metric_value) for one in results} == {("CIDEr", 12.5), ("METEOR", 3.25)}
    assert "9 of 10 segments" in Path("mine/README.md").read_text()
    monkeypatch.chdir(here)
    with pytest.raises(ValueError, match="is not an empty folder"):
        export(tmp_path / "out" / "mine")


def test_the_line_of_an_exported_model_card_works_where_the_project_is_installed(here, shots, tmp_path):
    Path("metrics").mkdir()
    Path("metrics/captions.json").write_text('{"CIDEr": 12.5, "segments": 9, "segments.asked": 10}')
    expected = predict.table("holiday.mp4", VideoCaptioner.load().caption(shots))
    export(tmp_path / "out/mine")
    shutil.copy(shots, tmp_path / "out/holiday.mp4")
    source, env = tmp_path / "source", tmp_path / "env"
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "requirements.in"):
        shutil.copy(ROOT / name, source)
    # An environment of its own, which has the other packages from this one.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    [packages] = env.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(env / "bin/python"), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", str(source)], check=True)
    shutil.rmtree(source)

    [line] = re.findall(r"^video-captions .*", Path(tmp_path / "out/mine/README.md").read_text(), re.MULTILINE)
    variables = {**os.environ, "PATH": f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path / "out", env=variables, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{expected}\n", done.stderr
    # The page's files are there, too, and an error where no project is says so in one line.
    page = "from pathlib import Path; from pipeline.serving import web; print(web.__file__)\n"
    page += "for name in ('app', 'report'): web.assemble(Path(web.__file__).parent.parent / name, 'title', {})"
    done = subprocess.run(
        ["python", "-c", page], cwd=tmp_path, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(packages))
    done = subprocess.run(
        ["video-captions", "predict", "holiday.mp4"],
        cwd=tmp_path / "out",
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode and len(done.stderr.splitlines()) == 2 and "params.yaml" in done.stderr


def test_an_export_of_an_earlier_revision_loads_and_one_of_a_later_one_is_refused(here, shots, tmp_path):
    """As of the revision before there were formats: no format, no keyframes, params with keys that have gone since."""
    Path("metrics").mkdir()
    Path("metrics/captions.json").write_text('{"CIDEr": 12.5}')
    write_models(keyframes=0)
    export(tmp_path / "mine")
    expected = VideoCaptioner.load().caption(shots)
    config, params = tmp_path / "mine/config.json", tmp_path / "mine/params.yaml"
    written = json.loads(config.read_text())
    assert written.pop("format") == FORMAT and written["memory"].pop("keyframes") == 0
    config.write_text(json.dumps({**written, "dropout": 0.1}))
    write_params(params, params, {"caption.index": "exact", "frames.shards": ..., "mapper.tokens": 8, "youtube": ...})
    assert VideoCaptioner.from_pretrained(str(tmp_path / "mine")).caption(shots) == expected
    config.write_text(json.dumps({**written, "format": FORMAT + 1}))
    with pytest.raises(ValueError, match=rf"config.json: format {FORMAT + 1}; this revision reads up to {FORMAT}"):
        VideoCaptioner.from_pretrained(str(tmp_path / "mine"))
    del written["mapper"]["clip_tokens"]
    config.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=r"this revision can read: mapper.clip_tokens: Field required"):
        VideoCaptioner.from_pretrained(str(tmp_path / "mine"))


def test_subtitles_hold_whatever_a_caption_says():
    captions = [Captioned(0.0, 3661.2345, "a <b> & --> b\n\nc", -1.0), Captioned(3661.2345, 3662, "", -1.0)]
    assert subtitles.srt(captions) == (
        "1\n00:00:00,000 --> 01:01:01,234\na <b> & -> b c\n\n2\n01:01:01,234 --> 01:01:02,000\n-\n\n"
    )
    assert subtitles.vtt(captions) == (
        "WEBVTT\n\n00:00:00.000 --> 01:01:01.234\na &lt;b&gt; &amp; -&gt; b c\n\n01:01:01.234 --> 01:01:02.000\n-\n\n"
    )


def test_a_caption_of_a_strangers_tokenizer_cannot_command_the_terminal():
    caption = Captioned(0.0, 1.0, "a dog\x1b]0;owned\x07 runs", 0.0)
    assert predict.row(caption) == r" 0:00.0 -  0:01.0  a dog\x1b]0;owned\x07 runs"
    assert predict.table("v\x1b[2J.mp4", []) == r"v\x1b[2J.mp4"


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """2 s, for what does not depend on what is seen."""
    path = tmp_path_factory.mktemp("short") / "short.mkv"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2", "-g", "10", str(path))
    return path


def test_every_name_is_a_path_whatever_ffmpeg_would_take_it_for(here, short, run):
    names = ["10:30.mkv", "file:x.mkv", "pipe:0", "http:", "-dash.mkv", "a %03d [1].mkv"]
    for name in names:
        Path(name).write_bytes(short.read_bytes())
    code, out, err = run(*names, "--json")
    assert code == 0, err
    assert list(json.loads(out)) == [name if name != "-dash.mkv" else "./-dash.mkv" for name in names]
    assert {len(one["captions"]) for one in json.loads(out).values()} == {1}


def test_a_folder_means_its_videos(here, short, run):
    Path("clips/deeper").mkdir(parents=True)
    for name in ("b.mkv", "a.mkv", ".hidden.mkv", "a.srt", "deeper/c.mkv"):
        Path("clips", name).write_bytes(short.read_bytes())
    run_ffmpeg("-f", "lavfi", "-i", "color=red:s=64x48", "-frames:v", "1", "clips/cover.jpg")
    Path("clips/notes").write_text("no video")
    code, out, err = run("clips", "--segments", "whole", "--srt", "--out", "subtitles")
    assert "clips/cover.jpg: skipped (a picture)" in err and "clips/notes: skipped (" in err
    assert code == 0 and out.splitlines()[::2] == ["clips/a.mkv", "clips/b.mkv"]
    assert sorted(path.name for path in Path("subtitles").iterdir()) == ["a.srt", "b.srt"]


def test_what_is_no_file_is_told_as_what_it_is_before_a_model_is_loaded(workspace, run):
    workspace(PARAMS)  # there is no model to load
    os.mkfifo("pipe")
    Path("empty").mkdir()
    code, _, err = run("nope.mp4", "pipe", "/dev/null", "empty", "rtsp://camera/1", "x" * 300)
    assert code == 1
    for line in (
        "nope.mp4: no such file",
        "pipe: a pipe, not a file; to caption what comes out of it: --follow -",
        "/dev/null: a device or a socket, not a file",
        "empty: a folder without videos",
        "rtsp://camera/1: no such file, and rtsp:// is not read, only http:// and https://",
        "cannot be opened (File name too long)",
    ):
        assert line in err
    assert "loading" not in err
    code, _, err = run("--follow", "empty")
    assert code == 1 and "empty: a folder, not a video" in err


def test_segments_beyond_the_end_are_refused_and_across_it_cut(here, short, run):
    code, _, err = run(short, "--segments", "0-1,100-200")
    assert code == 1 and "segment 100-200 s begins after the end of the video, which lasts 2 s" in err
    code, out, err = run(short, "--segments", "0.5-200", "--json")
    found = json.loads(out)[str(short)]
    assert code == 0 and [(one["start_s"], one["end_s"]) for one in found["captions"]] == [(0.5, 2.0)]
    assert found["warnings"] == ["segment 0.5-200 s ends at 2 s, with the video"] and found["warnings"][0] in err
    captioner = VideoCaptioner.load()
    for bad in [(2.0, 1.0)], [(float("nan"), 1.0)], [(-1.0, 1.0)], "all":
        with pytest.raises(ValueError, match="expected"):
            captioner.caption(short, bad)


def test_a_video_that_broke_off_is_captioned_with_a_warning(here, shots, run, tmp_path):
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(shots.read_bytes()[: shots.stat().st_size // 2])
    code, out, err = run(cut, "--json")
    (warning,) = json.loads(out)[str(cut)]["warnings"]
    assert code == 0 and warning in err
    assert warning.startswith("not the whole video: ") and "of 13.5 s" in warning


def test_subtitles_replace_no_file_but_with_force_and_never_each_other(here, short, run):
    for name in ("a/clip.mkv", "b/clip.mkv", "b/CLIP.mkv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(short.read_bytes())
    arguments = ["a/clip.mkv", "b/clip.mkv", "b/CLIP.mkv", "--srt"]
    assert run(*arguments)[0] == 0
    assert {path.name for path in Path().glob("*.srt")} == {"clip.srt", "clip-2.srt", "CLIP-3.srt"}
    Path("clip-2.srt").write_text("mine")
    code, out, err = run(*arguments)
    assert code == 1 and "clip.srt already exists (and 2 others); replace with --force" in err
    assert Path("clip-2.srt").read_text() == "mine" and not out and "loading" not in err
    assert run(*arguments, "--force")[0] == 0 and Path("clip-2.srt").read_text().startswith("1\n")


def test_where_subtitles_cannot_be_written_is_told_before_the_work(here, short, run):
    Path("a-file").write_text("")
    code, _, err = run(short, "--srt", "--out", "a-file/subtitles")
    assert code == 1 and "cannot be written: Not a directory" in err and "loading" not in err
    long = Path("x" * 250 + ".mkv")
    long.write_bytes(short.read_bytes())
    assert run(long, "--srt", "--vtt", "--out", "long")[0] == 0
    assert sorted(path.suffix for path in Path("long").iterdir()) == [".srt", ".vtt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--follow", "--every", "inf"], "found 'inf'; expected seconds, more than 0"),
        (["--follow", "--every", "0"], "found '0'; expected seconds, more than 0"),
        (["--follow", "--every", "-1"], "found '-1'; expected seconds, more than 0"),
        (["--follow", "--idle", "1e20"], "found '1e20'; expected seconds, more than 0 and at most 1,000,000"),
        (["--every", "5"], "--every and --idle are for --follow"),
        (["-"], "- (standard input) is for --follow"),
        (["--out", "x"], "--out and --force are for --srt and --vtt"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(here, run, arguments, message):
    code, _, err = run("a.mkv", *arguments)
    assert code == 2 and message in err


def test_what_a_video_is_unlike_is_told_beside_its_captions(here, shots, short, run, tmp_path):
    captioner = VideoCaptioner.load()
    like = captioner.encoder.embed(captioner.frames(shots), batch_size=8)
    known = [VideoEmbeddings(np.arange(len(part)) / 5, part) for part in np.array_split(like, 4)]
    familiarity.save(Path("models/finetuned", familiarity.FILE), familiarity.summarize(known, known, ["a red shot"]))
    code, out, err = run(shots, short, "--json")
    found = json.loads(out)
    far = "this video is less like the training videos than each of 4 held-out ones"
    assert code == 0 and "predict: the captioner was trained on 4 videos, with captions such as “a red shot”" in err
    assert found[str(shots)]["warnings"] == [] and far in found[str(short)]["warnings"][0] and far in err
    assert "trained on 4 videos" in found[str(shots)]["about"] and found[str(short)]["held_out_further"] == 0
    assert f"{shots}: like the training videos: of 4 held-out ones" in err
    heard: list[str] = []
    list(VideoCaptioner.load().follow(captioner.frames(short), tell=heard.append))
    assert len(heard) == 1 and "less like the training videos" in heard[0]
    Path("metrics").mkdir()
    Path("metrics/captions.json").write_text('{"CIDEr": 12.5}')
    export(tmp_path / "mine")
    assert VideoCaptioner.from_pretrained(str(tmp_path / "mine")).caption(short).warnings == tuple(
        found[str(short)]["warnings"]
    )
    assert "trained on 4 videos, with captions such as “a red shot”" in (tmp_path / "mine/README.md").read_text()


def test_progress_is_told_of_everything_that_takes_long(here, short, site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "PROGRESS_AFTER_S", 0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    site.pages["/a.mkv"] = Page(short.read_bytes(), kind="video/x-matroska")
    with predict.Bars(f"{site.url}/a.mkv") as watch:
        predict.caption(VideoCaptioner.load(), f"{site.url}/a.mkv", "found", watch)
    lines = capsys.readouterr().err.splitlines()
    steps = [re.sub(r"^http.*?: (\w+): .*", r"\1", line) for line in lines if line]
    assert list(dict.fromkeys(steps)) == ["downloading", "sampling", "segmenting", "embedding", "captioning"]
    assert any("embedding: 9 of 10 frames" in line for line in lines)
