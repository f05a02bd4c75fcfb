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

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import groupby, islice
from operator import itemgetter
from typing import NamedTuple

from layerstore import blobs
from layerstore.collection import Incoming, Loaded, Resolve
from layerstore.keys import BLOBS, V2_METADATA, Record, key_digest
from layerstore.records import Association
from layerstore.sql import derived
from layerstore.sql.schema import REBUILT, STATISTICS
from layerstore.sql.sqlite import statements, writing
from layerstore.sql.sqlite.handles import Handle
from layerstore.store import SetAside
from layerstore.warnings import inform

_WINDOW = 1000
"""Rows that are read from a temporary table at once."""
_LARGE = 1 << 16
"""Bytes of a value that is not sorted or read with others, so that a load of many large ones needs little memory."""

# The derived tables, and their columns; the first says of which layer or blob a row is.
_DERIVED = {
    "v2_metadata": ("diff_id", "position", "digest", "source_repository", "hmac"),
    "blobs": ("digest", "diff_id", "compression", "toc_digest"),
    "locations": ("digest", "source_repository", "seen_at_ns"),
}
_STAGE = (
    "CREATE TEMP TABLE staged(namespace TEXT, key TEXT, value BLOB, modified_at_ns INTEGER, large INTEGER)",
    *(f"CREATE TEMP TABLE staged_{table}({', '.join(columns)})" for table, columns in _DERIVED.items()),
    "CREATE TEMP TABLE staged_unfit(namespace TEXT, key TEXT, value BLOB, reason TEXT)",
    "CREATE TEMP TABLE unordered("
    "source INTEGER, namespace TEXT, key TEXT, value BLOB, modified_at_ns INTEGER, large INTEGER)",
    "CREATE TEMP TABLE large(id INTEGER PRIMARY KEY, value BLOB)",
)
_TABLES = ("staged", *(f"staged_{table}" for table in _DERIVED), "staged_unfit", "unordered", "large")
_UNSTAGE = tuple(f"DROP TABLE IF EXISTS temp.{table}" for table in _TABLES)
_ADD_STAGED = "INSERT INTO temp.staged(namespace, key, value, modified_at_ns) VALUES (?, ?, ?, ?)"
_ADD_DERIVED = {
    table: f"INSERT INTO temp.staged_{table} VALUES ({', '.join('?' for _ in columns)})"
    for table, columns in _DERIVED.items()
}
_ADD_UNFIT = "INSERT INTO temp.staged_unfit VALUES (?, ?, ?, ?)"
_ADD_UNORDERED = "INSERT INTO temp.unordered VALUES (?, ?, ?, ?, ?, ?)"
_ADD_LARGE = "INSERT INTO temp.large VALUES (NULL, ?)"
_FILL_IN_LARGE = """
    UPDATE temp.staged SET value = (SELECT l.value FROM temp.large l WHERE l.id = staged.large), large = NULL
    WHERE large IS NOT NULL"""
_UNORDERED_SOURCES = "SELECT DISTINCT source FROM temp.unordered ORDER BY source"
# Of a key, the row that came last: beside max(), the other columns are that row's. Sorted once, which in a large load
# takes half as long as a B-tree that grows in no order. Source: sqlite.org/lang_select.html, "Bare columns".
_SORT = """
    INSERT INTO temp.staged SELECT namespace, key, value, modified_at_ns, large FROM temp.unordered
    WHERE source = ? AND namespace IS NOT ? GROUP BY namespace, key HAVING max(rowid) ORDER BY namespace, key"""
_UNSORTED_BLOBS = f"""
    SELECT key, value, modified_at_ns FROM temp.unordered WHERE source = ? AND namespace = '{BLOBS}' ORDER BY key"""
_STAGED_OF = "SELECT key, value FROM temp.staged WHERE rowid > ? AND namespace = ? ORDER BY rowid"
_LAST = "SELECT " + ", ".join(
    f"(SELECT ifnull(max(rowid), 0) FROM temp.{table})" for table in ("staged", *(f"staged_{t}" for t in _DERIVED))
)
_UNFIT = "SELECT namespace, key, value, reason FROM temp.staged_unfit ORDER BY rowid"

