"""What is shown to somebody who looks through a store: a page of layers or repositories, one repository, one layer.

Every answer is bounded, goes through an index, and is paged by the key of its last row, so that it costs the same in a
store of a million layers. All about one thing, whatever its size, is `layerstore.sql.reading.lookup`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from layerstore.digest import is_digest
from layerstore.records import DIFF_IDS, V2_METADATA, decode_list, digest_key
from layerstore.sql.sqlite.errors import mapping
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import is_utf8

PAGE: Final = 50
LOOKED_THROUGH: Final = 10_000
"""How many of the newest layers one page of a registry's looks at: some 50 ms. The next page goes on behind them."""
ORDERED_BY_TIME: Final = 2_000
"""Up to so many associations of a repository are put in order of time, each by a lookup of its own; 20 ms."""
MOST: Final = 500
"""How many digests or V1 IDs of one layer are shown; Docker lets a layer have any number."""

Key = tuple[int, str]
"""Where a page ended: a time in nanoseconds, or 0 where the order is by name, and a name."""


@dataclass(frozen=True, slots=True)
class ListedLayer:
    """A layer in a list of many. Without associations, its own list cannot be read or is empty."""

    diff_id: str
    modified_at_ns: int
    associations: int
    repositories: int


@dataclass(frozen=True, slots=True)
class Layers:
    """A page of layers, the newest first; `next` is where the following one begins, `None` behind the last."""

    layers: tuple[ListedLayer, ...]
    next: Key | None


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """A repository in a list of many, and how many layers can be had from it."""

    source_repository: str
    layers: int


