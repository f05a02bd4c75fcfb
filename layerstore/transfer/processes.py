"""Processes of our own, each of which does a part of a long piece of work.

Opening, reading, writing and closing a file keeps the interpreter's lock for most of the time, so threads do not help.
They are new interpreters, as a fork would take the threads and the connections of whoever calls along.
"""

from __future__ import annotations

import marshal
import os
import select
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from typing import IO, Any, Final

READY: Final = b"layerstore\n"
"""What a process says first: there is an interpreter, and it has found its program."""
PIPE_BYTES: Final = 1 << 20


class Helper:
    """A process that runs a function of ours, and is given messages and gives some back.

    Attributes:
        process: the process.
        stdin: what it reads.
        stdout: what it writes.
    """

    def __init__(self, program: str, arguments: Collection[str], *, descriptors: Collection[int] = ()) -> None:
        """Start it.

        Args:
            program: the module with the function `main` that it runs.
            arguments: what `main` finds in `sys.argv`.
            descriptors: what is open there also, under the same numbers.

        Raises:
            OSError: there is no such interpreter, or no room for one.
        """
        self.process = subprocess.Popen(  # noqa: S603  # this interpreter, and a program of ours
            [sys.executable, "-P", "-c", f"from {program} import main; main()", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            bufsize=PIPE_BYTES,
            pass_fds=tuple(descriptors),
            process_group=0,  # an interrupt at the terminal is this process's to answer
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def is_ready(self, patience_s: float) -> bool:
        """Wait until it has begun, and tell whether it has; to be called until it is so.

        What calls itself this interpreter may be another program, in which Python is embedded, and wait for ever.
        """
        poll = select.poll()  # not select(2), which cannot take a descriptor above 1,023
        poll.register(self.stdout, select.POLLIN)
        return bool(poll.poll(patience_s * 1000)) and os.read(self.stdout.fileno(), len(READY)) == READY

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):  # what it has not read goes with it
            self.stdin.close()
        self.stdout.close()


def can_help() -> bool:
    """Tell whether there is an interpreter to start, and more than one core to run on."""
    return bool(sys.executable) and not getattr(sys, "frozen", False) and len(os.sched_getaffinity(0)) > 1


def message(content: Any) -> bytes:
    """Return what `receive` makes this of again."""
    dumped = marshal.dumps(content)
    return len(dumped).to_bytes(8, "little") + dumped


def receive(stream: IO[bytes]) -> Any:
    """Return the next message; `EOFError` when the other side ended in the middle."""
    size = int.from_bytes(stream.read(8), "little")
    content = stream.read(size)
    # Written by `message` in the same version of the interpreter.
    return marshal.loads(content) if size and len(content) == size else EOFError  # noqa: S302
