"""A reader's view of the whole store at one moment, for work that reads more than one thing.

It is a read transaction on a connection of its own; writers go on meanwhile and are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from layerstore.collection import NOT_UTF8, Fault, Note, Odd
from layerstore.digest import is_digest
from layerstore.errors import CorruptRecordError, StoreError
from layerstore.keys import BLOBS, V2_METADATA, Record, digest_key, is_utf8, key_digest
from layerstore.records import as_json
from layerstore.sql import derived
from layerstore.sql.sqlite import statements
from layerstore.sql.sqlite.errors import is_undecodable, noting_damage
from layerstore.sql.sqlite.handles import Handle
from layerstore.sql.sqlite.recognition import OBJECTS, ours


def fetch_many(handle: Handle, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
    """Return the values of the keys that are there, by one statement. No key may be there twice."""
    wanted = as_json(keys).decode()
    statement = statements.GET_MANY_OF.get(namespace)
    if statement is None:
        found: dict[str, bytes] = dict(handle.execute(statements.GET_MANY, (wanted, namespace)))
    else:
        found = dict(handle.execute(statement, (wanted,)))
    if None in found.values():
        raise handle.damaged()
    return found


class Snapshot:
    """What the store held when the transaction of `handle` began: `layerstore.collection.IndexedView`.

    With `note`, what cannot be read of a damaged file is told to that. Text that is not UTF-8, which only another
    program can have written, comes with a lone surrogate for each byte that does not fit.
    """

    def __init__(self, handle: Handle, note: Note | None = None) -> None:
        self._handle, self._note = handle, note
        self._is_strict = handle.decodes_strictly

    def count(self) -> int:
        found: int = 0
        with self._noting():
            found = self._handle.first(statements.COUNT)[0]
        return found  # noqa: RET504  # damage ends the block above

    def names(self) -> Iterator[tuple[str, str]]:
        for namespace, key in self._rows(statements.KEYS):
            if namespace is None or key is None:
                raise self._handle.damaged()
            if not (self._is_strict or (_is_utf8(namespace) and _is_utf8(key))):
                raise CorruptRecordError(_shown(namespace), _shown(key), NOT_UTF8)
            yield namespace, key

    def scan(self, namespace: str | None = None) -> Iterator[Record | Odd]:
        with self._noting():
            yield from self._entries(namespace)

    def _entries(self, namespace: str | None) -> Iterator[Record | Odd]:
        found = self._rows(statements.RECORDS) if namespace is None else self._rows(statements.RECORDS_OF, (namespace,))
        for row in found:
            if None not in row:
                yield Record._make(row) if self._is_strict else _found(row)
            elif self._note is None:
                raise self._handle.damaged()
            else:
                self._note(f"NULL in the entry {_shown(row[0])}/{_shown(row[1])}")

    def _rows(self, statement: str, parameters: tuple[object, ...] = ()) -> Iterator[Any]:
        """Yield the rows of a statement. The driver decodes text strictly until it cannot, which is a third faster."""
        done = 0
        try:
            for row in self._handle.stream(statement, parameters):
                yield row
                done += 1
        except StoreError as error:
            if not (self._is_strict and is_undecodable(error)):
                raise
            self._is_strict = False
            self._handle.decode(strictly=False)
            # The snapshot stays as it is, so that as many rows as before are skipped.
            yield from self._handle.stream(f"{statement} LIMIT -1 OFFSET ?", (*parameters, done))

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with self._noting():
            found = fetch_many(self._handle, namespace, keys)
        return found  # noqa: RET504  # damage ends the block above

    def lists_with(self, digest: str) -> Iterator[Record]:
        for (diff_id,) in self._handle.execute(statements.LAYERS_OF_DIGEST, (digest,)):
            for row in self._handle.execute(statements.GET_RECORD, (V2_METADATA, digest_key(diff_id))):
                if None in row:
                    raise self._handle.damaged()
                yield Record._make(row)

    def blobs_by_layer(self) -> Iterator[tuple[str, str, bytes, bytes | None]]:
        yield from self._handle.stream(statements.BLOBS_BY_LAYER)

    def faults(self) -> Iterator[Fault]:
        is_ours = True
        with self._noting():
            for line in self._damage():
                yield Fault("damaged-file", line)
        with self._noting():
            for reason in ours().foreign(self._handle.execute(OBJECTS)):
                is_ours = False
                yield Fault("foreign-schema", reason)
        with self._noting():
            for namespace, digest in self._stale():
                yield Fault("stale-rows", _shown(digest), place=(namespace, digest))
        with self._noting():
            if quarantined := self._handle.first(statements.COUNT_QUARANTINED)[0]:
                yield Fault("quarantined", None, quarantined)
        if is_ours:  # else its columns may be others
            with self._noting():
                yield from self._odd_types()

    def _noting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._note is None else noting_damage(self._note)

    def _damage(self) -> list[str]:
        """Return what SQLite's own check of the file and its indexes finds; nothing when all is well.

        Source: sqlite.org/pragma.html#pragma_integrity_check.
        """
        found = [str(row[0]) for row in self._handle.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def _odd_types(self) -> Iterator[Fault]:
        """Yield what only another program can have written: text where numbers belong, and bytes where text does."""
        for namespace, key in self._rows(statements.ODD_TIMES):
            yield Fault("odd-time", f"{_shown(namespace)}/{_shown(key)}", place=(_encoded(namespace), _encoded(key)))
        for number, *texts, fit in self._rows(statements.TYPES_IN_QUARANTINE):
            if not fit or not all(map(_is_utf8, texts)):
                yield Fault("odd-quarantine", f"number {number}", place=(str(number),))

    def _stale(self) -> Iterator[tuple[str, str | bytes]]:
        """Yield namespace and digest of entries whose derived rows are not what they say, or that have rows alone.

        A digest that is not text comes as bytes.
        """
        yield from self._stale_lists()
        yield from self._stale_blobs()

    def _stale_lists(self) -> Iterator[tuple[str, str | bytes]]:
        matched = 0
        for record in self._entries(V2_METADATA):
            diff_id, entries = (None, []) if isinstance(record, Odd) else derived.wanted(record.key, record.value)
            if diff_id is None:
                continue
            found = list(self._rows(statements.ASSOCIATIONS, (diff_id,)))
            matched += len(found)
            is_numbered = all(type(row[0]) is int for row in found)
            if not is_numbered or [tuple(row[1:]) for row in found] != derived.texts(entries):
                yield V2_METADATA, diff_id
        if matched != self._handle.first(statements.COUNT_ASSOCIATIONS)[0]:
            yield from self._without_entry(V2_METADATA, statements.LAYERS_WITH_ROWS)

    def _stale_blobs(self) -> Iterator[tuple[str, str | bytes]]:
        matched = 0
        for record in self._entries(BLOBS):
            digest = None if isinstance(record, Odd) else key_digest(record.key)
            if digest is None:
                continue
            assert isinstance(record, Record)
            row = next(self._rows(statements.BLOB, (digest,)), None)
            locations = dict(self._rows(statements.LOCATIONS, (digest,)))
            matched += (row is not None) + len(locations)
            if (row, locations) != derived.blob(record.key, record.value):
                yield BLOBS, digest
        if matched != self._handle.first(statements.COUNT_BLOBS)[0]:
            yield from self._without_entry(BLOBS, statements.BLOBS_WITH_ROWS)

    def _without_entry(self, namespace: str, statement: str) -> Iterator[tuple[str, str | bytes]]:
        """Yield the digests that have rows and no entry. What another program wrote need not even be text."""
        for (digest,) in self._rows(statement):
            if not isinstance(digest, str) or not _is_utf8(digest):
                yield namespace, _encoded(digest)
            elif not is_digest(digest) or self._handle.first(statements.GET, (namespace, digest_key(digest))) is None:
                yield namespace, digest


def _found(row: tuple[str, str, bytes, int]) -> Record | Odd:
    namespace, key = row[:2]
    if _is_utf8(namespace) and _is_utf8(key):
        return Record._make(row)
    return Odd(f"{_shown(namespace)}/{_shown(key)}", "name", NOT_UTF8, (_encoded(namespace), _encoded(key)))


def _is_utf8(text: object) -> bool:
    """Tell whether it is text, and was UTF-8."""
    return isinstance(text, str) and is_utf8(text)


def _encoded(text: object) -> bytes:
    """Return the bytes that another program wrote, or damage made: of NULL or a number, its text."""
    return text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")


def _shown(text: object) -> str:
    """Return text as messages have it: bytes that are not UTF-8 as `\\xff`."""
    return _encoded(text).decode("utf-8", "backslashreplace")
