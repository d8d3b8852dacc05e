"""Asks a model many things at once: at one pace, again where that can help, and each reply kept as it arrives."""

import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.chat.journal import Journal, Row
from pipeline.chat.model import Busy, Failed, Model, Refused, Reply, TooLong, Unreachable
from pipeline.chat.request import Request
from pipeline.chat.settings import AskingParams
from pipeline.dataset.sources.pace import Closed
from pipeline.dataset.sources.pace import Pace as SitePace
from pipeline.process import progress

GRACE_S = 10.0  # for what is under way when a run is stopped: it is being paid for
USABLE = ("stop", "end_turn", "eos", None)  # how a whole reply ends; None: the server does not say


class Pace(SitePace):
    """A server says how long to wait, other than a site."""

    def asked_to_wait(self, turn: float, reason: str, wait_s: float | None) -> None:
        """wait_s: at least so long; more than the longest back-off ends the run. turn: of `turn`."""
        if wait_s is not None and wait_s > self._longest_s:
            self.close(f"{reason}; it asks for a pause of {wait_s:.0f} s, longer than max_backoff_s")
            return
        self.refused(turn, reason)
        if wait_s is not None:
            with self._lock:
                # Jitter only on top: earlier than asked would be refused again.
                resumed = turn + wait_s * random.uniform(1, 1.1)
                self._resumed = max(self._resumed, resumed)
                self._next = max(self._next, self._resumed)


