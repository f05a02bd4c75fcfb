"""A reader's view of the whole store at one moment, for work that reads more than one thing.

It is a read transaction on a connection of its own; writers go on meanwhile and are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from layerstore.collection import NOT_UTF8, Fault, Note, Odd
from layerstore.digest import is_digest
from layerstore.errors import CorruptRecordError, StoreError
from layerstore.keys import BLOBS, V2_METADATA, Record, digest_key, key_digest
from layerstore.sql.sqlite import statements
from layerstore.sql.sqlite.errors import is_undecodable, noting_damage
from layerstore.sql.sqlite.handles import Handle
from layerstore.sql.sqlite.objects import OBJECTS
from layerstore.sql.sqlite.recognition import ours


def fetch_many(execute: Callable[..., list[Any]], namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
    """Return the values of the keys that are there, by one statement. No key may be there twice."""
    from layerstore.records import as_json  # whoever reads all entries need not wait for it

    wanted = as_json(keys).decode()
    statement = statements.GET_MANY_OF.get(namespace)
    if statement is None:
        return dict(execute(statements.GET_MANY, (wanted, namespace)))
    return dict(execute(statement, (wanted,)))


class Snapshot:
    """What the store held when the transaction of `handle` began: `layerstore.collection.IndexedView`.

    With `note`, what cannot be read of a damaged file is told to that.
    """

    def __init__(self, handle: Handle, note: Note | None = None) -> None:
        self._handle, self._note = handle, note

    def count(self) -> int:
        found: int = 0
        with self._noting():
            found = self._handle.first(statements.COUNT)[0]
        return found  # noqa: RET504  # damage ends the block above

    def names(self) -> Iterator[tuple[str, str]]:
        done = 0
        try:
            for name in self._handle.stream(statements.KEYS):
                yield name
                done += 1
        except StoreError as error:
            if not is_undecodable(error):
                raise
            rest = map(_decoded, self._handle.stream(statements.RAW_RECORDS + statements.AFTER, (done,)))
            odd = next(found for found in rest if isinstance(found, Odd))
            namespace, _, key = odd.path.partition("/")
            raise CorruptRecordError(namespace, key, odd.reason) from error

    def scan(self, namespace: str | None = None) -> Iterator[Record | Odd]:
        with self._noting():
            yield from self._rows(namespace)

    def _rows(self, namespace: str | None) -> Iterator[Record | Odd]:
        statement, raw, parameters = _reading(namespace)
        done = 0
        try:
            for row in self._handle.stream(statement, parameters):
                yield Record._make(row)
                done += 1
        except StoreError as error:
            if not is_undecodable(error):
                raise
            # From here on slowly. The snapshot stays as it is, so that as many rows as before are skipped.
            yield from map(_decoded, self._handle.stream(raw + statements.AFTER, (*parameters, done)))

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with self._noting():
            found = fetch_many(self._handle.execute, namespace, keys)
        return found  # noqa: RET504  # damage ends the block above

    def lists_with(self, digest: str) -> Iterator[Record]:
        for (diff_id,) in self._handle.execute(statements.LAYERS_OF_DIGEST, (digest,)):
            found = self._handle.execute(statements.GET_RECORD, (V2_METADATA, digest_key(diff_id)))
            yield from map(Record._make, found)

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
                shown = digest if isinstance(digest, str) else digest.decode("utf-8", "backslashreplace")
                yield Fault("stale-rows", shown, place=(namespace, digest))
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
        for namespace, key in self._handle.stream(statements.ODD_TIMES):
            yield Fault("odd-time", _odd(namespace, key).path, place=(namespace, key))
        for number, *texts, fit in self._handle.stream(statements.TYPES_IN_QUARANTINE):
            if not fit or any(text.decode("utf-8", "replace").encode() != text for text in texts):
                yield Fault("odd-quarantine", f"number {number}", place=(str(number),))

    def _stale(self) -> Iterator[tuple[str, str | bytes]]:
        """Yield namespace and digest of entries whose derived rows are not what they say, or that have rows alone.

        A digest that is not UTF-8 comes as bytes.
        """
        from layerstore.sql import derived

        matched = 0
        for record in self._rows(V2_METADATA):
            diff_id, entries = (None, []) if isinstance(record, Odd) else derived.wanted(record.key, record.value)
            if diff_id is None:
                continue
            found = self._associations(diff_id)
            matched += len(found)
            if [tuple(row[1:]) for row in found] != derived.texts(entries):
                yield V2_METADATA, diff_id
        if matched != self._handle.first(statements.COUNT_ASSOCIATIONS)[0]:
            for other in self._layers_with_rows():
                if not self._has_entry(V2_METADATA, other):
                    yield V2_METADATA, other
        yield from self._stale_blobs()

    def _stale_blobs(self) -> Iterator[tuple[str, str | bytes]]:
        from layerstore.sql import derived

        matched = 0
        for record in self._rows(BLOBS):
            digest = None if isinstance(record, Odd) else key_digest(record.key)
            if digest is None:
                continue
            assert isinstance(record, Record)
            row, locations = self._blob(digest)
            matched += (row is not None) + len(locations)
            if (row, locations) != derived.blob(record.key, record.value):
                yield BLOBS, digest
        if matched != self._handle.first(statements.COUNT_BLOBS)[0]:
            for (raw,) in self._handle.stream(statements.BLOBS_WITH_ROWS):
                text = raw.decode("utf-8", "replace")
                other = text if text.encode() == raw else raw
                if not self._has_entry(BLOBS, other):
                    yield BLOBS, other

    def _blob(self, digest: str) -> tuple[Any, dict[Any, Any]]:
        try:
            row = self._handle.first(statements.BLOB, (digest,))
            return row and tuple(row), dict(self._handle.execute(statements.LOCATIONS, (digest,)))
        except StoreError as error:
            if not is_undecodable(error):
                raise
            return None, {None: None}  # no entry wants what cannot be read

    def _associations(self, diff_id: str) -> list[Any]:
        try:
            return self._handle.execute(statements.ASSOCIATIONS, (diff_id,))
        except StoreError as error:
            if not is_undecodable(error):
                raise
            return [(0, None, None, None)]  # no list wants what cannot be read

    def _layers_with_rows(self) -> Iterator[str | bytes]:
        try:
            for row in self._handle.stream(statements.LAYERS_WITH_ROWS):
                yield row[0]
        except StoreError as error:
            if not is_undecodable(error):
                raise
            for (diff_id,) in self._handle.stream(statements.RAW_LAYERS_WITH_ROWS):
                text = diff_id.decode("utf-8", "replace")
                yield text if text.encode() == diff_id else diff_id

    def _has_entry(self, namespace: str, digest: object) -> bool:
        # What another program wrote need not even be text.
        if not isinstance(digest, str) or not is_digest(digest):
            return False
        return self._handle.first(statements.GET, (namespace, digest_key(digest))) is not None


def _reading(namespace: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Return the statement that reads entries, the one that reads their names as bytes, and what both take."""
    if namespace is None:
        return statements.RECORDS, statements.RAW_RECORDS, ()
    return statements.RECORDS_OF, statements.RAW_RECORDS_OF, (namespace,)


def _decoded(row: tuple[bytes, bytes, bytes, int]) -> Record | Odd:
    try:
        return Record(row[0].decode(), row[1].decode(), *row[2:])
    except UnicodeDecodeError:
        return _odd(*row[:2])


def _odd(namespace: bytes, key: bytes) -> Odd:
    path = b"/".join((namespace, key)).decode("utf-8", "backslashreplace")
    return Odd(path, "name", NOT_UTF8, (namespace, key))
