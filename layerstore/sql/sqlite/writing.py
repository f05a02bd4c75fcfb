"""Entries written on a connection, with what is derived from them; and the quarantine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from layerstore.digest import is_digest
from layerstore.keys import BLOBS, DERIVED_FROM, DIFF_IDS, digest_key, key_digest
from layerstore.sql.sqlite import statements
from layerstore.sql.sqlite.handles import Handle

if TYPE_CHECKING:
    from layerstore.collection import Doomed
    from layerstore.records import V2Metadata
    from layerstore.sql.derived import BlobRow
    from layerstore.store import Address, Change, Compute, SetAside


_TWO = 2


@contextmanager
def together(handle: Handle, *, deferred: bool = False) -> Iterator[None]:
    """Hold all statements of the body in one transaction, or in a savepoint of the one that is open."""
    handle.begin(deferred=deferred)
    try:
        yield
    except BaseException:
        handle.end(commit=False)
        raise
    handle.commit()


def change(handle: Handle, addresses: Sequence[Address], compute: Compute) -> Change:
    """Read entries, then write what `compute` makes of them, in one transaction; return what was done."""
    handle.begin()
    try:
        found: dict[Address, bytes] = {}
        while True:
            _read(handle, addresses, found)
            wanted = compute(found)
            if not wanted.more:
                break
            addresses, compute = wanted.more, wanted.then or compute
        if wanted.aside:
            set_aside(handle, wanted.aside)
        now = time.time_ns()
        for namespace, key, value, listed, modified_at_ns in wanted.writes:
            if value is None:
                delete(handle, namespace, key)
                continue
            handle.execute(statements.SET, (namespace, key, value, now if modified_at_ns is None else modified_at_ns))
            _derive(handle, namespace, key, value, listed)
    except BaseException:
        handle.end(commit=False)
        raise
    handle.commit()
    return wanted


def _read(handle: Handle, addresses: Sequence[Address], found: dict[Address, bytes]) -> None:
    if len(addresses) == _TWO:  # as of an `add`
        for number, value in handle.execute(statements.GET_TWO, (*addresses[0], *addresses[1])):
            found[addresses[number]] = value
    else:
        for address in addresses:
            row = handle.first(statements.GET, address)
            if row is not None:
                found[address] = row[0]
    if None in found.values():
        raise handle.damaged()


def write(handle: Handle, record: tuple[str, str, bytes, int | None]) -> None:
    """Store an entry with what is derived from it, whole or not at all; one without a time gets the present."""
    namespace, key, value, modified_at_ns = record
    row = (namespace, key, value, time.time_ns() if modified_at_ns is None else modified_at_ns)
    if namespace not in DERIVED_FROM:
        handle.write(statements.SET, row)
        return
    if not handle.depth:
        with together(handle):
            handle.write(statements.SET, row)
            _derive(handle, namespace, key, value)
        return
    handle.write(statements.SET, row)
    try:
        _derive(handle, namespace, key, value)
    except BaseException:
        handle.fail()  # the first part must not stay without the second
        raise


def delete(handle: Handle, namespace: str, key: str) -> bool:
    """Remove an entry with what is derived from it, inside a transaction; tell whether it was there."""
    handle.execute(statements.DELETE, (namespace, key))
    is_gone = bool(_changes(handle))
    if is_gone:
        _underive(handle, namespace, key_digest(key))
    return is_gone


def remove(handle: Handle, doomed: Doomed) -> bool:
    """Remove or shorten an entry, inside a transaction, if it is what it was; tell whether it was."""
    record, kept = doomed
    if kept is not None:
        if handle.first(statements.IS_UNCHANGED, record) is None:
            return False
        write(handle, record._replace(value=kept))
        return True
    digest = key_digest(record.key)
    if record.namespace == DIFF_IDS and handle.first(statements.LAYERS_OF_DIGEST, (digest,)) is not None:
        return False
    handle.execute(statements.DELETE_UNCHANGED, record)
    if not _changes(handle):
        return False
    _underive(handle, record.namespace, digest)
    return True


def rederive(handle: Handle, namespace: str, digest: str | bytes) -> None:
    """Make the rows of a layer or blob what its entry says; without one, or if it is no digest, remove them."""
    _underive(handle, namespace, digest)
    # What another program wrote need not even be text, and the rows that are there need not be readable.
    key = digest_key(digest) if isinstance(digest, str) and is_digest(digest) else ""
    row = handle.first(statements.GET, (namespace, key)) if key else None
    if row is not None:
        _derive(handle, namespace, key, row[0])


def set_aside(handle: Handle, entries: Iterable[SetAside], *, at_ns: int | None = None) -> int:
    """Keep bytes in quarantine, inside a transaction, and return how many. Exactly the same again is kept once."""
    kept = 0
    for entry in entries:
        if handle.first(statements.IS_QUARANTINED, entry) is None:
            handle.execute(statements.QUARANTINE, (*entry, time.time_ns() if at_ns is None else at_ns))
            kept += 1
    return kept


def _derive(
    handle: Handle, namespace: str, key: str, value: bytes, entries: Sequence[V2Metadata] | None = None
) -> None:
    """Write the difference between the rows that are there and those that an entry wants."""
    if namespace not in DERIVED_FROM:
        return
    # Whoever has made a list knows that its key is a digest's.
    digest = key_digest(key) if entries is None else key.replace("/", ":", 1)
    if digest is None:
        return
    from layerstore.sql.derived import blob, difference, listed  # it reads JSON

    if namespace == BLOBS:
        _derive_blob(handle, digest, *blob(key, value))
        return
    there: list[Any] = handle.execute(statements.ASSOCIATIONS, (digest,))
    if there and type(there[-1][0]) is not int:
        raise handle.damaged()
    stale, new = difference(there, listed(value) if entries is None else entries)
    for position in stale:
        handle.execute(statements.REMOVE_ASSOCIATION, (digest, position))
    for row in new:
        handle.execute(statements.ADD_ASSOCIATION, (digest, *row))


def _derive_blob(handle: Handle, digest: str, row: BlobRow | None, locations: dict[str, int | None]) -> None:
    there = handle.first(statements.BLOB, (digest,))
    if there != row:
        if there is not None:
            handle.execute(statements.REMOVE_BLOB, (digest, digest))
        if row is not None:
            handle.execute(statements.ADD_BLOB, (digest, *row))
    known: dict[str, int | None] = dict(handle.execute(statements.LOCATIONS, (digest,)))
    for name, seen in known.items():
        if name not in locations or locations[name] != seen:
            handle.execute(statements.REMOVE_LOCATION, (digest, name))
    for name, seen in locations.items():
        if name not in known or known[name] != seen:
            handle.execute(statements.ADD_LOCATION, (digest, name, seen))


def _underive(handle: Handle, namespace: str, digest: str | bytes | None) -> None:
    """Remove the rows of a layer or blob."""
    if digest is None or namespace not in DERIVED_FROM:
        return
    if namespace == BLOBS:
        handle.execute(statements.REMOVE_BLOB, (digest, digest))
        handle.execute(statements.REMOVE_LOCATIONS, (digest, digest))
    elif isinstance(digest, str):
        handle.execute(statements.REMOVE_ASSOCIATIONS, (digest,))
    else:
        handle.execute(statements.REMOVE_RAW_ASSOCIATIONS, (digest, digest))


def _changes(handle: Handle) -> int:
    return int(handle.first("SELECT changes()")[0])
