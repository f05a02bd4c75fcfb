"""A store in numbers: how much it holds, what it takes on disk beside Docker's directory, its registries, its times.

What must read whole indexes: a second for a small part of a million layers, some seconds for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain
from typing import Final

from layerstore.arguments import instance
from layerstore.sql.sqlite.backend import SQLite
from layerstore.sql.store import SQLMetadataStore

LARGEST: Final = 10
"""How many of the largest repositories are named, of all and of each registry."""
INODE_BYTES: Final = 256
"""What an inode takes on ext4. Source: mke2fs.conf(5), inode_size."""
_BLOCK: Final = 4096
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

# Each reads its index once, from end to end; a file's value takes whole blocks.
_COUNTS: Final = {
    "layers": "SELECT count(*) FROM (SELECT DISTINCT diff_id FROM v2_metadata) d",
    "associations": "SELECT count(*) FROM v2_metadata",
    "digests": "SELECT count(*) FROM metadata WHERE namespace = 'diffid-by-digest'",
    "v1_ids": "SELECT count(*) FROM metadata WHERE namespace = 'v1id'",
    "registries": "SELECT count(*) FROM (SELECT registry FROM registries) r",
    "quarantined": "SELECT count(*) FROM quarantine",
    "blobs": "SELECT count(*) FROM blobs",
    "locations": "SELECT count(*) FROM locations",
}
_LISTS = "FROM metadata WHERE namespace = 'v2metadata-by-diffid'"
# What another program wrote as a time need not be a number.
_TIMES: Final = (
    f"SELECT CAST((SELECT min(modified_at_ns) {_LISTS}) AS BIGINT),"
    f" CAST((SELECT max(modified_at_ns) {_LISTS}) AS BIGINT)"
)
# The index has the rows of a repository together, so that its layers are counted as they come. In a damaged file a
# name may be NULL, or a number.
_REPOSITORIES: Final = (
    "SELECT CAST(coalesce(source_repository, '') AS TEXT), count(DISTINCT diff_id) FROM v2_metadata"
    " WHERE source_repository > '' GROUP BY source_repository"
)
# '0' is the character after '/'.
_LAYERS: Final = """
    SELECT count(DISTINCT diff_id) FROM v2_metadata
    WHERE source_repository >= :registry || '/' AND source_repository < :registry || '0'
"""
_V1_IDS: Final = "SELECT registry, v1_ids FROM registries WHERE v1_ids > 0"

_Repositories = dict[str, list[tuple[str, int]]]
"""The repositories by registry, each with its layers; without one, before the first `/`, it is of the registry ''."""


@dataclass(frozen=True, slots=True)
class DirectorySize:
    """What Docker's directory with the same entries takes on disk: its files and directories."""

    files: int
    directories: int
    block_bytes: int
    inode_bytes: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.block_bytes + self.inode_bytes


@dataclass(frozen=True, slots=True)
class Stats:
    """A store in numbers.

    `layers` are those with a list that can be read; `oldest_ns` and `newest_ns` are the times of lists, `None` without
    one. `blobs` are those that other engines know, with their `locations`. `largest` has up to ten repositories with
    their layers, the largest first. The sizes are 0 in memory.
    """

    path: str | None
    layers: int
    associations: int
    digests: int
    v1_ids: int
    repositories: int
    registries: int
    quarantined: int
    blobs: int
    locations: int
    oldest_ns: int | None
    newest_ns: int | None
    file_bytes: int
    wal_bytes: int
    directory: DirectorySize
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry.

    Attributes:
        registry: its host.
        repositories: how many are known of it.
        layers: number of layers available from it.
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


def stats(store: SQLMetadataStore) -> Stats:
    """Count what a store holds, in one snapshot. It reads the indexes once: a second or two for a million layers.

    The directory is computed, not written: each value in whole blocks of 4 KiB, each file and directory with an inode
    of 256 bytes, and a directory's own blocks by the length of its names, as ext4 has them.

    Raises:
        StoreError: the store failed or was closed.
    """
    instance(store, SQLMetadataStore, "the store")
    with store.transaction(deferred=True):
        return _stats(store, _repositories(store))


def overview(store: SQLMetadataStore) -> Overview:
    """Count what a store holds, also by registry and by time, in one snapshot."""
    with store.transaction(deferred=True):
        repositories = _repositories(store)
        counted = _stats(store, repositories)
        return Overview(counted, _registries(store, repositories), _timeline(store, counted))


