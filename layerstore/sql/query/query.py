"""Asking a database with SQL of one's own: reading alone, for certain, and not for ever."""

from __future__ import annotations

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
def ask(
    path: str, sql: str, parameters: Parameters = (), *, timeout_s: float = TIMEOUT_S, explain: bool = False
) -> Iterator[Answer]:
    """Run a query on a database; the rows can be read in the body, as many as one wants.

    One snapshot, which writers do not wait for. On a file, it runs in a process of its own, whose memory does not grow
    with the number of rows.

    Args:
        path: the file, or the URL of a database on a server.
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
    if is_url(path):
        from layerstore.sql.postgresql import query as server

        with server.ask(path, sql, parameters, timeout_s=timeout_s, explain=explain) as answer:
            yield answer
        return
    with SQLMetadataStore(path, read_only=True) as store:
        if store.path is None:
            raise InvalidInputError("a store in memory is this process's alone: give a file")
        with closing(Sandbox(store.path)) as sandbox:
            yield sandbox.ask(f"EXPLAIN QUERY PLAN {sql}" if explain else sql, parameters, timeout_s=timeout_s)
