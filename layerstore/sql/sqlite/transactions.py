"""The context manager around what happens whole or not at all."""

from __future__ import annotations

import sqlite3

from layerstore.errors import StoreError
from layerstore.sql.sqlite.connections import Connections
from layerstore.sql.sqlite.errors import mapped


class Transaction:
    """What `SQLMetadataStore.transaction` returns: a transaction, or a savepoint inside another, of this thread."""

    __slots__ = ("_connections", "_deferred", "_handle")

    def __init__(self, connections: Connections, *, deferred: bool = False) -> None:
        self._connections = connections
        self._deferred = deferred

    def __enter__(self) -> None:
        self._handle = self._connections.local.handle
        try:
            self._handle.begin(deferred=self._deferred)
            self._connections.keep(self._handle)
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            stays = self._handle.end(commit=kind is None and not self._connections.closed)
        except sqlite3.Error as failure:
            raise self._mapped(failure) from failure
        except BaseException:
            self._handle.abandon()
            raise
        if kind is None and not stays:
            raise StoreError(
                "rolled back, as a write in the transaction had failed or the store was closed: write it all again",
                self._connections.path,
            )

    def _mapped(self, error: sqlite3.Error) -> Exception:
        return mapped(error, self._connections.path, closed=self._connections.closed)
