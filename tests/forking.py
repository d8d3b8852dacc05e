"""Runs the stages in processes that can be killed, without waiting for Python and torch to start each time.

`python tests/forking.py` imports what takes seconds, then forks a process for every request it reads (a line of JSON).
The process leads a group of its own, as a stage that DVC started and everything that it starts, so that SIGKILL reaches
ffmpeg as well.

DVC can run its stages that way, too: with the `python` of `Forking.path` first on its path.
"""

import argparse
import json
import multiprocessing.context
import os
import runpy
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

# What the stages import, except the project's own modules: those come from the tree that is asked for.
SLOW = (
    "av cv2 ffmpeg imageio_ffmpeg open_clip pandas pyarrow.compute pyarrow.parquet pydantic ruamel.yaml torch "
    "torchvision tqdm yt_dlp"
)
# And what those import that train, caption and evaluate.
TRAINING = (
    "dvclive.lightning lightning.pytorch pycocoevalcap.bleu.bleu torch._dynamo transformers.models.gpt2.modeling_gpt2"
)
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "subprocess.Popen"}


class Kill(NamedTuple):
    """SIGKILL before the n-th thing that is done to the disk (what `CHANGES` says, a file opened for writing, an
    fsync), or after so many seconds, whichever comes first."""

    before: int | None = None
    after_s: float | None = None


class Ended(NamedTuple):
    """status: the exit status, negative for a signal. cpu_s: CPU seconds of it and of what it waited for."""

    status: int
    cpu_s: float


# Hands `python -m stages.NAME ...` to the server below; runs anything else itself.
PYTHON = """#!/bin/sh
case "$1 $2" in
"-m stages."* | "-m studies."*) exec "{python}" -IS "{folder}/client.py" "$@" ;;
*) exec "{python}" "$@" ;;
esac
"""
CLIENT = """import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.path.join(os.path.dirname(__file__), "socket"))
    files = server.makefile("rw")
    print(json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]), file=files, flush=True)
    status, output = json.loads(files.readline())
print(output, end="")
sys.exit(status)
"""


class Forking:
    def __init__(self, modules: str = SLOW) -> None:
        """modules: to be imported, once and for all."""
        self._server = subprocess.Popen(
            [sys.executable, __file__, *modules.split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._lock = threading.Lock()
        self._folder = Path(tempfile.mkdtemp())  # of a short name: a socket's may not be long
        (self._folder / "client.py").write_text(CLIENT)
        python = self._folder / "bin/python"
        python.parent.mkdir()
        python.write_text(PYTHON.format(python=sys.executable, folder=self._folder))
        python.chmod(0o755)
        self.path = python.parent
        self._commands = _Commands(str(self._folder / "socket"), self)
        threading.Thread(target=self._commands.serve_forever, daemon=True).start()

    def start(self, tree: Path, folder: Path, stages: list[list[str]], kill: Kill | None = None) -> "Running":
        """`python -m stages.NAME ...` of each of `stages`, in `folder`, with the code in `tree`, until one fails."""
        modules = [[f"stages.{name}", *arguments] for name, *arguments in stages]
        return self._start(tree, folder, modules, folder / "output", None, kill)

    def run(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
        """`python -m ARGUMENTS` in `folder`: its exit status and what it printed."""
        output = self._folder / "output"
        ended = self._start(folder, folder, [arguments], output, environment, None).wait()
        return ended.status, output.read_text()

    def _start(
        self,
        tree: Path,
        folder: Path,
        modules: list[list[str]],
        output: Path,
        environment: dict[str, str] | None,
        kill: Kill | None,
    ) -> "Running":
        request = {"tree": str(tree), "folder": str(folder), "modules": modules, "before": kill and kill.before}
        process = self._ask({**request, "output": str(output), "environment": environment})
        return Running(self, process, output, kill and kill.after_s)

    def _ask(self, request: Any) -> Any:
        assert self._server.stdin and self._server.stdout
        with self._lock:
            print(json.dumps(request), file=self._server.stdin, flush=True)
            return json.loads(self._server.stdout.readline())

    def stop(self) -> None:
        self._commands.shutdown()
        self._commands.server_close()
        self._server.communicate()
        shutil.rmtree(self._folder)


class _Commands(socketserver.UnixStreamServer):
    """Answers CLIENT, one command after the other."""

    def __init__(self, path: str, forking: Forking) -> None:
        super().__init__(path, _Command)
        self.forking = forking


class _Command(socketserver.StreamRequestHandler):
    server: _Commands

    def handle(self) -> None:
        arguments, folder, environment = json.loads(self.rfile.readline())
        answer = self.server.forking.run(arguments, Path(folder), environment)
        self.wfile.write(f"{json.dumps(answer)}\n".encode())


class Running:
    def __init__(self, forking: Forking, process: int, output: Path, kill_after_s: float | None) -> None:
        self._forking, self._process, self._output = forking, process, output
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.killpg(process, signal.SIGKILL)

    def wait(self) -> "Ended":
        return Ended(*self._forking._ask({"wait": self._process}))

    @property
    def output(self) -> str:
        return self._output.read_text()


def serve(modules: list[str]) -> None:
    for name in modules:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status, used = os.wait4(request["wait"], 0)
            print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)
        elif (process := os.fork()) == 0:
            fork(**request)
        else:
            # From both sides, as shells do it: whoever reads the number may kill the group at once.
            os.setpgid(process, process)
            print(process, flush=True)
    os._exit(0)  # torch takes long to leave


def fork(
    tree: str,
    folder: str,
    modules: list[list[str]],
    before: int | None,
    output: str,
    environment: dict[str, str] | None,
) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(written, descriptor)
    sys.path[0] = tree  # was this file's folder
    # Its own processes need not import everything again either.
    multiprocessing.get_context = lambda method=None: multiprocessing.context.ForkContext()  # type: ignore[assignment]
    if before is not None:
        kill_before(before)
    status = 1
    try:
        for name, *arguments in modules:
            sys.argv = [name, *arguments]
            # As `python -m` does it: a stage's own processes look for what they are to do in its module.
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stop:
        print(stop, flush=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(status)


def kill_before(count: int) -> None:
    """Kills this process's group when it is about to do the `count`-th thing to the disk."""
    done = 0

    def step() -> None:
        nonlocal done
        if done == count:
            os.killpg(0, signal.SIGKILL)
        done += 1

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            step()

    sys.dont_write_bytecode = True  # which is done once, and nobody's concern
    sync = os.fsync

    def watched(fd: Any) -> None:
        step()
        sync(fd)

    os.fsync = watched
    sys.addaudithook(watch)


if __name__ == "__main__":
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("modules", nargs="*", help="what to import first")
    serve(command.parse_args().modules)
