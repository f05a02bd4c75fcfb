"""New indexes with room in their pages for what is added later.

SQLite fills a new index to the last byte, so that each of the first adds behind a load splits a full page in it, and
often the page above: an `add` of a new layer then writes 25 pages into the log instead of 14. It has no fill factor; so
an index whose entries are digests, which come in no order, is built over fillers, long entries spread evenly among the
digests, and these are removed again. Within the transaction of the load, so that nobody ever sees one.

Measured, of 100,000 layers: the indexes get a seventh larger, the file 3 %, the load takes 3 % longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from layerstore.records import DIFF_IDS
from layerstore.sql.schema import index_statement

_ENTRIES_A_PAGE: Final = 22
"""Entries of an index in a page of 4,096 bytes, beside the room."""

_ROOM: Final = 470
"""Bytes of a filler: three entries. Of more than 1,002, SQLite puts the rest on a page of its own."""

# How many fillers there are; how far they are apart, by their first 15 hex digits; and what makes them long.
_FILLERS: Final = (
    "WITH RECURSIVE filler(number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM filler WHERE number + 1 < ?1)"
)
_DIGEST: Final = "printf('sha256:%015x', number * ?2) || ?3"


class _Filled(NamedTuple):
    """How the fillers of one index are written and removed: as a DiffID `~` and keys `~//0`, which nothing can have."""

    add: str
    remove: str


_FILLED: Final = {
    "v2_metadata_by_digest": _Filled(
        f"{_FILLERS} INSERT INTO main.v2_metadata(diff_id, position, digest, source_repository, hmac)"
        f" SELECT '~', number, {_DIGEST}, '', '' FROM filler",
        "DELETE FROM main.v2_metadata WHERE diff_id = '~'",
    ),
    "metadata_by_diff_id": _Filled(
        f"{_FILLERS} INSERT INTO main.metadata(namespace, key, value, modified_at_ns)"
        f" SELECT '{DIFF_IDS}', '~//' || number, CAST({_DIGEST} AS BLOB), 0 FROM filler",
        f"DELETE FROM main.metadata WHERE namespace = '{DIFF_IDS}' AND key >= '~//' AND key < '~/0'",
    ),
}


def build_index(run: Callable[..., list[Any]], name: str, entries: int) -> None:
    """Build an index of ours, inside `transaction()`; if its `entries` are digests, with room between them."""
    filled = _FILLED.get(name)
    fillers = entries // _ENTRIES_A_PAGE
    if filled is None or not fillers:
        run(index_statement(name))
        return
    run(filled.add, (fillers, 2**60 // fillers, "~" * (_ROOM - len(f"sha256:{0:015x}"))))
    run(index_statement(name))
    run(filled.remove)