def version(store: SQLMetadataStore) -> int:
    """Return a number that is another one when somebody has written since this thread asked last.

    Source: sqlite.org/pragma.html#pragma_data_version.
    """
    backend = store._backend
    assert isinstance(backend, SQLite), "the page shows a file"
    return backend.data_version()


def _repositories(store: SQLMetadataStore) -> _Repositories:
    found: _Repositories = {}
    for name, layers in store._stream(_REPOSITORIES):
        found.setdefault(name.partition("/")[0] if "/" in name else "", []).append((name, layers))
    return found


def _largest(repositories: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple(nsmallest(LARGEST, repositories, key=lambda each: (-each[1], each[0])))


def _stats(store: SQLMetadataStore, repositories: _Repositories) -> Stats:
    [(oldest_ns, newest_ns)] = store._run(_TIMES)
    file_bytes, wal_bytes = store._backend.size()
    return Stats(
        path=store.path,
        repositories=sum(map(len, repositories.values())),
        oldest_ns=oldest_ns,
        newest_ns=newest_ns,
        file_bytes=file_bytes,
        wal_bytes=wal_bytes,
        directory=_directory(store),
        largest=_largest(chain.from_iterable(repositories.values())),
        **{name: int(store._run(query)[0][0]) for name, query in _COUNTS.items()},
    )


def _registries(store: SQLMetadataStore, repositories: _Repositories) -> tuple[Registry, ...]:
    v1_ids = {registry: int(count) for registry, count in store._run(_V1_IDS)}
    found = []
    for name in {*repositories, *v1_ids} - {""}:
        its = repositories.get(name, [])
        [(layers,)] = store._run(_LAYERS, {"registry": name})
        found.append(Registry(name, len(its), layers, v1_ids.get(name, 0), _largest(its)))
    return tuple(sorted(found, key=lambda one: (-one.layers, one.registry)))


def _timeline(store: SQLMetadataStore, counted: Stats) -> Timeline | None:
    oldest, newest = counted.oldest_ns, counted.newest_ns
    if oldest is None or newest is None:
        return None
    width = next((one for one in WIDTHS if newest // one - oldest // one < BINS), (newest - oldest) // BINS + 1)
    first = oldest // width
    # Times before 1970 are rounded down, as Python does and databases do not.
    earlier = "CASE WHEN modified_at_ns % :width < 0 THEN 1 ELSE 0 END"
    counts = [0] * (newest // width - first + 1)
    rows = store._run(
        f"SELECT bin, count(*) FROM (SELECT modified_at_ns / :width - {earlier} AS bin {_LISTS}) b"
        " WHERE bin BETWEEN :first AND :last GROUP BY bin",
        {"width": width, "first": first, "last": first + len(counts) - 1},
    )
    for number, count in rows:
        counts[number - first] = count
    return Timeline(first * width, width, tuple(counts))


# Of all files: how many, their blocks, and their entries in directories: 8 bytes and the name, in fours. Source: the
# kernel's documentation of ext4, "Directory Entries".
_FILES: Final = f"""
    SELECT count(*), coalesce(sum((length(CAST(value AS BLOB)) + {_BLOCK - 1}) / {_BLOCK}), 0),
      coalesce(sum((8 + length(key) - instr(key, '/') + 3) / 4 * 4), 0)
    FROM metadata
"""
# A key without its last segment. The long way round, which costs ten times as much, only for keys of three and more.
_FOLDERS: Final = """
    SELECT DISTINCT coalesce(namespace || '/' || CASE WHEN instr(substr(key, instr(key, '/') + 1), '/') = 0
      THEN substr(key, 1, instr(key, '/')) ELSE rtrim(key, replace(key, '/', '')) END, '')
    FROM metadata
"""


def _directory(store: SQLMetadataStore) -> DirectorySize:
    [(files, blocks, name_bytes)] = store._run(_FILES)
    directories = {""}
    for (folder,) in store._stream(_FOLDERS):
        parts = folder.rstrip("/").split("/")
        directories.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    all_blocks = int(blocks) + len(directories) + int(name_bytes) // _BLOCK
    return DirectorySize(files, len(directories), all_blocks * _BLOCK, (files + len(directories)) * INODE_BYTES)
