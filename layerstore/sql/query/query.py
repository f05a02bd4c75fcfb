"""Asking a database with SQL of one's own: reading alone, for certain, and not for ever.

Four things stand in the way of a write, each of them enough: the file is opened to read only, the connection is told
`query_only`, an authorizer allows reading alone, and only statements that read are taken (VACUUM INTO writes another
file, and SQLite asks no authorizer about it).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from layerstore.errors import StoreError
from layerstore.sql.query.parameters import Parameters, Value, check
from layerstore.sql.query.tokens import QueryError, Token, first_statement, place_of, tokens
from layerstore.sql.sqlite.connections import Connections
from layerstore.sql.sqlite.errors import mapped, mapping
from layerstore.sql.sqlite.opening import make_ready
from layerstore.sql.sqlite.recognition import resolve

TIMEOUT_S: Final = 60.0
_BATCH: Final = 100
_STEPS_BETWEEN_LOOKS: Final = 20_000  # of SQLite's machine: some hundred microseconds

_READING: Final = ("SELECT", "VALUES", "WITH", "EXPLAIN", "PRAGMA")
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
    sqlite3.SQLITE_LIMIT_LENGTH: 256 * 1024 * 1024,
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


def allows(action: int, first: str | None, second: str | None) -> bool:
    """Tell whether something that SQLite is about to do only reads, by what it tells an authorizer."""
    if action in _ALLOWED:
        return True
    if action == sqlite3.SQLITE_FUNCTION:
        return (second or "").lower() not in _FUNCTIONS_REFUSED
    if action == sqlite3.SQLITE_PRAGMA:
        return (first or "").lower() in (_PRAGMAS if second is None else _PRAGMAS_WITH_ARGUMENT)
    return False


def confine(connection: sqlite3.Connection) -> None:
    """Let a connection that another program made read alone, whatever it is asked.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    for setting in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {setting}").close()
    _limit(connection)
    connection.set_authorizer(
        lambda action, first, second, *_: sqlite3.SQLITE_OK if allows(action, first, second) else sqlite3.SQLITE_DENY
    )


def lose_errors_of_callbacks() -> None:
    """Let what a callback of SQLite's raises be lost, as it is by default: a program may have had it printed.

    An interrupt that comes in a callback is told by what SQLite does then.
    """
    sqlite3.enable_callback_tracebacks(False)


