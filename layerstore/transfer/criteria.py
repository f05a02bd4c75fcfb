"""The criteria of `prune`: which entries are removed, judged one by one. Nothing is written here."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from layerstore import blobs
from layerstore.arguments import instance, several
from layerstore.collection import IndexedView
from layerstore.errors import InvalidInputError
from layerstore.keys import BLOBS, DIFF_IDS, V1_IDS, V2_METADATA, Record, key_digest
from layerstore.records import V2Metadata, decode_diff_id, decode_list, encode_list, why_unreadable
from layerstore.repository import canonical_domain, parse_normalized

Age = str | timedelta | datetime
"""`30d`, `12h`; a date in UTC, `2026-01-31` or `2026-01-31T12:00`; or Python's own objects for these."""

_age = re.compile(r"(\d{1,6})([smhdw])").fullmatch
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Verdict(NamedTuple):
    """What becomes of an entry that does not stay as it is."""

    kept: bytes | None
    """What stays of a list or blob; `None` when the entry goes."""
    associations: int
    """How many associations of a list, or locations of a blob, go."""


class Names:
    """Names of registries or repositories, in which `*` stands for any text; and which of them nothing has."""

    def __init__(self, names: Iterable[str]) -> None:
        self.unseen = dict.fromkeys(names)
        self._matches = {name: re.compile(".*".join(map(re.escape, name.split("*")))).fullmatch for name in self.unseen}
        self._judged: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        if name not in self._judged:
            found = [one for one, matches in self._matches.items() if matches(name)]
            for one in found:
                self.unseen.pop(one, None)
            self._judged[name] = bool(found)
        return self._judged[name]


