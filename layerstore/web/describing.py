"""What Datasette is told of a store: what its tables mean, the queries with a name, what may be sorted and how long.

What it says of tables is docs/sql.md's; the queries are `layerstore.sql.query.questions`'.
"""

from __future__ import annotations

import re
from typing import Any, Final

from layerstore.sql.query.questions import QUESTIONS, Question

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

# Only what an index puts in order: all else would sort a million rows for the first fifty.
_TABLES: Final[dict[str, dict[str, Any]]] = {
    "metadata": {
        "description": "The truth: one row per file of Docker's. All other tables but quarantine are derived from it.",
        "sortable_columns": [],
        "columns": {
            "namespace": "the directory that the file is in",
            "key": "the rest of its path",
            "value": "its bytes",
            "modified_at_ns": "its time, in nanoseconds since 1970",
        },
    },
    "v2_metadata": {
        "description": "One row per association: a layer, one of its blobs, and a repository that has the blob.",
        "sortable_columns": ["digest", "source_repository"],
        "facets": ["source_repository"],
        "columns": {
            "diff_id": "the layer",
            "position": "rises from the layer's oldest to its newest, with gaps",
            "digest": "the blob",
            "source_repository": "the repository that has it; empty if that is not known",
            "hmac": "ties the entry to credentials; empty if it was recorded without any",
        },
    },
    "blobs": {
        "description": "One row per blob that another engine than Docker knows, such as containerd or Podman.",
        "sortable_columns": ["digest", "diff_id"],
        "columns": {
            "digest": "the blob",
            "diff_id": "the layer that it is; NULL if no engine has verified one, or two disagree",
            "compression": "gzip, zstd, bzip2, xz or uncompressed; NULL if that is not known",
            "toc_digest": "digest of its table of contents; NULL if that is not known",
        },
    },
    "locations": {
        "description": "One row per repository in which another engine than Docker has seen a blob.",
        "sortable_columns": ["digest", "source_repository"],
        "facets": ["source_repository"],
        "columns": {
            "digest": "the blob",
            "source_repository": "the repository that has it",
            "seen_at_ns": "when it was seen there last, in nanoseconds since 1970; NULL if that is not known",
        },
    },
    "places": {
        "description": "One row per place that a blob is available from, by Docker's lists and by other engines.",
        "sortable_columns": [],
        "columns": {
            "digest": "the blob",
            "diff_id": "the layer that it is; NULL if that is not known",
            "source_repository": "the repository that has it",
            "hmac": "as Docker recorded it; empty if it was recorded without credentials",
            "seen_at_ns": "when it was seen there last, in nanoseconds since 1970; NULL if that is not known",
        },
    },
    "quarantine": {
        "description": "Invalid values that a write or an import set aside.",
        "sortable_columns": ["id"],
        "columns": {
            "namespace": "where it was, with key",
            "value": "its bytes",
            "reason": "why",
            "quarantined_at_ns": "when, in nanoseconds since 1970",
        },
    },
    "diff_id_by_digest": {
        "description": "Which layer each blob is.",
        "sortable_columns": ["digest", "diff_id"],
        "columns": {"digest": "the blob", "diff_id": "the layer"},
    },
    "v1_ids": {
        "description": "Which layer each V1 image is, at which registry.",
        "sortable_columns": ["registry", "v1_id"],
        "columns": {"registry": "its registry", "v1_id": "64 hex digits", "diff_id": "the layer"},
    },
    "layers": {
        "description": "One row per layer that has a list.",
        "sortable_columns": ["modified_at_ns"],
        "columns": {
            "diff_id": "the layer",
            "modified_at": "when its list was last written",
            "modified_at_ns": "the same, to sort and compare by",
            "associations": "how many its list has",
            "repositories": "how many repositories have it",
        },
    },
    "repositories": {
        "description": "One row per repository, by name.",
        "sortable_columns": [],
        "facets": ["registry"],
        "columns": {
            "source_repository": "its name",
            "registry": "the part before the first /",
            "layers": "how many layers it has",
            "associations": "in how many entries of lists",
            "modified_at": "when the newest of these lists was last written",
        },
    },
    "registries": {
        "description": "One row per registry, of repositories and of V1 images.",
        "sortable_columns": [],
        "columns": {
            "registry": "its host",
            "repositories": "how many are known of it",
            "v1_ids": "how many V1 images",
        },
    },
    "shared_layers": {
        "description": "One row per layer that two or more repositories have.",
        "sortable_columns": [],
        "columns": {
            "diff_id": "the layer",
            "repositories": "how many have it",
            "associations": "in how many entries",
        },
    },
    "unlisted_digests": {
        "description": "One row per blob that is in no list, because it was removed or evicted (a list keeps 50).",
        "sortable_columns": [],
        "columns": {
            "digest": "the blob",
            "diff_id": "the layer that it is",
            "modified_at": "when that was last written",
        },
    },
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
