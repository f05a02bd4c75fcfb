"""What Datasette is told of a store: what its tables mean, the queries with a name, what may be sorted and how long.

What it says of tables is docs/sql.md's; the queries are `layerstore.sql.query.questions`'.
"""

from __future__ import annotations

import re
from typing import Any, Final

from layerstore.sql.questions import QUESTIONS, Question

DATABASE: Final = "store"
"""The database's name in addresses, whatever its file is called: `/store/layers.json`."""
QUERY: Final = "ask-"
"""Begins the names of queries, as some of them are also tables': `/store/ask-newest`."""

ANSWERED: Final = {"largest": "/#repositories"}
"""Questions that take too long for a page, and where what was counted in the background answers them."""

SETTINGS: Final = {
    "allow_download": False,
    "default_cache_ttl": 0,  # what writers do meanwhile is to be seen at the next load
    "default_page_size": 50,
    "suggest_facets": False,  # each would count a whole table to find out
    "facet_time_limit_ms": 40,
    "sql_time_limit_ms": 2000,  # for SQL of one's own; nothing of ours takes as long
    "num_sql_threads": 4,
    "truncate_cells_html": 0,  # long values are folded by `layerstore.web.cells`
}

_COLUMNS: Final = {
    "namespace": "the directory that the file is in",
    "key": "the rest of its path",
    "value": "its bytes",
    "diff_id": "the layer; NULL if it is not known, or if two engines disagree",
    "digest": "the blob",
    "source_repository": "a repository that has it; empty if that is not known",
    "hmac": "ties the entry to credentials; empty if it was recorded without any",
    "position": "rises from the layer's oldest association to its newest, with gaps",
    "compression": "gzip, zstd, bzip2, xz or uncompressed; NULL if that is not known",
    "toc_digest": "digest of its table of contents; NULL if that is not known",
    "registry": "its host",
    "v1_id": "64 hex digits",
    "layers": "how many layers it has",
    "associations": "in how many entries of lists",
    "repositories": "how many repositories",
    "v1_ids": "how many V1 images",
    "modified_at": "when its list or mapping was last written",
    "modified_at_ns": "when it was last written, in nanoseconds since 1970",
    "seen_at_ns": "when it was seen there last, in nanoseconds since 1970; NULL if that is not known",
    "reason": "why it was set aside",
    "quarantined_at_ns": "when it was set aside, in nanoseconds since 1970",
}
"""What a column of this name means, in each table that has it."""


def _table(description: str, *sortable: str, facet: str | None = None) -> dict[str, Any]:
    """Describe a table, whose sortable columns are those that an index has in order: all else sorts a million rows."""
    facets = {} if facet is None else {"facets": [facet]}
    return {"description": description, "sortable_columns": list(sortable), "columns": _COLUMNS, **facets}


_TABLES: Final[dict[str, dict[str, Any]]] = {
    "metadata": _table("The truth: one row per file of Docker's. All others but quarantine are derived from it."),
    "v2_metadata": _table(
        "One row per association: a layer, one of its blobs, and a repository that has the blob.",
        *("digest", "source_repository"),
        facet="source_repository",
    ),
    "blobs": _table(
        "One row per blob that another engine than Docker knows, such as containerd or Podman.", "digest", "diff_id"
    ),
    "locations": _table(
        "One row per repository in which another engine than Docker has seen a blob.",
        *("digest", "source_repository"),
        facet="source_repository",
    ),
    "places": _table("One row per place that a blob is available from, by Docker's lists and by other engines."),
    "quarantine": _table("Invalid values that a write or an import set aside.", "id"),
    "diff_id_by_digest": _table("Which layer each blob is.", "digest", "diff_id"),
    "v1_ids": _table("Which layer each V1 image is, at which registry.", "registry", "v1_id"),
    "layers": _table("One row per layer that has a list.", "modified_at_ns"),
    "repositories": _table("One row per repository, by name.", facet="registry"),
    "registries": _table("One row per registry, of repositories and of V1 images."),
    "shared_layers": _table("One row per layer that two or more repositories have."),
    "unlisted_digests": _table(
        "One row per blob that is in no list, because it was removed or evicted (a list keeps 50)."
    ),
}
_NOT_OURS: Final = {"alembic_version": {"hidden": True}, "sqlite_sequence": {"hidden": True}}


def metadata() -> dict[str, Any]:
    """Return what Datasette calls metadata."""
    return {
        "title": "layerstore",
        "databases": {
            DATABASE: {
                "title": "Tables and SQL",
                "tables": {**_TABLES, **_NOT_OURS},
                "queries": {f"{QUERY}{one.name}": _query(one) for one in QUESTIONS if one.name not in ANSWERED},
            }
        },
    }


def questions() -> list[tuple[str, str]]:
    """Return each question with the address of its answer."""
    return [(one.question, ANSWERED.get(one.name, f"/{DATABASE}/{QUERY}{one.name}")) for one in QUESTIONS]


def needed_by(name: str | None) -> tuple[str, ...]:
    """Return the parameters that a query with a name must have a value for."""
    return next((one.needed for one in QUESTIONS if f"{QUERY}{one.name}" == name), ())


def _query(question: Question) -> dict[str, Any]:
    """Return a query that takes a parameter left empty for its default."""
    sql = question.sql
    for name, value in question.defaults.items():
        literal = f"'{value}'" if isinstance(value, str) else str(value)
        sql = re.sub(rf":{name}\b", f"coalesce(nullif(:{name}, ''), {literal})", sql)
    return {
        "title": question.question,
        "description": "".join(
            f":{name} is {value!r} if it is left empty. " for name, value in question.defaults.items()
        ).strip(),
        "sql": sql,
        "params": [*question.needed, *question.defaults],
    }