_IS_EMPTY = "SELECT " + " AND ".join(f"NOT EXISTS (SELECT 1 FROM main.{table})" for table in ("metadata", *_DERIVED))
_OF_SOURCE = "s.rowid > ? AND s.rowid <= ?"
_ABSENT = "NOT EXISTS (SELECT 1 FROM main.metadata m WHERE m.namespace = {namespace} AND m.key = {key})"
_ADD = f"""
    INSERT INTO main.metadata(namespace, key, value, modified_at_ns)
    SELECT namespace, key, value, modified_at_ns FROM temp.staged s WHERE {_OF_SOURCE}"""
_ADD_ABSENT = f"""
    {_ADD} AND {_ABSENT.format(namespace="s.namespace", key="s.key")} ORDER BY s.rowid"""


class _Derivation(NamedTuple):
    """The statements that add rows of one derived table: all those of a source, or those of entries that are absent."""

    add: str
    forget_stale: str
    """Rows that another program left without their entry."""
    add_absent: str


def _derivation(table: str, columns: Sequence[str]) -> _Derivation:
    names, owner = ", ".join(columns), columns[0]
    namespace = V2_METADATA if table == "v2_metadata" else BLOBS
    absent = _ABSENT.format(namespace=f"'{namespace}'", key=f"replace(s.{owner}, ':', '/')")
    staged = f"FROM temp.staged_{table} s WHERE {_OF_SOURCE}"
    add = f"INSERT INTO main.{table}({names}) SELECT {names} {staged}"
    return _Derivation(
        add,
        f"DELETE FROM main.{table} WHERE {owner} IN (SELECT {owner} {staged} AND {absent})",
        f"{add} AND {absent} ORDER BY s.rowid",
    )


_DERIVATIONS = [_derivation(*of) for of in _DERIVED.items()]
_ARE_SMALL = f"length(m.value) < {_LARGE} AND length(s.value) < {_LARGE}"
_DIFFERING = f"""
    SELECT s.rowid, s.namespace, s.key, CASE WHEN {_ARE_SMALL} THEN CAST(m.value AS BLOB) END,
      CAST(m.modified_at_ns AS INTEGER), CASE WHEN {_ARE_SMALL} THEN s.value END, s.modified_at_ns
    FROM temp.staged s CROSS JOIN main.metadata m ON m.namespace = s.namespace AND m.key = s.key
    WHERE {_OF_SOURCE} AND (CAST(m.value AS BLOB) <> s.value OR (m.modified_at_ns <> s.modified_at_ns
      AND typeof(m.modified_at_ns) = 'integer'))
    ORDER BY s.rowid LIMIT {_WINDOW}"""
_BOTH_VALUES = """
    SELECT CAST(m.value AS BLOB), s.value
    FROM temp.staged s CROSS JOIN main.metadata m ON m.namespace = s.namespace AND m.key = s.key WHERE s.rowid = ?"""
_SET_TIME = "UPDATE main.metadata SET modified_at_ns = ? WHERE namespace = ? AND key = ?"

# For as long as a load runs: pages that sorting and merging go back to stay in memory. (`threads` made sorting slower.)
# What is staged is written and read from one end to the other: in large pages, by an eighth of the calls.
_SETTINGS = ("temp.page_size=32768", "main.cache_size=-65536", "temp.cache_size=-16384")


class _Span(NamedTuple):
    """Where the rows of one source lie in the temporary tables: behind the first number, up to the second."""

    source: int
    records: tuple[int, int]
    derived: tuple[tuple[int, int], ...]
    """For each derived table."""


