"""Asking a database with SQL of one's own: reading alone, for certain, and not for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from layerstore.errors import InvalidInputError
from layerstore.sql.query.answer import Answer, Parameters
from layerstore.sql.sqlite.sandbox import Sandbox
from layerstore.sql.store import SQLMetadataStore
from layerstore.sql.url import is_url

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

    It reads one snapshot, and writers do not wait. On a file, it runs in its own process, whose memory does not grow
    with the number of rows. It sees what was committed, and not what an open transaction has written.

    Args:
        store_or_path: a store on a file, or the file; or the URL of a database on a server.
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
    if isinstance(store_or_path, str) and is_url(store_or_path):
        from layerstore.sql.postgresql import query as server

        with server.ask(store_or_path, sql, parameters, timeout_s=timeout_s, explain=explain) as answer:
            yield answer
        return
    path = store_or_path.path if isinstance(store_or_path, SQLMetadataStore) else store_or_path
    if isinstance(path, str) and is_url(path):
        raise InvalidInputError("of a store on a server, give its URL: a store does not keep the password")
    with SQLMetadataStore(":memory:" if path is None else path, read_only=path is not None) as store:
        if store.path is None:
            raise InvalidInputError("no other process can read a store in memory: give a file")
        with closing(Sandbox(store.path)) as sandbox:
            yield sandbox.ask(f"EXPLAIN QUERY PLAN {sql}" if explain else sql, parameters, timeout_s=timeout_s)
