"""What a store is: the protocols. The stores themselves are `sql/` and `files/`.

A service needs a `Store` only. A store that can do more says so by having the method: `transaction` makes what a
service does atomic, `quarantine` keeps bytes that a service has to set aside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from layerstore.errors import InvalidInputError, NotFoundError, StoreError

if TYPE_CHECKING:
    from layerstore.records import V2Metadata


@runtime_checkable
class Store(Protocol):
    """Bytes under a namespace and a key.

    Source: Docker's `metadata.Store`.
    """

    def get(self, namespace: str, key: str, /) -> bytes:
        """Return the value.

        Raises:
            NotFoundError: there is none.
        """

    def set(self, namespace: str, key: str, value: bytes, /) -> None:
        """Store the value, in place of the one that was there."""

    def delete(self, namespace: str, key: str, /) -> None:
        """Remove the value.

        Raises:
            NotFoundError: there is none.
        """


Address = tuple[str, str]
"""Namespace and key of an entry."""


class Write(NamedTuple):
    """An entry to store, or to remove."""

    namespace: str
    key: str
    value: bytes | None
    """`None` removes it."""
    listed: Sequence[V2Metadata] | None = None
    """What a V2 list holds, where whoever encoded it knows."""
    modified_at_ns: int | None = None
    """Its Unix time in nanoseconds; `None` for the present. Only a database heeds it."""


class SetAside(NamedTuple):
    """Bytes that are about to be replaced and cannot be read."""

    namespace: str
    key: str
    value: bytes
    reason: str


class Change(NamedTuple):
    """What is to be done, once entries were read."""

    writes: Sequence[Write] = ()
    aside: Sequence[SetAside] = ()
    more: Sequence[Address] = ()
    """Further entries to read first; then nothing is written yet."""
    then: Callable[[dict[Address, bytes]], Change] | None = None
    """Says what to write once these were read too; `None` for what has asked for them."""


Compute = Callable[[dict[Address, bytes]], Change]
"""Given the entries that are there of those that were asked for, say what to write. It may be called again."""

Changing = Callable[[Sequence[Address], Compute], Change]
"""Read entries and write what `compute` makes of them, whole or not at all where a store can; return what was done."""

# For stores that bring neither a transaction nor a lock: their read-modify-writes take turns in this process.
_turns = threading.RLock()


def contains(store: Store, entry: object) -> bool:
    """Tell whether a store has an entry, given as namespace and key.

    Raises:
        InvalidInputError: `entry` is not a namespace and a key.
    """
    match entry:
        case (str(namespace), str(key)):
            try:
                store.get(namespace, key)
            except NotFoundError:
                return False
            return True
    raise InvalidInputError(f"ask for a namespace and a key, as `(namespace, key) in store`, not {entry!r}")


def changing(store: Store) -> Changing:
    """Return how a service changes entries that depend on others: the store's own `change`, or one made of the rest."""
    own: Changing | None = getattr(store, "change", None)
    return own if own is not None else lambda addresses, compute: _change(store, addresses, compute)


def _change(store: Store, addresses: Sequence[Address], compute: Compute) -> Change:
    with read_modify_write(store)():
        found: dict[Address, bytes] = {}
        while True:
            for address in addresses:
                with suppress(NotFoundError):
                    found[address] = _get(store, address)
            change = compute(found)
            if not change.more:
                break
            addresses, compute = change.more, change.then or compute
        quarantine: Callable[[str, str, bytes, str], None] | None = getattr(store, "quarantine", None)
        if quarantine is not None:
            for one in change.aside:
                quarantine(*one)
        for namespace, key, value, *_ in change.writes:
            if value is None:
                store.delete(namespace, key)
            else:
                store.set(namespace, key, value)
        return change


def _get(store: Store, address: Address) -> bytes:
    """Return a value of a store that may be somebody else's.

    Raises:
        NotFoundError: there is none.
        StoreError: the store raises a plain KeyError, which cannot be told from a fault of its own.
    """
    try:
        return store.get(*address)
    except NotFoundError:
        raise
    except KeyError as error:
        raise StoreError(
            f"{type(store).__name__}.get raised {error!r}: a Store must raise layerstore.NotFoundError(namespace, key)"
            " for an entry that is absent"
        ) from error


def read_modify_write(store: Store) -> Callable[[], AbstractContextManager[object]]:
    """Return what is opened around a read that a write depends on.

    That is the store's `transaction`; else its `exclusive`, which keeps the threads of this process apart; else a
    lock that all other stores share.
    """
    scope: Callable[[], AbstractContextManager[object]] | None = getattr(store, "transaction", None)
    if scope is None:
        scope = getattr(store, "exclusive", None)
    return scope if scope is not None else lambda: _turns


def get_many(store: Store, namespace: str, keys: Iterable[str]) -> dict[str, bytes]:
    """Return the values of the keys that are there, by the store's own `get_many` if it has one."""
    many: Callable[[str, Iterable[str]], dict[str, bytes]] | None = getattr(store, "get_many", None)
    if many is not None:
        return many(namespace, keys)
    found: dict[str, bytes] = {}
    for key in keys:
        with suppress(NotFoundError):
            found[key] = _get(store, (namespace, key))
    return found
