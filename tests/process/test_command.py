import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path.cwd()

# A stage of its own, started by `python -m stage`: it keeps shards, has a child, a worker and something to tidy up.
STAGE = '''
"""Sleep: says what a stage says."""
import multiprocessing, sys, time
from pathlib import Path
from pipeline.process import children
from stages import run

def work(started):
    started.set()
    time.sleep(600)

def main(dataset):
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    worker = spawn.Process(target=work, args=(started,))
    worker.start()
    started.wait()
    child = children.start(["sleep", "600"])
    try:
        print("ready", worker.pid, child.pid, flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        if dataset == "videos":
            sys.exit(1)  # as Lightning does
        raise
    finally:
        Path("tidy").touch()

if __name__ == "__main__":
    run(kept="shards that are complete", per_dataset=True)
'''


@pytest.mark.parametrize(
    ("sent", "status", "dataset"),
    [(signal.SIGINT, 130, "pictures"), (signal.SIGTERM, 143, "pictures"), (signal.SIGINT, 130, "videos")],
)
def test_a_stage_that_is_stopped_ends_its_children_tidies_up_and_says_what_is_kept(tmp_path, sent, status, dataset):
    (tmp_path / "stage.py").write_text(STAGE)
    stage = subprocess.Popen(
        [sys.executable, "-m", "stage", dataset],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ready, *others = stage.stdout.readline().split()
    assert ready == "ready"
    os.killpg(stage.pid, sent)  # as the terminal does: the worker gets it, too
    _, message = stage.communicate(timeout=300)
    assert stage.returncode == status
    again = "run the same command (dvc repro, dvc exp run or make) again"
    assert message == f"\nstage {dataset}: stopped. Kept: shards that are complete. To continue, {again}\n"
    assert (tmp_path / "tidy").exists()
    for process in map(int, others):
        assert gone(process)


def gone(process: int) -> bool:
    """Ended, whether or not somebody has asked for its status; init may take a moment."""
    for _ in range(2000):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_stage_that_is_stopped_while_it_imports_has_changed_nothing_and_says_so(tmp_path):
    slow = tmp_path / "pyarrow"  # what the stage imports first
    slow.mkdir()
    (slow / "__init__.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.frames", "pictures"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stage.stdout.readline() == "importing\n"
    stage.send_signal(signal.SIGTERM)
    _, message = stage.communicate(timeout=300)
    assert (stage.returncode, message) == (143, "stopped before it started; nothing has changed\n")
