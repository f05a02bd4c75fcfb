"""Reading a large directory in a process of its own: the other core opens files while this one takes in what they held.

Opening, reading and closing a file keeps the interpreter's lock for most of the time, so threads do not help. The
process is a new interpreter, as a fork would take the threads and the connections of whoever imports along.
"""

from __future__ import annotations

import fcntl
import io
import marshal
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import IO, Any

from layerstore import scanning
from layerstore.errors import StoreOpenError, TransferError
from layerstore.scanning import Odd
from layerstore.transfer.batches import Batch, in_batches

_LARGE = 4000
"""Files for which another interpreter, which takes as long to start as 5,000 files to be read, is worth it."""

_PIPE_BYTES = 1 << 20
_PROGRAM = "from layerstore.transfer import reader; reader.main()"
_READY = b"layerstore reader\n"
"""What the process says first: there is an interpreter, and it has found this module."""


def scan(base: str) -> Iterator[Batch]:
    """Read every file below a base directory, as `layerstore.scanning.scan` does and in its order, a batch at a time.

    Raises:
        StoreOpenError: the base itself cannot be read.
        TransferError: the process that read it was ended by somebody.
    """
    process = _start(base) if _is_large(base) else None
    if process is None:
        yield from _scan_here(base)
        return
    assert process.stdout is not None
    try:
        yield from _batches(process.stdout, base)
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def _scan_here(base: str) -> Iterator[Batch]:
    return in_batches(("", found) for found in scanning.scan(base))


def _is_large(base: str) -> bool:
    """Tell whether a directory has many files, by counting no more than that, three levels down as Docker's are."""
    with suppress(OSError):
        return sum(1 for _ in islice(_some_files(base, 3), _LARGE)) == _LARGE
    return False


def _some_files(directory: str, depth: int) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield entry.path
            elif depth > 1 and entry.is_dir(follow_symlinks=False):
                yield from _some_files(entry.path, depth - 1)


def _start(base: str) -> subprocess.Popen[bytes] | None:
    """Start the process, or return `None` where there is no interpreter to start or only one core to run on."""
    if not sys.executable or getattr(sys, "frozen", False) or len(os.sched_getaffinity(0)) < 2:
        return None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        process = subprocess.Popen(  # noqa: S603  # this interpreter, and a program that stands above
            [sys.executable, "-P", "-c", _PROGRAM, base],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=_PIPE_BYTES,
            process_group=0,  # an interrupt at the terminal is this process's to answer
        )
    except OSError:
        return None
    assert process.stdout is not None
    with suppress(OSError):  # more than the system allows one user: it stays as it is
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    if process.stdout.read(len(_READY)) == _READY:
        return process
    process.stdout.close()
    process.kill()
    process.wait()
    return None


def _send(stream: IO[bytes], message: Any) -> None:
    content = marshal.dumps(message)
    stream.write(len(content).to_bytes(8, "little") + content)


def _receive(stream: IO[bytes]) -> object:
    """Return the next message; `EOFError` when the other side ended in the middle."""
    size = int.from_bytes(stream.read(8), "little")
    content = stream.read(size)
    # Written by `_send` in the same version of the interpreter.
    return marshal.loads(content) if size and len(content) == size else EOFError  # noqa: S302


def _batches(stream: IO[bytes], base: str) -> Iterator[Batch]:
    while (found := _receive(stream)) is not None:
        if isinstance(found, str):
            raise StoreOpenError(found, base)
        if not isinstance(found, tuple):
            raise TransferError("the process that read it was ended: try again; nothing was taken", base)
        label, records, odd = found
        yield Batch(label, records, [Odd(*one) for one in odd])


def main() -> None:
    """Write the batches of a directory to standard output: a greeting, each batch, then `None`; or an error's text."""
    with suppress(BrokenPipeError), io.BufferedWriter(io.FileIO(1, "w"), _PIPE_BYTES) as stream:
        stream.write(_READY)
        stream.flush()
        try:
            for label, records, odd in _scan_here(sys.argv[1]):
                _send(stream, (label, [tuple(record) for record in records], [tuple(one) for one in odd]))
            _send(stream, None)
        except StoreOpenError as error:
            _send(stream, error.args[0])
