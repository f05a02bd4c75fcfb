"""The table: who is in it, what is measured, what that is compared with, and what it may cost at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OURS = "layerstore"
FILES = "file store"
NAIVE = "naive SQLAlchemy"
DISKCACHE = "diskcache"
PEERS = (FILES, NAIVE, DISKCACHE)
GO = "Docker's Go"

STATEMENT = "the bare statement"
UPSERT = "one durable bare upsert"
FILE_ADD = "the file store's `add`"
STARTED = '`python -c "import sqlite3, click"`'
SMALLEST = "the same in the smallest store"
PREPARED = "the bare prepared statement on the same connection"
SERVER_UPSERT = "one durable bare upsert on the same server"
ON_SQLITE = "the same on SQLite"


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        name: what `--json` calls it.
        what: what is measured.
        base: what it is compared with, the 1 of the ratio; empty for an amount of memory.
        at_most: the ratio, or the MB, that it may reach; `None` for what is measured to be known.
    """

    name: str
    what: str
    base: str
    at_most: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """What a row came to.

    Attributes:
        value: the ratio, or the MB.
        base_s: the seconds of what it is compared with; 0 for an amount of memory.
        peers: the ratios of others that do the same, by their names.
    """

    value: float
    base_s: float = 0
    peers: Mapping[str, float] = field(default_factory=dict)


ROWS = (
    Row("get", "`store.get`", STATEMENT, 1.1),
    Row("get_diff_id", "`get_diff_id`", STATEMENT, 1.3),
    Row("get_metadata", "`get_metadata`, one entry", STATEMENT, 1.4),
    Row("get_diff_ids", "`get_diff_ids` of 100", "100 bare statements", 0.7),
    Row("add_1", "`add`, durable, new layer, in a log of full length", UPSERT, 2.3),
    Row("add_3", "the same, list of 3", UPSERT, 2.3),
    Row("add_50", "the same, list of 50", UPSERT, 3.2),
    Row("add_new_log", "`add`, durable, new layer, in a new log", UPSERT, None),
    Row("add_many", "`add_many` of 20 layers, durable", "20 `add`s", 0.35),
    Row("add_full", "`add`, durable", FILE_ADD, 0.45),
    Row("add_normal", '`add`, `durability="normal"`', FILE_ADD, 0.2),
    Row("get_largest", "`get` in the largest store", SMALLEST, 1.8),
    Row("bare_largest", "the bare statement in the largest store", SMALLEST, None),
    Row("load", "`set_many`, per layer, in the largest store", SMALLEST, 1.5),
    Row("load_tar", "import of a tar, per layer, in the largest store", SMALLEST, 1.5),
    Row("import", "import of a directory, warm", "`tar -cf - DIR \\| cat >/dev/null`", 3.0),
    Row("export", "export of the same", "`tar -xf`", 1.1),
    Row("export_synced", "export of the same", "`tar -xf`, then `sync -f`", None),
    Row("import_mb", "import of the largest tar, peak memory", "", 300),
    Row("export_mb", "export of the largest store, peak memory", "", 300),
    Row("help", "`layerstore --help`, processor time", "a bare click program", 1.3),
    Row("start_get", "`layerstore get`, processor time", STARTED, 2.3),
    Row("start_set", "`layerstore set`, processor time", STARTED, 2.3),
    Row("start_list", "`layerstore list`, processor time", STARTED, 2.3),
    Row("start_query", "`layerstore query`, processor time", STARTED, 2.3),
    Row("start_show", "`layerstore show`, processor time", STARTED, 2.5),
    Row("start_library", "the library's import and first `get`, processor time", STARTED, 1.8),
    Row("pg_get", "PostgreSQL: `store.get`", PREPARED, 1.0),
    Row("pg_get_diff_id", "PostgreSQL: `get_diff_id`", PREPARED, 1.0),
    Row("pg_get_metadata", "PostgreSQL: `get_metadata`, one entry", PREPARED, 1.0),
    Row("pg_get_diff_ids", "PostgreSQL: `get_diff_ids` of 100", "100 of these statements", 0.3),
    Row("pg_add_1", "PostgreSQL: `add`, durable, new layer", SERVER_UPSERT, 2.0),
    Row("pg_add_3", "PostgreSQL: the same, list of 3", SERVER_UPSERT, 2.0),
    Row("pg_add_50", "PostgreSQL: the same, list of 50", SERVER_UPSERT, 3.0),
    Row("pg_writers_200", "PostgreSQL: an `add` of 8 × 4 writers on 200 layers", ON_SQLITE, None),
    Row("pg_waits_200", "PostgreSQL: the wait that 99 % of these do not exceed", ON_SQLITE, None),
    Row("pg_writers_4", "PostgreSQL: an `add` of 8 × 4 writers on 4 layers", ON_SQLITE, None),
    Row("pg_waits_4", "PostgreSQL: the wait that 99 % of those do not exceed", ON_SQLITE, None),
    Row("pg_load", "PostgreSQL: `set_many`, per layer", ON_SQLITE, 1.0),
)
