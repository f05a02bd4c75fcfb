"""Asking a database with SQL of one's own: reading alone, for certain, and not for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from layerstore.errors import InvalidInputError
from layerstore.sql.sqlite.sandbox import Answer, Parameters, Sandbox
from layerstore.sql.store import SQLMetadataStore

TIMEOUT_S: Final = 60.0


@contextmanager
def query(
    store_or_path: SQLMetadataStore | str | os.PathLike[str],
    sql: str,
    parameters: Parameters = (),
    *,
    timeout_s: float = TIMEOUT_S,
    explain: bool = False,
) -> Iterator[Answer]:
    """Run a query on a database; its rows can be read in the body, in any number.

    It reads one snapshot, and writers do not wait. It runs in its own process, whose memory does not grow with the
    number of rows. It sees what was committed, and not what an open transaction has written.

    Args:
        store_or_path: a store on a file, or the file.
        sql: one statement that reads.
        parameters: for `?` in their order, or for `:name` by their names.
        timeout_s: seconds that SQLite may work; the time that the reader of the rows takes does not count.
        explain: give the plan of the query instead of its rows.

    Raises:
        QueryError: the SQL is wrong, several statements, or one that would write; a parameter has no value; a value is
            longer than 8 MiB, or the query needs more than 256 MiB of memory or 4 GiB for temporary files. In the body
            too.
        QueryStoppedError: it took longer than `timeout_s`, in the body too.
        StoreError: the file cannot be opened or read.
    """
    if not isinstance(sql, str):
        raise InvalidInputError(f"SQL is text, not {type(sql).__name__}")
    path = store_or_path.path if isinstance(store_or_path, SQLMetadataStore) else store_or_path
    with SQLMetadataStore(":memory:" if path is None else path, read_only=path is not None) as store:
        if store.path is None:
            raise InvalidInputError("no other process can read a store in memory: give a file")
        with closing(Sandbox(store.path)) as sandbox:
            yield sandbox.ask(f"EXPLAIN QUERY PLAN {sql}" if explain else sql, parameters, timeout_s=timeout_s)