def load(handle: Handle, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
    """Stage everything, then merge it in one transaction; return what was done, by source.

    What is unfit goes to quarantine; where an entry is there and differs, in its value or its time, `resolve` says
    what to store. The handle has the temporary tables: one that nobody else needs, or, inside a transaction, the
    thread's own.

    Raises: as `SQLMetadataStore.set`, nothing was taken in; what `incoming` raises, as it is.
    """
    is_held = handle.depth > 0
    with _settings(handle):
        for statement in (*_UNSTAGE, *_STAGE):
            handle.execute(statement)
        try:
            spans = _stage(handle, incoming)
            inform("merging")
            with writing.together(handle):
                _set_unfit_aside(handle)
                with _indexes_last(handle, spans):
                    return {span.source: _merge(handle, span, resolve) for span in spans}
        finally:
            if is_held:
                for statement in _UNSTAGE:
                    handle.execute(statement)


@contextmanager
def _settings(handle: Handle) -> Iterator[None]:
    before = [(setting.partition("=")[0], setting) for setting in _SETTINGS]
    values = [handle.first(f"PRAGMA {name}")[0] for name, _ in before]
    for _, setting in before:
        handle.execute(f"PRAGMA {setting}")
    handle.is_staging = True
    try:
        yield
    finally:
        handle.is_staging = False
        for (name, _), value in zip(before, values, strict=True):
            handle.execute(f"PRAGMA {name}={value}")


def _stage(handle: Handle, incoming: Iterable[Incoming]) -> list[_Span]:
    """Fill the temporary tables; return where the rows of each source are, in the order of the sources."""
    spans: dict[int, _Span] = {}
    united: set[int] = set()
    for one in incoming:
        if not one.last_stays:
            united.add(one.source)
        # In a transaction for speed; deferred, so that it locks the temporary database alone.
        with writing.together(handle, deferred=True):
            handle.execute_many(_ADD_UNFIT, one.unfit)
            if one.in_order:
                _stage_in_order(handle, one.source, one.records, one.associations, spans)
            else:
                handle.execute_many(_ADD_UNORDERED, [_unordered(handle, one.source, record) for record in one.records])
                spans.setdefault(one.source, _Span(one.source, (0, 0), ((0, 0),) * len(_DERIVED)))
    for (source,) in handle.execute(_UNORDERED_SOURCES):
        before = handle.first(_LAST)
        if source in united:
            _unite_blobs(handle, source)
        handle.execute(_SORT, (source, BLOBS if source in united else None))
        handle.execute(_FILL_IN_LARGE)
        with writing.together(handle, deferred=True):
            _stage_derived(handle, before[0])
        of_records, *of_derived = zip(before, handle.first(_LAST), strict=True)
        spans[source] = _Span(source, of_records, tuple(of_derived))
    return [spans[source] for source in sorted(spans)]


def _unordered(handle: Handle, source: int, record: tuple[str, str, bytes, int]) -> tuple[object, ...]:
    namespace, key, value, modified_at_ns = record
    if len(value) < _LARGE or namespace == BLOBS:
        return source, namespace, key, value, modified_at_ns, None
    handle.execute(_ADD_LARGE, (value,))
    return source, namespace, key, None, modified_at_ns, handle.first("SELECT last_insert_rowid()")[0]


def _unite_blobs(handle: Handle, source: int) -> None:
    """Stage what a source knows of each blob: an engine's memory gives it in several facts."""
    found = groupby(handle.stream(_UNSORTED_BLOBS, (source,)), itemgetter(0))

    def united(key: str, facts: Iterable[tuple[str, bytes, int]]) -> tuple[str, str, bytes, int]:
        (_, value, at), *others = facts
        if others:
            records = (blobs.decode(value, key) for value in (value, *(other[1] for other in others)))
            value = blobs.encode(reduce(blobs.merge, records))
        return BLOBS, key, value, max((at, *(other[2] for other in others)))

    rows = (united(key, facts) for key, facts in found)
    while window := list(islice(rows, _WINDOW)):
        handle.execute_many(_ADD_STAGED, window)


def _stage_derived(handle: Handle, after: int) -> None:
    """Derive the rows of the staged lists and blobs behind a row."""
    rows: list[Association] = []
    for key, value in handle.stream(_STAGED_OF, (after, V2_METADATA)):
        rows += derived.rows(key, value)
        if len(rows) >= _WINDOW:
            handle.execute_many(_ADD_DERIVED["v2_metadata"], rows)
            rows = []
    handle.execute_many(_ADD_DERIVED["v2_metadata"], rows)
    entries = iter(handle.stream(_STAGED_OF, (after, BLOBS)))
    while window := list(islice(entries, _WINDOW)):
        _stage_blobs(handle, window)


def _stage_blobs(handle: Handle, entries: Iterable[tuple[str, bytes]]) -> None:
    rows: list[tuple[object, ...]] = []
    located: list[tuple[object, ...]] = []
    for key, value in entries:
        digest, (row, locations) = key_digest(key), derived.blob(key, value)
        if digest is not None and row is not None:
            rows.append((digest, *row))
            located += [(digest, name, seen) for name, seen in sorted(locations.items())]
    handle.execute_many(_ADD_DERIVED["blobs"], rows)
    handle.execute_many(_ADD_DERIVED["locations"], located)


def _stage_in_order(
    handle: Handle,
    source: int,
    records: Sequence[tuple[str, str, bytes, int]],
    associations: Sequence[Association],
    spans: dict[int, _Span],
) -> None:
    before = handle.first(_LAST)
    if source in spans:
        before = [first for first, _ in (spans[source].records, *spans[source].derived)]
    handle.execute_many(_ADD_STAGED, records)
    handle.execute_many(_ADD_DERIVED["v2_metadata"], associations)
    _stage_blobs(handle, [(key, value) for namespace, key, value, _ in records if namespace == BLOBS])
    of_records, *of_derived = zip(before, handle.first(_LAST), strict=True)
    spans[source] = _Span(source, of_records, tuple(of_derived))


def _set_unfit_aside(handle: Handle) -> None:
    for unfit in handle.stream(_UNFIT):
        writing.set_aside(handle, [SetAside(*unfit)])


@contextmanager
def _indexes_last(handle: Handle, spans: Sequence[_Span]) -> Iterator[None]:
    """Into an empty store, drop the indexes that rows would come into in no order, and build them at the end.

    Within the transaction: whoever reads meanwhile sees the store as it was, and an error leaves it so. The
    statistics of an index, which fix its plans, go with it and are put back.
    """
    rows = sum(span.records[1] - span.records[0] for span in spans)
    if rows < _WINDOW or not handle.first(_IS_EMPTY)[0]:
        yield
        return
    for name in REBUILT:
        handle.execute(f"DROP INDEX main.{name}")
    yield
    inform("building indexes")
    for name in REBUILT:
        handle.execute(statements.INDEXES[name])
    handle.execute_many(
        "INSERT INTO main.sqlite_stat1(tbl, idx, stat) VALUES (?, ?, ?)",
        [row for row in STATISTICS if row[1] in REBUILT],
    )
    handle.execute("ANALYZE sqlite_master")


def _merge(handle: Handle, span: _Span, resolve: Resolve) -> Loaded:
    if handle.first(_IS_EMPTY)[0]:
        for derivation, rows in zip(_DERIVATIONS, span.derived, strict=True):
            handle.execute(derivation.add, rows)
        handle.execute(_ADD, span.records)
        return Loaded(span.records[1] - span.records[0], 0)
    for derivation, rows in zip(_DERIVATIONS, span.derived, strict=True):
        handle.execute(derivation.forget_stale, rows)
        handle.execute(derivation.add_absent, rows)
    handle.execute(_ADD_ABSENT, span.records)
    added = handle.first("SELECT changes()")[0]
    return Loaded(added, sum(_update(handle, span, resolve)))


def _update(handle: Handle, span: _Span, resolve: Resolve) -> Iterator[int]:
    """Settle what is there and differs, a window at a time; yield how many values were changed."""

    def aside(record: Record, reason: str) -> None:
        writing.set_aside(handle, [SetAside(*record[:3], reason)])

    at, end = span.records
    while rows := handle.execute(_DIFFERING, (at, end)):
        at = rows[-1][0]
        times: list[tuple[int, str, str]] = []
        for row, namespace, key, small, modified_at_ns, new_small, new_modified_at_ns in rows:
            value, new_value = (small, new_small) if small is not None else handle.first(_BOTH_VALUES, (row,))
            existing = Record(namespace, key, value, modified_at_ns)
            stored = resolve(span.source, existing, Record(namespace, key, new_value, new_modified_at_ns), aside)
            if stored is None or stored == existing:
                continue
            if stored.value == value:
                times.append((stored.modified_at_ns, namespace, key))
            else:
                writing.write(handle, stored)
                yield 1
        handle.execute_many(_SET_TIME, times)
