"""Entries written in a session, with what is derived from them; and the quarantine.

A write makes calls; who sends them decides in how many round trips. The entry comes first: its row is the lock behind
which the derived rows are written, so that nothing need be read before. `diff_id_by_digest` and `v1_ids` are tables
here. Measured, and rejected: views over partial expression indexes, as on SQLite. PostgreSQL guesses one row behind the
grammar of a digest, and the layers of a repository with their digests took over 20 s at a million layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from layerstore.collection import Doomed
from layerstore.digest import is_digest
from layerstore.errors import InvalidInputError
from layerstore.keys import BLOBS, DIFF_IDS, V1_IDS, V2_METADATA, digest_key, key_digest
from layerstore.records import V2Metadata, why_unreadable
from layerstore.sql import derived
from layerstore.sql.postgresql import statements
from layerstore.sql.postgresql.sessions import Session
from layerstore.sql.postgresql.statements import Array, Call, array
from layerstore.store import SetAside, Write

LONGEST = 2000
"""Bytes of a text that is in an index: an entry of one can have 2,704. Source: PostgreSQL's nbtree.h."""

Entry = tuple[str, str, bytes, int | None]


def derivations(namespace: str, key: str, value: bytes) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield the tables and rows that are derived from an entry which has none yet."""
    if namespace == V2_METADATA:
        for row in derived.rows(key, value):
            yield "v2_metadata", row
        return
    digest = key_digest(key) if namespace in (DIFF_IDS, BLOBS) else None
    if namespace == BLOBS and digest is not None:
        blob, locations = derived.blob(key, value)
        if blob is not None:
            yield "blobs", (digest, *blob)
        for location in locations.items():
            yield "locations", (digest, *location)
    elif namespace in (DIFF_IDS, V1_IDS) and (diff_id := mapped(namespace, key, value)) is not None:
        if namespace == V1_IDS:
            registry, _, v1_id = key.rpartition(",")
            yield "v1_ids", (registry, v1_id, diff_id)
        elif digest is not None:
            yield "diff_id_by_digest", (digest, diff_id)


def why_not_held(namespace: str, key: str, rows: Iterable[tuple[str, tuple[object, ...]]]) -> str | None:
    """Say why PostgreSQL cannot hold an entry with its rows, or return `None`; of a long name, it is not certain."""
    names = [namespace + key, *(one for _, row in rows for one in row if isinstance(one, str))]
    try:
        for name in names:
            statements.checked(name)
    except InvalidInputError as error:
        return str(error)
    if any(len(name) > LONGEST // 4 and len(name.encode()) > LONGEST for name in names):
        return f"a name is over {LONGEST} bytes, more than an index of PostgreSQL's takes for certain"
    return None


def put(record: Entry) -> list[Call]:
    """Return the calls that store an entry with what is derived from it.

    Raises:
        InvalidInputError: PostgreSQL cannot hold it.
    """
    namespace, key, value, modified_at_ns = record
    time_ns = time.time_ns() if modified_at_ns is None else modified_at_ns
    entries = derived.listed(value) if namespace == V2_METADATA else ()
    return [(statements.SET, (namespace, key, value, time_ns)), *deriving(namespace, key, value, entries)]


def deriving(namespace: str, key: str, value: bytes | None, entries: Sequence[V2Metadata] = ()) -> list[Call]:
    """Return the calls that make the derived rows of a locked entry what its value says.

    Args:
        namespace: of the entry.
        key: of the entry.
        value: of the entry, `None` if there is none.
        entries: what a list holds.
    """
    calls: list[Call] = []
    digest = key_digest(key) if namespace in (V2_METADATA, DIFF_IDS, BLOBS) else None
    if namespace == V2_METADATA and digest is not None:
        calls = [(statements.REMOVE_ASSOCIATIONS, (digest,)), *_adding(digest, derived.with_rows(entries))]
    elif namespace == DIFF_IDS and digest is not None:
        diff_id = mapped(namespace, key, value)
        calls = [(statements.UNMAP, (digest,)) if diff_id is None else (statements.MAP, (digest, diff_id))]
    elif namespace == BLOBS and digest is not None:
        calls = [(statements.REMOVE_BLOB, (digest,)), (statements.REMOVE_LOCATIONS, (digest,))]
        blob, locations = (None, {}) if value is None else derived.blob(key, value)
        if blob is not None:
            calls.append((statements.ADD_BLOB, (digest, *blob)))
        if locations:
            calls.append((statements.ADD_LOCATIONS, (digest, array(locations), _numbers(locations.values()))))
    elif namespace == V1_IDS:
        registry, _, v1_id = key.rpartition(",")
        diff_id = mapped(namespace, key, value)
        name = (registry, v1_id)
        calls = [(statements.UNMAP_V1, name) if diff_id is None else (statements.MAP_V1, (*name, diff_id))]
    return calls


def mapped(namespace: str, key: str, value: bytes | None) -> str | None:
    """Return the DiffID that an entry's derived row has, or `None` where it has no row."""
    if value is None or len(value) > LONGEST or why_unreadable(namespace, key, value) is not None:
        return None
    return value.decode()


