"""What `prune` goes by: which entries of a store go, judged one by one. Nothing is read or written here."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from layerstore.errors import InvalidInputError
from layerstore.records import Record, V2Metadata, decode_diff_id, decode_list, encode_list, key_digest
from layerstore.repository import canonical_domain, parse_normalized

Age = str | timedelta | datetime
"""`30d`, `12h`; a date in UTC, `2026-01-31` or `2026-01-31T12:00`; or Python's own objects for these."""

_age = re.compile(r"(\d{1,6})([smhdw])").fullmatch
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Verdict(NamedTuple):
    """What becomes of an entry that does not stay as it is."""

    kept: bytes | None
    """What stays of a list; `None` when the entry goes."""
    associations: int
    """How many associations of a list go."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """An entry goes if all criteria that are given say so.

    Attributes:
        layers: the DiffIDs that are kept; `None` when that does not matter.
        before_ns: what was modified at this Unix time or later is kept.
        registries: associations and V1 IDs of others are kept.
        repositories: associations of others are kept.
        keep_newest: so many associations of each layer are kept.
    """

    layers: frozenset[str] | None = None
    before_ns: int | None = None
    registries: frozenset[str] = frozenset()
    repositories: frozenset[str] = frozenset()
    keep_newest: int | None = None

    @property
    def of_associations(self) -> bool:
        """Whether one tells the associations of a list apart: then lists are shortened, and mappings stay."""
        return bool(self.registries or self.repositories) or self.keep_newest is not None

    def judge_list(self, record: Record) -> Verdict | None:
        """Judge a layer's list that can be read; `None` when it stays as it is."""
        entries = decode_list(record.value)
        if not self._layer_goes(key_digest(record.key), record.modified_at_ns):
            return None
        if not self.of_associations:
            return Verdict(None, len(entries))
        oldest = len(entries) - (self.keep_newest or 0)
        kept = [entry for at, entry in enumerate(entries) if not (at < oldest and self._comes_from_there(entry))]
        if len(kept) == len(entries):
            return None
        return Verdict(encode_list(kept) if kept else None, len(entries) - len(kept))

    def lists_still(self, record: Record, digest: str) -> bool:
        """Tell whether a list that can be read holds a digest after it was judged."""
        verdict = self.judge_list(record)
        value = record.value if verdict is None else verdict.kept
        return value is not None and any(entry.digest == digest for entry in decode_list(value))

    def mapping_goes(self, record: Record) -> bool:
        """Judge the mapping of a digest that can be read, but for the lists that hold it."""
        return not self.of_associations and self._layer_goes(decode_diff_id(record.value), record.modified_at_ns)

    def v1_id_goes(self, record: Record) -> bool:
        """Judge a V1 ID that can be read."""
        if self.repositories or self.keep_newest is not None:
            return False
        registry = record.key.rpartition(",")[0]
        of_there = not self.registries or registry in self.registries
        return of_there and self._layer_goes(decode_diff_id(record.value), record.modified_at_ns)

    def _layer_goes(self, diff_id: str | None, modified_at_ns: int) -> bool:
        is_gone = self.layers is None or diff_id not in self.layers
        return is_gone and (self.before_ns is None or modified_at_ns < self.before_ns)

    def _comes_from_there(self, entry: V2Metadata) -> bool:
        name = entry.source_repository
        return (not self.repositories or name in self.repositories) and (
            not self.registries or _host(name) in self.registries
        )


@functools.lru_cache(4096)
def _host(name: str) -> str:
    """Return the registry of a source repository; of a name that is not canonical, what stands in its place."""
    domain = canonical_domain(name)
    return name.partition("/")[0] if domain is None else domain


def registries(names: str | Iterable[str]) -> frozenset[str]:
    """Take registries as people name them: `localhost:5000`, `docker.io`, `index.docker.io`.

    Raises:
        InvalidRepositoryError: one breaks the grammar of a registry's host.
    """
    found = set()
    for name in _each(names):
        host = parse_normalized(f"{name}/library/name").domain
        if host != ("docker.io" if name == "index.docker.io" else name):
            raise InvalidInputError(f"not a registry: {name!r}: give its host, such as docker.io or localhost:5000")
        found.add(host)
    return frozenset(found)


def repositories(names: str | Iterable[str]) -> frozenset[str]:
    """Take repositories as people name them: `busybox` is `docker.io/library/busybox`.

    Raises:
        InvalidRepositoryError: one breaks the grammar.
    """
    return frozenset(parse_normalized(name).name for name in _each(names))


def _each(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def before(age: Age, now: datetime) -> int:
    """Return the Unix time in nanoseconds before which entries are older than an age or date.

    Raises:
        InvalidInputError: it is neither, in the future, or too long ago for a date.
    """
    moment = age if isinstance(age, datetime) else _moment(age, now)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment > now:
        raise InvalidInputError(f"{age!r} is in the future: everything would be older")
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) * 1000


def _moment(age: str | timedelta, now: datetime) -> datetime:
    match = _age(age) if isinstance(age, str) else None
    try:
        if isinstance(age, timedelta):
            return now - age
        if match is not None:
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        return datetime.fromisoformat(age)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"not an age or date: {age!r}: give 30d, 12h, or a date in UTC such as 2026-01-31"
        ) from error
