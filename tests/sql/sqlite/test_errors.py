"""No error of the driver escapes: each result code of SQLite becomes the class that DESIGN names, whatever was done."""

from __future__ import annotations

import copy
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

import layerstore.errors
from layerstore import (
    CorruptRecordError,
    InvalidInputError,
    LayerstoreError,
    NotFoundError,
    SQLMetadataStore,
    StoreBusyError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
)
from layerstore.sql.sqlite.errors import _BY_CODE, mapped
from layerstore.sql.sqlite.file import File
from tests.conftest import sqlite_of

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
EXPECTED: dict[str, type[LayerstoreError]] = {
    "SQLITE_AUTH": StoreOpenError,
    "SQLITE_BUSY": StoreBusyError,
    "SQLITE_BUSY_RECOVERY": StoreBusyError,
    "SQLITE_BUSY_SNAPSHOT": StoreBusyError,
    "SQLITE_CANTOPEN": StoreOpenError,
    "SQLITE_CANTOPEN_ISDIR": StoreOpenError,
    "SQLITE_CONSTRAINT": StoreError,
    "SQLITE_CORRUPT": StoreCorruptError,
    "SQLITE_CORRUPT_INDEX": StoreCorruptError,
    "SQLITE_ERROR": StoreError,
    "SQLITE_FORMAT": StoreCorruptError,
    "SQLITE_FULL": StoreFullError,
    "SQLITE_INTERNAL": StoreError,
    "SQLITE_INTERRUPT": StoreError,
    "SQLITE_IOERR": StoreError,
    "SQLITE_IOERR_FSYNC": StoreError,
    "SQLITE_LOCKED": StoreBusyError,
    "SQLITE_LOCKED_SHAREDCACHE": StoreBusyError,
    "SQLITE_MISMATCH": StoreError,
    "SQLITE_MISUSE": StoreError,
    "SQLITE_NOMEM": StoreError,
    "SQLITE_NOTADB": StoreOpenError,
    "SQLITE_PERM": StoreOpenError,
    "SQLITE_PROTOCOL": StoreBusyError,
    "SQLITE_READONLY": StoreReadOnlyError,
    "SQLITE_READONLY_DBMOVED": StoreReadOnlyError,
    "SQLITE_SCHEMA": StoreError,
    "SQLITE_TOOBIG": InvalidInputError,
}
DRIVER_CLASSES = (sqlite3.OperationalError, sqlite3.DatabaseError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
LISTS = "v2metadata-by-diffid"


def driver_error(name: str, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    """Make an error as the driver makes it."""
    error = kind("made up")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    return error


class Breakable:
    """A driver connection that raises `error` from every statement that begins with `statement`."""

    error: sqlite3.Error | None = None
    statement = ""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self) -> Breakable:
        return self

    def execute(self, statement: str, *parameters: Any) -> Any:
        if Breakable.error is not None and statement.startswith(Breakable.statement):
            raise Breakable.error
        return self._connection.execute(statement, *parameters)


@pytest.fixture(params=["file", "memory"])
def breakable(
    request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SQLMetadataStore]:
    """A store with one entry, whose connections fail as soon as `Breakable.error` is set."""
    connect = File.connect
    monkeypatch.setattr(File, "connect", lambda self: Breakable(connect(self)))
    monkeypatch.setattr(Breakable, "error", None)
    monkeypatch.setattr(Breakable, "statement", "")
    with SQLMetadataStore(":memory:" if request.param == "memory" else tmp_path / "layers.db") as store:
        store.set("n", "k", b"value")
        yield store
        Breakable.error = None


def transact(store: SQLMetadataStore) -> None:
    with store.transaction():
        store.set("n", "k", b"")


USES: dict[str, Callable[[SQLMetadataStore], object]] = {
    "get": lambda store: store.get("n", "k"),
    "set": lambda store: store.set("n", "k", b""),
    "set of a list": lambda store: store.set(LISTS, "k", b"[]"),
    "delete": lambda store: store.delete("n", "k"),
    "transaction": transact,
    "entries": lambda store: list(store.entries()),
    "entries of a namespace": lambda store: list(store.entries("n")),
    "get_many": lambda store: store.get_many("n", ["k"]),
    "set_many": lambda store: store.set_many([("n", "k", b"")]),
    "quarantine": lambda store: store.quarantine("n", "k", b"", "reason"),
}


def test_every_code_that_is_mapped_is_in_the_table():
    known = {getattr(sqlite3, name) & 0xFF for name in EXPECTED}

    assert set(_BY_CODE) <= known


@pytest.mark.parametrize("name", EXPECTED)
def test_a_result_code_becomes_its_class(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # beside the database, so that it is not this that is full
    path = str(tmp_path / "path")
    for kind in DRIVER_CLASSES:
        error = mapped(driver_error(name, kind), path)

        assert type(error) is EXPECTED[name]
        assert "made up" in str(error)
        if isinstance(error, StoreError):
            assert error.path == path
            assert name in str(error)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_nothing_else_escapes_from_any_use(
    breakable: SQLMetadataStore, use: Callable[[SQLMetadataStore], object], name: str
):
    Breakable.error = driver_error(name)

    with pytest.raises(LayerstoreError) as caught:
        use(breakable)
    assert type(caught.value) is EXPECTED[name]
    assert caught.value.__cause__ is Breakable.error


@pytest.mark.parametrize(
    "statement", ["BEGIN", "COMMIT", "INSERT", "DELETE", "SELECT", "SAVEPOINT", "RELEASE", "ROLLBACK"]
)
@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_nothing_else_escapes_whichever_statement_fails(
    breakable: SQLMetadataStore, use: Callable[[SQLMetadataStore], object], statement: str
):
    """A use that has no such statement does what it should."""
    Breakable.error, Breakable.statement = driver_error("SQLITE_BUSY"), statement
    caught: Exception | None = None
    try:
        use(breakable)
    except Exception as error:
        caught = error
    Breakable.error = None

    assert caught is None or type(caught) is StoreBusyError
    breakable.set("n", "k", b"the store goes on")
    assert breakable.get("n", "k") == b"the store goes on"


@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_else_escapes_from_opening(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, name: str):
    def fail(_: File) -> sqlite3.Connection:
        raise driver_error(name)

    monkeypatch.setattr(File, "connect", fail)
    for place in (tmp_path / "layers.db", ":memory:"):
        with pytest.raises(LayerstoreError) as caught:
            SQLMetadataStore(place)
        assert type(caught.value) is EXPECTED[name]


def test_an_error_of_the_driver_without_a_code_is_a_store_error():
    assert type(mapped(sqlite3.ProgrammingError("made up"), None)) is StoreError
    assert type(mapped(sqlite3.ProgrammingError("made up"), None, closed=True)) is StoreClosedError


def test_sqlalchemys_wrapper_is_seen_through(tmp_path: Path):
    """A migration runs on SQLAlchemy; here it waits for a writer that does not end."""
    shutil.copy(GOLDEN / "0001.db", tmp_path / "old.db")
    with closing(sqlite3.connect(tmp_path / "old.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError) as caught:
            SQLMetadataStore(tmp_path / "old.db", timeout_s=0.05)
        other.execute("ROLLBACK")

    assert isinstance(caught.value.__cause__, DBAPIError)
    SQLMetadataStore(tmp_path / "old.db").close()


def test_a_value_over_sqlites_limit_is_invalid_input(sqlite_store: SQLMetadataStore):
    connection = sqlite_of(sqlite_store)._connections.local.handle.connection
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000)

    with pytest.raises(InvalidInputError, match="larger than SQLite allows"):
        sqlite_store.set("n", "k", b"x" * 2_000)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000_000)
    assert list(sqlite_store.entries()) == []


CLASSES = [getattr(layerstore.errors, name) for name in layerstore.errors.__all__]


@pytest.mark.parametrize("kind", CLASSES, ids=layerstore.errors.__all__)
def test_an_error_survives_pickling_and_copying_with_its_attributes(kind: type[LayerstoreError]):
    arguments: tuple[str, ...] = ("the message",)
    if issubclass(kind, NotFoundError):
        arguments = ("namespace", "key")
    elif issubclass(kind, CorruptRecordError):
        arguments = ("namespace", "key", "reason")
    elif hasattr(kind("m"), "path"):
        arguments = ("the message", "/the/path")
    error = kind(*arguments)

    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert twin.args == error.args == arguments
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
    assert set(vars(error).values()) <= set(arguments)


def test_the_tree_is_the_documented_one():
    parents = {kind.__name__: kind.__bases__ for kind in CLASSES}

    assert issubclass(NotFoundError, KeyError)
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(StoreBusyError, TimeoutError)
    assert all(issubclass(kind, LayerstoreError) for kind in CLASSES)
    assert {name for name, bases in parents.items() if StoreError in bases} == {
        "QueryStoppedError",
        "SchemaVersionError",
        "StoreBusyError",
        "StoreClosedError",
        "StoreConnectionError",
        "StoreCorruptError",
        "StoreFullError",
        "StoreOpenError",
        "StoreReadOnlyError",
    }
    assert {name for name, bases in parents.items() if InvalidInputError in bases} == {
        "InvalidDigestError",
        "InvalidKeyError",
        "InvalidRepositoryError",
        "InvalidV1IDError",
        "QueryError",
    }
    for kind in CLASSES:
        assert kind.__name__ in (layerstore.errors.__doc__ or "")
