"""What SQL of others may do: read. And the program that runs such SQL, as a process that `sandbox` starts and ends.

Four things stand in the way of a write, each of them enough: the file is opened to read only, the connection is told
`query_only`, an authorizer allows reading alone, and no file can be attached. What a statement takes is limited by
SQLite (the length of a value, the time between two steps), by the kernel (memory, temporary files), and by `sandbox`,
which kills the process where SQLite does not stop in time: in one long function it does not look at the time.

Only the standard library is imported, and little of it, so that the process starts in some 15 ms.
"""

from __future__ import annotations

import marshal
import math
import os
import resource
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Final

VALUE_BYTES: Final = 8 * 1024 * 1024
"""No value is longer: of ten times as much, some functions of SQLite would work on one call for hours."""
MEMORY_BYTES: Final = 256 * 1024 * 1024
"""What the process may take beside what it takes to start."""
TEMPORARY_BYTES: Final = 4 * 1024 * 1024 * 1024
"""How long a temporary file may get, as of a sort."""
GRACE_S: Final = 2.0
"""After its time, a statement has so long to stop by itself, or for the process to start."""
_STEPS_BETWEEN_LOOKS: Final = 20_000  # of SQLite's machine: some hundred microseconds
_BATCH_ROWS: Final = 100
_BATCH_BYTES: Final = 256 * 1024

_ALLOWED: Final = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
# PRAGMAs that tell something of what they are given, and those that would set it, if they were given a value.
_PRAGMAS_WITH_ARGUMENT: Final = {
    *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"),
    *("integrity_check", "quick_check", "foreign_key_check"),
}
_PRAGMAS: Final = _PRAGMAS_WITH_ARGUMENT | {
    *("application_id", "user_version", "schema_version", "data_version", "page_size", "page_count"),
    *("freelist_count", "encoding", "journal_mode", "auto_vacuum", "collation_list", "compile_options"),
    *("database_list", "function_list", "module_list", "pragma_list"),
}
_TABLE_FUNCTIONS: Final = ("json_each", "json_tree", "dbstat", *(f"pragma_{name}" for name in sorted(_PRAGMAS)))
# They load code, or read or write files, where a build of SQLite or its shell has them.
_FUNCTIONS_REFUSED: Final = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "fsdir", "lsmode"}
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1024 * 1024,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 300,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 4096,  # a pattern's cost grows with its square
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_ACTIONS: Final = {
    value: name.removeprefix("SQLITE_").replace("_", " ")
    for name, value in vars(sqlite3).items()
    if name.startswith(("SQLITE_CREATE_", "SQLITE_DROP_", "SQLITE_ALTER_"))
    or name.removeprefix("SQLITE_") in ("INSERT", "UPDATE", "DELETE", "ATTACH", "DETACH", "REINDEX", "ANALYZE")
    or name in ("SQLITE_TRANSACTION", "SQLITE_SAVEPOINT", "SQLITE_PRAGMA", "SQLITE_FUNCTION")
}


# What is wrong, by SQLite's code; without a code it is the driver's own error: of parameters, or several statements.
_KINDS: Final = {
    sqlite3.SQLITE_ERROR: "sql",
    sqlite3.SQLITE_MISMATCH: "sql",
    sqlite3.SQLITE_RANGE: "sql",
    sqlite3.SQLITE_READONLY: "write",
    sqlite3.SQLITE_TOOBIG: "long",
    sqlite3.SQLITE_INTERRUPT: "stopped",
    sqlite3.SQLITE_NOMEM: "memory",
    sqlite3.SQLITE_FULL: "room",
    sqlite3.SQLITE_IOERR_WRITE: "room",  # all that is written are temporary files
}


class Authorizer:
    """What SQLite asks before it does something. `refused` is what was refused first, in words."""

    refused = ""

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """Allow what only reads."""
        if _allows(action, first, second):
            return sqlite3.SQLITE_OK
        self.refused = self.refused or " ".join(filter(None, (_ACTIONS.get(action, "this"), first, second)))
        return sqlite3.SQLITE_DENY


def _allows(action: int, first: str | None, second: str | None) -> bool:
    if action in _ALLOWED:
        return True
    if action == sqlite3.SQLITE_FUNCTION:
        return (second or "").lower() not in _FUNCTIONS_REFUSED
    if action == sqlite3.SQLITE_PRAGMA:
        return (first or "").lower() in (_PRAGMAS if second is None else _PRAGMAS_WITH_ARGUMENT)
    return False


