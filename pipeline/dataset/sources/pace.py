"""The request rate for a site: one for all workers, because a site counts requests by address."""

import random
import threading
import time


class Closed(Exception):
    """The site refuses however long we wait, or the run ends."""


class Pace:
    """When the next request may go out."""

    def __init__(self, per_hour: float | None, backoff_s: float, max_backoff_s: float) -> None:
        """per_hour: requests; None: no limit. When the site refuses, all workers wait backoff_s, then twice as long
        and so on. If it still refuses after max_backoff_s, the pace is closed for good."""
        self._gap_s = 3600 / per_hour if per_hour else 0.0
        self._first_s, self._longest_s = backoff_s, max_backoff_s
        self.wait_s = 0.0  # length of the current or the last back-off
        self._next = self._resumed = time.monotonic()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.why: str | None = None  # why it is closed

    def turn(self) -> float:
        """Wait for the caller's turn; returns its time, for `refused`. Raises Closed."""
        while True:
            with self._lock:
                mine = max(self._next, time.monotonic())
                self._next = mine + self._gap_s
                resumed = self._resumed
            if self._stop.wait(max(0.0, mine - time.monotonic())):
                raise Closed
            if self._resumed == resumed:  # otherwise the site refused while we waited: queue again
                return time.monotonic()

    def answered(self) -> None:
        """The site answered a request."""
        with self._lock:
            if time.monotonic() >= self._resumed:
                self.wait_s = 0.0

    def refused(self, turn: float, reason: str) -> None:
        """The site asked us to wait, with this message. turn: what `turn` returned for that request."""
        with self._lock:
            if turn < self._resumed:
                return  # sent before the current back-off: we know already
            if self.wait_s >= self._longest_s:
                self.close(reason)
                return
            self.wait_s = min(self._longest_s, max(self._first_s, 2 * self.wait_s))
            # Jitter, so that several machines behind one address do not come back at once.
            self._resumed = self._next = time.monotonic() + self.wait_s * random.uniform(0.75, 1.25)

    def close(self, reason: str) -> None:
        """Stop all waiting, with this reason."""
        self.why = reason
        self._stop.set()
