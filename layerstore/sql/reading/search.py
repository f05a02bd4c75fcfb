"""Repositories, and finding things by what a person types: a digest, the beginning of one, any part of a name.

`repositories` is a page of them, `repository` all about one. `search` says what there is, `look_up` all about what is
meant. Digests are found by indexes, and a page is bounded. Where nothing begins with the text, the names of
repositories are read once: 0.1 s for 50,000 of them. All raise `StoreError` if the store fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from layerstore.arguments import instance
from layerstore.digest import is_digest
from layerstore.errors import InvalidInputError
from layerstore.keys import V2_METADATA, is_utf8
from layerstore.sql.reading.layers import ALL, PAGE, Blob, Key, Layer, V1Image, blob, layer, v1_image
from layerstore.sql.reading.layers import MOST as MOST_BLOBS
from layerstore.sql.store import SQLMetadataStore

ORDERED_BY_TIME: Final = 2_000
"""Up to so many associations of a repository are put in order of time, each by a lookup of its own; 20 ms."""
MOST: Final = 50
"""How many matches of each kind are found."""
_LOOKED_UP_FROM: Final = 12  # hex digits
_IN_RANGE: Final = "source_repository >= :low AND source_repository < :high"
# The view and `located` walk from name to name by an index.
_CONTAINING: Final = f"""
    WITH RECURSIVE located(source_repository) AS (
      SELECT min(source_repository) FROM locations
      UNION ALL
      SELECT (SELECT min(l.source_repository) FROM locations l WHERE l.source_repository > located.source_repository)
      FROM located WHERE located.source_repository IS NOT NULL
    )
    SELECT source_repository FROM (
      SELECT source_repository FROM repositories UNION SELECT source_repository FROM located
    ) names
    WHERE replace(source_repository, :low, '') <> source_repository AND NOT ({_IN_RANGE}) ORDER BY 1 LIMIT :most"""
_LISTS: Final = f"""
    SELECT replace(key, '/', ':') FROM metadata WHERE namespace = '{V2_METADATA}'
      AND key BETWEEN replace(:low, ':', '/') AND replace(:high, ':', '/') ORDER BY key LIMIT :most"""
_ALGORITHMS: Final = ("sha256", "sha384", "sha512")
_hexadecimal = re.compile(r"(?:(sha256|sha384|sha512):)?([0-9a-f]+)").fullmatch

Kind = Literal["layer", "digest", "v1-image", "repository"]


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """A repository in a list of many, and how many layers it has."""

    source_repository: str
    layers: int


@dataclass(frozen=True, slots=True)
class Repositories:
    """A page of repositories by name; `next` is the last one's name, `None` on the last page."""

    repositories: tuple[ListedRepository, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """A layer that a repository has, under one digest. `modified_at_ns` is its list's time."""

    diff_id: str
    digest: str
    hmac: str
    modified_at_ns: int | None


@dataclass(frozen=True, slots=True)
class Located:
    """A blob that another engine has seen in a repository: its layer, and when it was seen, if that is known."""

    digest: str
    diff_id: str | None
    seen_at_ns: int | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository and a page of its layers, or all.

    `order` is `newest` or `oldest` by the time of their lists, or `diff_id` where they are too many to sort.
    """

    source_repository: str
    layers: int
    associations: int
    order: Literal["newest", "oldest", "diff_id"]
    held: tuple[Held, ...]
    next: Key | None
    located: tuple[Located, ...] = ()
    """Blobs that other engines have seen there, by digest; the first 500."""


def repositories(
    store: SQLMetadataStore,
    *,
    registry: str | None = None,
    part: str = "",
    largest_first: bool = False,
    after: str = "",
    size: int = PAGE,
) -> Repositories:
    """Return repositories, each with its layers counted: those that follow a name, or those with most layers.

    Of a registry, or with a text in their names, which reads names until a page is full. With `largest_first` there is
    no next page, and an index is read once: 0.6 s at a million layers.
    """
    conditions = ["source_repository > :after"]
    if registry is not None:
        conditions.append("source_repository >= :low AND source_repository < :high")
    if part:
        conditions.append("instr(source_repository, :part) > 0")
    order = "ORDER BY layers DESC, source_repository" if largest_first else ""
    query = f"SELECT source_repository, layers FROM repositories WHERE {' AND '.join(conditions)} {order} LIMIT :size"
    values = {"after": after, "size": size + 1, "low": f"{registry}/", "high": f"{registry}0", "part": part}
    rows = store._run(query, values)
    found = tuple(ListedRepository(*row) for row in rows[:size])
    more = len(rows) > size and not largest_first
    return Repositories(found, found[-1].source_repository if more else None)


_HELD = f"""
    SELECT v.diff_id, v.digest, v.hmac, CAST(m.modified_at_ns AS BIGINT) AS modified_at_ns
    FROM v2_metadata v LEFT JOIN metadata m ON m.namespace = '{V2_METADATA}'
      AND m.key = CAST(replace(v.diff_id, ':', '/') AS TEXT)
    WHERE v.source_repository = :name
"""


_LOCATED = """
    SELECT l.digest, b.diff_id, l.seen_at_ns FROM locations l JOIN blobs b ON b.digest = l.digest
    WHERE l.source_repository = :name ORDER BY l.digest LIMIT :most
"""


def repository(
    store: SQLMetadataStore,
    name: str,
    *,
    part: str = "",
    oldest_first: bool = False,
    after: Key | None = None,
    size: int | None = PAGE,
) -> Repository | None:
    """Return a repository and a page of its layers, or `None` if nothing is available from it.

    The layers are all, or those of whose DiffID or digest a text is part. Without a `size` there is one page, by
    DiffID.
    """
    if not name or not is_utf8(name):
        return None
    values: dict[str, object] = {"name": name, "size": ALL if size is None else size + 1, "part": part}
    with store.transaction(deferred=True):
        [(associations, layers)] = store._run(
            "SELECT count(*), count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = :name",
            {"name": name},
        )
        located = tuple(Located(*row) for row in store._run(_LOCATED, {"name": name, "most": MOST_BLOBS}))
        if not (associations or located):
            return None
        is_by_time = size is not None and associations <= ORDERED_BY_TIME
        direction, behind = ("", ">") if oldest_first or not is_by_time else ("DESC", "<")
        place, at = ("m.modified_at_ns, v.diff_id", ":time, :diff_id") if is_by_time else ("v.diff_id", ":diff_id")
        containing = "(instr(v.diff_id, :part) > 0 OR instr(v.digest, :part) > 0)"
        query = f"{_HELD} AND {containing}" if part else _HELD
        if after is not None:
            values |= {"time": after[0], "diff_id": after[1]}
            query += f" AND ({place}) {behind} ({at})"
        # All entries of one layer are on one page, as the key of a page is a layer's.
        order = ", ".join(f"{column} {direction}" for column in place.split(", "))
        rows = store._run(f"{query} ORDER BY {order}, v.position DESC LIMIT :size", values)
    held = [Held(*row) for row in rows]
    following = None
    if size is not None and len(held) > size:
        cut = held[size].diff_id
        held = [one for one in held[:size] if one.diff_id != cut] or held[:size]
        following = (held[-1].modified_at_ns or 0, held[-1].diff_id)
    named: Literal["newest", "oldest", "diff_id"] = (
        "diff_id" if not is_by_time else "oldest" if oldest_first else "newest"
    )
    return Repository(name, layers, associations, named, tuple(held), following, located)


@dataclass(frozen=True, slots=True)
class Match:
    """Something that was found.

    Attributes:
        kind: what it is.
        name: the DiffID, digest, V1 ID or repository.
        diff_id: the layer that it is, or that its list is of; `None` for a repository, and for a digest that maps to
            none and is in no list.
    """

    kind: Kind
    name: str
    diff_id: str | None = None


def search(store: SQLMetadataStore, term: str) -> tuple[Match, ...]:
    """Return what is called or begins with a text: layers, digests, V1 images; then repositories that contain it.

    A full digest finds only itself. Hex digits may leave out `sha256:`. A repository is found by any part of its name,
    a tag is ignored. Of each kind the first 50 are found.
    """
    if not term or not is_utf8(term) or "\0" in term:
        return ()
    with store.transaction(deferred=True):
        return (*_by_digits(store, term), *(() if is_digest(term) else _repositories(store, term)))


def full_name(store: SQLMetadataStore, digits: str, kind: Kind | None = None) -> str | None:
    """Return the layer, digest or V1 image that digits are, or begin; `None` if there is none.

    Raises:
        InvalidInputError: several begin with them.
    """
    names = sorted({one.name for one in _by_digits(store, digits) if kind in (None, one.kind)})
    if len(names) > 1:
        raise InvalidInputError(f"several begin with {digits!r}: {', '.join(names[:5])}: give more digits")
    return names[0] if names else None


Found = Layer | Blob | V1Image | Repository | ListedRepository


def look_up(store: SQLMetadataStore, term: str) -> list[Found]:
    """Return all about a digest, DiffID, V1 ID, the beginning of one, or repositories by any part of their names.

    One text can be several things, such as a digest that is also a DiffID. An empty list means that nothing was found.
    If several repositories contain the text, the first 50 are returned without their layers.

    Args:
        store: the store that is asked.
        term: a full name, 12 or more hex digits that only one begins with, with or without `sha256:`, or a part of a
            repository's name, with or without a tag.

    Raises:
        InvalidInputError: several begin with these digits, or they are too few.
        StoreError: the store failed.
    """
    instance(store, SQLMetadataStore, "the store")
    instance(term, str, "what is looked up")
    if not term or not is_utf8(term) or "\0" in term:
        return []
    match = _hexadecimal(term.lower())
    too_short = match is not None and len(match[2]) < _LOOKED_UP_FROM
    found: Sequence[Found | None]
    name = None if too_short else full_name(store, term)
    if name is not None:
        found = [layer(store, name, most=None), blob(store, name), v1_image(store, name)]
    else:
        found = _named(store, term)
    if too_short and not found:
        raise InvalidInputError(f"{term!r} is too short to look up: give {_LOOKED_UP_FROM} hex digits or more")
    return [one for one in found if one is not None]


def _named(store: SQLMetadataStore, term: str) -> Sequence[Found | None]:
    """Return the repository of a name, or whose name contains it; of several, each with the number of its layers."""
    names = [one.name for one in _repositories(store, term)]
    if len(names) == 1:
        return [repository(store, names[0], size=None)]
    query = "SELECT count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = :name"
    return [ListedRepository(name, store._run(query, {"name": name})[0][0]) for name in names]


def _by_digits(store: SQLMetadataStore, term: str) -> list[Match]:
    if is_digest(term):
        return [*_layers(store, term, term), *_digests(store, term, term)]
    # In upper case, as some tools print digests, it can be nothing else.
    match = _hexadecimal(term.lower())
    if match is None:
        return []
    algorithm, digits = match.groups()
    found: list[Match] = []
    # "g" comes right behind the hex digits, so that this range is all that begins so, and an index serves it.
    for find in (_layers, _digests):
        for name in _ALGORITHMS if algorithm is None else (algorithm,):
            found += find(store, f"{name}:{digits}", f"{name}:{digits}g")
    if algorithm is None:
        rows = store._run(
            "SELECT v1_id, diff_id FROM v1_ids WHERE v1_id BETWEEN :low AND :high ORDER BY v1_id LIMIT :most",
            {"low": digits, "high": f"{digits}g", "most": MOST},
        )
        found += [Match("v1-image", v1_id, diff_id) for v1_id, diff_id in rows]
    return found


def _layers(store: SQLMetadataStore, low: str, high: str) -> list[Match]:
    values = {"low": low, "high": high, "most": MOST}
    # A layer whose list cannot be read is in no derived row.
    rows = store._run(_LISTS, values)
    for table in ("v2_metadata", "diff_id_by_digest", "v1_ids", "blobs"):
        rows += store._run(
            f"SELECT DISTINCT diff_id FROM {table} WHERE diff_id BETWEEN :low AND :high ORDER BY diff_id LIMIT :most",
            values,
        )
    # In a damaged file it may be anything.
    names = sorted({name for (name,) in rows if isinstance(name, str) and is_digest(name)})
    return [Match("layer", name, name) for name in names[:MOST]]


def _digests(store: SQLMetadataStore, low: str, high: str) -> list[Match]:
    layers: dict[str, str | None] = {}
    # What a digest maps to counts most, then whose list has it.
    for table in ("blobs", "v2_metadata", "diff_id_by_digest"):
        query = f"SELECT digest, diff_id FROM {table} WHERE digest BETWEEN :low AND :high ORDER BY digest LIMIT :most"
        rows = store._run(query, {"low": low, "high": high, "most": MOST})
        layers.update(row for row in rows if isinstance(row[0], str))
    return [Match("digest", name, layers[name]) for name in sorted(layers)[:MOST]]


def _repositories(store: SQLMetadataStore, term: str) -> list[Match]:
    # Behind the last slash, a colon begins a tag; before it, a port.
    without_tag = re.sub(r"(@[^/]*|:[^/:]*)$", "", term) if "/" in term else term
    for name in dict.fromkeys((term, without_tag)):
        for table in ("v2_metadata", "locations"):
            if store._run(f"SELECT 1 FROM {table} WHERE source_repository = :name LIMIT 1", {"name": name}):
                return [Match("repository", name)]
    # A range of an index finds what begins with the text. What contains it is looked for only if there is room left.
    values = {"low": without_tag, "high": f"{without_tag}\U0010ffff"}
    found = store._run(
        f"SELECT * FROM (SELECT source_repository FROM repositories WHERE {_IN_RANGE} LIMIT :most) r"
        f" UNION SELECT * FROM (SELECT DISTINCT source_repository FROM locations WHERE {_IN_RANGE} LIMIT :most) l"
        " ORDER BY 1 LIMIT :most",
        {**values, "most": MOST},
    )
    if len(found) < MOST:
        found += store._run(_CONTAINING, {**values, "most": MOST - len(found)})
    return [Match("repository", name) for (name,) in found]