@dataclass(frozen=True, slots=True)
class Repositories:
    """A page of repositories by name; `next` is the last one's name, `None` on the last page."""

    repositories: tuple[ListedRepository, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """A layer that can be had from a repository, under one digest. `modified_at_ns` is its list's time."""

    diff_id: str
    digest: str
    hmac: str
    modified_at_ns: int | None


@dataclass(frozen=True, slots=True)
class RepositoryPage:
    """A repository and a page of its layers: the newest first, or by DiffID if there are too many to put in order."""

    source_repository: str
    layers: int
    associations: int
    newest_first: bool
    held: tuple[Held, ...]
    next: Key | None


@dataclass(frozen=True, slots=True)
class Place:
    """An association of a layer, and what its digest maps to, which Docker looks up by the digest.

    Attributes:
        digest: the blob.
        source_repository: from where it can be had, empty if that is not known.
        hmac: what ties it to credentials, empty if nothing does.
        maps_to: the DiffID that the digest maps to, `None` if it maps to none.
        recorded_at_ns: when that mapping was last written, which every `add` of the digest does.
    """

    digest: str
    source_repository: str
    hmac: str
    maps_to: str | None
    recorded_at_ns: int | None


@dataclass(frozen=True, slots=True)
class LayerDigest:
    """A digest that maps to a layer, when that was last written, and in how many entries of the layer's list it is."""

    digest: str
    recorded_at_ns: int
    listed: int


@dataclass(frozen=True, slots=True)
class LayerPage:
    """One layer.

    Attributes:
        diff_id: the layer.
        modified_at_ns: when its list was last written; `None` without one.
        unreadable: why its list cannot be read; `None` if it can, or if there is none.
        places: its associations, the newest first.
        digests: what maps to it, the last written first; the first 500.
        v1_ids: registry and V1 ID of images that are it; the first 500.
    """

    diff_id: str
    modified_at_ns: int | None
    unreadable: str | None
    places: tuple[Place, ...]
    digests: tuple[LayerDigest, ...]
    v1_ids: tuple[tuple[str, str], ...]


_LISTS = f"FROM metadata WHERE namespace = '{V2_METADATA}'"
_DIFF_ID = "CAST(replace(l.key, '/', ':') AS TEXT)"
_BEHIND = "AND (modified_at_ns, key) < (:time, :key)"
_NEWEST = "ORDER BY modified_at_ns DESC, key DESC"
_COUNTED = f"""
    SELECT {_DIFF_ID}, l.modified_at_ns,
      (SELECT count(*) FROM v2_metadata WHERE diff_id = {_DIFF_ID}),
      (SELECT count(DISTINCT source_repository) FROM v2_metadata
        WHERE diff_id = {_DIFF_ID} AND source_repository <> '')
"""
# '0' is the character after '/'.
_OF_REGISTRY = f"""
    WHERE EXISTS (SELECT 1 FROM v2_metadata WHERE diff_id = {_DIFF_ID}
      AND source_repository >= :registry || '/' AND source_repository < :registry || '0')
"""


def newest_layers(
    store: SQLMetadataStore, *, registry: str | None = None, after: Key | None = None, size: int = PAGE
) -> Layers:
    """Return the layers whose lists were written last, all of them or those that can be had from a registry.

    For a registry it looks through 10,000 layers at most, so that a page may have fewer than `size`, or none, and
    still a next one.

    Raises:
        StoreError: the store failed.
    """
    looked_through = size + 1 if registry is None else LOOKED_THROUGH
    values: dict[str, object] = {"most": looked_through, "size": size + 1, "registry": registry}
    behind = ""
    if after is not None:
        behind = _BEHIND
        values |= {"time": after[0], "key": digest_key(after[1])}
    inner = f"SELECT key, modified_at_ns {_LISTS} {behind} {_NEWEST}"
    chosen = "" if registry is None else _OF_REGISTRY
    with mapping(store.path), store.engine.connect() as connection:
        rows = connection.execute(
            text(f"{_COUNTED} FROM ({inner} LIMIT :most) l {chosen} LIMIT :size"),
            values,
        ).all()
        last = None
        if registry is not None and len(rows) <= size:
            last = connection.execute(text(f"{inner} LIMIT 1 OFFSET :most"), {**values, "most": LOOKED_THROUGH - 1})
        found = tuple(ListedLayer(*row) for row in rows if is_digest(row[0]))
        if len(rows) > size:
            return Layers(found[:size], (rows[size - 1][1], rows[size - 1][0]))
        end = None if last is None else last.one_or_none()
        return Layers(found, None if end is None else (end.modified_at_ns, end.key.replace("/", ":", 1)))


def repositories(
    store: SQLMetadataStore, *, registry: str | None = None, after: str = "", size: int = PAGE
) -> Repositories:
    """Return the repositories that follow a name, all of them or those of a registry, each with its layers counted.

    Raises:
        StoreError: the store failed.
    """
    within = "" if registry is None else " AND source_repository >= :low AND source_repository < :high"
    query = text(
        f"SELECT source_repository, layers FROM repositories WHERE source_repository > :after{within} LIMIT :size"
    )
    values = {"after": after, "size": size + 1, "low": f"{registry}/", "high": f"{registry}0"}
    if registry is None:
        del values["low"], values["high"]
    with mapping(store.path), store.engine.connect() as connection:
        rows = connection.execute(query, values).all()
    found = tuple(ListedRepository(*row) for row in rows[:size])
    return Repositories(found, found[-1].source_repository if len(rows) > size else None)


_HELD = f"""
    SELECT v.diff_id, v.digest, v.hmac, m.modified_at_ns
    FROM v2_metadata v LEFT JOIN metadata m ON m.namespace = '{V2_METADATA}'
      AND m.key = CAST(replace(v.diff_id, ':', '/') AS TEXT)
    WHERE v.source_repository = :name
"""


def repository(
    store: SQLMetadataStore, name: str, *, after: Key | None = None, size: int = PAGE
) -> RepositoryPage | None:
    """Return a repository and a page of its layers, or `None` if nothing can be had from it.

    Raises:
        StoreError: the store failed.
    """
    if not name or not is_utf8(name):
        return None
    with mapping(store.path), store.engine.connect() as connection:
        associations, layers = connection.execute(
            text("SELECT count(*), count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = :name"),
            {"name": name},
        ).one()
        if not associations:
            return None
        newest_first = associations <= ORDERED_BY_TIME
        values: dict[str, object] = {"name": name, "size": size + 1}
        order = "m.modified_at_ns DESC, v.diff_id DESC" if newest_first else "v.diff_id"
        behind = ""
        if after is not None:
            values |= {"time": after[0], "diff_id": after[1]}
            behind = (
                "AND (m.modified_at_ns, v.diff_id) < (:time, :diff_id)" if newest_first else "AND v.diff_id > :diff_id"
            )
        # All entries of one layer are on one page, as the key of a page is a layer's.
        rows = connection.execute(text(f"{_HELD} {behind} ORDER BY {order}, v.position DESC LIMIT :size"), values).all()
    held = [Held(*row) for row in rows]
    following = None
    if len(held) > size:
        cut = held[size].diff_id
        held = [one for one in held[:size] if one.diff_id != cut] or held[:size]
        following = (held[-1].modified_at_ns or 0, held[-1].diff_id)
    return RepositoryPage(name, layers, associations, newest_first, tuple(held), following)


_PLACES = f"""
    SELECT v.digest, v.source_repository, v.hmac,
      (SELECT diff_id FROM diff_id_by_digest WHERE digest = v.digest),
      (SELECT modified_at_ns FROM metadata WHERE namespace = '{DIFF_IDS}'
        AND key = CAST(replace(v.digest, ':', '/') AS TEXT))
    FROM v2_metadata v WHERE v.diff_id = :diff_id ORDER BY v.position DESC
"""
_DIGESTS = f"""
    SELECT d.digest, m.modified_at_ns,
      (SELECT count(*) FROM v2_metadata v WHERE v.digest = d.digest AND v.diff_id = d.diff_id)
    FROM diff_id_by_digest d JOIN metadata m ON m.namespace = '{DIFF_IDS}'
      AND m.key = CAST(replace(d.digest, ':', '/') AS TEXT)
    WHERE d.diff_id = :diff_id ORDER BY m.modified_at_ns DESC, d.digest LIMIT :most
"""
_V1_IDS = "SELECT registry, v1_id FROM v1_ids WHERE diff_id = :diff_id ORDER BY registry, v1_id LIMIT :most"


def layer(store: SQLMetadataStore, diff_id: str) -> LayerPage | None:
    """Return what a page about one layer shows, or `None` if nothing is known of it.

    Raises:
        StoreError: the store failed.
    """
    if not is_digest(diff_id):
        return None
    with mapping(store.path), store.engine.connect() as connection:
        values = {"diff_id": diff_id, "most": MOST}
        found = LayerPage(
            diff_id,
            *_list_of(connection, diff_id),
            tuple(Place(*row) for row in connection.execute(text(_PLACES), {"diff_id": diff_id})),
            tuple(LayerDigest(*row) for row in connection.execute(text(_DIGESTS), values)),
            tuple((row.registry, row.v1_id) for row in connection.execute(text(_V1_IDS), values)),
        )
    known = found.modified_at_ns is not None or found.digests or found.v1_ids
    return found if known else None


def _list_of(connection: Connection, diff_id: str) -> tuple[int | None, str | None]:
    """Return when a layer's list was written, and why it cannot be read if it cannot."""
    row = connection.execute(
        text(f"SELECT modified_at_ns, CAST(value AS BLOB) AS value {_LISTS} AND key = :key"),
        {"key": digest_key(diff_id)},
    ).one_or_none()
    if row is None:
        return None, None
    try:
        decode_list(row.value)
    except ValueError as error:
        return row.modified_at_ns, str(error)
    return row.modified_at_ns, None
