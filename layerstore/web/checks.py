"""What `verify` found last. It runs as a process of its own: it is Python's work for a minute in a large store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

REST: Final = 10
"""It rests for so many times as long as it took."""
_NICE: Final = 10  # whoever waits for a page goes first


@dataclass(frozen=True, slots=True)
class Checked:
    """What a run of `verify` said.

    Attributes:
        began_at_ns: when it began.
        seconds: how long it took.
        report: what `verify --json` prints; `None` if it failed.
        error: why it failed; `None` if it did not.
    """

    began_at_ns: int
    seconds: float
    report: dict[str, Any] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class CheckState:
    """Whether checks are on, the last one, since when one runs, and whether the store has changed since it began."""

    enabled: bool
    last: Checked | None = None
    running_since_ns: int | None = None
    changed_since: bool = False


class Checks:
    """Runs `verify` at the beginning, and again when the store has changed."""

    def __init__(self, path: str, *, enabled: bool = True) -> None:
        self._path = path
        self._enabled = enabled
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._began_ns = 0
        self._began_s = 0.0
        self._not_before = 0.0
        self._seen: int | None = None
        self._checked: int | None = None
        self._last: Checked | None = None

    def look(self, version: int) -> None:
        """Begin to check if this version of the store was not checked yet, unless one runs or it is too soon."""
        with self._lock:
            self._seen = version
            resting = time.monotonic() < self._not_before
            if not self._enabled or self._process is not None or version == self._checked or resting:
                return
            self._checked = version
            self._began_ns, self._began_s = time.time_ns(), time.monotonic()
            self._process = subprocess.Popen(  # noqa: S603  # this program, with the path that it was given
                # Not what lies in the directory that this was started in.
                [sys.executable, "-P", "-m", "layerstore", "--db", self._path, "verify", "--json"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
            threading.Thread(target=self._wait, args=(self._process,), name="layerstore-checks", daemon=True).start()

    def state(self) -> CheckState:
        """Return what is known by now."""
        with self._lock:
            running = None if self._process is None else self._began_ns
            return CheckState(self._enabled, self._last, running, self._seen != self._checked)

    def stop(self) -> None:
        """End the process that runs, and begin no other."""
        with self._lock:
            self._enabled = False
            process = self._process
        if process is not None:
            process.kill()  # it only reads
            process.wait()

    def _wait(self, process: subprocess.Popen[str]) -> None:
        out, err = process.communicate()
        with self._lock:
            seconds = time.monotonic() - self._began_s
            self._process = None
            self._not_before = time.monotonic() + REST * seconds
            self._last = Checked(self._began_ns, seconds, *_said(process.returncode, out, err))


def _said(code: int, out: str, err: str) -> tuple[dict[str, Any] | None, str | None]:
    """Return the report, or the error: 0 and 1 are a report's exit codes, without and with findings."""
    if code in (0, 1):
        try:
            report: dict[str, Any] = json.loads(out)
        except ValueError:
            return None, f"it printed no report: {err.strip() or out.strip() or 'nothing'}"
        return report, None
    return None, err.strip() or f"it ended with exit code {code}"
