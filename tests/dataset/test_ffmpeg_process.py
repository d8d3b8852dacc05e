"""Faults of this machine, as the real ffmpeg meets them: none becomes a property of the video."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.dataset import ffmpeg_process, ledger, verdict
from pipeline.dataset.segments import Segment, to_table
from pipeline.features import frames, shards
from pipeline.features.frames import Sampling, Source
from pipeline.process import children
from pipeline.process.children import MachineFault
from tests.conftest import run_ffmpeg

SAMPLING = Sampling(fps=5, short_side_px=64, jpeg_quality=3)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=8,noise=alls=20:allf=t", "-g", "25", str(path))
    return path


def sample(path: Path) -> frames.Sampled:
    return frames.sample(Source("v", path, 8.0), SAMPLING)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGXCPU])
def test_an_ffmpeg_that_is_killed_midway_is_no_shorter_video(film, monkeypatch, sent):
    start = children.start

    def killed(arguments, **options):
        at = arguments.index("-i")
        process = start([*arguments[:at], "-re", *arguments[at:]], **options)  # as fast as it is shown: 8 s
        threading.Timer(0.4, process.send_signal, [sent]).start()
        return process

    monkeypatch.setattr(children, "start", killed)
    with pytest.raises(MachineFault, match=r"^v: ffmpeg was (killed \(SIG|stopped early).*; nothing is kept of it"):
        sample(film)


def test_no_space_for_the_pictures_is_no_shorter_video(film):
    command = frames.jpegs_of(frames.pictures_of(f"file:{film}", SAMPLING), SAMPLING, "pipe:")
    with Path("/dev/full").open("wb") as full, pytest.raises(MachineFault, match="No space left on device") as raised:
        ffmpeg_process.run(command, 60, stdout=full)
    assert raised.value.errno == errno.ENOSPC


def test_what_crashes_ffmpeg_is_tried_again_next_time(film, monkeypatch):
    crashed = ffmpeg_process.Ended(-signal.SIGSEGV, None, False, 0)
    monkeypatch.setattr(ffmpeg_process, "run", lambda *_, **__: crashed)
    assert not sample(film).final


def test_a_complaint_counts_if_it_comes_twice(film):
    answers = iter(["damaged", "good"])
    assert ffmpeg_process.confirmed(lambda: next(answers), lambda one: one == "good", film) == "good"
    assert ffmpeg_process.confirmed(lambda: "damaged", lambda one: one == "good", film) == "damaged"
    answers = iter(["damaged", "otherwise"])
    with pytest.raises(MachineFault, match=r"film.mkv: ffmpeg reports different errors each time"):
        ffmpeg_process.confirmed(lambda: next(answers), lambda one: one == "good", film)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(MachineFault, match="cannot be read: Is a directory"):
        ffmpeg_process.confirmed(lambda: "damaged", lambda _: False, tmp_path)


@pytest.fixture
def short_of_memory(monkeypatch):
    """Makes ffmpeg run as `how` says: under a limit of its own, which nobody here can know of."""

    def make(problem: str) -> None:
        start = children.start
        monkeypatch.setattr(
            children, "start", lambda arguments, **options: start(["sh", "-c", problem, *arguments], **options)
        )

    return make


@pytest.mark.parametrize(
    "problem",
    [
        'ulimit -v 200000; exec "$0" "$@"',  # it cannot start a thread
        '"$0" "$@"; echo "[h264 @ 0x5] [error] Cannot allocate memory" >&2',  # it goes on without what found no room
        '"$0" "$@"; exit 244',
    ],
)
def test_an_ffmpeg_without_memory_says_nothing_of_the_video(film, short_of_memory, problem):
    expected = verdict.examine("v", film)
    short_of_memory(problem)
    row, found = verdict.examine("v", film), sample(film)
    assert expected.status == "ok" and row.status == "unavailable" and not found.jpegs and not found.final
    assert row.reason == found.reason and "ffmpeg ran out of memory" in str(row.reason)


def test_an_ffmpeg_that_crashes_before_the_first_frame_condemns_no_video(film, short_of_memory):
    short_of_memory("kill -SEGV $$")
    assert verdict.examine("v", film) == verdict.Row("v", "unavailable", "ffmpeg crashed (signal 11)", attempts=1)


def test_a_limit_of_memory_that_is_everybodys_ends_the_run(film):
    code = "import resource; from pathlib import Path; from pipeline.dataset import verdict; "
    code += "resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30)); from pipeline.process import children; "
    code += "children.start = lambda a, s=children.start, **o: s(['sh', '-c', 'exit 244'], **o); "
    code += f"print(verdict.examine('v', Path({str(film)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MachineFault: v: ffmpeg ran out of memory, perhaps because of a limit" in done.stderr and not done.stdout


# Fails one read(2) of the file, and then makes the file $ONCE, after which none fails.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int count;
ssize_t read(int fd, void *buffer, size_t size) {
  static ssize_t (*real)(int, void *, size_t);
  if (!real) real = dlsym(RTLD_NEXT, "read");
  char link[64], name[4096];
  snprintf(link, 64, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, name, 4095);
  if (length > 0) {
    name[length] = 0;
    if (strstr(name, getenv("FAILS")) && access(getenv("ONCE"), F_OK) && ++count == atoi(getenv("AT"))) {
      fclose(fopen(getenv("ONCE"), "w"));
      errno = atoi(getenv("ERRNO"));
      return -1;
    }
  }
  return real(fd, buffer, size);
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    if not (shutil.which("gcc") and sys.platform == "linux"):
        pytest.skip("needs gcc and Linux, to fail a read")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True)
    return folder / "shim.so"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_one_read_that_fails_does_not_condemn_a_good_video(film, shim, tmp_path, monkeypatch, number):
    expected = sample(film)
    for name, value in {"FAILS": film.name, "AT": "4", "ERRNO": str(number), "ONCE": str(tmp_path / "once")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    assert sample(film) == expected and expected.reason is None
    assert (tmp_path / "once").exists()

    (tmp_path / "once").unlink()
    code = "from pathlib import Path; from pipeline.dataset import verdict; "
    code += f"print(verdict.examine('v', Path({str(film)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    monkeypatch.delenv("LD_PRELOAD")
    assert (tmp_path / "once").exists() and done.stdout.strip() == str(verdict.examine("v", film))


def test_a_full_disk_for_temporary_files_fails_the_stage_and_costs_nothing_when_it_has_room(
    film, workspace, tmp_path, monkeypatch
):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs to mount a file system of its own")
    root = Path.cwd()
    data = workspace({"frames.shards": 1, "frames.short_side_px": 240, "device": "cpu"}) / "data" / "videos"
    (data / "media").mkdir(parents=True)
    shutil.copy(film, data / "media" / "v.mkv")
    ledger.write(data / "ledger.parquet", [replace(verdict.examine("v", film), video_id="v")])
    segments = [Segment("v#0", "v", "train", 0.0, 1.0, ("x",), None)]
    pq.write_table(to_table(segments), data / "segments.parquet")
    stage = f"{sys.executable} -m stages.frames videos"
    small = tmp_path / "small"
    small.mkdir()
    within = f"mount -t tmpfs -o size=200k tmpfs {small} && TMPDIR={small} exec {stage}"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", within], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "v: ffmpeg failed: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(stage.split(), capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "(1 sampled, 0 kept" in done.stdout
    assert shards.read(data / "frames", "v").num_rows == 40
