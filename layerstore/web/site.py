"""The store that is shown, and what is found out about it in the background: counts, and what `verify` says."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from layerstore.errors import LayerstoreError
from layerstore.sql.reading.totals import Overview, overview, version
from layerstore.sql.store import SQLMetadataStore

_T = TypeVar("_T")

WAIT_S: Final = 0.15
"""How long a page waits for fresh counts; then it shows the last ones."""
REST: Final = 10
"""Work rests for so many times as long as it took, so that a busy store does not keep it busy."""
_NICE: Final = 10  # whoever waits for a page goes first


@dataclass(frozen=True, slots=True)
class Run(Generic[_T]):
    """A run of work: when it began, how long it took, and its report, or why it failed."""

    began_at_ns: int
    seconds: float
    report: _T | None
    error: str | None


class Work(Generic[_T]):
    """Work on a store in a thread of its own: again when the store has changed, unless it is too soon.

    Attributes:
        last: its last run.
        last_good: its last run that did not fail.
        running_since_ns: when the run began that runs now.
    """

    def __init__(self, work: Callable[[], _T]) -> None:
        self.last: Run[_T] | None = None
        self.last_good: Run[_T] | None = None
        self.running_since_ns: int | None = None
        self._work = work
        self._changed = threading.Condition()
        self._seen: int | None = None
        self._done: int | None = None
        self._not_before_s = 0.0

    def look(self, version: int) -> None:
        """Begin to work if this version of the store was not worked on yet, unless it works, or it is too soon."""
        with self._changed:
            self._seen = version
            resting = time.monotonic() < self._not_before_s
            if self.running_since_ns is None and not self.is_fresh and not resting:
                self._done, self.running_since_ns = version, time.time_ns()
                # It may be in the middle of it when the process ends, and has nothing to tidy up.
                threading.Thread(target=self._run, args=(self.running_since_ns,), daemon=True).start()

    def wait(self, wait_s: float) -> None:
        """Wait a while for the end of the run that runs, if one does."""
        with self._changed:
            self._changed.wait_for(lambda: self.running_since_ns is None, wait_s)

    @property
    def is_fresh(self) -> bool:
        """Whether nobody has written since the last run began, as far as was looked."""
        return self._seen == self._done

    def _run(self, began_at_ns: int) -> None:
        began_s = time.monotonic()
        report, error = None, None
        try:
            report = self._work()
        except (LayerstoreError, OSError) as failure:  # such as too many processes
            error = str(failure)
        with self._changed:
            seconds = time.monotonic() - began_s
            self.last = Run(began_at_ns, seconds, report, error)
            if error is None:
                self.last_good = self.last
            else:
                self._done = None  # to be tried again
            self._not_before_s = time.monotonic() + REST * seconds
            self.running_since_ns = None
            self._changed.notify_all()


class Verify:
    """`verify` as a process of its own: in a large store it is Python's work for a minute."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> dict[str, Any]:
        """Return the report.

        Raises:
            LayerstoreError: it printed none.
        """
        with self._lock:
            if self._stopped:
                raise LayerstoreError("it was stopped")
            process = self._process = subprocess.Popen(  # noqa: S603  # this program, with the path that it was given
                # Not what lies in the directory that this was started in.
                [sys.executable, "-P", "-m", "layerstore", "--db", self._path, "verify", "--json"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        out, err = process.communicate()
        try:
            report: dict[str, Any] = json.loads(out)  # also where the exit code says that there are findings
        except ValueError:
            raise LayerstoreError(err.strip() or f"no report; exit code {process.returncode}") from None
        return report

    def stop(self) -> None:
        """End the process that runs, and begin no other."""
        with self._lock:
            self._stopped = True
        if self._process is not None:
            self._process.kill()  # it only reads
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted.

    Attributes:
        overview: the last counts; `None` before the first.
        counted_at_ns: when they were begun.
        fresh: nobody has written since.
        error: why the last count failed; `None` if it did not.
    """

    overview: Overview | None
    counted_at_ns: int | None
    fresh: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class CheckState:
    """Whether `verify` is on, its last run, since when one runs, and whether the store has changed since it began."""

    enabled: bool
    last: Run[dict[str, Any]] | None
    running_since_ns: int | None
    changed_since: bool


class Site:
    """A store, opened to read only."""

    def __init__(self, store: SQLMetadataStore, *, source: str | None = None, verify: bool = True) -> None:
        """Begin to count and to check.

        Args:
            store: what is shown.
            source: the directory that it was imported from, if it was made for being shown.
            verify: run `verify` in the background.
        """
        assert store.path is not None, "other processes and connections must reach it"
        self.store = store
        self.path = store.path
        self.source = source
        self.counts = Work(lambda: overview(store))
        self.verify = Verify(store.path)
        self.checks = Work(self.verify) if verify else None
        # In one thread: what tells whether the store has changed is a connection's own.
        self._watch = ThreadPoolExecutor(1)
        self._watch.submit(self._look)  # where it fails, the first page will say so

    async def glance(self) -> tuple[Counted, CheckState]:
        """Return the counts, fresh ones if they take no longer than a page may wait, and what `verify` found last."""
        failure = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._watch, self._look)
        except LayerstoreError as error:
            failure = str(error)
        await asyncio.to_thread(self.counts.wait, WAIT_S)
        last, good = self.counts.last, self.counts.last_good
        counted = Counted(
            good.report if good else None,
            good.began_at_ns if good else None,
            self.counts.is_fresh and self.counts.running_since_ns is None and failure is None,
            failure or (last.error if last else None),
        )
        if self.checks is None:
            return counted, CheckState(False, None, None, False)
        checks = self.checks
        return counted, CheckState(True, checks.last, checks.running_since_ns, not checks.is_fresh)

    def _look(self) -> None:
        seen = version(self.store)
        self.counts.look(seen)
        if self.checks is not None:
            self.checks.look(seen)

    def stop(self) -> None:
        """End what runs in the background; a count that runs is not waited for."""
        self.verify.stop()
        self._watch.shutdown(wait=False)
