"""A process that runs SQL of others on a database file, and is killed when it takes too long.

A process, because nothing else ends one long function: `instr` of two values of 8 MiB works for minutes without looking
at the time, and a thread cannot be killed.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from layerstore.errors import LayerstoreError, QueryError, QueryStoppedError, StoreError
from layerstore.sql.backend import Answer, Parameters, Value
from layerstore.sql.sqlite import confined
from layerstore.sql.sqlite.confined import GRACE_S, MEMORY_BYTES, TEMPORARY_BYTES, VALUE_BYTES
from layerstore.sql.sqlite.errors import error_of

# Imported, and not run as a file: so it is compiled once, and not at each start.
_PROGRAM: Final = "import sys; sys.path.append(sys.argv[2]); import confined; confined.main()"
_PIECE: Final = 1 << 20
_LENGTH: Final = struct.Struct("=Q")
_HEADER: Final = _LENGTH.size
_MIB: Final = 1 << 20

_SAID: Final = {
    "write": "queries only read: {} is refused",
    "long": f"a value is longer than {VALUE_BYTES // _MIB} MiB, which is the limit for every query;"
    " `layerstore get` prints an entry of any size",
    "memory": f"the query needs more than {MEMORY_BYTES // _MIB} MiB of memory, which is the limit for every query:"
    " ask for less",
    "room": f"the query needs more than {TEMPORARY_BYTES // _MIB // 1024} GiB for temporary files, which is the limit"
    " for every query, or more than TMPDIR has: ask for less ({})",
    "large": "the answer is larger than a page may be: ask for less, or use `layerstore query`",
}


class Sandbox:
    """Runs one query after another. Not for two threads at once; `close` may be called by any thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: Generator[tuple[Any, ...], None, None] | None = None
        self._buffer = bytearray()
        self._killed = False

    def ask(
        self,
        sql: str,
        parameters: Parameters = (),
        *,
        timeout_s: float,
        most_rows: int | None = None,
        most_bytes: int | None = None,
    ) -> Answer:
        """Run a query. The next one ends it, whether its rows have been read or not.

        Args:
            sql: one statement that reads.
            parameters: for `?` in their order, or for `:name` by their names.
            timeout_s: seconds that SQLite may work; the time that the reader of the rows takes does not count.
            most_rows: end after so many rows.
            most_bytes: refuse an answer that is larger.

        Raises:
            QueryError: the SQL is wrong, several statements, or one that would write; a parameter has no value; a
                limit other than the time was reached, also while the rows are read.
            QueryStoppedError: it took longer than `timeout_s`, also while the rows are read.
            StoreError: the file cannot be read.
        """
        if "\0" in sql:
            raise QueryError("SQL cannot hold a NUL character")
        given = dict(parameters) if isinstance(parameters, Mapping) else tuple(parameters)
        if self._messages is not None:
            self._messages.close()  # the rows of the one before that were not read
        self._messages = messages = self._run((sql, given, timeout_s, most_rows, most_bytes), timeout_s)
        _, columns = next(messages)
        if not columns:
            self.close()
            raise QueryError("no SQL is given: give a statement, --file, or @NAME (`layerstore query --list`)")
        answer = Answer(tuple(columns), iter(()))
        answer.rows = self._rows(messages, answer)
        return answer

    def kill(self) -> None:
        """End a query that another thread waits for: it gets a StoreError. Nothing can be asked any more."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process, suppress(BrokenPipeError):
                pass

    def _rows(self, messages: Iterator[tuple[Any, ...]], answer: Answer) -> Iterator[tuple[Value, ...]]:
        for kind, value in messages:
            if kind == "end":
                answer.truncated = value
                return
            yield from value

    def _run(self, request: object, timeout_s: float) -> Generator[tuple[Any, ...], None, None]:
        """Ask, and give what is answered. The process is ended with an answer that is not read to its end."""
        process = self._running()
        ended = False
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended: what it answers, or does not, says why
                confined.send(process.stdin, request)
            left_s = timeout_s + GRACE_S
            while not ended:
                began_s = time.monotonic()
                message = self._receive(process, began_s + left_s, timeout_s)
                left_s -= time.monotonic() - began_s
                ended = message[0] not in ("columns", "rows")
                if ended and message[0] != "end":
                    raise self._stopped(timeout_s) if message[0] == "stopped" else self._error(*message)
                yield message
        finally:
            if not ended:
                self.close()

    def _receive(self, process: subprocess.Popen[bytes], deadline_s: float, timeout_s: float) -> tuple[Any, ...]:
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        buffer = self._buffer
        while len(buffer) < _HEADER or len(buffer) < _HEADER + _LENGTH.unpack_from(buffer)[0]:
            if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                raise self._stopped(timeout_s)
            piece = os.read(process.stdout.fileno(), _PIECE)
            if not piece:
                raise self._ended(process.wait(), timeout_s)
            buffer += piece
        (length,) = _LENGTH.unpack_from(buffer)
        message: tuple[Any, ...] = marshal.loads(buffer[_HEADER : _HEADER + length])  # noqa: S302  # of our own program
        del buffer[: _HEADER + length]
        return message

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._buffer.clear()
            self._process = subprocess.Popen(  # noqa: S603  # our own program, with the path that we were given
                # Nothing but the standard library; not the terminal's signals, as whoever started this ends it.
                [sys.executable, "-I", "-S", "-c", _PROGRAM, self._path, os.path.dirname(confined.__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._killed:  # just now, by another thread
                self._process.kill()
        return self._process

    def _stopped(self, timeout_s: float) -> QueryStoppedError:
        return QueryStoppedError(
            f"the query was stopped after {timeout_s:g} s: ask for less, see --explain, or give --timeout", self._path
        )

    def _ended(self, code: int, timeout_s: float) -> StoreError:
        if code == -signal.SIGXCPU:
            return self._stopped(timeout_s)
        return StoreError(f"the process of the query ended with code {code}", self._path)

    def _error(self, kind: str, code: int | None, said: str) -> LayerstoreError:
        if kind == "file":
            return error_of(code, said, self._path)
        return QueryError(_SAID.get(kind, "{}").format(said))