def changing(write: Write, time_ns: int, before: bytes | None, *, was_read: bool) -> list[Call]:
    """Return the calls of one write of a change.

    The rows of a list that was read are those that it says, so that only their difference is written; they need not be
    read. Where another program has made them say something else, `verify` finds it.

    Args:
        write: what to write.
        time_ns: when.
        before: the value that was read.
        was_read: whether the entry was read; `before` is `None` then if it was not there.

    Raises:
        InvalidInputError: PostgreSQL cannot hold it.
    """
    namespace, key, value, listed, modified_at_ns = write
    if value is None:
        return delete(namespace, key)
    # What was read is locked, and what was not there another writer may have added: then it is refused, and read again.
    statement = statements.SET if not was_read else statements.ADD if before is None else statements.UPDATE
    calls: list[Call] = [(statement, (namespace, key, value, time_ns if modified_at_ns is None else modified_at_ns))]
    if namespace != V2_METADATA:
        return [*calls, *deriving(namespace, key, value)]
    entries = derived.listed(value) if listed is None else listed
    diff_id = key_digest(key)
    if diff_id is None or not was_read:
        return [*calls, *deriving(namespace, key, value, entries)]
    there = [] if before is None else derived.with_rows(derived.listed(before))
    new = derived.with_rows(entries)
    gone, kept = derived.beginning(there, new)
    calls += ((statements.REMOVE_ONE_ASSOCIATION, (diff_id, number + 1)) for number in reversed(gone))
    return [*calls, *_adding(diff_id, new[kept:])]


def _adding(diff_id: str, entries: Sequence[V2Metadata]) -> list[Call]:
    if not entries:
        return []
    columns = zip(*derived.texts(entries), strict=True)
    return [(statements.ADD_ASSOCIATIONS, (diff_id, *map(array, columns)))]


def _numbers(numbers: Iterable[int | None]) -> Array:
    return Array("{" + ",".join("NULL" if number is None else str(number) for number in numbers) + "}")


_FORGET: Final = {
    V2_METADATA: (statements.FORGET_ASSOCIATIONS,),
    DIFF_IDS: (statements.FORGET_MAPPING,),
    BLOBS: (statements.FORGET_BLOB, statements.FORGET_LOCATIONS),
}


def delete(namespace: str, key: str) -> list[Call]:
    """Return the calls that remove an entry with what is derived from it."""
    calls: list[Call] = [(statements.DELETE, (namespace, key))]
    if namespace in _FORGET and (digest := key_digest(str(key))) is not None:
        calls += [(forget, (digest, key)) for forget in _FORGET[namespace]]
    elif namespace == V1_IDS:
        registry, _, v1_id = str(key).rpartition(",")
        calls.append((statements.FORGET_V1, (registry, v1_id, key)))
    return calls


def setting_aside(entries: Iterable[SetAside], *, at_ns: int | None = None) -> list[Call]:
    """Return the calls that keep bytes in quarantine. Exactly the same again is kept once."""
    return [
        (statements.QUARANTINE, (_shown(namespace), _shown(key), value, _shown(reason), at_ns or time.time_ns()))
        for namespace, key, value, reason in entries
    ]


def drop_quarantined(numbers: Iterable[int]) -> Call:
    """Return the call that forgets values in quarantine."""
    return statements.DROP_QUARANTINED, (_numbers(numbers),)


def _shown(text: str) -> str:
    return text.replace("\0", "\\x00")


def remove(session: Session, doomed: Doomed) -> bool:
    """Remove or shorten an entry, inside a transaction, if it is what it was; tell whether it was."""
    record, kept = doomed
    if record.namespace == DIFF_IDS and kept is None:
        digest = key_digest(record.key)
        if digest is not None and session.first(statements.LAYERS_OF_DIGEST, (digest,)).ntuples:
            return False
    if not session.first(statements.IS_UNCHANGED, record).ntuples:
        return False
    session.trip(put(record._replace(value=kept)) if kept is not None else delete(record.namespace, record.key))
    return True


_REMOVE: Final = {
    V2_METADATA: (statements.REMOVE_ASSOCIATIONS,),
    DIFF_IDS: (statements.UNMAP,),
    BLOBS: (statements.REMOVE_BLOB, statements.REMOVE_LOCATIONS),
}


def rederive(session: Session, namespace: str, name: str) -> None:
    """Make derived rows what their entry says, inside a transaction; without one, or for no digest, remove them.

    Args:
        session: in the transaction.
        namespace: of the entry.
        name: the digest that the rows are of; of a V1 ID, the key.
    """
    if namespace == V1_IDS:
        registry, _, v1_id = name.rpartition(",")
        calls: list[Call] = [(statements.UNMAP_V1, (registry, v1_id))]
        key = name
    else:
        calls = [(remove, (name,)) for remove in _REMOVE[namespace]]
        key = digest_key(name) if is_digest(name) else ""
    result = session.first(statements.GET, (namespace, key))
    if result.ntuples:
        value: bytes = result.get_value(0, 0) or b""
        calls += deriving(namespace, key, value, derived.listed(value) if namespace == V2_METADATA else ())
    session.trip(calls)
