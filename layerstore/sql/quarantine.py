"""What people do with the quarantine: look into it, put a value back, remove it. Emptied only on request."""

from __future__ import annotations

from collections.abc import Iterable

from layerstore.arguments import instance, several
from layerstore.errors import InvalidInputError, NotFoundError
from layerstore.keys import check_key
from layerstore.records import why_unreadable
from layerstore.sql.backend import Quarantined
from layerstore.sql.store import SQLMetadataStore


def one_quarantined(store: SQLMetadataStore, number: int) -> Quarantined:
    """Return one value in quarantine.

    Raises:
        NotFoundError: there is none of this number.
    """
    instance(number, int, "a number in quarantine")
    found = store._backend.quarantined(number)
    if not found:
        raise NotFoundError("quarantine", str(number))
    return found[0]


def restore_quarantined(store: SQLMetadataStore, number: int, *, force: bool = False) -> Quarantined:
    """Put a value back where it was, and move what is in its place to quarantine. One transaction.

    Args:
        store: the store whose quarantine it is in.
        number: its number, as in `store.quarantined()`.
        force: also restore a value that is invalid for its namespace.

    Raises:
        NotFoundError: there is none of this number.
        InvalidInputError: the value is still invalid for its namespace, unless `force`; its key breaks the key rules.
    """
    instance(store, SQLMetadataStore, "the store")
    with store.transaction():
        found = one_quarantined(store, number)
        check_key(found.namespace, found.key)
        reason = None if force else why_unreadable(found.namespace, found.key, found.value)
        if reason is not None:
            raise InvalidInputError(
                f"{found.namespace}/{found.key} still cannot be read ({reason}): it stays in quarantine;"
                " --force restores it"
            )
        current = store.get_many(found.namespace, [found.key]).get(found.key)
        if current is not None and current != found.value:
            store.quarantine(found.namespace, found.key, current, f"replaced by number {number} from quarantine")
        store.set(found.namespace, found.key, found.value)
        store._backend.drop_quarantined([number])
    return found


def drop_quarantined(store: SQLMetadataStore, numbers: Iterable[int]) -> list[Quarantined]:
    """Remove values from quarantine for good, all that are named or none of them. One transaction.

    Raises:
        NotFoundError: there is none of one of these numbers.
    """
    instance(store, SQLMetadataStore, "the store")
    wanted = list(several(numbers, "the numbers"))
    with store.transaction():
        found = [one_quarantined(store, number) for number in dict.fromkeys(wanted)]
        store._backend.drop_quarantined(one.number for one in found)
    return found
