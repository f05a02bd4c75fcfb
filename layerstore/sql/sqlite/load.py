"""Taking in many entries at once: staged beside the database first, then merged in one transaction.

Staging reads and decodes while other writers go on; the write lock is held for the merge alone. What is staged is in
temporary tables, so that memory stays bounded, and in the order of the keys, so that the B-trees of the store are
appended to. Into an empty store the indexes are built at the end, which costs half of keeping them up row by row.

Measured, and rejected: staging in tables with the store's own indexes, which SQLite then copies entry by entry (the
lock is held two thirds as long, the processor has as much to do); deriving rows in SQL by `json_each` (in the lock, and
not as Go reads); sorting in threads (slower, in twice the memory); a cache that holds everything (the log is then
written at the end instead, which takes as long); syncing the log from a thread while indexes are built (no faster); a
rollback journal in place of the log, which would take a seventh off an import, while readers would wait and a kill
would leave the file to be rolled back by the next one who opens it. What is left is the log: a third of a merge is
writing it and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

from layerstore.records import DIFF_IDS, V2_METADATA, Association, Record
from layerstore.sql import derived
from layerstore.sql.schema import REBUILT, STATISTICS
from layerstore.sql.sqlite.room import append_entries, build_index

_WINDOW = 1000
"""Rows that are read from a temporary table at once."""

_STAGE = (
    "CREATE TEMP TABLE staged(namespace TEXT, key TEXT, value BLOB, modified_at_ns INTEGER)",
    "CREATE TEMP TABLE staged_v2(diff_id TEXT, position INTEGER, digest TEXT, source_repository TEXT, hmac TEXT)",
    "CREATE TEMP TABLE staged_unfit(namespace TEXT, key TEXT, value BLOB, reason TEXT)",
    "CREATE TEMP TABLE unordered(source INTEGER, namespace TEXT, key TEXT, value BLOB, modified_at_ns INTEGER)",
)
_UNSTAGE = tuple(f"DROP TABLE IF EXISTS temp.{table}" for table in ("staged", "staged_v2", "staged_unfit", "unordered"))
_ADD_STAGED = "INSERT INTO temp.staged VALUES (?, ?, ?, ?)"
_ADD_STAGED_V2 = "INSERT INTO temp.staged_v2 VALUES (?, ?, ?, ?, ?)"
_ADD_UNFIT = "INSERT INTO temp.staged_unfit VALUES (?, ?, ?, ?)"
_ADD_UNORDERED = "INSERT INTO temp.unordered VALUES (?, ?, ?, ?, ?)"
_UNORDERED_SOURCES = "SELECT DISTINCT source FROM temp.unordered ORDER BY source"
# Of a key, the row that came last: beside max(), the other columns are that row's. Sorted once, which in a large load
# takes half as long as a B-tree that grows in no order. Source: sqlite.org/lang_select.html, "Bare columns".
_SORT = """
    INSERT INTO temp.staged SELECT namespace, key, value, modified_at_ns FROM temp.unordered
    WHERE source = ? GROUP BY namespace, key HAVING max(rowid) ORDER BY namespace, key"""
_STAGED_LISTS = f"""
    SELECT rowid, key, value FROM temp.staged
    WHERE rowid > ? AND namespace = '{V2_METADATA}' ORDER BY rowid LIMIT ?"""
_STAGED_MAPPINGS = f"SELECT count(*) FROM temp.staged WHERE namespace = '{DIFF_IDS}'"
_LAST = "SELECT ifnull(max(s.rowid), 0), (SELECT ifnull(max(v.rowid), 0) FROM temp.staged_v2 v) FROM temp.staged s"
_UNFIT = "SELECT rowid, namespace, key, value, reason FROM temp.staged_unfit WHERE rowid > ? ORDER BY rowid LIMIT ?"

_IS_EMPTY = "SELECT NOT EXISTS (SELECT 1 FROM main.metadata) AND NOT EXISTS (SELECT 1 FROM main.v2_metadata)"
_OF_SOURCE = "s.rowid > ? AND s.rowid <= ?"
_ABSENT = "NOT EXISTS (SELECT 1 FROM main.metadata m WHERE m.namespace = {namespace} AND m.key = {key})"
_ABSENT_LIST = _ABSENT.format(namespace=f"'{V2_METADATA}'", key="replace(s.diff_id, ':', '/')")
_FORGET_STALE_V2 = f"""
    DELETE FROM main.v2_metadata WHERE diff_id IN (
    SELECT diff_id FROM temp.staged_v2 s WHERE {_OF_SOURCE} AND {_ABSENT_LIST})"""
_ADD_V2 = f"""
    INSERT INTO main.v2_metadata(diff_id, position, digest, source_repository, hmac)
    SELECT diff_id, position, digest, source_repository, hmac FROM temp.staged_v2 s WHERE {_OF_SOURCE}"""
_ADD_ABSENT_V2 = f"{_ADD_V2} AND {_ABSENT_LIST} ORDER BY s.rowid"
_ADD_ABSENT = f"""
    INSERT INTO main.metadata(namespace, key, value, modified_at_ns)
    SELECT namespace, key, value, modified_at_ns FROM temp.staged s
    WHERE {_OF_SOURCE} AND {_ABSENT.format(namespace="s.namespace", key="s.key")} ORDER BY s.rowid"""
_DIFFERING = f"""
    SELECT s.rowid, s.namespace, s.key, CAST(m.value AS BLOB), CAST(m.modified_at_ns AS INTEGER),
      s.value, s.modified_at_ns
    FROM temp.staged s CROSS JOIN main.metadata m ON m.namespace = s.namespace AND m.key = s.key
    WHERE {_OF_SOURCE} AND (CAST(m.value AS BLOB) <> s.value OR (m.modified_at_ns <> s.modified_at_ns
      AND typeof(m.modified_at_ns) = 'integer'))
    ORDER BY s.rowid LIMIT {_WINDOW}"""
_SET_TIME = "UPDATE main.metadata SET modified_at_ns = ? WHERE namespace = ? AND key = ?"

# For as long as a load runs: pages that sorting and merging go back to stay in memory. (`threads` made sorting slower.)
_CACHE = "main.cache_size=-65536"
# What is staged is written and read from one end to the other: in large pages, by an eighth of the calls.
_SETTINGS = ("temp.page_size=32768", _CACHE, "temp.cache_size=-16384")
# What is appended is not gone back to; and pages of one statement that are still in memory in the next one are written
# to the statement's journal before they are written to the log.
_CACHE_TO_APPEND = "main.cache_size=-8192"
_APPENDED = 4000
"""Rows that are appended by one statement."""
# The pages of the schema, to which dropping and making an index writes: used last, they are the last to be written.
# When a page is written to the log again, SQLite sums up anew all that follows it there.
_TOUCH_SCHEMA = "SELECT (SELECT count(sql) FROM main.sqlite_master), (SELECT count(stat) FROM main.sqlite_stat1)"


class Incoming(NamedTuple):
    """Entries on their way in."""

    source: int
    """Which source they are from; sources are merged one after the other, by this number."""
    records: Sequence[tuple[str, str, bytes, int]]
    """Those that can be taken."""
    unfit: Sequence[tuple[str, str, bytes, str]] = ()
    """Those that cannot, with the reason; they go to quarantine instead."""
    in_order: bool = False
    """Whether this source comes in the order of namespaces and keys, each once. Otherwise it is sorted first, and of a
    key that it has twice, as an archive may, the last one counts."""
    associations: Sequence[Association] = ()
    """The rows that are derived from the lists among them, where they come in order."""


class Loaded(NamedTuple):
    """What a load did with one source, in entries. One whose time alone is later by now is not counted."""

    added: int
    updated: int


Resolve = Callable[[int, Record, Record], Record | None]
"""Given the source, the entry that is there and the one that comes in, return what to store, or `None` to leave it."""


class Target(Protocol):
    """What a load needs of the store that it fills."""

    @property
    def path(self) -> str | None: ...
    @property
    def is_held(self) -> bool: ...
    def apart(self) -> AbstractContextManager[None]: ...
    def run(self, statement: str, parameters: Sequence[object] = (), /) -> list[Any]: ...
    def run_many(self, statement: str, rows: Sequence[Sequence[object]], /) -> None: ...
    def transaction(self, *, deferred: bool = False) -> AbstractContextManager[object]: ...
    def quarantine(self, namespace: str, key: str, value: bytes, reason: str, /) -> None: ...
    def put(self, record: Record, /) -> None: ...


class _Span(NamedTuple):
    """Where the rows of one source lie in the temporary tables: behind the first number, up to the second."""

    source: int
    records: tuple[int, int]
    v2: tuple[int, int]


def load(store: Target, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
    """Stage everything, then merge it in one transaction; return what was done, by source.

    What is unfit goes to quarantine; where an entry is there and differs, in its value or its time, `resolve` says
    what to store. In memory, where all threads have one connection, the others wait for all of it.

    Raises: as `SQLMetadataStore.set`, nothing was taken in; what `incoming` raises, as it is.
    """
    with store.apart(), _settings(store), store.transaction() if store.path is None else nullcontext():
        for statement in (*_UNSTAGE, *_STAGE):
            store.run(statement)
        try:
            spans = _stage(store, incoming)
            with store.transaction():
                _set_unfit_aside(store)
                with _indexes_last(store, spans):
                    return {span.source: _merge(store, span, resolve) for span in spans}
        finally:
            if store.is_held:
                for statement in _UNSTAGE:
                    store.run(statement)


@contextmanager
def _settings(store: Target) -> Iterator[None]:
    before = [(setting.partition("=")[0], setting) for setting in _SETTINGS]
    values = [store.run(f"PRAGMA {name}")[0][0] for name, _ in before]
    for _, setting in before:
        store.run(f"PRAGMA {setting}")
    try:
        yield
    finally:
        for (name, _), value in zip(before, values, strict=True):
            store.run(f"PRAGMA {name}={value}")


def _stage(store: Target, incoming: Iterable[Incoming]) -> list[_Span]:
    """Fill the temporary tables; return where the rows of each source are, in the order of the sources."""
    spans: dict[int, _Span] = {}
    for one in incoming:
        # In a transaction for speed; deferred, so that it locks the temporary database alone.
        with store.transaction(deferred=True):
            store.run_many(_ADD_UNFIT, one.unfit)
            if one.in_order:
                _stage_in_order(store, one.source, one.records, one.associations, spans)
            else:
                store.run_many(_ADD_UNORDERED, [(one.source, *record) for record in one.records])
                spans.setdefault(one.source, _Span(one.source, (0, 0), (0, 0)))
    for (source,) in store.run(_UNORDERED_SOURCES):
        first, first_v2 = store.run(_LAST)[0]
        store.run(_SORT, (source,))
        last = first
        while lists := store.run(_STAGED_LISTS, (last, _WINDOW)):
            last = lists[-1][0]
            with store.transaction(deferred=True):
                store.run_many(_ADD_STAGED_V2, [row for _, key, value in lists for row in derived.rows(key, value)])
        last, last_v2 = store.run(_LAST)[0]
        spans[source] = _Span(source, (first, last), (first_v2, last_v2))
    return [spans[source] for source in sorted(spans)]


def _stage_in_order(
    store: Target,
    source: int,
    records: Sequence[tuple[str, str, bytes, int]],
    associations: Sequence[Association],
    spans: dict[int, _Span],
) -> None:
    before = _Span(source, *((last, last) for last in store.run(_LAST)[0]))
    store.run_many(_ADD_STAGED, records)
    store.run_many(_ADD_STAGED_V2, associations)
    first = spans.get(source, before)
    last, last_v2 = store.run(_LAST)[0]
    spans[source] = _Span(source, (first.records[0], last), (first.v2[0], last_v2))


def _set_unfit_aside(store: Target) -> None:
    last = 0
    while rows := store.run(_UNFIT, (last, _WINDOW)):
        for last, *unfit in rows:  # noqa: B007  # the last one is where the next window begins
            store.quarantine(*unfit)


@contextmanager
def _indexes_last(store: Target, spans: Sequence[_Span]) -> Iterator[None]:
    """Into an empty store, drop the indexes that rows would come into in no order, and build them at the end.

    Within the transaction: whoever reads meanwhile sees the store as it was, and an error leaves it so. The
    statistics of an index, which fix its plans, go with it and are put back.
    """
    rows = sum(span.records[1] - span.records[0] for span in spans)
    if rows < _WINDOW or not store.run(_IS_EMPTY)[0][0]:
        yield
        return
    for name in REBUILT:
        store.run(f"DROP INDEX main.{name}")
    store.run(f"PRAGMA {_CACHE_TO_APPEND}")
    yield
    store.run(f"PRAGMA {_CACHE}")
    entries = {
        "v2_metadata_by_digest": sum(span.v2[1] - span.v2[0] for span in spans),
        "metadata_by_diff_id": store.run(_STAGED_MAPPINGS)[0][0],
    }
    for name in REBUILT:
        store.run(_TOUCH_SCHEMA)
        build_index(store.run, name, entries.get(name, 0))
    store.run_many(
        "INSERT INTO main.sqlite_stat1(tbl, idx, stat) VALUES (?, ?, ?)",
        [row for row in STATISTICS if row[1] in REBUILT],
    )
    store.run("ANALYZE sqlite_master")


def _windows(store: Target, rows: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield behind and up to which staged row to append, some at a time."""
    first, end = rows
    for at in range(first, end, _APPENDED):
        yield at, min(at + _APPENDED, end)
        store.run(_TOUCH_SCHEMA)


