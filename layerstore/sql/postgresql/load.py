"""Taking in many entries at once: staged in temporary tables first, then merged behind the lock of the writers.

All of it is one transaction, as a pooler gives the next one to another client; the lock is taken behind the staging, so
that others write meanwhile. Staged is by COPY, a batch at a time, so that memory stays bounded.

Into an empty store the indexes are built at the end, which costs half of keeping them up row by row; lookups in it wait
meanwhile. Only the owner of the tables can, and only while nobody reads them: else they are kept up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from typing import Final

from psycopg.errors import InsufficientPrivilege, LockNotAvailable

from layerstore import blobs
from layerstore.collection import Incoming, Loaded, Resolve
from layerstore.errors import InvalidInputError
from layerstore.keys import BLOBS, Record
from layerstore.sql.postgresql import statements, writing
from layerstore.sql.postgresql.sessions import Session
from layerstore.sql.postgresql.snapshot import number
from layerstore.store import SetAside
from layerstore.warnings import inform

_LARGE: Final = 1 << 16
"""Bytes of a value that is fetched by itself."""
_WINDOW: Final = 200
"""Pairs that differ and are settled at once."""
_ANALYZED: Final = 1000
"""So many new entries change how a query is best answered, if they are a tenth of all."""
# Not the values: to sample them costs more than all the rest.
_ANALYZE: Final = (
    "ANALYZE metadata (namespace, key, modified_at_ns), v2_metadata, diff_id_by_digest, v1_ids, blobs, locations"
)

_TABLES: Final = "metadata, v2_metadata, diff_id_by_digest, v1_ids, blobs, locations"
_INDEXES: Final = f"""
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = ANY('{{{_TABLES}}}'::regclass[]) AND NOT indisprimary AND NOT EXISTS (SELECT 1 FROM metadata)"""
_LOCK_ALL: Final = f"LOCK TABLE {_TABLES} IN ACCESS EXCLUSIVE MODE NOWAIT"

_STAGED: Final = {
    "source": "int4",
    "number": "int8",  # the order of arrival
    "namespace": "text",
    "key": "text",
    "value": "bytea",
    "modified_at_ns": "int8",
}
# The derived tables with their columns, and how many of these say of which entry a row is.
_DERIVED: Final = {
    "v2_metadata": (
        1,
        {"diff_id": "text", "position": "int8", "digest": "text", "source_repository": "text", "hmac": "text"},
    ),
    "diff_id_by_digest": (1, {"digest": "text", "diff_id": "text"}),
    "v1_ids": (2, {"registry": "text", "v1_id": "text", "diff_id": "text"}),
    "blobs": (1, {"digest": "text", "diff_id": "text", "compression": "text", "toc_digest": "text"}),
    "locations": (1, {"digest": "text", "source_repository": "text", "seen_at_ns": "int8"}),
}


def _temporary(name: str, columns: Mapping[str, str]) -> str:
    typed = (f"{column} {type_}{_COLLATED if type_ == 'text' else ''}" for column, type_ in columns.items())
    return f"CREATE TEMP TABLE layerstore_{name}({', '.join(typed)}) ON COMMIT DROP"


_COLLATED: Final = ' COLLATE "C"'
_STAGE: Final = "; ".join(
    (
        _temporary("staged", _STAGED),
        _temporary("new", {"number": "int8"}),
        *(_temporary(table, {"number": "int8", **columns}) for table, (_, columns) in _DERIVED.items()),
    )
)
_UNSTAGE: Final = f"DROP TABLE layerstore_staged, layerstore_new, {', '.join(f'layerstore_{one}' for one in _DERIVED)}"
# Of a key, the row that came last.
_ONCE: Final = """
DELETE FROM layerstore_staged s USING (
  SELECT namespace, key, max(number) AS last FROM layerstore_staged WHERE source = %s
  GROUP BY namespace, key HAVING count(*) > 1) d