def _limit(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only=ON").close()
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    # A table that is a function of SQLite's is declared when it is first used, which looks like a CREATE.
    for table in _TABLE_FUNCTIONS:
        with suppress(sqlite3.Error):  # this build has none of that name
            connection.execute(f"EXPLAIN SELECT 1 FROM {table}").close()


class QueryStoppedError(StoreError, TimeoutError):
    """A query took longer than it may."""


@dataclass(frozen=True)
class Answer:
    """What a query gives: the names of its columns, and its rows as they come.

    A TEXT that is no UTF-8 has its bytes as `\\x..`.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[Value, ...]]


@contextmanager
def ask(
    path: str, sql: str, parameters: Parameters = (), *, timeout_s: float = TIMEOUT_S, explain: bool = False
) -> Iterator[Answer]:
    """Run a query on a database file; the rows can be read in the body, as many as one wants.

    One snapshot, which writers do not wait for. The memory that it takes does not grow with the number of rows.

    Args:
        path: the file.
        sql: one statement that reads.
        parameters: for `?` in their order, or for `:name` by their names.
        timeout_s: seconds that SQLite may work; the time that the reader of the rows takes does not count.
        explain: give the plan of the query instead of its rows.

    Raises:
        QueryError: the SQL is wrong, several statements, or one that would write; parameters are missing or too many.
        QueryStoppedError: it took longer than `timeout_s`, in the body too.
        StoreError: the file cannot be opened or read.
        KeyboardInterrupt: somebody pressed Ctrl-C.
    """
    connections = Connections(resolve(path), durability="full", read_only=True, timeout_s=30.0)
    try:
        make_ready(connections, 30.0)
        with mapping(connections.path):
            connection = connections.connect()
        with closing(connection):
            yield _Asking(connection, connections.path, sql, timeout_s).answer(parameters, explain=explain)
    finally:
        connections.close()


class _Asking:
    """One query on a connection of its own."""

    def __init__(self, connection: sqlite3.Connection, path: str | None, sql: str, timeout_s: float) -> None:
        self._connection = connection
        self._path = path
        self._sql = sql
        self._timeout_s = self._left_s = timeout_s
        self._deadline = 0.0
        self._interrupted = False
        self._refused = ""
        with mapping(path):
            _limit(connection)
        connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
        connection.set_progress_handler(self._look, _STEPS_BETWEEN_LOOKS)
        connection.set_authorizer(self._authorize)

    def answer(self, parameters: Parameters, *, explain: bool) -> Answer:
        statement = self._reading_statement(explain=explain)
        sql = self._sql[: statement[-1].end]
        check(self._sql, statement, parameters)
        with self._errors(sql, statement), self._in_time():
            cursor = self._connection.execute(f"EXPLAIN QUERY PLAN {sql}" if explain else sql, parameters)
        columns = tuple(str(column[0]) for column in cursor.description or ())
        return Answer(columns, self._rows(cursor, sql, statement))

    def _rows(self, cursor: sqlite3.Cursor, sql: str, statement: list[Token]) -> Iterator[tuple[Value, ...]]:
        while True:
            with self._errors(sql, statement), self._in_time():
                batch = cursor.fetchmany(_BATCH)
            if not batch:
                return
            yield from batch

    def _reading_statement(self, *, explain: bool) -> list[Token]:
        if "\0" in self._sql:
            raise QueryError("SQL cannot hold a NUL character")
        statement, second = first_statement(tokens(self._sql))
        if not statement:
            raise QueryError("no SQL is given: give a statement, --file, or @NAME (`layerstore query --list`)")
        if second is not None:
            raise QueryError("one statement at a time: a second one begins", self._sql, second)
        first = statement[0]
        if first.text.upper() not in _READING:
            kind = first.text.upper() if first.kind == "word" else "this"
            raise QueryError(f"queries only read: {kind} is none of {', '.join(_READING)}", self._sql, first)
        if explain and first.text.upper() == "EXPLAIN":
            raise QueryError("it is explained already: leave --explain or EXPLAIN out", self._sql, first)
        return statement

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if allows(action, first, second):
            return sqlite3.SQLITE_OK
        named = " ".join(filter(None, (first, second)))
        self._refused = self._refused or f"{_ACTIONS.get(action, 'this')} {named}".strip()
        return sqlite3.SQLITE_DENY

    def _look(self) -> int:
        # What is raised here is lost in the driver, which tells SQLite to stop: `_failed` knows why.
        try:
            return int(time.monotonic() > self._deadline)
        except KeyboardInterrupt:
            self._interrupted = True
            return 1

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        start = time.monotonic()
        self._deadline = start + self._left_s
        try:
            yield
        finally:
            self._left_s -= time.monotonic() - start

    @contextmanager
    def _errors(self, sql: str, statement: Sequence[Token]) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeEncodeError, MemoryError) as error:
            self._failed(error, sql, statement)

    def _failed(self, error: Exception, sql: str, statement: Sequence[Token]) -> NoReturn:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            if self._interrupted or self._left_s > 0:
                raise KeyboardInterrupt from error
            raise QueryStoppedError(
                f"the query was stopped after {self._timeout_s:g} s: ask for less, see --explain, or give --timeout",
                self._path,
            ) from error
        if self._refused:
            words = self._refused.lower().split()
            named = next((token for token in statement if token.name in words), statement[0])
            raise QueryError(f"queries only read: {self._refused} is refused", sql, named) from error
        if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, 0):
            place = place_of(sql, statement, str(error), self._complaint) if code == sqlite3.SQLITE_ERROR else None
            raise QueryError(f"{error}", sql, place) from error
        if code == sqlite3.SQLITE_READONLY:
            raise QueryError(f"queries only read: {error}", sql, statement[0]) from error
        raise mapped(error, self._path) from error

    def _complaint(self, sql: str) -> str | None:
        self._left_s = max(self._left_s, 1.0)
        try:
            with self._in_time():
                self._connection.execute(f"EXPLAIN {sql}").close()
        except sqlite3.Error as error:
            # Without a code it is the driver's own error, of parameters without values: SQLite had taken the text.
            return str(error) if getattr(error, "sqlite_errorcode", None) is not None else None
        return None
