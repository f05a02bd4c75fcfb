"""What every test module may use: stores that are checked when the test is over, and the options of the suite."""

from __future__ import annotations

import gc
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from sqlalchemy import text

from layerstore import FSMetadataStore, SQLMetadataStore, StoreError, verify
from layerstore.blobs import BlobRecord, decode
from layerstore.keys import BLOBS
from layerstore.records import why_unreadable
from layerstore.sql import derived
from layerstore.sql.sqlite.backend import SQLite
from tests.support import postgresql

pytest_plugins = [  # each after those that it imports
    "tests.support.counting",
    "tests.support.entries",
    "tests.support.command",
    "tests.support.archives",
    "tests.support.daemons",
]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in a shell's background: Ctrl-C would be ignored by every program that a test starts, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The programs that tests start import the package from the checkout: each of them would compile it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

SLOW = (
    "contract/test_factory.py",
    "formats/test_no_tar.py",
    "formats/test_tar_damage.py",
    "cli/test_manners.py",
    "cli/test_output.py",
    "cli/test_paths.py",
    "cli/test_serve.py",
    "cli/test_signals.py",
    "cli/test_startup.py",
    "cli/test_temporary.py",
    "cli/test_terminal.py",
    "sql/test_derived.py",
    "engines/",
    "docs/test_pages.py",
    "migrations/test_next_revision.py",
    "packaging/",
    "property/",
    "robustness/",
    "transfer/prune/test_properties.py",
    "sql/query/test_answers.py",
    "sql/query/test_refusals.py",
    "transfer/test_placing.py",
    "transfer/test_export_at_once.py",
    "transfer/test_export_killed.py",
    "transfer/test_merge_properties.py",
    "transfer/test_round_trip.py",
    "web/",
)
"""What `-m "not slow"` leaves out, beside single tests with the mark and those of a server: they kill, wait, serve,
build, search, or start many programs."""

AnyStore = SQLMetadataStore | FSMetadataStore
OpenSQL = Callable[..., SQLMetadataStore]

# Each run tries other examples: few find what a change breaks; `--hypothesis-profile thorough --timeout 0` finds more.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=40, print_blob=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("suite")


class UndoError(Exception):
    """Leaves a transaction so that it is undone; no error of the library's."""


def transact(store: SQLMetadataStore) -> None:
    """Go through an empty transaction, for a caller that expects it to be refused."""
    with store.transaction():
        pass


@contextmanager
def undone(store: SQLMetadataStore) -> Iterator[None]:
    """Run the body in a transaction that an error leaves at its end."""
    with suppress(UndoError), store.transaction():
        yield
        raise UndoError


@contextmanager
def rolled_back(store: SQLMetadataStore) -> Iterator[None]:
    """Run the body in a transaction that cannot be kept, and expect to be told so at its end."""
    with pytest.raises(StoreError, match="rolled back"), store.transaction():
        yield


def assert_sound(store: SQLMetadataStore) -> None:
    """Run `verify`, and hold the derived rows against the entries that they come from, without it."""
    wrong = {"damaged-file", "stale-rows"}
    assert [found for found in verify(store).findings if found.kind in wrong] == []

    def ask(statement: str) -> list[Any]:
        """Without an engine where that is possible: to make it would take as long as all the rest."""
        on_sqlite = isinstance(store._backend, SQLite)
        return sqlite_of(store).run(statement) if on_sqlite else database_rows(store, statement)

    value = "value"
    if isinstance(store._backend, SQLite):
        value = "CAST(value AS BLOB)"
        assert ask("PRAGMA integrity_check") == [("ok",)]
    lists = ask(f"SELECT key, {value} FROM metadata WHERE namespace = 'v2metadata-by-diffid'")
    found = ask("SELECT diff_id, digest, source_repository, hmac FROM v2_metadata ORDER BY diff_id, position")
    known = ask(f"SELECT key, {value} FROM metadata WHERE namespace = 'blob-by-digest'")
    blobs = ask("SELECT digest, diff_id, compression, toc_digest FROM blobs")
    locations = ask("SELECT digest, source_repository, seen_at_ns FROM locations")
    records = {key.replace("/", ":"): blob_of(key, value) for key, value in known}
    assert set(blobs) == {
        (digest, one.diff_id, one.compression, one.toc) for digest, one in records.items() if one is not None
    }
    assert set(locations) == {
        (digest, *place) for digest, one in records.items() if one is not None for place in one.locations.items()
    }
    wanted = [(row[0], *row[2:]) for key, value in lists for row in derived.rows(key, value)]
    wanted.sort(key=lambda row: row[0])
    assert found == wanted


