import errno
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from pipeline.process import children
from pipeline.process.children import MachineFault

SLEEP = ["sleep", "1000"]
LIMIT_S = 120  # of what happens at once, on a machine that is busy with other things
# A parent that prints its child's process id, and then does what the test needs.
PARENT = """
import os, signal, sys, threading, time
from pipeline.process import children
thread = threading.Thread(target=lambda: print(children.start(["sleep", "1000"]).pid, flush=True))
thread.start(); thread.join()  # a child outlives the thread that started it
{then}
"""


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not lives(pid)


def parent(then: str) -> tuple["subprocess.Popen[str]", int]:
    # A shell starts what is to run in the background with Ctrl-C ignored, and a process passes that on.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{PARENT.format(then=then)}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_parent_whatever_ends_it(sent):
    process, child = parent("time.sleep(1000)")
    with process:
        assert lives(child)
        process.send_signal(sent)
        process.wait()
        assert ends(child)


def test_a_child_ends_with_its_parent_that_goes_of_itself():
    process, child = parent("")
    with process:
        assert process.wait() == 0 and ends(child)


def test_a_fork_that_lives_on_does_not_keep_its_parents_children():
    process, child = parent("print(pid, flush=True) if (pid := os.fork()) else time.sleep(1000)\ntime.sleep(1000)")
    with process:
        assert process.stdout
        fork = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert ends(child) and lives(fork)
        os.kill(fork, signal.SIGKILL)


def test_a_fork_has_children_of_its_own():
    code = "pid = os.fork()\nif not pid: print(children.start(['sleep', '1000']).pid, flush=True)\ntime.sleep(1000)"
    process, child = parent(code)
    with process:
        assert process.stdout
        other = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert ends(child) and lives(other)
        os.kill(other, signal.SIGKILL)


def test_all_children_can_be_ended_and_others_started():
    first = children.start(SLEEP)
    children.end_all()
    assert first.wait(LIMIT_S) == -signal.SIGKILL
    assert children.run(["true"], timeout=LIMIT_S).returncode == 0


def test_threads_may_start_children_at_once():
    found: list[int] = []

    def work() -> None:
        for _ in range(5):
            found.append(children.run(["sh", "-c", "exit 7"], timeout=LIMIT_S).returncode)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7] * 40


def test_a_child_that_takes_too_long_is_killed():
    with pytest.raises(subprocess.TimeoutExpired):
        children.run(["sh", "-c", "echo $$; exec sleep 1000"], timeout=0.2, stdout=subprocess.PIPE)


@pytest.mark.parametrize("name", ["KILL", "TERM", "XCPU", "HUP"])
def test_a_child_that_was_killed_is_this_machines_fault(name):
    number = signal.Signals[f"SIG{name}"]
    if name != "KILL":
        before = signal.signal(number, signal.SIG_DFL)  # under nohup a child would ignore HUP, as this process does
    try:
        with pytest.raises(MachineFault, match=rf"sh was killed \(SIG{name}"):
            children.run(["sh", "-c", f"kill -{name} $$"], timeout=LIMIT_S)
    finally:
        if name != "KILL":
            signal.signal(number, before)


def test_a_child_that_crashes_or_fails_is_not():
    assert children.run(["sh", "-c", "kill -SEGV $$"], timeout=LIMIT_S).returncode == -signal.SIGSEGV
    assert children.run(["sh", "-c", "exit 1"], timeout=LIMIT_S).returncode == 1
    with pytest.raises(FileNotFoundError):
        children.start(["/no/such/program"])


def test_no_room_for_another_process_is_this_machines_fault(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(children.subprocess, "Popen", full)
    with pytest.raises(MachineFault, match="cannot start ffmpeg: Too many open files"):
        children.start(["ffmpeg"])
