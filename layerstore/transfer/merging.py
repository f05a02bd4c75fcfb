"""What becomes of two versions of one entry. Pure decisions: who reads and writes is `importing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from layerstore.records import MAX_METADATA, V2_METADATA, Record, decode_list, encode_list, why_unreadable

OnConflict = Literal["merge", "replace", "keep"]
SetAside = Callable[[Record, str], None]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two values of one digest or V1 ID: the later one stays, the other went to quarantine."""

    namespace: str
    key: str
    kept: str
    set_aside: str


class Merge:
    """Decide by time, and count what that cost.

    The later version of a list forms the tail, entries that only the older one has precede it, the newest 50 stay.
    Of two values of anything else the later stays and the other is set aside. At equal times the incoming one counts
    as later; the result's time is the later one. Without ties, the order of merging does not matter.
    """

    def __init__(self, set_aside: SetAside) -> None:
        self._set_aside = set_aside
        self.conflicts: list[Conflict] = []
        self.evicted = 0

    def __call__(self, existing: Record, incoming: Record) -> Record | None:
        """Return what to store, or `None` to leave what is there."""
        incoming_is_later = incoming.modified_at_ns >= existing.modified_at_ns
        later, older = (incoming, existing) if incoming_is_later else (existing, incoming)
        if existing.value == incoming.value:
            return later if later != existing else None
        reason = why_unreadable(*existing[:3])
        if reason is not None:
            self._set_aside(existing, reason)
            return incoming
        if existing.namespace == V2_METADATA:
            return self._merge_lists(existing, later, older)
        return self._choose(later, older)

    def _merge_lists(self, existing: Record, later: Record, older: Record) -> Record | None:
        tail = decode_list(later.value)
        known = set(tail)
        entries = [entry for entry in decode_list(older.value) if entry not in known] + tail
        kept = entries[-MAX_METADATA:]
        merged = later if kept == tail else later._replace(value=encode_list(kept))
        if merged == existing:
            return None
        self.evicted += len(entries) - len(kept)
        return merged

    def _choose(self, later: Record, older: Record) -> Record:
        self.conflicts.append(
            Conflict(later.namespace, later.key, kept=_shown(later.value), set_aside=_shown(older.value))
        )
        self._set_aside(older, f"conflict: a later write says {_shown(later.value)}")
        return later


class Replace:
    """Take what comes in; what was there and cannot be read is set aside."""

    def __init__(self, set_aside: SetAside) -> None:
        self._set_aside = set_aside

    def __call__(self, existing: Record, incoming: Record) -> Record:
        """Return what to store."""
        reason = why_unreadable(*existing[:3])
        if reason is not None and existing.value != incoming.value:
            self._set_aside(existing, reason)
        return incoming


def keep(_existing: Record, _incoming: Record) -> None:
    """Leave what is there."""


def _shown(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else text[:200] + "…"
