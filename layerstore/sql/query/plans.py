"""What SQLite says that it will do for a query, and which of it reads a table or index from end to end."""

from __future__ import annotations

import re
from collections.abc import Sequence

_made = re.compile(r"(?:CO-ROUTINE|MATERIALIZE) (\S+)").match
# Before SQLite 3.36 "SCAN TABLE name AS alias", since then "SCAN alias".
_scanned = re.compile(r"SCAN (?:TABLE )?(\S+)").match
_of_no_table = re.compile(r"SCAN (?:SUBQUERY |\(|CONSTANT ROW|\d+ CONSTANT)|.* VIRTUAL TABLE").match


def whole_reads(details: Sequence[str], tables: Sequence[str]) -> list[str]:
    """Return the steps of a plan that read a table or one of its indexes whole.

    Reading what the query itself makes, or a table that is a function, is none.

    Args:
        details: the last column of `EXPLAIN QUERY PLAN`.
        tables: the names of the tables of the database.
    """
    own = {match[1] for detail in details if (match := _made(detail))}
    found = []
    for detail in details:
        match = _scanned(detail)
        if match is None or _of_no_table(detail) or match[1] in own:
            continue
        if detail.startswith("SCAN TABLE ") and match[1] not in tables:
            continue  # a part of a recursive query
        found.append(detail)
    return found