WHERE s.source = %s AND s.namespace = d.namespace AND s.key = d.key AND s.number < d.last"""
_REPEATED_BLOBS: Final = """
SELECT key, array_agg(value ORDER BY number), max(modified_at_ns) FROM layerstore_staged
WHERE source = %s AND namespace = %s GROUP BY key HAVING count(*) > 1"""
_FIND_NEW: Final = """
INSERT INTO layerstore_new SELECT number FROM layerstore_staged s WHERE source = %s
AND NOT EXISTS (SELECT 1 FROM metadata m WHERE m.namespace = s.namespace AND m.key = s.key)"""
_ADD: Final = """
INSERT INTO metadata(namespace, key, value, modified_at_ns)
SELECT s.namespace, s.key, s.value, s.modified_at_ns FROM layerstore_staged s JOIN layerstore_new n USING (number)
ORDER BY s.namespace, s.key"""


def _derive(table: str, owners: int, columns: Mapping[str, str]) -> tuple[str, str]:
    """Return what forgets the rows that another program left without their entry, and what adds those of new ones."""
    names = list(columns)
    staged = f"FROM layerstore_{table} d JOIN layerstore_new n USING (number)"
    of_entry = ", ".join(names[:owners])
    return (
        f"DELETE FROM {table} WHERE ({of_entry}) IN (SELECT {of_entry} {staged})",
        f"INSERT INTO {table}({', '.join(names)}) SELECT {', '.join(names)} {staged} ORDER BY {names[0]}, {names[1]}",
    )


_DERIVE: Final = [_derive(table, *of) for table, of in _DERIVED.items()]
_SMALL: Final = f"octet_length(m.value) < {_LARGE} AND octet_length(s.value) < {_LARGE}"
_DIFFERING: Final = f"""
SELECT s.ctid::text, s.namespace, s.key, CASE WHEN {_SMALL} THEN m.value END, m.modified_at_ns,
  CASE WHEN {_SMALL} THEN s.value END, s.modified_at_ns
FROM layerstore_staged s JOIN metadata m ON m.namespace = s.namespace AND m.key = s.key
WHERE s.source = %s AND (m.value <> s.value OR m.modified_at_ns <> s.modified_at_ns)
ORDER BY s.number"""
_BOTH_VALUES: Final = """
SELECT m.value, s.value FROM layerstore_staged s JOIN metadata m ON m.namespace = s.namespace AND m.key = s.key
WHERE s.ctid = %s::tid"""


def load(session: Session, incoming: Iterable[Incoming], resolve: Resolve, *, is_held: bool) -> dict[int, Loaded]:
    """Stage everything, then merge it; return what was done, by source. Inside a transaction.

    What is unfit, and what PostgreSQL cannot hold, goes to quarantine; where an entry is there and differs, in its
    value or its time, `resolve` says what to store.

    Args:
        session: in a transaction that has not locked the table yet, but for one of the caller's.
        incoming: the entries.
        resolve: says what to store.
        is_held: whether the transaction is the caller's, and goes on behind this.
    """
    execute = session.connection.execute
    execute(_STAGE.encode())
    staging = _Staging(session)
    for one in incoming:
        staging.take(one)
    for source in staging.unordered:
        if source not in staging.last_stays:
            _unite_blobs(staging, source)
        execute(_ONCE, (source, source))
    if execute("SELECT EXISTS (SELECT 1 FROM metadata)").fetchone() == (True,):
        execute("ANALYZE layerstore_staged (source, number, namespace, key)")
    if not is_held:
        session.trip([(statements.LOCK, ())])
    with _indexes_last(session, staging.arrived, is_held=is_held):
        done = {
            source: _merge(session, source, resolve)._replace(refused=refused)
            for source, refused in sorted(staging.refused.items())
        }
    for entry in (*staging.unfit, *chain.from_iterable(staging.refused.values())):
        session.trip(writing.setting_aside([entry]))
    added = sum(one.added for one in done.values())
    if added >= max(_ANALYZED, number(session.first(statements.COUNT_ABOUT, ()), 0, 0) // 10):
        execute("SET LOCAL default_statistics_target = 20")  # autovacuum will look closer
        execute(_ANALYZE)
    if is_held:
        execute(_UNSTAGE.encode())
    return done


@contextmanager
def _indexes_last(session: Session, arrived: int, *, is_held: bool) -> Iterator[None]:
    """Into an empty store, drop the indexes but for the primary keys, by which rows come, and build them at the end."""
    execute = session.connection.execute
    indexes = [] if is_held or arrived < _ANALYZED else execute(_INDEXES.encode()).fetchall()
    if indexes:
        try:
            with session.connection.transaction():
                execute(_LOCK_ALL.encode())
                for name, _ in indexes:
                    execute(f"DROP INDEX {name}".encode())
        except (LockNotAvailable, InsufficientPrivilege):
            indexes = []
    yield
    if indexes:
        inform("building indexes")
    for _, definition in indexes:
        execute(definition.encode())


class _Staging:
    """The temporary tables while they are filled.

    Attributes:
        refused: what PostgreSQL cannot hold, by source; every source is in it.
        unfit: what cannot be taken anywhere.
        unordered: the sources that come in no order.
        last_stays: those of which the last of several entries of one key counts, whatever it is.
        arrived: how many entries there are.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.refused: dict[int, list[SetAside]] = {}
        self.unfit: list[SetAside] = []
        self.unordered: set[int] = set()
        self.last_stays: set[int] = set()
        self.arrived = 0

    def take(self, one: Incoming) -> None:
        """Stage entries, with what is derived from them.

        Raises:
            InvalidInputError: PostgreSQL cannot hold one that a program writes, rather than an import.
        """
        refused = self.refused.setdefault(one.source, [])
        if not one.in_order:
            self.unordered.add(one.source)
        if one.last_stays:
            self.last_stays.add(one.source)
        self.unfit += (SetAside(*each) for each in one.unfit)
        of_tables: dict[str, list[tuple[object, ...]]] = {table: [] for table in _DERIVED}
        with _copying(self.session, "staged", _STAGED.values()) as stage:  # the server works on one while we derive
            for namespace, key, value, modified_at_ns in one.records:
                rows = list(writing.derivations(namespace, key, value))
                reason = writing.why_not_held(namespace, key, rows)
                if reason is not None:
                    if one.last_stays:
                        raise InvalidInputError(reason)
                    refused.append(SetAside(namespace, key, value, reason))
                    continue
                self.arrived += 1
                stage((one.source, self.arrived, namespace, key, value, modified_at_ns))
                for table, row in rows:
                    of_tables[table].append((self.arrived, *row))
        for table, staged in of_tables.items():
            if staged:
                with _copying(self.session, table, ["int8", *_DERIVED[table][1].values()]) as stage:
                    for row in staged:
                        stage(row)