def confine(connection: sqlite3.Connection) -> Authorizer:
    """Let a connection only read, whatever it is asked.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    for setting in ("query_only=ON", "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {setting}").close()
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    # A table that is a function of SQLite's is declared when it is first used, which looks like a CREATE.
    for table in _TABLE_FUNCTIONS:
        try:
            connection.execute(f"EXPLAIN SELECT 1 FROM {table}").close()
        except sqlite3.Error:
            continue  # this build has none of that name
    authorizer = Authorizer()
    connection.set_authorizer(authorizer)
    return authorizer


def send(stream: IO[bytes], message: Any) -> None:
    """Write a message, with its length before it."""
    data = marshal.dumps(message)
    stream.write(struct.pack("=Q", len(data)) + data)
    stream.flush()


def main() -> None:
    """Answer requests on standard input until it ends: SQL, parameters, seconds, most rows, most bytes."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _limit_process()
    connection: sqlite3.Connection | None = None
    authorizer = Authorizer()
    while header := requests.read(8):
        request = marshal.loads(requests.read(*struct.unpack("=Q", header)))  # noqa: S302  # from `sandbox`
        sql, parameters, seconds, most_rows, most_bytes = request
        _limit_processor(seconds)
        authorizer.refused = ""
        try:
            if connection is None:
                connection, authorizer = _open(sys.argv[1])
            _limit_statement(connection, seconds)
            for message in _answer(connection, sql, parameters, most_rows, most_bytes):
                send(answers, message)
        except BrokenPipeError:
            os._exit(0)  # whoever asked has gone
        # What the driver raises besides its errors: a warning (several statements), OverflowError, UnicodeEncodeError.
        except Exception as error:  # noqa: BLE001
            send(answers, _told(error, authorizer))


def _open(path: str) -> tuple[sqlite3.Connection, Authorizer]:
    # What ends a path in a URI, or begins an escape. Source: sqlite.org/uri.html, section 3.1.
    named = path.translate({ord("%"): "%25", ord("?"): "%3f", ord("#"): "%23"})
    connection = sqlite3.connect(f"file:{named}?mode=ro", uri=True, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
    return connection, confine(connection)


def _answer(
    connection: sqlite3.Connection, sql: str, parameters: Any, most_rows: int | None, most_bytes: int | None
) -> Iterator[tuple[object, ...]]:
    cursor = connection.execute(sql, parameters)
    try:
        yield "columns", [str(column[0]) for column in cursor.description or ()]
        batch: list[tuple[Any, ...]] = []
        size = total = 0
        for number, row in enumerate(cursor):
            if number == most_rows:
                yield "rows", batch
                yield "end", True
                return
            batch.append(row)
            size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            if most_bytes is not None and total + size > most_bytes:
                yield "large", None, ""
                return
            if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
                yield "rows", batch
                batch, total, size = [], total + size, 0
        yield "rows", batch
        yield "end", False
    finally:
        cursor.close()


def _told(error: Exception, authorizer: Authorizer) -> tuple[object, ...]:
    """Return what kind of error it is, SQLite's code for it, and its text."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, MemoryError):
        return "memory", None, ""
    if authorizer.refused:
        return "write", code, authorizer.refused
    kind = "sql" if code is None else _KINDS.get(code) or _KINDS.get(code & 0xFF, "file")
    return kind, code, str(error)


def _limit_process() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, _at_most(resource.RLIMIT_FSIZE, TEMPORARY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm") as sizes:
            taken = int(sizes.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, _at_most(resource.RLIMIT_AS, taken + MEMORY_BYTES))
    except OSError:  # where there is no /proc
        pass


def _limit_processor(seconds: float) -> None:
    """End this process when `sandbox` would have, if that was killed itself."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft, _ = _at_most(resource.RLIMIT_CPU, math.ceil(time.process_time() + min(seconds, 1e9) + GRACE_S) + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit_statement(connection: sqlite3.Connection, seconds: float) -> None:
    """Stop a statement by what it has worked: waiting for a reader of its rows is none of it."""
    deadline = time.process_time() + seconds
    connection.set_progress_handler(lambda: time.process_time() > deadline, _STEPS_BETWEEN_LOOKS)


def _at_most(which: int, wanted: int) -> tuple[int, int]:
    """Return a limit that is no higher than the one that is there."""
    hard = resource.getrlimit(which)[1]
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    return most, most
