"""Frames of files that still grow: a real process appends to them."""

import subprocess
import threading
import time
from itertools import count
from types import SimpleNamespace

import imageio_ffmpeg
import pytest

from pipeline.features.frames import Sampling
from pipeline.process.children import MachineFault, end_all
from pipeline.serving import arriving
from pipeline.serving.arriving import arriving_frames
from tests.conftest import run_ffmpeg

SAMPLING = Sampling(5, 32, 3)
KINDS = {
    "fragmented.mp4": ["-movflags", "+frag_keyframe+empty_moov"],
    "faststart.mp4": ["-movflags", "+faststart"],
    "plain.mp4": [],
    "a.mkv": [],
    "a.ts": [],
}
# ffmpeg looks at the first five seconds of an MPEG-TS before it begins.
SOURCE = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=12,noise=alls=60:all_seed=1", "-g", "10"]


@pytest.mark.parametrize("name", KINDS)
def test_frames_of_a_file_that_grows_come_before_it_is_whole_if_its_container_allows_it(tmp_path, monkeypatch, name):
    run_ffmpeg(*SOURCE, *KINDS[name], str(tmp_path / name))
    whole, path = (tmp_path / name).read_bytes(), tmp_path / f"growing-{name}"
    begun = len(whole) * 3 // 4
    path.write_bytes(whole[:begun])
    messages: list[str] = []
    grown, ticks = threading.Event(), count()
    # No time passes until the file is whole. Then it is over after a few looks at it, in which nothing is new.
    clock = SimpleNamespace(monotonic=lambda: next(ticks) if grown.is_set() else 0, sleep=time.sleep)
    monkeypatch.setattr(arriving, "time", clock)

    def grow() -> None:
        """A piece at a time, while the frames are read."""
        with path.open("ab") as file:
            for at in range(begun, len(whole), 50_000):
                file.write(whole[at : at + 50_000])
                file.flush()
                time.sleep(0.01)
        grown.set()

    def tell(line: str) -> None:
        messages.append(line)
        grow()

    frames = arriving_frames(str(path), SAMPLING, idle_s=3, tell=tell)
    next(frames)
    if name == "plain.mp4":  # no frame arrived before the message that it is waited for
        assert messages == [f"{path}: an MP4 whose index comes at its end; waiting until it is complete"]
    else:
        assert messages == [] and path.stat().st_size == begun
        grow()
    assert path.read_bytes() == whole
    assert len(list(frames)) == 59 and len(messages) == (name == "plain.mp4")


def test_a_recording_that_is_a_plain_mp4_is_read_when_it_is_finished(tmp_path):
    path = tmp_path / "recording.mp4"
    source = ["-re", "-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *source, str(path)]
    with subprocess.Popen(command) as recorder:
        while not path.exists():
            time.sleep(0.01)
        assert len(list(arriving_frames(str(path), SAMPLING, idle_s=600))) == 10
        assert recorder.wait() == 0


def test_a_whole_mp4_is_not_waited_for_and_half_of_one_is_an_error(tmp_path):
    path = tmp_path / "a.mp4"
    run_ffmpeg(*SOURCE, str(path))
    assert len(list(arriving_frames(str(path), SAMPLING, idle_s=100_000))) == 60
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"a.mp4: no frame arrived: an MP4 whose index is written at its end"):
        list(arriving_frames(str(path), SAMPLING, idle_s=0.5))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.mp4: no frame arrived: it has 0 bytes, and nothing was added in 0.5 s"):
        list(arriving_frames(str(path), SAMPLING, idle_s=0.5))


def test_damage_is_reported_and_an_ffmpeg_that_was_killed_is_an_error(tmp_path):
    path = tmp_path / "a.ts"
    run_ffmpeg(*SOURCE, "-bf", "0", str(path))
    data = bytearray(path.read_bytes())
    for packet in range(len(data) // 2 // 188 * 188, len(data) - 188 * 40, 188):
        data[packet + 60 : packet + 188] = bytes(128)
    path.write_bytes(data)
    messages: list[str] = []
    assert list(arriving_frames(str(path), SAMPLING, idle_s=0.5, tell=messages.append))
    [message] = messages
    assert message.startswith(f"{path}: warning: damaged (") and "0x" not in message
    frames = arriving_frames(str(path), SAMPLING, idle_s=600)
    next(frames)
    end_all()
    with pytest.raises(MachineFault, match="ffmpeg was killed"):
        list(frames)
