"""What is counted in the background, as it takes seconds in a large store, and kept until the store has changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from layerstore.errors import LayerstoreError
from layerstore.sql.reading.totals import Overview, overview, version
from layerstore.sql.store import SQLMetadataStore

WAIT_S: Final = 0.15
"""How long a page waits for fresh counts; then it shows the last ones."""
REST: Final = 10
"""Counting rests for so many times as long as it took, so that a busy store does not keep it busy."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted.

    Attributes:
        overview: the last counts; `None` before the first.
        counted_at_ns: when they were begun.
        fresh: nobody has written since.
        error: why the last count failed; `None` if it did not.
    """

    overview: Overview | None = None
    counted_at_ns: int | None = None
    fresh: bool = False
    error: str | None = None


class Counts:
    """Counts when somebody asks and the store has changed.

    In one thread: what tells whether the store has changed is a connection's own.
    """

    def __init__(self, store: SQLMetadataStore, changed: Callable[[int], None]) -> None:
        self._store = store
        self._changed = changed
        self._condition = threading.Condition()
        self._asked = self._answered = 0
        self._stopped = False
        self._version: int | None = None
        self._not_before = 0.0
        self._last = Counted()
        # It may be in the middle of a count when the process ends, and has nothing to tidy up.
        self._thread = threading.Thread(target=self._work, name="layerstore-counts", daemon=True)
        self._thread.start()

    def current(self, wait_s: float = WAIT_S) -> Counted:
        """Return fresh counts if they are there in time, else the last ones.

        `changed` is called with the version that they are of, in the thread that counts: what else that version is to
        be looked at for does not compete with counting.
        """
        with self._condition:
            self._asked += 1
            mine = self._asked
            self._condition.notify_all()
            in_time = self._condition.wait_for(lambda: self._answered >= mine, wait_s)
            return self._last if in_time else self._stale(self._last.error)

    def stop(self) -> None:
        """Ask it to count no more; a count that runs is not waited for."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopped or self._asked > self._answered)
                if self._stopped:
                    return
                asked = self._asked
            found = self._look()
            with self._condition:
                self._last, self._answered = found, asked
                self._condition.notify_all()

    def _look(self) -> Counted:
        try:
            seen = version(self._store)
        except LayerstoreError as error:
            return self._stale(str(error))
        found = self._count(seen)
        self._changed(seen)
        return found

    def _count(self, seen: int) -> Counted:
        if seen == self._version and self._last.error is None:
            return self._last
        rest_s = self._not_before - time.monotonic()
        if rest_s > WAIT_S:
            return self._stale(self._last.error)
        time.sleep(max(0.0, rest_s))
        began_ns, began_s = time.time_ns(), time.monotonic()
        try:
            counted = overview(self._store)
        except LayerstoreError as error:
            return self._stale(str(error))
        took_s = time.monotonic() - began_s
        self._version, self._not_before = seen, time.monotonic() + REST * took_s
        return Counted(counted, began_ns, True)

    def _stale(self, error: str | None) -> Counted:
        return Counted(self._last.overview, self._last.counted_at_ns, False, error)
