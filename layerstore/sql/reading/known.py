"""What is known of layers, in one statement: their lists, and every digest that maps to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from layerstore.digest import DiffID
from layerstore.records import V2_METADATA, digest_key

# In SQL, as Core has no CROSS JOIN: it keeps SQLite from walking all digests and looking for each in the array. The
# namespace is no parameter: a bound value that decides whether a partial index can serve makes SQLite prepare the
# statement anew at each run, which takes ten times as long as running it.
# A list's row has no digest, a digest's has no value.
KNOWN_LAYERS: Final = f"""\
SELECT key, CAST(value AS BLOB), NULL
FROM metadata
WHERE namespace = '{V2_METADATA}' AND key IN (SELECT CAST(value AS TEXT) FROM json_each(?))
UNION ALL
SELECT mapping.diff_id, NULL, mapping.digest
FROM json_each(?) AS wanted
CROSS JOIN diff_id_by_digest AS mapping ON mapping.diff_id = CAST(wanted.value AS TEXT)"""

Known = tuple[dict[str, bytes], dict[str, list[str]]]


def fetch_known(run: Callable[[str, Sequence[object]], list[Any]], diff_ids: Iterable[DiffID]) -> Known:
    """Return layers' lists, by key, and the digests that map to them, by DiffID; what is not there is left out."""
    wanted = list(dict.fromkeys(diff_ids))
    keys = [digest_key(diff_id) for diff_id in wanted]
    lists: dict[str, bytes] = {}
    digests: dict[str, list[str]] = {}
    for name, value, digest in run(KNOWN_LAYERS, (json.dumps(keys), json.dumps(wanted))):
        if digest is None:
            lists[name] = value
        else:
            digests.setdefault(name, []).append(digest)
    return lists, digests
