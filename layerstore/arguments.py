"""Arguments of public functions: refused with a sentence where their type is wrong, before anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from layerstore.errors import InvalidInputError

_Value = TypeVar("_Value")


def instance(value: object, kind: type[_Value] | tuple[type[_Value], ...], what: str) -> None:
    """Refuse a value of another type.

    Raises:
        InvalidInputError: it is one; the message says what is needed, and not the value, which may be a secret.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        needed = " or ".join("None" if one is type(None) else one.__name__ for one in kinds)
        raise InvalidInputError(f"{what} must be {needed}, not {type(value).__name__}")


def several(values: Iterable[_Value], what: str) -> Iterable[_Value]:
    """Return values that can be iterated over; text is not several of anything.

    Raises:
        InvalidInputError: they cannot, or are text.
    """
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise InvalidInputError(f"{what} must be a list or another iterable, not {type(values).__name__}: {values!r}")
    return values


def tuples(values: Iterable[_Value], length: int, what: str) -> Iterator[_Value]:
    """Yield tuples of a length.

    Raises:
        InvalidInputError: one of them is none.
    """
    for value in several(values, what):
        if not isinstance(value, tuple | list) or len(value) != length:
            raise InvalidInputError(f"{what} must be tuples of {length}, not {value!r}")
        yield value


def a_store(store: object) -> None:
    """Refuse what has none of a store's methods, such as a path.

    Raises:
        InvalidInputError: it has none.
    """
    if not all(hasattr(store, name) for name in ("get", "set", "delete")):
        raise InvalidInputError(f"a store must have get, set and delete, which {type(store).__name__} lacks: {store!r}")
