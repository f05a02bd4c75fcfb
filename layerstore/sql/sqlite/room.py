"""Room in the pages of a new store for what is added later.

SQLite fills the pages of a new index to the last byte, and those that rows are appended to nearly so: each of the
first adds behind a load then splits a full page in several places, and often the page above. An `add` of a new layer
writes 25 pages into the log; with room, 10 or 11. SQLite has no fill factor; so fillers are written with the entries,
spread evenly among them, and removed again, within the transaction of the load: nobody ever sees one.

Only where new entries come anywhere, and a page has no room for one by itself: the lists, and the indexes by digest and
by DiffID. Measured, of 20,000 to 1,000,000 layers: the file gets 3 % larger, and a load takes 4 % longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from layerstore.records import DIFF_IDS, V2_METADATA
from layerstore.sql.schema import index_statement

_LISTS_A_PAGE: Final = 9
"""Lists in a page of 4,096 bytes, beside the room."""

# With what a page has left by itself, room for a list of one entry. A filler's key comes right behind that of a list,
# and is none by the key rules.
_FILLER_KEY: Final = "key || '//'"
_IS_FILLED: Final = f"namespace = '{V2_METADATA}' AND s.rowid % {_LISTS_A_PAGE} = 0"
_APPEND: Final = f"""
    INSERT INTO main.metadata(namespace, key, value, modified_at_ns)
    SELECT namespace, CASE filler WHEN 0 THEN key ELSE {_FILLER_KEY} END,
      CASE filler WHEN 0 THEN value ELSE zeroblob(120) END, modified_at_ns
    FROM temp.staged s CROSS JOIN (SELECT 0 AS filler UNION ALL SELECT 1) ON filler = 0 OR {_IS_FILLED}
    WHERE s.rowid > ? AND s.rowid <= ?"""
_REMOVE: Final = f"""
    DELETE FROM main.metadata WHERE namespace = '{V2_METADATA}' AND key IN (
    SELECT {_FILLER_KEY} FROM temp.staged s WHERE s.rowid > ? AND s.rowid <= ? AND {_IS_FILLED})"""

_ENTRIES_A_PAGE: Final = 22
"""Entries of an index in a page, beside the room."""

_ROOM: Final = 330
"""Bytes of a filler: two entries."""

# How many fillers there are; how far they are apart, by their first 15 hex digits; and what makes them long.
_FILLERS: Final = (
    "WITH RECURSIVE filler(number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM filler WHERE number + 1 < ?)"
)
_DIGEST: Final = "printf('sha256:%015x', number * ?) || ?"


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


def append_entries(run: Callable[..., list[Any]], after: int, last: int) -> int:
    """Append staged entries, which are in the order of their keys, inside `transaction()`; return how many.

    Of an amount that the page cache holds: a page that is written to the log twice costs more than the room gains.
    """

    def rows(statement: str) -> int:
        run(statement, (after, last))
        return int(run("SELECT changes()")[0][0])

    return rows(_APPEND) - rows(_REMOVE)


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
