"""Queries with a name: what people ask of a store, so that nobody need write the SQL for it.

Each goes through an index, and gives its first hundred rows unless told otherwise; what must read everything says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from layerstore.errors import InvalidInputError
from layerstore.words import near

_utc_text = re.compile(r"strftime\('%Y-%m-%dT%H:%M:%SZ', (\S+) / 1000000000, 'unixepoch'\)")
_UTC_OF_SERVER: Final = r"""to_char(to_timestamp(\1 / 1000000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""


class Question(NamedTuple):
    """A query, and the question that it answers."""

    name: str
    question: str
    sql: str
    needed: tuple[str, ...] = ()
    """The parameters that a value must be given for."""
    defaults: Mapping[str, str | int] = {}
    postgresql: str | None = None
    """The same for PostgreSQL, where it has other words for more than a time."""

    def on(self, *, server: bool) -> str:
        """Return the SQL for a file, or for PostgreSQL."""
        if not server:
            return self.sql
        return self.postgresql or _utc_text.sub(_UTC_OF_SERVER, self.sql)

    @property
    def usage(self) -> str:
        """How it is called: its name, and its parameters with their values if nothing is said."""
        needed = (name.upper() for name in self.needed)
        return " ".join((f"@{self.name}", *needed, *(f"{name}={value}" for name, value in self.defaults.items())))


_LIMIT: Final = {"limit": 100}

QUESTIONS: Final = (
    Question(
        "digest",
        "Which layer is this blob, and which repositories have it?",
        "SELECT m.diff_id, v.source_repository, v.hmac <> '' AS has_hmac\n"
        "FROM diff_id_by_digest m LEFT JOIN v2_metadata v ON v.digest = m.digest AND v.diff_id = m.diff_id\n"
        "WHERE m.digest = :digest ORDER BY v.position DESC",
        ("digest",),
    ),
    Question(
        "layer",
        "Which repositories have this layer, the newest first?",
        "SELECT source_repository, digest, hmac <> '' AS has_hmac FROM v2_metadata\n"
        "WHERE diff_id = :diff_id ORDER BY position DESC",
        ("diff_id",),
    ),
    Question(
        "digests",
        "Which blobs are this layer, including evicted ones?",
        "SELECT digest, EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = m.digest) AS listed\n"
        "FROM diff_id_by_digest m WHERE diff_id = :diff_id ORDER BY digest",
        ("diff_id",),
    ),
    Question(
        "places",
        "Where is this layer available, by Docker's lists and by other engines, the newest first?",
        "SELECT source_repository, digest, hmac <> '' AS has_hmac,\n"
        "  strftime('%Y-%m-%dT%H:%M:%SZ', seen_at_ns / 1000000000, 'unixepoch') AS seen_at\n"
        "FROM places WHERE diff_id = :diff_id ORDER BY seen_at_ns DESC NULLS LAST",
        ("diff_id",),
    ),
    Question(
        "blob",
        "What do other engines than Docker know of this blob?",
        "SELECT b.diff_id, b.compression, l.source_repository,\n"
        "  strftime('%Y-%m-%dT%H:%M:%SZ', l.seen_at_ns / 1000000000, 'unixepoch') AS seen_at\n"
        "FROM blobs b LEFT JOIN locations l ON l.digest = b.digest\n"
        "WHERE b.digest = :digest ORDER BY l.seen_at_ns DESC NULLS LAST, l.source_repository",
        ("digest",),
    ),
    Question(
        "repository",
        "Which layers does this repository have?",
        "SELECT diff_id, digest, hmac <> '' AS has_hmac FROM v2_metadata\n"
        "WHERE source_repository = :source_repository ORDER BY diff_id LIMIT :limit",
        ("source_repository",),
        _LIMIT,
    ),
    Question(
        "repositories",
        "Which repositories are there, and how many layers has each?",
        "SELECT source_repository, layers FROM repositories WHERE source_repository GLOB :like LIMIT :limit",
        defaults={"like": "*", **_LIMIT},
        postgresql="SELECT source_repository, layers FROM repositories WHERE source_repository LIKE\n"
        "  translate(replace(replace(replace(:like, '\\', '\\\\'), '%', '\\%'), '_', '\\_'), '*?', '%_')\n"
        "ORDER BY source_repository LIMIT :limit",
    ),
    Question(
        "summary",
        "How many layers has this repository, and when did it last change?",
        "SELECT * FROM repositories WHERE source_repository = :source_repository",
        ("source_repository",),
    ),
    Question(
        "recent",
        "Which repositories are in the lists of the layers that changed last?",
        "SELECT v.source_repository, max(l.modified_at) AS modified_at\n"
        "FROM (SELECT diff_id, modified_at FROM layers ORDER BY modified_at_ns DESC LIMIT :layers) l\n"
        "JOIN v2_metadata v ON v.diff_id = l.diff_id\n"
        "GROUP BY v.source_repository ORDER BY modified_at DESC, v.source_repository",
        defaults={"layers": 100},
    ),
    Question(
        "largest",
        "Which repositories have most layers? (a full index scan)",
        "SELECT source_repository, layers FROM repositories ORDER BY layers DESC, source_repository LIMIT :limit",
        defaults={"limit": 10},
    ),
    Question("registries", "Which registries are there?", "SELECT registry FROM registries"),
    Question(
        "registry",
        "Which repositories of this registry are known, and how many layers has each?",
        # Up to '0', the character after '/': a GLOB of what is put together from a parameter cannot use the index.
        "SELECT source_repository, layers FROM repositories\n"
        "WHERE source_repository >= :registry || '/' AND source_repository < :registry || '0'\n"
        "ORDER BY source_repository LIMIT :limit",
        ("registry",),
        _LIMIT,
    ),
    Question(
        "newest",
        "Which layers changed last?",
        "SELECT diff_id, modified_at, repositories FROM layers ORDER BY modified_at_ns DESC LIMIT :limit",
        defaults=_LIMIT,
    ),
    Question(
        "oldest",
        "Which layers have not changed for the longest time?",
        "SELECT diff_id, modified_at, repositories FROM layers ORDER BY modified_at_ns LIMIT :limit",
        defaults=_LIMIT,
    ),
    Question(
        "shared",
        "Which layers do several repositories share?",
        "SELECT * FROM shared_layers LIMIT :limit",
        defaults=_LIMIT,
    ),
    Question(
        "unlisted",
        "Which digests are in no list?",
        "SELECT * FROM unlisted_digests LIMIT :limit",
        defaults={"limit": 10},
    ),
    Question(
        "v1",
        "Which layer is this V1 image, at which registry?",
        "SELECT registry, diff_id FROM v1_ids WHERE v1_id = :v1_id ORDER BY registry",
        ("v1_id",),
    ),
    Question(
        "quarantine",
        "What was set aside, when, and why?",
        "SELECT id, strftime('%Y-%m-%dT%H:%M:%SZ', quarantined_at_ns / 1000000000, 'unixepoch') AS quarantined_at,\n"
        "  namespace, key, reason FROM quarantine WHERE id > 0 ORDER BY id LIMIT :limit",
        defaults=_LIMIT,
    ),
)


def question(name: str) -> Question:
    """Return the query of a name.

    Raises:
        InvalidInputError: there is none.
    """
    for one in QUESTIONS:
        if one.name == name:
            return one
    like = near(name, [one.name for one in QUESTIONS], "@")
    raise InvalidInputError(f"no query is named @{name}: `layerstore query --list` shows them{like}")