def blob_of(key: str, value: bytes) -> BlobRecord | None:
    """Return what is known of a blob, or `None` for what has no rows."""
    return None if why_unreadable(BLOBS, key, value) else decode(value, key)


def sqlite_of(store: SQLMetadataStore) -> SQLite:
    """Return the inside of a store on SQLite, for a test of what SQLite alone has."""
    assert isinstance(store._backend, SQLite)
    return store._backend


def database_rows(store: SQLMetadataStore, query: str, **values: object) -> list[tuple[object, ...]]:
    """Run a query through the engine, as a user does, and return its rows as plain tuples."""
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


@pytest.fixture
def open_sql(tmp_path: Path) -> Iterator[OpenSQL]:
    """Open SQL stores, `layers.db` unless told otherwise; when the test is over, every file is checked."""
    opened: list[SQLMetadataStore] = []

    def open_one(path: str | os.PathLike[str] = tmp_path / "layers.db", **options: object) -> SQLMetadataStore:
        store = SQLMetadataStore(path, **options)  # type: ignore[arg-type]  # a test passes what it wants to try
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()
    for path in {store.path for store in opened if store.path is not None}:
        with SQLMetadataStore(path) as store:
            assert_sound(store)


@pytest.fixture
def sql_file(open_sql: OpenSQL) -> SQLMetadataStore:
    return open_sql()


@pytest.fixture
def sql_memory() -> Iterator[SQLMetadataStore]:
    with SQLMetadataStore(":memory:") as store:
        yield store
        if not sqlite_of(store)._connections.closed:
            assert_sound(store)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """One server for all tests of a process, which each have a schema of their own."""
    postgresql.refuse_without()
    with postgresql.running() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: postgresql.Server) -> Iterator[str]:
    """The URL of an empty schema."""
    name = postgresql.new_schema(postgresql_server)
    yield postgresql_server.url(name)
    postgresql.drop_schema(postgresql_server, name)


@pytest.fixture(scope="session")
def schemas(postgresql_server: postgresql.Server) -> Iterator[postgresql.Schemas]:
    with closing(postgresql.Schemas(postgresql_server)) as made:
        yield made


@pytest.fixture
def sql_postgresql(postgresql_server: postgresql.Server, schemas: postgresql.Schemas) -> Iterator[SQLMetadataStore]:
    name = schemas.take()
    with SQLMetadataStore(postgresql_server.url(name)) as store:
        yield store
    assert_sound(schemas.look(name))
    schemas.give_back(name)


@pytest.fixture
def files(tmp_path: Path) -> FSMetadataStore:
    return FSMetadataStore(tmp_path / "distribution")


@pytest.fixture(params=["file", "memory"])
def sqlite_store(request: pytest.FixtureRequest) -> SQLMetadataStore:
    """Each store on SQLite in turn, for what SQLite alone has."""
    store: SQLMetadataStore = request.getfixturevalue(f"sql_{request.param}")
    return store


@pytest.fixture(params=["file", "memory", "postgresql"])
def sql_store(request: pytest.FixtureRequest) -> SQLMetadataStore:
    """Each store on a database in turn."""
    store: SQLMetadataStore = request.getfixturevalue(f"sql_{request.param}")
    return store


STORES = {"sql-file": "sql_file", "sql-memory": "sql_memory", "files": "files", "postgresql": "sql_postgresql"}
"""What the contract suite is run over, each by the fixture that makes it."""


def pytest_xdist_auto_num_workers() -> int | None:
    """Run two tests more than there are processors, as tests wait for syncs and for processes; or what xdist finds."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else len(os.sched_getaffinity(0)) + 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store",
        metavar="MODULE:FACTORY",
        help="run what uses the fixture `store` over `FACTORY(folder)` alone, a store of somebody's own",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" in metafunc.fixturenames:
        own = metafunc.config.getoption("--store")
        metafunc.parametrize("store", [own] if own else STORES, indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AnyStore:
    """Every store in turn: what uses this fixture is the contract of them all."""
    if request.param in STORES:
        chosen: AnyStore = request.getfixturevalue(STORES[request.param])
        return chosen
    module, _, factory = request.param.partition(":")
    own: AnyStore = getattr(importlib.import_module(module), factory)(tmp_path)
    return own


def pytest_collection_finish() -> None:
    """Keep the collector of garbage from going through all tests, again and again, and a fork from copying them."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by the folder or module that it is in, and what asks a server."""
    root = Path(__file__).parent
    for item in items:
        place = str(item.path.relative_to(root)) if item.path.is_relative_to(root) else ""
        names = [item.nodeid, *getattr(item, "fixturenames", ())]  # a parameter may name a store that is on a server
        if place.startswith(SLOW) or any("postgresql" in name for name in names):
            item.add_marker(pytest.mark.slow)
