"""Everything that a store knows about one thing: a layer, a blob, a V1 image, a repository.

Reads only the tables and views that are open to everybody, each through an index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import Connection, text

from layerstore.digest import is_digest
from layerstore.errors import InvalidInputError
from layerstore.sql.sqlite.errors import mapping
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import is_utf8

_MIN_PREFIX = 12
_prefix = re.compile(rf"(?:(sha256|sha384|sha512):)?([0-9a-f]{{{_MIN_PREFIX},}})").fullmatch
_ALGORITHMS = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class Association:
    """A row of a layer's list."""

    diff_id: str
    digest: str
    source_repository: str
    hmac: str


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its list, the newest first, and every digest and V1 ID that is known to be it.

    `modified_at_ns` is when the list was last written; `None` without a list.
    """

    diff_id: str
    modified_at_ns: int | None
    associations: tuple[Association, ...]
    digests: tuple[str, ...]
    v1_ids: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob: the layer that its digest maps to, and every list that holds it."""

    digest: str
    diff_id: str | None
    associations: tuple[Association, ...]


@dataclass(frozen=True, slots=True)
class V1Image:
    """A V1 image ID: the layer that it is at each registry."""

    v1_id: str
    layers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository: what can be had from it."""

    source_repository: str
    associations: tuple[Association, ...]


Found = Layer | Blob | V1Image | Repository


def look_up(store: SQLMetadataStore, term: str) -> list[Found]:
    """Return what is known about a digest, DiffID, V1 ID, the beginning of one, or a repository's name.

    One text can be several things, such as a digest that is also a DiffID; nothing found is an empty list.

    Args:
        store: the store that is asked.
        term: a whole name, or 12 or more hex digits that only one begins with, with or without `sha256:`.

    Raises:
        InvalidInputError: several begin with these digits, or they are too few.
        StoreError: the store failed.
    """
    if not term or not is_utf8(term):
        return []
    with mapping(store.path), store.engine.connect() as connection:
        for name in _complete(connection, term):
            found: list[Found | None] = [_layer(connection, name), _blob(connection, name), _v1_image(connection, name)]
            return [one for one in found if one is not None]
        repository = _repository(connection, term)
        return [] if repository is None else [repository]


def _complete(connection: Connection, term: str) -> list[str]:
    """Return the whole digest, DiffID or V1 ID that a term is or begins, if there is one."""
    match = _prefix(term)
    if match is None:
        if re.fullmatch(r"(?:sha(?:256|384|512):)?[0-9a-f]+", term) and not _repository(connection, term):
            raise InvalidInputError(f"{term!r} is too short to look up: give {_MIN_PREFIX} hex digits or more")
        return [term] if is_digest(term) else []
    algorithm, hexadecimal = match.groups()
    found: set[str] = set()
    for name in _ALGORITHMS if algorithm is None else (algorithm,):
        found |= _beginning_with(connection, f"{name}:{hexadecimal}", ("diff_id", "digest"))
    if algorithm is None:
        found |= _beginning_with(connection, hexadecimal, ("v1_id",))
    if len(found) > 1:
        raise InvalidInputError(f"several begin with {term!r}: {', '.join(sorted(found)[:5])}: give more digits")
    return list(found)


_COLUMNS = {
    "diff_id": ("v2_metadata", "diff_id_by_digest", "v1_ids"),
    "digest": ("v2_metadata", "diff_id_by_digest"),
    "v1_id": ("v1_ids",),
}


def _beginning_with(connection: Connection, beginning: str, columns: tuple[str, ...]) -> set[str]:
    # "g" comes right behind the hex digits, so that this range is all that begins so, and an index serves it.
    bounds = {"low": beginning, "high": beginning + "g"}
    found: set[str] = set()
    for column in columns:
        for table in _COLUMNS[column]:
            query = text(f"SELECT DISTINCT {column} FROM {table} WHERE {column} >= :low AND {column} < :high LIMIT 6")
            found.update(connection.execute(query, bounds).scalars())
    return found


def _associations(connection: Connection, column: str, value: str) -> tuple[Association, ...]:
    query = text(
        "SELECT diff_id, digest, source_repository, hmac FROM v2_metadata"
        f" WHERE {column} = :value ORDER BY diff_id, position DESC"
    )
    return tuple(Association(*row) for row in connection.execute(query, {"value": value}))


def _layer(connection: Connection, diff_id: str) -> Layer | None:
    associations = _associations(connection, "diff_id", diff_id)
    modified_at_ns = connection.execute(
        text(
            "SELECT CAST(modified_at_ns AS INTEGER) FROM metadata"
            " WHERE namespace = 'v2metadata-by-diffid' AND key = :key"
        ),
        {"key": diff_id.replace(":", "/", 1)},
    ).scalar()
    digests = connection.execute(
        text("SELECT digest FROM diff_id_by_digest WHERE diff_id = :diff_id ORDER BY digest"), {"diff_id": diff_id}
    )
    v1_ids = connection.execute(
        text("SELECT registry, v1_id FROM v1_ids WHERE diff_id = :diff_id ORDER BY registry, v1_id"),
        {"diff_id": diff_id},
    )
    layer = Layer(
        diff_id,
        modified_at_ns,
        associations,
        tuple(digests.scalars()),
        tuple((row.registry, row.v1_id) for row in v1_ids),
    )
    known = layer.modified_at_ns is not None or layer.digests or layer.v1_ids
    return layer if known else None


def _blob(connection: Connection, digest: str) -> Blob | None:
    query = text("SELECT diff_id FROM diff_id_by_digest WHERE digest = :digest")
    diff_id = connection.execute(query, {"digest": digest}).scalar()
    associations = _associations(connection, "digest", digest)
    return Blob(digest, diff_id, associations) if diff_id is not None or associations else None


def _v1_image(connection: Connection, v1_id: str) -> V1Image | None:
    query = text("SELECT registry, diff_id FROM v1_ids WHERE v1_id = :v1_id ORDER BY registry")
    layers = tuple((row.registry, row.diff_id) for row in connection.execute(query, {"v1_id": v1_id}))
    return V1Image(v1_id, layers) if layers else None


def _repository(connection: Connection, name: str) -> Repository | None:
    associations = _associations(connection, "source_repository", name)
    return Repository(name, associations) if associations else None
