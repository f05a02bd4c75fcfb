"""Reading a large directory with two more processes: this one lists the names, and takes in what they read in turn.

Two, as taking in what they read costs as much as both take for it.
"""

from __future__ import annotations

import fcntl
import io
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import Final

from layerstore.errors import TransferError
from layerstore.files import scanning, tree, walking
from layerstore.files.scanning import VANISHED, Odd
from layerstore.records import Record
from layerstore.transfer import batches, processes
from layerstore.transfer.batches import Batch
from layerstore.transfer.processes import Helper

_READERS: Final = 2
_AHEAD: Final = 3
"""Chunks that a reader has at once, so that it need not wait for the next one."""
_FIRST: Final = 4
"""Chunks that are read here, while the other interpreters start. Where there are no more, none is started."""

_PIPE_BYTES: Final = processes.PIPE_BYTES
_PAGE: Final = 4096
_PATIENCE_S: Final = 20

_Chunk = list[tuple[str, bytes, list[bytes]] | tuple[str, str, str]]
"""Up to two batches of what is there: a namespace, the path of a directory below it with a slash at its end, and names
of files there; or an `Odd`."""


def scan(base: str) -> Iterator[Batch]:
    """Read every file below a base directory, as `scanning.scan` does and in its order, a batch at a time.

    Raises:
        StoreOpenError: the base itself cannot be read.
        TransferError: a process that read it was ended by somebody.
    """
    chunks = _chunks(base)
    first = list(islice(chunks, _FIRST))
    readers = _start(base) if len(first) == _FIRST else []
    try:
        for chunk in first:
            yield from _read(base, chunk)
        readers = [reader for reader in readers if reader.is_ready()]
        if readers:
            yield from _read_in_turn(chunks, readers)
        for chunk in chunks:
            yield from _read(base, chunk)
    finally:
        for reader in readers:
            reader.stop()


def _chunks(base: str) -> Iterator[_Chunk]:
    chunk: _Chunk = []
    size = 0
    for listed in scanning.listing(base):
        if isinstance(listed, Odd):
            chunk.append((listed.path, listed.kind, listed.reason))
            size += 1
        else:
            namespace, files = listed
            chunk.append((namespace, files.prefix, files.names))
            size += len(files.names)
        if size >= batches.RECORDS:
            yield chunk
            chunk, size = [], 0
    yield chunk


def _read(base: str, chunk: _Chunk) -> Iterator[Batch]:
    return batches.in_batches(("", found) for found in _found(base, chunk))


def _found(base: str, chunk: _Chunk) -> Iterator[Record | Odd]:
    for first, second, third in chunk:
        if isinstance(second, bytes) and isinstance(third, list):
            yield from _read_folder(base, first, second, third)
        elif isinstance(second, str) and isinstance(third, str):
            yield Odd(first, second, third)


def _read_folder(base: str, namespace: str, prefix: bytes, names: list[bytes]) -> Iterator[Record | Odd]:
    try:
        with tree.directory(base, [namespace, *os.fsdecode(prefix).split("/")[:-1]]) as directory:
            yield from scanning.read(namespace, walking.Files(directory, prefix, names))
    except OSError as error:
        vanished = isinstance(error, FileNotFoundError)
        kind, reason = ("vanished", VANISHED) if vanished else ("unreadable", f"cannot be read: {error.strerror}")
        for name in names:
            yield Odd(f"{namespace}/{scanning.show(prefix + name)}", kind, reason)


def _read_in_turn(chunks: Iterable[_Chunk], readers: Sequence[_Reader]) -> Iterator[Batch]:
    """Give the readers chunks in turn, some ahead; what they read comes in the order of the chunks."""
    waiting = deque[_Reader]()
    for reader, chunk in zip(cycle(readers), chunks):
        request = processes.message(chunk)
        while waiting and (len(waiting) >= _AHEAD * len(readers) or not reader.has_room(request)):
            yield from waiting.popleft().answer()
        reader.read(request)
        waiting.append(reader)
    for reader in waiting:
        yield from reader.answer()


class _Reader:
    """A process that reads files of a directory whose names it is given."""

    def __init__(self, base: str) -> None:
        """Start it.

        Raises:
            OSError: there is no such interpreter, or no room for one.
        """
        self._base = base
        self._helper = Helper(__name__, [base])
        self._stdin, self._stdout = self._helper.stdin, self._helper.stdout
        for stream in (self._stdin, self._stdout):
            with suppress(OSError):  # more than the system allows one user: it stays as it is
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._room = fcntl.fcntl(self._stdin, fcntl.F_GETPIPE_SZ)
        self._requests = deque[int]()

    def is_ready(self) -> bool:
        """Wait until it has begun, and tell whether it has; one that has not is stopped."""
        if self._helper.is_ready(_PATIENCE_S):
            return True
        self.stop()
        return False

    def has_room(self, request: bytes) -> bool:
        """Tell whether it can be given a request without waiting for it.

        Who waits while it has others to answer might wait for ever, as it waits until its answers are read.
        """
        return not self._requests or sum(self._requests) + _in_pipe(request) <= self._room

    def read(self, request: bytes) -> None:
        """Tell it to read some files."""
        self._requests.append(_in_pipe(request))
        try:
            self._stdin.write(request)
            self._stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> Iterator[Batch]:
        """Yield what it reads for the oldest request."""
        while (found := processes.receive(self._stdout)) is not None:
            if not isinstance(found, tuple):
                raise self._ended()
            records, odd, unfit, associations = found
            yield Batch("", records, [Odd(*one) for one in odd], unfit, associations)
        self._requests.popleft()

    def _ended(self) -> TransferError:
        return TransferError("a process that read it was ended: try again; nothing was taken", self._base)

    def stop(self) -> None:
        """End it."""
        self._helper.stop()


def _start(base: str) -> list[_Reader]:
    """Start the readers; none where that cannot be or does not help."""
    started: list[_Reader] = []
    if processes.can_help():
        with suppress(OSError):
            started.extend(_Reader(base) for _ in range(_READERS))
    return started


def _in_pipe(message: bytes) -> int:
    """Return the bytes that a message takes in a pipe, which has them in pages."""
    return (len(message) // _PAGE + 2) * _PAGE


def main() -> None:
    """Read the files that standard input names, and write their batches to standard output, each time with an end."""
    with (
        suppress(BrokenPipeError),
        io.BufferedReader(io.FileIO(0)) as names,
        io.BufferedWriter(io.FileIO(1, "w"), _PIPE_BYTES) as stream,
    ):
        stream.write(processes.READY)
        stream.flush()
        while (chunk := processes.receive(names)) is not EOFError:
            for _, records, odd, unfit, associations in _read(sys.argv[1], chunk):
                lists = ([tuple(record) for record in records], [tuple(one) for one in odd], unfit, associations)
                stream.write(processes.message(lists))
            stream.write(processes.message(None))
            stream.flush()
