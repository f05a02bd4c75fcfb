"""A store at a glance: its numbers, its registries with their largest repositories, and its layers over time.

What must read whole indexes: a second for a small part of a million layers, some seconds for all. For a page that
somebody waits for, see `layerstore.sql.reading.browsing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from layerstore.sql.reading.stats import Stats, stats
from layerstore.sql.sqlite.errors import mapping
from layerstore.sql.store import SQLMetadataStore

LARGEST: Final = 10
BINS: Final = 48
_SECOND: Final = 1_000_000_000
_HOUR: Final = 3600 * _SECOND
_DAY: Final = 24 * _HOUR
WIDTHS: Final = (
    *(_SECOND * seconds for seconds in (1, 5, 15, 60, 300, 900)),
    *(_HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR),
    *(_DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 91 * _DAY, 364 * _DAY, 3640 * _DAY),
)
"""How long a bin can be; the first of them that makes 48 bins at most is taken."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry.

    Attributes:
        registry: its host.
        repositories: how many are known of it.
        layers: how many can be had from it.
        v1_ids: how many V1 images.
        largest: up to ten of its repositories with their layers, the largest first.
    """

    registry: str
    repositories: int
    layers: int
    v1_ids: int
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """How many lists were last written in each span of time: `counts[n]` in that from `start + n * width` on.

    All in nanoseconds.
    """

    start_ns: int
    width_ns: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """A store at a glance; `timeline` is `None` without a layer."""

    stats: Stats
    registries: tuple[Registry, ...]
    timeline: Timeline | None


def overview(store: SQLMetadataStore) -> Overview:
    """Count what a store holds.

    Raises:
        StoreError: the store failed or was closed.
    """
    counted = stats(store)
    with mapping(store.path), store.engine.connect() as connection:
        return Overview(counted, _registries(connection), _timeline(connection))


def version(store: SQLMetadataStore) -> int:
    """Return a number that is another one when somebody has written since this thread asked last.

    Source: sqlite.org/pragma.html#pragma_data_version.

    Raises:
        StoreError: the store failed or was closed.
    """
    return store._backend.data_version()


# Without a registry, before the first `/`, a repository is none of this table's; `stats` counts it.
_LARGEST = """
    WITH sizes(registry, repository, layers) AS (
      SELECT CAST(substr(source_repository, 1, instr(source_repository, '/') - 1) AS TEXT), source_repository,
        count(DISTINCT diff_id)
      FROM v2_metadata WHERE source_repository > '' GROUP BY source_repository
    ), ranked AS (
      SELECT registry, repository, layers, count(*) OVER (PARTITION BY registry) AS repositories,
        row_number() OVER (PARTITION BY registry ORDER BY layers DESC, repository) AS place
      FROM sizes WHERE registry <> ''
    )
    SELECT registry, repository, layers, repositories FROM ranked WHERE place <= :most ORDER BY registry, place
"""
# '0' is the character after '/'.
_LAYERS = """
    SELECT count(DISTINCT diff_id) FROM v2_metadata
    WHERE source_repository >= :registry || '/' AND source_repository < :registry || '0'
"""
_V1_IDS = "SELECT registry, v1_ids FROM registries WHERE v1_ids > 0"


def _registries(connection: Connection) -> tuple[Registry, ...]:
    v1_ids = {row.registry: int(row.v1_ids) for row in connection.execute(text(_V1_IDS))}
    largest: dict[str, list[tuple[str, int]]] = {name: [] for name in v1_ids}
    repositories: dict[str, int] = {}
    for row in connection.execute(text(_LARGEST), {"most": LARGEST}):
        largest.setdefault(row.registry, []).append((row.repository, row.layers))
        repositories[row.registry] = row.repositories
    found = [
        Registry(
            name,
            repositories.get(name, 0),
            connection.execute(text(_LAYERS), {"registry": name}).scalar_one(),
            v1_ids.get(name, 0),
            tuple(names),
        )
        for name, names in largest.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.layers, one.registry)))


_LISTS = "FROM metadata WHERE namespace = 'v2metadata-by-diffid'"


def _timeline(connection: Connection) -> Timeline | None:
    oldest, newest = connection.execute(
        text(f"SELECT (SELECT min(modified_at_ns) {_LISTS}), (SELECT max(modified_at_ns) {_LISTS})")
    ).one()
    if oldest is None:
        return None
    width = next((one for one in WIDTHS if newest // one - oldest // one < BINS), (newest - oldest) // BINS + 1)
    first = oldest // width
    # Times before 1970 are rounded down, as Python does and SQLite does not.
    rows = connection.execute(
        text(f"SELECT modified_at_ns / :width - (modified_at_ns % :width < 0), count(*) {_LISTS} GROUP BY 1"),
        {"width": width},
    )
    counts = [0] * (newest // width - first + 1)
    for number, count in rows:
        counts[number - first] = count
    return Timeline(first * width, width, tuple(counts))
