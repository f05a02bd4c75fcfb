"""The process that is killed: it waits until it may begin, acknowledges its steps, and dies at a chosen moment."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tests.robustness.crash import trace

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.robustness.crash.writers",
        "tests.robustness.crash.adder",
        "alembic.command",
        "layerstore.cli.transfer",
        "tarfile",
        "ctypes",
    ]
)

Acknowledge = Callable[[int], None]
Work = Callable[[Path, Acknowledge], None]

ACKNOWLEDGED = b"acknowledged "

_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)


class Died(NamedTuple):
    """What is known of a writer when it is dead.

    Attributes:
        acknowledged: the last number that it acknowledged; 0 if it did none.
        killed: whether it was killed; else it had done everything.
    """

    acknowledged: int
    killed: bool


class Victim:
    """A writer in a process of its own, ready to begin."""

    def __init__(self, work: Work, home: Path) -> None:
        self._pipe, there = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_live, args=(there, work, home))
        self._process.start()
        there.close()
        assert self._pipe.recv_bytes() == b"ready"

    def die_in(self, call: str, number: int, log: Path) -> Died:
        """Let it work until its `number`-th call of this name, and kill it in place of that call."""
        assert self._process.pid is not None
        with trace.traced(self._process.pid, log, calls=(call,), kill_at=(call, number)):
            self._pipe.send_bytes(b"begin")
            return self._died()

    def die_after(self, seconds: float) -> Died:
        """Let it work for so long, then kill it."""
        self._pipe.send_bytes(b"begin")
        self._process.join(timeout=seconds)
        self._process.kill()
        return self._died()

    def record(self, log: Path) -> Died:
        """Let it work to its end, and record its system calls."""
        assert self._process.pid is not None
        with trace.traced(self._process.pid, log, calls=(*trace.CHANGES, *trace.LOOKS)):
            self._pipe.send_bytes(b"begin")
            return self._died()

    def measure(self) -> float:
        """Let it work to its end; return how many seconds that took."""
        began = time.perf_counter()
        self._pipe.send_bytes(b"begin")
        assert not self._died().killed
        return time.perf_counter() - began

    def _died(self) -> Died:
        acknowledged = 0
        try:
            while True:
                acknowledged = int(self._pipe.recv_bytes().removeprefix(ACKNOWLEDGED))
        except (EOFError, ConnectionResetError):
            pass
        self._process.join()
        self._pipe.close()
        assert self._process.exitcode in (0, -9), f"the writer failed by itself: exit code {self._process.exitcode}"
        return Died(acknowledged, killed=self._process.exitcode == -9)


def rehearse(work: Work, content: Callable[[Path], Any], home: Path) -> list[Any]:
    """Let it work to its end in a process of its own; return what is there before it and after each step."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_rehearse, args=(there, work, content, home))
    process.start()
    there.close()
    steps = []
    with contextlib.suppress(EOFError):
        while True:
            steps.append(here.recv())
    process.join()
    here.close()
    assert process.exitcode == 0
    return steps


def _rehearse(pipe: Connection, work: Work, content: Callable[[Path], Any], home: Path) -> None:
    os.umask(0o022)
    pipe.send(content(home))
    work(home, lambda _: pipe.send(content(home)))


def _live(pipe: Connection, work: Work, home: Path) -> None:
    # Where the kernel lets only a parent trace (Yama), let anyone.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    os.umask(0o022)
    pipe.send_bytes(b"ready")
    pipe.recv_bytes()
    work(home, lambda number: pipe.send_bytes(ACKNOWLEDGED + b"%d" % number))
