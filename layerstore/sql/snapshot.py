"""A reader's view of the whole store at one moment, for work that reads more than one thing.

It is a read transaction on a connection of its own; writers go on meanwhile and are not seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from layerstore.digest import is_digest
from layerstore.records import V2_METADATA, Record, digest_key
from layerstore.sql import derived, statements
from layerstore.sql.handles import Fetched, Handle


def fetch_many(execute: Callable[..., Fetched], namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
    """Return the values of the keys that are there, by one statement."""
    return dict(execute(statements.GET_MANY, (namespace, json.dumps(keys))).fetchall())


class Snapshot:
    """What the store held when the transaction of `handle` began. What fails is the driver's error."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def count(self) -> int:
        """Return how many entries there are."""
        found: int = self._handle.execute(statements.COUNT).fetchone()[0]
        return found

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield namespace and key of all entries, in the order of `records`."""
        yield from self._handle.stream(statements.KEYS)

    def records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield all entries, or those of one namespace, by namespace and then by the UTF-8 bytes of the whole key."""
        if namespace is None:
            yield from map(Record._make, self._handle.stream(statements.RECORDS))
        else:
            yield from map(Record._make, self._handle.stream(statements.RECORDS_OF, (namespace,)))

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there."""
        return fetch_many(self._handle.execute, namespace, keys)

    def quarantined(self) -> int:
        """Return how many values are in quarantine."""
        found: int = self._handle.execute(statements.COUNT_QUARANTINED).fetchone()[0]
        return found

    def damage(self) -> list[str]:
        """Return what SQLite's own check of the file and its indexes finds; nothing when all is well.

        Source: sqlite.org/pragma.html#pragma_integrity_check.
        """
        found = [str(row[0]) for row in self._handle.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def stale(self) -> Iterator[str]:
        """Yield the DiffIDs whose derived rows are not what their list says, the ones without a list included."""
        matched = 0
        for record in self.records(V2_METADATA):
            diff_id, entries = derived.wanted(record.key, record.value)
            if diff_id is None:
                continue
            found: list[Any] = self._handle.execute(statements.ASSOCIATIONS, (diff_id,)).fetchall()
            matched += len(found)
            if [tuple(row[1:]) for row in found] != derived.texts(entries):
                yield diff_id
        if matched != self._handle.execute(statements.COUNT_ASSOCIATIONS).fetchone()[0]:
            for (diff_id,) in self._handle.execute(statements.LAYERS_WITH_ROWS).fetchall():
                if not self._has_list(diff_id):
                    yield diff_id

    def _has_list(self, diff_id: object) -> bool:
        # What another program wrote need not even be text.
        if not isinstance(diff_id, str) or not is_digest(diff_id):
            return False
        row = self._handle.execute(statements.GET, (V2_METADATA, digest_key(diff_id))).fetchone()
        return row is not None
