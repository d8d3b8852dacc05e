"""Commands, `python -m ...`: their help, their one-line errors, and their message when they are stopped."""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from pipeline.process import children
from pipeline.process.terminal import message

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # from Ctrl-C; from `kill`, `timeout`, `scancel`, `docker stop`

_stopped_by: int | None = None


class Stopped(KeyboardInterrupt):
    """A signal that asks this process to end. A KeyboardInterrupt, because libraries handle that well."""


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser whose --help is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


@contextmanager
def guarded(name: str, *, kept: str | None) -> Iterator[None]:
    """End the process with one line for errors that a user can cause (ValueError, OSError), and when it is stopped.

    Inside, Ctrl-C and SIGTERM raise Stopped, so that `finally` runs, and end all child processes. The exit status is
    the shell's: 128 plus the signal's number.

    Args:
        kept: what a stopped run keeps, from which the same command continues; None: it starts over.
    """
    for one in SIGNALS:
        signal.signal(one, _stop)
    try:
        yield
    except BaseException as error:
        if _stopped_by is not None:  # whatever was raised: libraries may turn Stopped into something else
            _say_what_is_kept(name, kept)
            sys.exit(128 + _stopped_by)
        if isinstance(error, ValueError | OSError):
            sys.exit(f"{name}: {message(error)}")
        raise


def run(module: str, doc: str | None, main: Callable[[], object]) -> None:
    """A command that takes no arguments."""
    parser(module, doc).parse_args()
    with guarded(module.split(".")[-1], kept=None):
        main()


def end_at_once_when_stopped() -> None:
    """Until `guarded`, while a command spends seconds on imports: there is nothing to clean up yet."""
    for one in SIGNALS:
        signal.signal(one, _leave)


def leave_ctrl_c_to_the_parent() -> None:
    """In a worker process, which Ctrl-C also reaches: `guarded` in the parent ends it, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopped_by
    if _stopped_by is None:
        _stopped_by = number
        # Not here: the interrupted code may hold the lock that this needs.
        threading.Thread(target=_end_children, daemon=True).start()
    raise Stopped


def _end_children() -> None:
    """End all children repeatedly: threads that wait for one child may start another before they are done."""
    while True:
        for worker in multiprocessing.active_children():
            worker.terminate()
        children.end_all()
        time.sleep(0.1)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    print("stopped before it started; nothing has changed", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _say_what_is_kept(name: str, kept: str | None) -> None:
    if (
        os.environ.get("LOCAL_RANK", "0") != "0"
    ):  # one of several processes that train together: only the first one prints
        return
    again = "run the same command (dvc repro, dvc exp run or make) again"
    text = f"stopped. Kept: {kept}. To continue, {again}" if kept else f"stopped. To start over, {again}"
    print(f"\n{name}: {text}", file=sys.stderr, flush=True)
