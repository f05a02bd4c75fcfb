"""Two ordered streams of entries, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from layerstore.collection import View
from layerstore.errors import CorruptRecordError, StoreError
from layerstore.keys import Record

Pair = tuple[Record | None, Record | None]


def records(view: View) -> Iterator[Record]:
    """Yield all entries of a view, in order; what is no entry is left out.

    Raises:
        CorruptRecordError: the name of an entry is not UTF-8. StoreError: a file or directory cannot be read.
    """
    for found in view.scan():
        if isinstance(found, Record):
            yield found
        elif found.place is not None:
            namespace, _, key = found.path.partition("/")
            raise CorruptRecordError(namespace, key, found.reason)
        elif found.kind == "unreadable":
            raise StoreError(found.reason, found.path)


def side_by_side(left: Iterable[Record], right: Iterable[Record]) -> Iterator[Pair]:
    """Yield each key once, with the entries that the two sides have of it.

    Both sides must be ordered as stores order them: by namespace, then by the UTF-8 bytes of the whole key.
    """
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if other is None or (one is not None and _place(one) < _place(other)):
            yield one, None
            one = next(lefts, None)
        elif one is None or _place(other) < _place(one):
            yield None, other
            other = next(rights, None)
        else:
            yield one, other
            one, other = next(lefts, None), next(rights, None)


def _place(record: Record) -> tuple[bytes, bytes]:
    return record.namespace.encode(), record.key.encode("utf-8", "surrogatepass")
