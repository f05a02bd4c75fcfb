"""The quarantine: bytes that a write, an import or a repair had to set aside. Emptied only on request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from layerstore.errors import InvalidInputError, NotFoundError
from layerstore.records import why_unreadable
from layerstore.sql.sqlite import statements
from layerstore.sql.sqlite.snapshot import NOT_UTF8, OddName
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import check_key


@dataclass(frozen=True, slots=True)
class SetAside:
    """A value in quarantine.

    Attributes:
        number: its `id`, by which the commands name it.
        namespace: where it was.
        key: its key there.
        value: the bytes.
        reason: why it was set aside.
        quarantined_at_ns: when, as Unix time in nanoseconds.
    """

    number: int
    namespace: str
    key: str
    value: bytes
    reason: str
    quarantined_at_ns: int


def quarantined(store: SQLMetadataStore) -> list[SetAside]:
    """Return all that is in quarantine, the oldest first."""
    return [_set_aside(row) for row in store.run(statements.QUARANTINED)]


def one_quarantined(store: SQLMetadataStore, number: int) -> SetAside:
    """Return one value in quarantine.

    Raises:
        NotFoundError: there is none of this number.
    """
    rows = store.run(statements.ONE_QUARANTINED, (number,))
    if not rows:
        raise NotFoundError("quarantine", str(number))
    return _set_aside(rows[0])


def _set_aside(row: tuple[int, bytes, bytes, bytes, bytes, int]) -> SetAside:
    number, *texts, at_ns = row
    # What another program wrote need not be UTF-8.
    namespace, key, reason = (texts[at].decode("utf-8", "backslashreplace") for at in (0, 1, 3))
    return SetAside(number, namespace, key, texts[2], reason, at_ns)


def rewrite(store: SQLMetadataStore, number: int) -> None:
    """Write a value's names and time as `quarantined` shows them: another program wrote them in another type.

    Raises: as `SQLMetadataStore.set`.
    """
    with store.transaction():
        for row in store.run(statements.ONE_QUARANTINED, (number,)):
            found = _set_aside(row)
            store.run(
                statements.REWRITE_QUARANTINED,
                (found.namespace, found.key, found.reason, found.quarantined_at_ns, number),
            )


def restore(store: SQLMetadataStore, number: int, *, force: bool = False) -> SetAside:
    """Put a value back where it was; what is there by now goes to quarantine in its stead. One transaction.

    Raises:
        NotFoundError: there is none of this number.
        InvalidInputError: it still cannot be what its namespace says, unless `force`; its key breaks the key rules.
    """
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
        store.run(statements.DROP_QUARANTINED, (number,))
    return found


def drop(store: SQLMetadataStore, numbers: Iterable[int]) -> list[SetAside]:
    """Forget values in quarantine for good, all of them or none. One transaction.

    Raises:
        NotFoundError: there is none of one of these numbers.
    """
    with store.transaction():
        found = [one_quarantined(store, number) for number in dict.fromkeys(numbers)]
        for one in found:
            store.run(statements.DROP_QUARANTINED, (one.number,))
    return found


def set_aside_odd_name(store: SQLMetadataStore, name: OddName) -> bool:
    """Move an entry whose name is not UTF-8 to quarantine, its exact name with the reason; tell whether it was there.

    Raises: as `SQLMetadataStore.set`.
    """
    with store.transaction():
        values = store.run(statements.GET_RAW, name)
        for (value,) in values:
            reason = f"{NOT_UTF8}: X'{name.namespace.hex()}', X'{name.key.hex()}'"
            store.quarantine(*name.shown(), value, reason)
        store.run(statements.DELETE_RAW, name)
    return bool(values)