@dataclass
class Asking:
    model: Model
    pace: Pace
    journal: Journal
    options: Mapping[str, object]  # of the model; part of a reply's key
    attempts: int
    backoff_s: float
    max_backoff_s: float

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._answered = False  # so the server is there, and takes the key

    def rows(self, requests: Iterable[Request], *, workers: int) -> Iterator[Row]:
        """A row for each request, in the order in which they end; from the journal what is in there.

        Equal requests are asked once. Raises Refused. When the caller stops, what is under way has GRACE_S to be kept.
        """
        todo: queue.Queue[tuple[Request, str] | None] = queue.Queue()
        done: queue.Queue[Row | BaseException] = queue.Queue()
        # Daemons: a server that hangs must not keep a stopped run.
        threads = [threading.Thread(target=self._work, args=(todo, done), daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        waiting: dict[str, list[str]] = {}  # ids by key
        try:
            for request in requests:
                key = request.key(self.options)
                if (kept := self.journal.get(key)) is not None:
                    yield replace(kept, id=request.id)
                elif key in waiting:
                    waiting[key].append(request.id)
                else:
                    waiting[key] = [request.id]
                    todo.put((request, key))
                while len(waiting) >= 2 * workers:  # their pictures are in memory
                    yield from _taken(done, waiting)
            while waiting:
                yield from _taken(done, waiting)
        finally:
            self._over.set()
            self.pace.close(self.pace.why or "the run was stopped")
            for _ in threads:
                todo.put(None)
            deadline = time.monotonic() + GRACE_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, todo: "queue.Queue[tuple[Request, str] | None]", done: "queue.Queue[Row | BaseException]") -> None:
        while (one := todo.get()) is not None and not self._over.is_set():
            try:
                row = self.row(*one)
                if row.final:
                    self.journal.add(row)
                done.put(row)
            except BaseException as error:
                done.put(error)

    def row(self, request: Request, key: str) -> Row:
        """Ask until there is a reply, or no sense in asking. Raises Refused."""
        asked, fewer, attempts, seconds = request, False, 0, 0.0
        while True:
            failed: Failed
            try:
                turn = self.pace.turn()
            except Closed:
                failed = Failed(self.pace.why or "not asked")
                break
            attempts += 1
            began = time.monotonic()
            try:
                reply = self.model.ask(asked.prompt, asked.jpegs, asked.max_tokens)
            except TooLong as error:
                seconds, failed = time.monotonic() - began, error
                less = None if fewer else asked.with_fewer()
                if less is None:
                    break
                asked, fewer = less, True
                continue
            except Refused as error:
                seconds, failed = time.monotonic() - began, Failed(error.reason, final=True)
                if not (error.this_one and self._answered):
                    raise
                break
            except Failed as error:
                seconds, failed = time.monotonic() - began, error
                if isinstance(error, Unreachable) and not self._answered:
                    raise Refused(error.reason) from None
                if error.final:
                    break
                if isinstance(error, Busy | Unreachable):
                    wait_s = error.wait_s if isinstance(error, Busy) else None
                    self.pace.asked_to_wait(turn, error.reason, wait_s)
                if attempts >= self.attempts:
                    break
                if not isinstance(error, Busy | Unreachable):  # of this request alone: the others need not wait
                    longest_s = min(self.max_backoff_s, self.backoff_s * 2 ** (attempts - 1))
                    self._over.wait(longest_s * random.uniform(0.5, 1))
                continue
            seconds = time.monotonic() - began
            self._answered = True
            self.pace.answered()
            return self._row(key, asked, reply, seconds, attempts)
        return Row(
            key,
            request.id,
            str(self.options["model"]),
            None,
            failed.reason,
            None,
            None,
            None,
            round(seconds, 3),
            attempts,
            asked.frames,
            failed.final,
        )

    def _row(self, key: str, asked: Request, reply: Reply, seconds: float, attempts: int) -> Row:
        text = " ".join(reply.text.split())
        error = unusable(text, reply.finish_reason)
        return Row(
            key,
            asked.id,
            str(self.options["model"]),
            None if error else text,
            error,
            reply.finish_reason,
            reply.tokens_in,
            reply.tokens_out,
            round(seconds, 3),
            attempts,
            asked.frames,
        )


def ask_all(
    requests: Iterable[Request],
    count: int,
    model: Model,
    own: AskingParams,
    options: Mapping[str, object],
    *,
    workers: int,
    journal: Path,
    name: str,
    see: str,
) -> dict[str, Row]:
    """A row for each of `count` requests, by id, with a bar of the progress; closes the model.

    Args:
        options: of the model, as Asking's.
        name: of the work, on the bar.
        see: where to look if the server refuses; it goes on behind "See".

    Raises ValueError if the server refuses, or if too many failed for reasons that can pass.
    """
    pace, rows = Pace(own.per_hour, own.backoff_s, own.max_backoff_s), {}
    with Journal(journal) as kept, progress.bar(total=count, desc=name, unit="request") as bar:
        asking = Asking(model, pace, kept, options, own.attempts, own.backoff_s, own.max_backoff_s)
        try:
            for row in asking.rows(requests, workers=workers):
                rows[row.id] = row
                bar.update()
        except Refused as error:
            raise ValueError(f"{error.reason}. Kept: the replies so far. See {see}") from None
        finally:
            model.close()
    passing = [row for row in rows.values() if not row.final]
    if len(passing) > own.max_failed_fraction * count:
        raise ValueError(
            f"{len(passing)} of {count} requests failed for reasons that can pass, the first: {passing[0].error}. "
            f"Kept: the {len(rows) - len(passing)} others; the same command asks only these again (more than "
            f"max_failed_fraction, {own.max_failed_fraction:g})"
        )
    return rows


def unusable(text: str, finish_reason: str | None) -> str | None:
    """Why a reply is none, or None if it is one. Half a sentence is not scored as if it were the answer."""
    if finish_reason == "length":
        return "the reply was cut off at max_tokens"
    if finish_reason not in USABLE:
        return f"the reply ended for another reason: {finish_reason}"
    return None if text else "the reply is empty"


def _taken(done: "queue.Queue[Row | BaseException]", waiting: dict[str, list[str]]) -> Iterator[Row]:
    """The next that is ready, for all who asked for it."""
    row = done.get()
    if isinstance(row, BaseException):
        raise row
    for id in waiting.pop(row.key):
        yield replace(row, id=id)
