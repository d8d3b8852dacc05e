"""How fast a site is asked: one pace for all workers, because a site counts by address."""

import random
import threading
import time


class Closed(Exception):
    """The site refuses however long we wait, or the run ends."""


class Pace:
    """When the next request may go out."""

    def __init__(self, per_hour: float | None, backoff_s: float, max_backoff_s: float) -> None:
        """per_hour: requests, None for no limit. When the site refuses, all wait backoff_s, then twice as long and so
        on; when it refuses after a wait of max_backoff_s, the pace is closed for good."""
        self._gap_s = 3600 / per_hour if per_hour else 0.0
        self._first_s, self._longest_s = backoff_s, max_backoff_s
        self.wait_s = 0.0  # of the back-off that holds, or was the last
        self._next = self._resumed = time.monotonic()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.why: str | None = None  # it is closed

    def turn(self) -> float:
        """Waits for the caller's turn and returns when that was, for `refused`. Raises Closed."""
        while True:
            with self._lock:
                mine = max(self._next, time.monotonic())
                self._next = mine + self._gap_s
                resumed = self._resumed
            if self._stop.wait(max(0.0, mine - time.monotonic())):
                raise Closed
            if self._resumed == resumed:  # else the site has refused while we waited: queue again
                return time.monotonic()

    def answered(self) -> None:
        """The site gave what was asked for."""
        with self._lock:
            if time.monotonic() >= self._resumed:
                self.wait_s = 0.0

    def refused(self, asked: float, reason: str) -> None:
        """The site asked for patience, `reason` says how. asked: what `turn` returned for that request."""
        with self._lock:
            if asked < self._resumed:
                return  # sent before the back-off that holds: what it says, we know
            if self.wait_s >= self._longest_s:
                self.close(reason)
                return
            self.wait_s = min(self._longest_s, max(self._first_s, 2 * self.wait_s))
            # Jitter, so that several machines behind one address do not come back at once.
            self._resumed = self._next = time.monotonic() + self.wait_s * random.uniform(0.75, 1.25)

    def close(self, reason: str) -> None:
        """Nobody waits any more."""
        self.why = reason
        self._stop.set()
