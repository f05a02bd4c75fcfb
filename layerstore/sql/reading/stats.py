"""How much a store holds, and what it takes on disk beside Docker's directory with the same content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from layerstore.sql.sqlite.errors import mapping
from layerstore.sql.store import SQLMetadataStore

INODE_BYTES: Final = 256
"""What an inode takes on ext4. Source: mke2fs.conf(5), inode_size."""
_BLOCK: Final = 4096
_TEN: Final = 10

# Each reads its index once, from end to end; a file's value takes whole blocks.
_COUNTS: Final = {
    "layers": "SELECT count(*) FROM (SELECT DISTINCT diff_id FROM v2_metadata)",
    "associations": "SELECT count(*) FROM v2_metadata",
    "digests": "SELECT count(*) FROM metadata WHERE namespace = 'diffid-by-digest'",
    "v1_ids": "SELECT count(*) FROM metadata WHERE namespace = 'v1id'",
    "repositories": "SELECT count(*) FROM (SELECT source_repository FROM repositories)",
    "registries": "SELECT count(*) FROM (SELECT registry FROM registries)",
    "quarantined": "SELECT count(*) FROM quarantine",
}
_TIMES: Final = (
    "SELECT CAST((SELECT min(modified_at_ns) FROM metadata WHERE namespace = 'v2metadata-by-diffid') AS INTEGER),"
    " CAST((SELECT max(modified_at_ns) FROM metadata WHERE namespace = 'v2metadata-by-diffid') AS INTEGER)"
)
# The index has the rows of a repository together, so that its layers are counted as they come.
_REPOSITORIES: Final = (
    "SELECT source_repository, count(DISTINCT diff_id) AS layers FROM v2_metadata WHERE source_repository > ''"
    " GROUP BY source_repository"
)


@dataclass(frozen=True, slots=True)
class Directory:
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
    one. `largest` has up to ten repositories with their layers, the largest first. The sizes are 0 in memory.
    """

    path: str | None
    layers: int
    associations: int
    digests: int
    v1_ids: int
    repositories: int
    registries: int
    quarantined: int
    oldest_ns: int | None
    newest_ns: int | None
    file_bytes: int
    wal_bytes: int
    directory: Directory
    largest: tuple[tuple[str, int], ...]


def stats(store: SQLMetadataStore) -> Stats:
    """Count what a store holds, in one snapshot. It reads the indexes once: a second or two for a million layers.

    The directory is computed, not written: each value in whole blocks of 4 KiB, each file and directory with an inode
    of 256 bytes, and a directory's own blocks by the length of its names, as ext4 has them.

    Raises:
        StoreError: the store failed or was closed.
    """
    with mapping(store.path), store.engine.connect() as connection:
        counts = {name: _number(connection, query) for name, query in _COUNTS.items()}
        oldest_ns, newest_ns = connection.execute(text(_TIMES)).one()
        largest = connection.execute(
            text(f"SELECT * FROM ({_REPOSITORIES}) ORDER BY layers DESC, source_repository LIMIT {_TEN}")
        ).all()
        return Stats(
            path=store.path,
            oldest_ns=oldest_ns,
            newest_ns=newest_ns,
            file_bytes=_size(store.path, ""),
            wal_bytes=_size(store.path, "-wal"),
            directory=_directory(connection),
            largest=tuple((name, layers) for name, layers in largest),
            **counts,
        )


def _number(connection: Connection, query: str) -> int:
    return int(connection.execute(text(query)).scalar_one())


def _size(path: str | None, suffix: str) -> int:
    try:
        return 0 if path is None else os.stat(os.path.realpath(path) + suffix).st_size
    except FileNotFoundError:
        return 0


# Of all files: how many, their blocks, and their entries in directories: 8 bytes and the name, in fours. Source: the
# kernel's documentation of ext4, "Directory Entries".
_FILES: Final = f"""
    SELECT count(*), total((length(CAST(value AS BLOB)) + {_BLOCK - 1}) / {_BLOCK}),
      total((8 + length(key) - instr(key, '/') + 3) / 4 * 4)
    FROM metadata
"""
# A key without its last segment. The long way round, which costs ten times as much, only for keys of three and more.
_FOLDERS: Final = """
    SELECT DISTINCT namespace || '/' || CASE WHEN instr(substr(key, instr(key, '/') + 1), '/') = 0
      THEN substr(key, 1, instr(key, '/')) ELSE rtrim(key, replace(key, '/', '')) END
    FROM metadata
"""


def _directory(connection: Connection) -> Directory:
    files, blocks, name_bytes = connection.execute(text(_FILES)).one()
    directories = {""}
    for folder in connection.execute(text(_FOLDERS)).scalars():
        parts = folder.rstrip("/").split("/")
        directories.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    all_blocks = int(blocks) + len(directories) + int(name_bytes) // _BLOCK
    return Directory(files, len(directories), all_blocks * _BLOCK, (files + len(directories)) * INODE_BYTES)
