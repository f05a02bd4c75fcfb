"""The schema as SQL text: what makes an empty database one of ours. No SQLAlchemy, which takes longer than a lookup.

The tables and indexes are `layerstore.sql.tables` in Core; their text is in `layerstore.sql.sqlite.statements`. A
change of them or of the views needs a migration in `migrations/versions`, and a new `HEAD`. Names are a contract:
people write queries against them.
"""

from __future__ import annotations

from typing import Final

from layerstore.sql.sqlite.statements import INDEXES, TABLES
from layerstore.sql.sqlite.views import VIEWS

APPLICATION_ID: Final = 0x4C61_7972
"""`PRAGMA application_id` of every file of ours: "Layr". Source: sqlite.org/pragma.html#pragma_application_id."""

HEAD: Final = "0003"
"""The revision that this code works with; a test holds it against the script directory."""

PAGE_SIZE: Final = 4096

REBUILT: Final = (
    "v2_metadata_by_digest",
    "v2_metadata_by_source_repository",
    "metadata_by_diff_id",
    "metadata_by_time",
    "blobs_by_diff_id",
    "locations_by_source_repository",
)
"""The indexes that a load into an empty store builds at its end: entries come in the order of their keys, and only to
these in none. The one by digest has the order of the keys; those of V1 IDs hold none as a rule."""

STATISTICS: Final = (
    ("metadata", "metadata", "2000000 1000000 1"),
    ("metadata", "metadata_by_digest", "1000000 1 1 1"),
    ("metadata", "metadata_by_diff_id", "1000000 2 1 1"),
    ("metadata", "metadata_by_registry", "100000 20000 1 1"),
    ("metadata", "metadata_by_v1_id", "100000 1 1 1"),
    ("metadata", "metadata_by_v1_diff_id", "100000 2 1 1"),
    ("metadata", "metadata_by_time", "1000000 1000000 1 1"),
    ("v2_metadata", "v2_metadata", "2000000 2 1"),
    ("v2_metadata", "v2_metadata_by_digest", "2000000 2 2 1"),
    ("v2_metadata", "v2_metadata_by_source_repository", "2000000 50 1 1"),
    ("blobs", "blobs", "1000000 1"),
    ("blobs", "blobs_by_diff_id", "1000000 2 1"),
    ("locations", "locations", "2000000 2 1"),
    ("locations", "locations_by_source_repository", "2000000 50 1"),
)
"""What ANALYZE would find in a large store: without it, SQLite takes a namespace for selective and joins by a scan.

Fixed, so that a query has the same plan at every size. Source: sqlite.org/optoverview.html, "Manual control of query
plans using SQLITE_STAT tables".
"""


def creation() -> list[str]:
    """Return the statements that make an empty database one of ours, but for the rows of statistics and the stamp."""
    made = (*TABLES.values(), *INDEXES.values(), *VIEWS.values())
    return [f"PRAGMA application_id={APPLICATION_ID}", *made, "ANALYZE sqlite_master"]