def _merge(store: Target, span: _Span, resolve: Resolve) -> Loaded:
    if store.run(_IS_EMPTY)[0][0]:
        for window in _windows(store, span.v2):
            store.run(_ADD_V2, window)
        return Loaded(sum(append_entries(store.run, *window) for window in _windows(store, span.records)), 0)
    store.run(_FORGET_STALE_V2, span.v2)  # rows that another program left without their list
    store.run(_ADD_ABSENT_V2, span.v2)
    store.run(_ADD_ABSENT, span.records)
    added = store.run("SELECT changes()")[0][0]
    return Loaded(added, sum(_update(store, span, resolve)))


def _update(store: Target, span: _Span, resolve: Resolve) -> Iterator[int]:
    """Settle what is there and differs, a window at a time; yield how many values were changed."""
    at, end = span.records
    while rows := store.run(_DIFFERING, (at, end)):
        at = rows[-1][0]
        times: list[tuple[int, str, str]] = []
        for _, namespace, key, value, modified_at_ns, new_value, new_modified_at_ns in rows:
            existing = Record(namespace, key, value, modified_at_ns)
            stored = resolve(span.source, existing, Record(namespace, key, new_value, new_modified_at_ns))
            if stored is None or stored == existing:
                continue
            if stored.value == value:
                times.append((stored.modified_at_ns, namespace, key))
            else:
                store.put(stored)
                yield 1
        store.run_many(_SET_TIME, times)
