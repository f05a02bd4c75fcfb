"""Repositories: a page of them by name, and all about one.

Each goes through an index, and a page is bounded, so that it costs the same in a store of a million layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from layerstore.keys import V2_METADATA
from layerstore.sql.reading.layers import MOST, PAGE, Key
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import is_utf8

ORDERED_BY_TIME: Final = 2_000
"""Up to so many associations of a repository are put in order of time, each by a lookup of its own; 20 ms."""


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

    Args:
        store: the store that is asked.
        registry: only those of this registry.
        part: only those whose names contain this text. Reads the names until a page is full.
        largest_first: those with most layers, without a next page. Reads an index once: 0.6 s at a million layers.
        after: the name that the page follows.
        size: how many there are on a page.

    Raises:
        StoreError: the store failed.
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
    SELECT v.diff_id, v.digest, v.hmac, CAST(m.modified_at_ns AS INTEGER) AS modified_at_ns
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

    Args:
        store: the store that is asked.
        name: the repository.
        part: only its layers whose DiffID or digest contains this text.
        oldest_first: begin with the list that was not written for the longest time.
        after: where the page begins.
        size: how many associations a page has; `None` for all, by DiffID.

    Raises:
        StoreError: the store failed.
    """
    if not name or not is_utf8(name):
        return None
    values: dict[str, object] = {"name": name, "size": -1 if size is None else size + 1, "part": part}
    with store.transaction(deferred=True):
        [(associations, layers)] = store._run(
            "SELECT count(*), count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = :name",
            {"name": name},
        )
        located = tuple(Located(*row) for row in store._run(_LOCATED, {"name": name, "most": MOST}))
        if not (associations or located):
            return None
        is_by_time = size is not None and associations <= ORDERED_BY_TIME
        direction, behind = ("", ">") if oldest_first or not is_by_time else ("DESC", "<")
        place, at = ("m.modified_at_ns, v.diff_id", ":time, :diff_id") if is_by_time else ("v.diff_id", ":diff_id")
        query = f"{_HELD} AND (instr(v.diff_id, :part) OR instr(v.digest, :part))" if part else _HELD
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
