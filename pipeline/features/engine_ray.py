"""Shards as tasks of a Ray cluster whose machines share this folder through a file system.

A task receives what must be known about a shard's videos; it writes the shard and returns counts. Ray's own retries are
off: retries and error messages are decided here.
"""

import errno
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pipeline.features import shards
from pipeline.features.shards import DiskFull, Slice, Update
from pipeline.features.work import Compute, Work
from pipeline.imports import ROOT
from pipeline.process import progress
from pipeline.process.children import MachineFault

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError:
    raise ValueError(
        "params.yaml has engine.kind: ray, but Ray is not installed here: pip install -r requirements-ray.txt"
    ) from None

ATTEMPTS = 4  # tries of a shard whose process or node dies: nodes leave, but a shard that kills its process must end
EXAMINED = 4  # number of failed shards that are searched for the videos to blame


@dataclass(frozen=True, eq=False)
class Task:
    """A shard to make; `number` None: videos to compute without writing, to find out whether they fail."""

    work: Work
    number: int | None
    cwd: Path
    cores: int

    def run(self) -> "Update | Failure":
        os.chdir(self.cwd)
        try:
            if self.number is not None:
                return self.work.update(Slice(self.number + 1, self.work.shards), cores=self.cores)
            for _ in self.work.compute_rows(self.work.items, cores=self.cores):
                pass
            return Update()
        except DiskFull as error:
            return Failure(str(error.strerror), fatal=True)
        except MachineFault as error:
            return Failure(str(error), passing=True)
        except Exception as error:  # anything that a video can cause
            expected = isinstance(error, ValueError | OSError)
            return Failure(str(error) if expected else f"{type(error).__name__}: {error}")

    def parts(self) -> list["Task"]:
        """Its videos in two halves, to compute without writing."""
        ids = list(self.work.items)
        halves = (ids[: len(ids) // 2], ids[len(ids) // 2 :])
        return [replace(self, work=self.work.only_videos(half), number=None) for half in halves if half]


@dataclass(frozen=True)
class Failure:
    """fatal: other shards would fail too. passing: this one may succeed another time or on another machine."""

    message: str
    fatal: bool = False
    passing: bool = False


class Places(Protocol):
    """Where tasks run."""

    def start(self, task: Task) -> Any:
        """A reference to its result, or None while there is no room."""

    def ended(self, reference: Any, *, died: bool) -> None: ...

    def opening(self) -> Iterable[Any]:
        """References that become ready when there is new room, for `opened`."""

    def opened(self, reference: Any) -> None: ...


def update(work: Work, only: Slice, *, address: str | None, cores: int) -> Update:
    """`engine.update` on the cluster at `address`. Without stale shards it needs no cluster."""
    done, stale = work.plan(only)
    if stale:
        work.compute_rows(
            (video_id for one in stale for video_id in one.todo), cores=cores
        )  # it may refuse before anything else
    shards.tidy(work.folder, work.shards, only)
    if not stale:
        return done
    tasks = [Task(work.only_videos(one.video_ids), one.number, Path.cwd(), cores) for one in stale]
    made: dict[int, Update] = {}
    failed: dict[int, Failure] = {}
    with _connected(address):
        places = _places(work, cores, len(tasks))
        results = _results(places, tasks, ATTEMPTS)
        for task, result in progress.bar(results, total=len(tasks), desc=f"{work.title} (ray)", unit="shard"):
            assert task.number is not None
            if isinstance(result, Update):
                made[task.number] = result
            elif result.fatal:
                raise DiskFull(errno.ENOSPC, result.message)
            else:
                failed[task.number] = result
        if failed:
            shards.tidy(work.folder, work.shards, only)  # files that dead processes were writing
            suspects = [replace(task, work=work.only_videos(one.todo)) for task, one in zip(tasks, stale, strict=True)]
            raise ValueError(_blame(places, {task: failed[task.number] for task in suspects if task.number in failed}))
    for number in sorted(made):
        done.rows += made[number].rows
        done.dropped += made[number].dropped
        done.reasons |= made[number].reasons
    return done


def _results(places: Places, tasks: Iterable[Task], attempts: int) -> Iterator[tuple[Task, Update | Failure]]:
    """Results as tasks end. A task whose process or node dies is started again, up to a number of tries."""
    waiting = deque((task, 1) for task in tasks)
    running: dict[Any, tuple[Task, int]] = {}
    while waiting or running:
        while waiting and (reference := places.start(waiting[0][0])) is not None:
            running[reference] = waiting.popleft()
        [ready], _ = ray.wait([*running, *places.opening()], num_returns=1)
        if ready not in running:
            places.opened(ready)
            continue
        task, attempt = running.pop(ready)
        try:
            result: Update | Failure = ray.get(ready)
            died = False
        except RayTaskError as error:  # before the task's own code ran: no such module, no such folder
            raise ValueError(_unfit(task.cwd, str(error.cause))) from None
        except RayError as error:
            died = True
            result = Failure(f"its process or node died {attempt} times ({type(error).__name__})")
        places.ended(ready, died=died)
        if (died or (isinstance(result, Failure) and result.passing)) and attempt < attempts:
            waiting.append((task, attempt + 1))
        else:
            yield task, result


def _blame(places: Places, failed: dict[Task, Failure]) -> str:
    """Which videos fail and why: a shard's videos are halved until one is left."""
    alone: list[str] = []
    whole: list[str] = []
    suspects = list(failed.items())[:EXAMINED]
    while suspects:
        parts = {part: task for task, _ in suspects for part in task.parts()}
        results = _results(places, parts, 2)  # twice, because a node may leave just then
        fail = [(part, result) for part, result in results if isinstance(result, Failure)]
        guilty = {parts[part] for part, _ in fail}
        for task, failure in suspects:
            if task not in guilty:
                ids = sorted(task.work.items)
                what = f"{len(ids)} videos, but only together: {ids[0]} to {ids[-1]}" if ids else f"shard {task.number}"
                whole.append(f"{what}: {failure.message}")
        alone += [f"{next(iter(part.work.items))}: {why.message}" for part, why in fail if len(part.work.items) == 1]
        suspects = [(part, why) for part, why in fail if len(part.work.items) > 1]
    others = len(failed) - EXAMINED
    if others > 0:
        whole.append(f"and more in {others} shards that were not examined")
    return "\n".join(
        [
            f"{len(failed)} shards could not be made because of",
            *(f"  {line}" for line in [*sorted(alone), *whole]),
            "All others are done. Repair these videos, or take them out of the annotations, and run again.",
        ]
    )


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """So that workers find the project and log no progress bars. Raises ValueError if none would start."""
    if " " in sys.executable:  # workers would die at once, and Ray would start others without end
        raise ValueError(
            f"Ray cannot start workers with a Python whose path contains a space ({sys.executable}): move this folder "
            "to a path without one, or set engine.kind: local in params.yaml"
        )
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports from our own cluster
    ray.init(
        address=address,
        runtime_env={"env_vars": {"PYTHONPATH": path, "TQDM_DISABLE": "1"}},
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=None if address else False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _places(work: Work, cores: int, wanted: int) -> Places:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    on_gpu = work.keeps == "gpu model" and any(node.get("GPU") for node in nodes)
    needs = {"CPU": cores, **({"GPU": 1} if on_gpu else {})}
    room = sum(min(int(node.get(name, 0) // needed) for name, needed in needs.items()) for node in nodes)
    if not room:
        beside = " beside a GPU" if on_gpu else ""
        raise ValueError(f"no node of the cluster has {cores} cores{beside}: lower engine.cores in params.yaml")
    options = {"num_cpus": cores, "num_gpus": int(on_gpu)}
    return _Tasks(options, room) if work.keeps == "nothing" else _Actors(options, min(room, wanted), work.compute)


class _Tasks:
    """One Ray task each; Ray schedules them as nodes come and go."""

    def __init__(self, options: dict[str, int], room: int) -> None:
        remote: Any = ray.remote
        self._run = remote(**options, max_retries=0)(Task.run)
        self._free = 2 * room  # as many waiting as running; more would only fill Ray's memory

    def start(self, task: Task) -> Any:
        if not self._free:
            return None
        self._free -= 1
        return self._run.remote(task)

    def ended(self, reference: Any, *, died: bool) -> None:
        self._free += 1

    def opening(self) -> Iterable[Any]:
        return ()

    def opened(self, reference: Any) -> None:
        raise AssertionError("nothing was opening")


class _Actors:
    """Processes that keep what `compute` has loaded. A dead one is replaced when the cluster has room.

    A shard goes to an existing actor, never to a pending one: a lost node may not be replaced.
    """

    def __init__(self, options: dict[str, int], size: int, compute: Compute) -> None:
        remote: Any = ray.remote
        self._new = remote(**options)(_Actor)
        self._compute = compute
        self._opening: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        self._lost = 0
        for _ in range(size):
            self._open()

    def _open(self) -> None:
        actor = self._new.remote(self._compute)
        self._opening[actor.ready.remote()] = actor

    def start(self, task: Task) -> Any:
        if not self._idle:
            return None
        actor = self._idle.pop()
        reference = actor.run.remote(task)
        self._busy[reference] = actor
        return reference

    def ended(self, reference: Any, *, died: bool) -> None:
        actor = self._busy.pop(reference)
        if died:
            self._open()
        else:
            self._idle.append(actor)

    def opening(self) -> Iterable[Any]:
        return self._opening

    def opened(self, reference: Any) -> None:
        actor = self._opening.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._lost += 1
            if self._lost == ATTEMPTS:
                raise ValueError(_unfit(Path.cwd(), str(error).strip().splitlines()[-1])) from None
            self._open()
        else:
            self._lost = 0
            self._idle.append(actor)


class _Actor:
    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def ready(self) -> None:
        pass

    def run(self, task: Task) -> Update | Failure:
        return replace(task, work=replace(task.work, compute=self._compute)).run()


def _unfit(cwd: Path, why: str) -> str:
    return f"a node of the cluster cannot work: {why}; it needs the folder {cwd} and the same Python packages"
