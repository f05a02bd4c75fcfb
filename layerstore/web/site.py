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
from dataclasses import dataclass, replace
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
class Known(Generic[_T]):
    """What work has found out.

    Attributes:
        report: of the last run that did not fail; `None` before the first.
        began_at_ns: when that began.
        seconds: how long it took.
        error: why the last run failed; `None` if it did not.
        running_since_ns: when the run began that runs now.
        fresh: nobody has written since.
    """

    report: _T | None = None
    began_at_ns: int | None = None
    seconds: float = 0.0
    error: str | None = None
    running_since_ns: int | None = None
    fresh: bool = False


class Work(Generic[_T]):
    """Work on a store in a thread of its own: again when the store has changed, unless it is too soon."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._known: Known[_T] = Known()
        self._changed = threading.Condition()
        self._seen: int | None = None
        self._done: int | None = None
        self._not_before_s = 0.0

    @property
    def known(self) -> Known[_T]:
        """What is known now."""
        found = self._known
        return replace(found, fresh=self._seen == self._done and found.running_since_ns is None)

    def look(self, version: int) -> None:
        """Begin to work if this version of the store was not worked on yet, unless it works, or it is too soon."""
        with self._changed:
            self._seen = version
            resting = time.monotonic() < self._not_before_s
            if self._known.running_since_ns is None and self._done != version and not resting:
                self._done = version
                self._known = replace(self._known, running_since_ns=time.time_ns())
                # It may be in the middle of it when the process ends, and has nothing to tidy up.
                threading.Thread(target=self._run, daemon=True).start()

    def wait(self, wait_s: float) -> None:
        """Wait a while for the end of the run that runs, if one does."""
        with self._changed:
            self._changed.wait_for(lambda: self._known.running_since_ns is None, wait_s)

    def _run(self) -> None:
        began_at_ns, began_s = self._known.running_since_ns, time.monotonic()
        report, error = None, None
        try:
            report = self._work()
        except (LayerstoreError, OSError) as failure:  # such as too many processes
            error = str(failure)
        with self._changed:
            seconds = time.monotonic() - began_s
            if error is None:
                self._known = Known(report, began_at_ns, seconds)
            else:
                self._known = replace(self._known, error=error, running_since_ns=None)
                self._done = None  # to be tried again
            self._not_before_s = time.monotonic() + REST * seconds
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


class Site:
    """A store, opened to read only."""

    def __init__(self, store: SQLMetadataStore, *, source: str | None = None, verify: bool = True) -> None:
        """Begin to count and, if wanted, to check a store; a copy that was made to be shown has a source."""
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

    async def glance(self) -> tuple[Known[Overview], Known[dict[str, Any]] | None]:
        """Return the counts, fresh ones if they take no longer than a page may wait, and what `verify` found last."""
        failure = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._watch, self._look)
        except LayerstoreError as error:
            failure = str(error)
        await asyncio.to_thread(self.counts.wait, WAIT_S)
        counted = self.counts.known
        if failure is not None:
            counted = replace(counted, error=failure, fresh=False)
        return counted, None if self.checks is None else self.checks.known

    def _look(self) -> None:
        seen = version(self.store)
        self.counts.look(seen)
        if self.checks is not None:
            self.checks.look(seen)

    def stop(self) -> None:
        """End what runs in the background; a count that runs is not waited for."""
        self.verify.stop()
        self._watch.shutdown(wait=False)