def _unite_blobs(staging: _Staging, source: int) -> None:
    """Stage what a source knows of each blob once more, united: an engine's memory gives it in several facts."""
    with staging.session.connection.cursor("layerstore_repeated", binary=True) as cursor:
        cursor.execute(_REPEATED_BLOBS, (source, BLOBS))
        while found := cursor.fetchmany(_WINDOW):
            united = [
                (BLOBS, key, blobs.encode(reduce(blobs.merge, (blobs.decode(value, key) for value in values))), time_ns)
                for key, values, time_ns in found
            ]
            staging.take(Incoming(source, united))  # comes last, and so it is what counts


@contextmanager
def _copying(session: Session, table: str, types: Iterable[str]) -> Iterator[Callable[[Sequence[object]], None]]:
    statement = f"COPY layerstore_{table} FROM STDIN (FORMAT BINARY)"
    with session.connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.set_types(list(types))
        yield copy.write_row


def _merge(session: Session, source: int, resolve: Resolve) -> Loaded:
    execute = session.connection.execute
    execute("TRUNCATE layerstore_new")
    execute(_FIND_NEW, (source,))
    execute("ANALYZE layerstore_new")
    # Before what is new is there: it would be read for nothing.
    updated = sum(_update(session, source, resolve))
    added = execute(_ADD).rowcount
    if added:
        for forget, add in _DERIVE:
            execute(forget.encode())
            execute(add.encode())
    return Loaded(added, updated)


def _update(session: Session, source: int, resolve: Resolve) -> Iterator[int]:
    """Settle what is there and differs, some at a time; yield how many values were changed."""
    aside: list[SetAside] = []

    def set_aside(record: Record, reason: str) -> None:
        aside.append(SetAside(*record[:3], reason))

    with session.connection.cursor("layerstore_differing", binary=True) as cursor:
        cursor.execute(_DIFFERING, (source,))
        while rows := cursor.fetchmany(_WINDOW):
            calls: list[statements.Call] = []
            for row, namespace, key, small, modified_at_ns, new_small, new_modified_at_ns in rows:
                value, new_value = (small, new_small) if small is not None else _both(session, row)
                existing = Record(namespace, key, value, modified_at_ns)
                stored = resolve(source, existing, Record(namespace, key, new_value, new_modified_at_ns), set_aside)
                calls += writing.setting_aside(aside)
                aside.clear()
                if stored is None or stored == existing:
                    continue
                if stored.value == value:
                    calls.append((statements.SET_TIME, (namespace, key, stored.modified_at_ns)))
                else:
                    calls += writing.put(stored)
                    yield 1
                if len(value) >= _LARGE:
                    session.trip(calls)
                    calls = []
            if calls:
                session.trip(calls)


def _both(session: Session, row: str) -> tuple[bytes, bytes]:
    found = session.connection.cursor(binary=True).execute(_BOTH_VALUES, (row,)).fetchone()
    assert found is not None
    value, new_value = found
    return value, new_value