@dataclass(frozen=True, slots=True)
class Criteria:
    """An entry is removed if it matches all criteria that are given.

    Attributes:
        layers: the DiffIDs that are kept; `None` when that does not matter.
        before_ns: Unix time; what was modified then or later is kept.
        registries: those whose associations and V1 IDs are removed; `None` for all.
        repositories: those whose associations are removed; `None` for all.
        keep_newest: number of associations of each layer that are kept.
    """

    layers: frozenset[str] | None = None
    before_ns: int | None = None
    registries: Names | None = None
    repositories: Names | None = None
    keep_newest: int | None = None

    @property
    def are_given(self) -> bool:
        """Whether there is one."""
        return self.of_associations or self.layers is not None or self.before_ns is not None

    @property
    def of_associations(self) -> bool:
        """Whether one tells the associations of a list apart: then lists are shortened, and mappings stay."""
        return not (self.registries is None and self.repositories is None and self.keep_newest is None)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The names of registries and repositories that nothing has had so far."""
        return tuple(
            name for names in (self.registries, self.repositories) if names is not None for name in names.unseen
        )

    def judge(self, record: Record, content: IndexedView) -> Verdict | None:
        """Judge an entry that can be read, of Docker's namespaces or `blob-by-digest`; `None` when it stays as it is.

        Args:
            record: the entry.
            content: what else there is: a mapping or location stays while a list that stays has the same.
        """
        if record.namespace == V2_METADATA:
            return self._judge_list(record)
        if record.namespace == V1_IDS:
            return Verdict(None, 0) if self._v1_id_goes(record) else None
        digest = key_digest(record.key)
        assert digest is not None
        stay, go = self._repositories_of(digest, content)
        if record.namespace == BLOBS:
            return self._judge_blob(record, _layers(record, content), stay, go)
        goes = self._mapping_goes(record) and not (stay or self._is_blob_of_use(record, content, go))
        return Verdict(None, 0) if goes else None

    def _judge_list(self, record: Record) -> Verdict | None:
        entries = decode_list(record.value)
        for entry in entries:
            self._is_there(entry.source_repository)  # so that it is known which names nothing has
        kept = self._kept(record, entries)
        if len(kept) == len(entries) and (kept or not self._list_goes(record)):
            return None
        return Verdict(encode_list(kept) if kept else None, len(entries) - len(kept))

    def _v1_id_goes(self, record: Record) -> bool:
        if self.repositories is not None or self.keep_newest is not None:
            return False
        registry = record.key.rpartition(",")[0]
        of_there = self.registries is None or registry in self.registries
        return of_there and self._layer_goes(decode_diff_id(record.value), record.modified_at_ns)

    def _mapping_goes(self, record: Record) -> bool:
        """Judge the mapping of a digest, but for the lists that hold it."""
        return not self.of_associations and self._layer_goes(decode_diff_id(record.value), record.modified_at_ns)

    def _is_blob_of_use(self, mapping: Record, content: IndexedView, go: Container[str]) -> bool:
        """Tell whether locations stay of a blob of which the mapping alone says which layer it is."""
        for value in content.get_many(BLOBS, [mapping.key]).values():
            record = Record(BLOBS, mapping.key, value, 0)
            if why_unreadable(*record[:3]) is None and not blobs.decode(value, mapping.key).diff_ids:
                verdict = self._judge_blob(record, _layers(record, content), (), go)
                kept = value if verdict is None else verdict.kept
                return kept is not None and bool(blobs.decode(kept, mapping.key).locations)
        return False

    def _repositories_of(self, digest: str, content: IndexedView) -> tuple[frozenset[str], frozenset[str]]:
        """Return from where lists have a digest: those that stay, and those that go."""
        stay, go = set(), set()
        for record in content.lists_with(digest):
            entries = decode_list(record.value)
            stay |= {entry.source_repository for entry in self._kept(record, entries) if entry.digest == digest}
            go |= {entry.source_repository for entry in entries if entry.digest == digest}
        return frozenset(stay), frozenset(go - stay)

    def _judge_blob(
        self, record: Record, layers: Sequence[str], stay: Collection[str], go: Container[str]
    ) -> Verdict | None:
        """Judge what other engines know of a blob.

        A location is judged by the time when the blob was seen there; without one it is the oldest. It stays while a
        list that stays has it. The entry goes when its latest location does, and no list that stays has the blob.

        Args:
            record: the entry.
            layers: which layers it is, as far as that is known.
            stay: the repositories from which lists that stay have it.
            go: those from which lists had it, and lose it.
        """
        blob = blobs.decode(record.value, record.key)
        for name in blob.locations:
            self._is_there(name)
        # Of what is no known layer, nobody can say that it is not needed.
        is_gone = self.layers is None or (bool(layers) and self.layers.isdisjoint(layers))
        latest = blob.modified_at_ns if blob.locations else record.modified_at_ns
        if not (self.of_associations or stay) and is_gone and self._is_before(latest):
            return Verdict(None, len(blob.locations))
        doomed = {
            name
            for name, seen in blob.locations.items()
            if name not in stay
            and (
                name in go
                if self.keep_newest is not None
                else is_gone and self._is_before(seen or 0) and self._is_there(name)
            )
        }
        if not doomed:
            return None
        rest = blob.without(doomed)
        return Verdict(None if rest == blobs.BlobRecord() else blobs.encode(rest), len(doomed))

    def _list_goes(self, record: Record) -> bool:
        return self._layer_goes(key_digest(record.key), record.modified_at_ns) and not self.of_associations

    def _kept(self, record: Record, entries: list[V2Metadata]) -> list[V2Metadata]:
        if not self._layer_goes(key_digest(record.key), record.modified_at_ns):
            return entries
        if not self.of_associations:
            return []
        oldest = len(entries) - (self.keep_newest or 0)
        return [
            entry for at, entry in enumerate(entries) if not (at < oldest and self._is_there(entry.source_repository))
        ]

    def _layer_goes(self, diff_id: str | None, modified_at_ns: int) -> bool:
        is_gone = self.layers is None or diff_id not in self.layers
        return is_gone and self._is_before(modified_at_ns)

    def _is_before(self, time_ns: int) -> bool:
        return self.before_ns is None or time_ns < self.before_ns

    def _is_there(self, name: str) -> bool:
        of_repository = self.repositories is None or name in self.repositories
        of_registry = self.registries is None or _host(name) in self.registries
        return of_repository and of_registry


def _layers(record: Record, content: IndexedView) -> tuple[str, ...]:
    """Return which layers a blob is, by what other engines know, or else by its mapping."""
    known = blobs.decode(record.value, record.key).diff_ids
    mapped = () if known else content.get_many(DIFF_IDS, [record.key]).values()
    return known or tuple(value.decode() for value in mapped if why_unreadable(DIFF_IDS, record.key, value) is None)


@functools.lru_cache(4096)
def _host(name: str) -> str:
    """Return the registry of a source repository; of a name that is not canonical, what stands in its place."""
    domain = canonical_domain(name)
    return name.partition("/")[0] if domain is None else domain


def registries(names: str | Iterable[str]) -> Names | None:
    """Take registries as people name them: `localhost:5000`, `docker.io`, `index.docker.io`, `*.example.com`.

    Raises:
        InvalidRepositoryError: one breaks the grammar of a registry's host.
    """
    found = set()
    for name in _each(names):
        if "*" in name:
            found.add(name)
            continue
        host = parse_normalized(f"{name}/library/name").domain
        if host != ("docker.io" if name == "index.docker.io" else name):
            raise InvalidInputError(f"not a registry: {name!r}: give its host, such as docker.io or localhost:5000")
        found.add(host)
    return Names(sorted(found)) if found else None


def repositories(names: str | Iterable[str]) -> Names | None:
    """Take repositories as people name them: `busybox` is `docker.io/library/busybox`, `localhost:5000/team/*`.

    Raises:
        InvalidRepositoryError: one breaks the grammar.
    """
    found = [name if "*" in name else parse_normalized(name).name for name in _each(names)]
    return Names(found) if found else None


def _each(names: str | Iterable[str]) -> list[str]:
    found = [names] if isinstance(names, str) else list(several(names, "names"))
    for name in found:
        instance(name, str, "a name")
    return found


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
