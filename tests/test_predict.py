"""Captions for one's own videos: by the command, from Python, of what still arrives, and from an exported folder."""

import json
import os
import time
from pathlib import Path

import pytest
from conftest import Page, run_ffmpeg
from own_models import PARAMS, write_models

from pipeline import predict, subtitles
from pipeline.arriving import arriving_frames
from pipeline.cuts import find_segments
from pipeline.export import export
from pipeline.predictor import Captioned, Predictor


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
def run(monkeypatch, capsys):
    """run(*arguments): the command's exit code, output and errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            predict.main()
            raise SystemExit(0)
        told = capsys.readouterr()
        if isinstance(ended.value.code, str):
            return 1, told.out, ended.value.code
        return int(ended.value.code or 0), told.out, told.err

    return command


def test_segments_are_found_where_the_picture_changes(here, shots):
    found = Predictor.load().caption(shots)
    assert [(one.start_s, one.end_s) for one in found] == [(0.0, 5.0), (5.0, 9.0), (9.0, 13.6)]


def test_what_is_too_short_to_be_a_segment_goes_to_the_one_before(shots, here):
    jpegs = Predictor.load().frames(shots)
    assert find_segments(jpegs[:50], fps=5, least_s=4) == [(0.0, 5.0), (5.0, 10.0)]
    assert find_segments(jpegs[:30], fps=5, least_s=4) == [(0.0, 6.0)]
    assert find_segments([], fps=5, least_s=4) == [(0.0, 0.0)]


@pytest.mark.parametrize("memory", [True, False])
def test_a_video_that_arrives_frame_by_frame_gets_the_captions_of_the_whole(here, shots, memory):
    write_models(memory)
    predictor = Predictor.load()
    whole, arriving = predictor.caption(shots), list(predictor.follow(predictor.frames(shots)))
    assert len(whole) == 3
    for one, other in zip(whole, arriving, strict=True):
        assert (other.start_s, other.end_s, other.caption) == (one.start_s, one.end_s, one.caption)
        assert other.log_prob == pytest.approx(one.log_prob, rel=1e-3)
        assert bool(one.retrieved) == bool(other.retrieved) == memory
    every = list(predictor.follow(predictor.frames(shots), every_s=4))
    assert [(one.start_s, one.end_s) for one in every] == [(0, 4), (4, 8), (8, 12), (12, 13.6)]


def test_the_command_prints_captions_with_their_times_and_writes_subtitles(here, shots, run):
    code, out, _ = run(shots, "--segments", "0-2.5,3-12", "--srt", "--vtt", "--out", "subtitles")
    wanted = Predictor.load().caption(shots, [(0, 2.5), (3, 12)])
    assert code == 0
    said = [f" 0:00.0 -  0:02.5  {wanted[0].caption}", f" 0:03.0 -  0:12.0  {wanted[1].caption}"]
    assert out.splitlines() == [str(shots), *said]
    assert Path("subtitles/three shots.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:02,500\n")
    assert Path("subtitles/three shots.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.500\n")
    code, out, _ = run(shots, "--segments", "whole", "--json")
    assert [(one["start_s"], one["end_s"]) for one in json.loads(out)[str(shots)]] == [(0, 13.6)]


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
    assert code == 2 and "wanted found, whole, or START-END" in err


def test_an_address_is_downloaded_and_captioned(here, shots, run, site):
    site.pages["/three%20shots.mkv"] = Page(shots.read_bytes(), kind="video/x-matroska")
    code, out, err = run(f"{site.url}/three%20shots.mkv", f"{site.url}/nothing.mkv", "--segments", "whole")
    assert out.splitlines()[1:] == [predict.row(Predictor.load().caption(shots, "whole")[0])]
    assert code == 1 and "nothing.mkv: HTTP 404" in err


def test_a_file_that_still_grows_is_captioned_as_it_grows(here, shots, tmp_path):
    growing, data = tmp_path / "growing.mkv", shots.read_bytes()
    growing.write_bytes(data[: len(data) // 2])
    predictor = Predictor.load()
    found = predictor.follow(arriving_frames(str(growing), predictor.sampling, idle_s=3))
    first = next(found)
    assert first == predictor.caption(shots)[0] or first.end_s == 5.0
    with growing.open("ab") as file:  # only now comes the rest
        file.write(data[len(data) // 2 :])
    assert [one.end_s for one in found][:1] == [9.0]


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
    predictor = Predictor.load()
    text = tmp_path / "text.mp4"
    text.write_text("no video " * 1000)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"text.mp4: no frame came"):
        list(arriving_frames(str(text), predictor.sampling, idle_s=1))
    assert time.monotonic() - started < 20


def test_an_exported_captioner_loads_in_one_call_and_says_the_same(here, shots, tmp_path, monkeypatch):
    Path("metrics").mkdir()
    Path("metrics/captions.json").write_text('{"CIDEr": 12.5, "METEOR": 3.25, "segments": 9, "segments.asked": 10}')
    wanted = Predictor.load().caption(shots)
    export(tmp_path / "out" / "mine")
    monkeypatch.chdir(tmp_path / "out")  # nothing of the project is at hand
    assert Predictor.from_pretrained("mine").caption(shots) == wanted
    files = {path.name for path in Path("mine").rglob("*") if path.is_file()}
    assert {"README.md", "config.json", "mapper.safetensors", "tokenizer.json"} <= files
    assert not {path for path in files if path.endswith((".bin", ".pt", ".pkl"))}
    from huggingface_hub import ModelCard

    results = ModelCard.load("mine/README.md").data.eval_results
    assert {(one.metric_name, one.metric_value) for one in results} == {("CIDEr", 12.5), ("METEOR", 3.25)}
    assert "9 of 10 segments" in Path("mine/README.md").read_text()
    monkeypatch.chdir(here)
    with pytest.raises(ValueError, match="is not empty"):
        export(tmp_path / "out" / "mine")


def test_subtitles_hold_whatever_a_caption_says():
    captions = [Captioned(0.0, 3661.2345, "a <b> & --> b\n\nc", -1.0), Captioned(3661.2345, 3662, "", -1.0)]
    assert subtitles.srt(captions) == (
        "1\n00:00:00,000 --> 01:01:01,234\na <b> & -> b c\n\n2\n01:01:01,234 --> 01:01:02,000\n-\n\n"
    )
    assert subtitles.vtt(captions) == (
        "WEBVTT\n\n00:00:00.000 --> 01:01:01.234\na &lt;b&gt; &amp; -&gt; b c\n\n01:01:01.234 --> 01:01:02.000\n-\n\n"
    )
