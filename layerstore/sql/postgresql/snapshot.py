"""A reader's view of the whole store at one moment: a transaction of its own that only reads, and waits for nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

import psycopg

from layerstore.collection import Fault
from layerstore.keys import BLOBS, DIFF_IDS, V1_IDS, V2_METADATA, Record, digest_key, key_digest
from layerstore.sql import derived
from layerstore.sql.postgresql import statements
from layerstore.sql.postgresql.sessions import Session
from layerstore.sql.postgresql.statements import array, number, records, text, values
from layerstore.sql.postgresql.writing import mapped

_AT_ONCE: Final = 1000
"""Rows that are fetched by one round trip."""
_FEW: Final = 50
"""The same, of rows with values of any size."""


class Snapshot:
    """What the store held when the transaction on the session began.

    Args:
        session: the session.
        failing: turns what the driver raises into an error of our tree.
    """

    def __init__(self, session: Session, failing: Callable[[], AbstractContextManager[None]]) -> None:
        self._session = session
        self._failing = failing
        self._cursors = 0

    def count(self) -> int:
        """Return how many entries there are."""
        with self._failing():
            return number(self._session.first(statements.COUNT, ()))

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield namespace and key of all entries, in the order of `records`."""
        return self.stream(statements.NAMES)

    def scan(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield all entries, or those of one namespace, by namespace and then by the UTF-8 bytes of the key."""
        found = (
            self.stream(statements.RECORDS)
            if namespace is None
            else self.stream(statements.RECORDS_OF, (statements.checked(namespace),))
        )
        return map(Record._make, found)

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there."""
        with self._failing():
            return values(self._session.first(statements.GET_MANY, (namespace, array(keys))))

    def lists_with(self, digest: str) -> Iterator[Record]:
        """Yield the layers' lists that hold a digest."""
        with self._failing():
            layers = self._session.first(statements.LAYERS_OF_DIGEST, (digest,))
            keys = array(digest_key(text(layers, row, 0)) for row in range(layers.ntuples))
            found = self._session.first(statements.GET_RECORDS, (V2_METADATA, keys))
        yield from records(found)

    def blobs_by_layer(self) -> Iterator[tuple[str, str, bytes, bytes | None]]:
        """Yield the entries of blobs by the key of their layers, with what Docker maps each to."""
        return self.stream(statements.BLOBS_BY_LAYER)

    def faults(self) -> Iterator[Fault]:
        """Yield the derived rows that are not what their entry says, and how much is in quarantine."""
        for namespace, name in self._stale():
            yield Fault("stale-rows", name, place=(namespace, name))
        with self._failing():
            quarantined = number(self._session.first(statements.COUNT_QUARANTINED, ()))
        if quarantined:
            yield Fault("quarantined", None, quarantined)

    def _stale(self) -> Iterator[tuple[str, str]]:
        """Yield the namespace of each such entry, and the digest that its rows are of; of a V1 ID, the key."""
        for key, value, diff_id, rows in self.stream(statements.STALE_LISTS):
            # A list whose key is no DiffID has no rows.
            entries = () if key is None else derived.wanted(key, value)[1]
            if [tuple(row) for row in rows or ()] != derived.texts(entries):
                yield V2_METADATA, diff_id or key.replace("/", ":")
        for key, value, digest, diff_id in self.stream(statements.STALE_MAPPINGS):
            wanted = None if key is None else mapped(DIFF_IDS, key, value)
            if wanted != diff_id:
                yield DIFF_IDS, digest or key.replace("/", ":")
        for key, value, digest, is_there, *blob, names, times in self.stream(statements.STALE_BLOBS):
            row, locations = (None, {}) if key is None or key_digest(key) is None else derived.blob(key, value)
            found = tuple(blob) if is_there else None
            if (found, dict(zip(names or (), times or (), strict=True))) != (row, locations):
                yield BLOBS, digest or key.replace("/", ":")
        for key, value, v1_key, diff_id in self.stream(statements.STALE_V1_IDS):
            wanted = None if key is None else mapped(V1_IDS, key, value)
            if wanted != diff_id:
                yield V1_IDS, key or v1_key

    def stream(self, query: str, parameters: Any = ()) -> Iterator[Any]:
        """Yield the rows of a query as they are fetched, some at a time."""
        self._cursors += 1
        cursor = self._session.connection.cursor(f"layerstore_{id(self)}_{self._cursors}", binary=True)
        cursor.itersize = _AT_ONCE if query == statements.NAMES else _FEW
        try:
            with self._failing():
                cursor.execute(query.encode(), parameters)
            while True:
                with self._failing():
                    rows = cursor.fetchmany(cursor.itersize)
                if not rows:
                    break
                yield from rows
        finally:
            with suppress(psycopg.Error):  # whoever reads no further does not care, and a broken session has none
                cursor.close()
