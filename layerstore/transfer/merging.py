"""What becomes of two versions of one entry. Pure decisions: who reads and writes is `importing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from layerstore.records import MAX_METADATA, V2_METADATA, Record, decode_list, encode_list, why_unreadable

_MAX_EXAMPLES = 1000

Found = TypeVar("Found")


class Examples(Generic[Found]):
    """The first of what may be a million, and how many there were."""

    def __init__(self) -> None:
        self.first: list[Found] = []
        self.count = 0

    def add(self, found: Found) -> None:
        """Count one, and keep it if it is one of the first 1,000."""
        self.count += 1
        if self.count <= _MAX_EXAMPLES:
            self.first.append(found)


OnConflict = Literal["merge", "replace", "keep"]
Aside = Callable[[Record, str], None]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two values of one digest or V1 ID: the later one stays, the other went to quarantine.

    Attributes:
        namespace: where the entry is.
        key: its key.
        kept: the later value.
        set_aside: the other one.
        source: the source that came upon what was there, from the store or an earlier source.
    """

    namespace: str
    key: str
    kept: str
    set_aside: str
    source: str


@dataclass(frozen=True, slots=True)
class Eviction:
    """Associations that fell off the end of a merged list of 50.

    Attributes:
        diff_id: the layer; as the store has its key, if that is none.
        associations: how many.
        source: the source whose list was merged with what was there.
    """

    diff_id: str
    associations: int
    source: str


class Merge:
    """Decide by time, and count what that cost.

    The later version of a list forms the tail, entries that only the older one has precede it, the newest 50 stay.
    Of two values of anything else the later stays and the other is set aside. At equal times the incoming one counts
    as later; the result's time is the later one. Without ties, the order of merging does not matter.
    """

    def __init__(self, name: Callable[[int], str]) -> None:
        self._name = name
        self.conflicts: Examples[Conflict] = Examples()
        self.evictions: Examples[Eviction] = Examples()
        self.evicted = 0

    def __call__(self, source: int, existing: Record, incoming: Record, aside: Aside) -> Record | None:
        """Return what to store, or `None` to leave what is there."""
        incoming_is_later = incoming.modified_at_ns >= existing.modified_at_ns
        later, older = (incoming, existing) if incoming_is_later else (existing, incoming)
        if existing.value == incoming.value:
            return later if later != existing else None
        reason = why_unreadable(*existing[:3])
        if reason is not None:
            aside(existing, reason)
            return incoming
        if existing.namespace == V2_METADATA:
            return self._merge_lists(source, existing, later, older)
        return self._choose(source, later, older, aside)

    def _merge_lists(self, source: int, existing: Record, later: Record, older: Record) -> Record | None:
        tail = decode_list(later.value)
        known = set(tail)
        entries = [entry for entry in decode_list(older.value) if entry not in known] + tail
        kept = entries[-MAX_METADATA:]
        merged = later if kept == tail else later._replace(value=encode_list(kept))
        if merged == existing:
            return None
        evicted = len(entries) - len(kept)
        if evicted:
            self.evicted += evicted
            self.evictions.add(Eviction(later.key.replace("/", ":", 1), evicted, self._name(source)))
        return merged

    def _choose(self, source: int, later: Record, older: Record, aside: Aside) -> Record:
        self.conflicts.add(
            Conflict(later.namespace, later.key, _shown(later.value), _shown(older.value), self._name(source))
        )
        aside(older, f"conflict: a later write says {_shown(later.value)}")
        return later


def replace(_source: int, existing: Record, incoming: Record, aside: Aside) -> Record:
    """Take what comes in; what was there and cannot be read is set aside."""
    reason = why_unreadable(*existing[:3])
    if reason is not None and existing.value != incoming.value:
        aside(existing, reason)
    return incoming


def keep(_source: int, _existing: Record, _incoming: Record, _aside: Aside) -> None:
    """Leave what is there."""


def _shown(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else text[:200] + "…"
