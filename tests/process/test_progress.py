"""Progress bars: on a terminal, in a pipe, and at their end."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from pipeline.dataset.annotations import Annotation, Caption
from pipeline.dataset.sources.subset import fetch_subset
from pipeline.dataset.verdict import Row

COUNTS = """
from pipeline.process import progress
with progress.bar(total=200, desc="frames", unit="video") as bar:
    for loss in range(200):
        bar.update()
        bar.set_postfix_str(f"loss {loss}")
with progress.bar(total=None, desc="talk.mp4", unit="B", unit_scale=True) as bar:
    bar.update(5000)
"""


def test_in_a_pipe_progress_is_plain_lines_and_the_last_one_is_the_end():
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, check=True, text=True)
    assert "\r" not in done.stderr and "\x1b" not in done.stderr
    assert re.sub(r"in \d\d:\d\d", "in TIME", done.stderr).splitlines() == [
        "frames: 0 of 200 videos in TIME, ? to go",
        "frames: 200 of 200 videos in TIME, 00:00 to go, loss 199",
        "talk.mp4: 0.00 B in TIME",
        "talk.mp4: 5.00k B in TIME",
    ]


def test_on_a_terminal_progress_is_a_bar_that_moves():
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-c", COUNTS], stdout=terminal, stderr=terminal):
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
            while read := os.read(ours, 10_000):
                shown += read
    assert b"\rframes: 100%|" in shown and b"200/200" in shown
    os.close(ours)


def test_the_bar_of_a_download_ends_full_though_videos_failed(capsys):
    def fetch(video_id, split, annotation):
        return Row(video_id, "missing" if video_id < "v_6" else "ok", duration_s=10.0), None

    ids = [f"v_{number}" for number in range(7)]
    annotations = {id: [Annotation(id, (Caption(0.0, 5.0, "a cat"),))] for id in ids}
    for limit, expected in ((None, "1 of 1"), (5, "1 of 1")):
        fetch_subset(
            annotations,
            dict.fromkeys(ids, "train"),
            {"train": limit},
            fetch,
            initial=False,
            workers=1,
            title="videos",
        )
        assert f"videos train: {expected} videos" in capsys.readouterr().err.splitlines()[-1]


def test_the_hubs_own_bars_are_for_terminals_too():
    code = "from pipeline.process import progress; progress.begin_hub_download('gpt2'); "
    code += "from huggingface_hub.utils import tqdm; [None for _ in tqdm(range(3))]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stderr == "gpt2: downloading, unless already cached\n"
