"""The peers: other ways to keep the same entries, each as a `Store`, so that the same services run on all of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, LargeBinary, MetaData, Table, Text, create_engine, select
from sqlalchemy.dialects.sqlite import insert

from benchmarks.rows import DISKCACHE, FILES, NAIVE, OURS
from layerstore import FSMetadataStore, NotFoundError, SQLMetadataStore, Store, export_directory
from layerstore.keys import Record

NORMAL = "layerstore, normal"
BARE = "bare"

_entries = Table(
    "entries",
    MetaData(),
    Column("namespace", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)


class NaiveStore:
    """SQLAlchemy as its tutorial has it: `engine.begin()` for each call, the driver's and SQLite's own defaults.

    They sync each commit, in a rollback journal. No rows are derived.
    """

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}")
        self._connection: Connection | None = None
        _entries.metadata.create_all(self._engine)

    def get(self, namespace: str, key: str, /) -> bytes:
        here = (_entries.c.namespace == namespace) & (_entries.c.key == key)
        with self._begun() as connection:
            value: bytes | None = connection.execute(select(_entries.c.value).where(here)).scalar()
        if value is None:
            raise NotFoundError(namespace, key)
        return value

    def set(self, namespace: str, key: str, value: bytes, /) -> None:
        self.set_many([(namespace, key, value)])

    def set_many(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        rows = [{"namespace": namespace, "key": key, "value": value} for namespace, key, value in entries]
        statement = insert(_entries)
        statement = statement.on_conflict_do_update(set_={"value": statement.excluded.value})
        with self._begun() as connection:
            connection.execute(statement, rows)

    def delete(self, namespace: str, key: str, /) -> None:
        with self._begun() as connection:
            here = (_entries.c.namespace == namespace) & (_entries.c.key == key)
            if not connection.execute(_entries.delete().where(here)).rowcount:
                raise NotFoundError(namespace, key)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._engine.begin() as connection:
            self._connection = connection
            try:
                yield
            finally:
                self._connection = None

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        if self._connection is not None:
            yield self._connection
            return
        with self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()


class DiskcacheStore:
    """`diskcache.Cache` with its own defaults: a commit is not synced, so a power cut may cost the last ones."""

    def __init__(self, path: Path) -> None:
        import diskcache  # the table is made without it, too

        self._cache = diskcache.Cache(str(path))

    def get(self, namespace: str, key: str, /) -> bytes:
        value: bytes | None = self._cache.get(f"{namespace}/{key}")
        if value is None:
            raise NotFoundError(namespace, key)
        return value

    def set(self, namespace: str, key: str, value: bytes, /) -> None:
        self._cache.set(f"{namespace}/{key}", value)

    def set_many(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        with self.transaction():
            for entry in entries:
                self.set(*entry)

    def delete(self, namespace: str, key: str, /) -> None:
        if not self._cache.delete(f"{namespace}/{key}"):
            raise NotFoundError(namespace, key)

    def transaction(self) -> AbstractContextManager[None]:
        transaction: AbstractContextManager[None] = self._cache.transact(retry=True)
        return transaction

    def close(self) -> None:
        self._cache.close()


@contextmanager
def filled(folder: Path, records: Iterable[Record]) -> Iterator[dict[str, Store]]:
    """Make all stores with the same entries, ours with both kinds of durability; close them in the end."""
    entries = [(namespace, key, value) for namespace, key, value, _ in records]
    with ExitStack() as stack:
        databases = folder / "full.db", folder / "normal.db"
        for path in databases:
            # Closed again, which empties the log: pages that are looked for there first cost the bare statement too.
            with SQLMetadataStore(path) as store:
                store.set_many(entries)
        ours = stack.enter_context(SQLMetadataStore(databases[0]))
        normal = stack.enter_context(SQLMetadataStore(databases[1], durability="normal"))
        naive = stack.enter_context(closing(NaiveStore(folder / "naive.db")))
        cache = stack.enter_context(closing(DiskcacheStore(folder / "diskcache")))
        naive.set_many(entries)
        cache.set_many(entries)
        export_directory(ours, folder / "files")
        files = stack.enter_context(FSMetadataStore(folder / "files"))
        yield {OURS: ours, NORMAL: normal, FILES: files, NAIVE: naive, DISKCACHE: cache}


@contextmanager
def bare_reader(store: SQLMetadataStore) -> Iterator[sqlite3.Connection]:
    """Open a bare connection to a store's file, with a page cache as large as the store's."""
    with closing(sqlite3.connect(str(store.path), isolation_level=None)) as connection:
        for setting in ("cache_size", "mmap_size"):
            [(value,)] = store._run(f"PRAGMA {setting}")
            connection.execute(f"PRAGMA {setting}={value}").close()
        yield connection


@contextmanager
def bare_writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Make a file of one small table, whose commits are synced as ours are."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").close()
        connection.execute("PRAGMA synchronous=FULL").close()
        connection.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID")
        yield connection
