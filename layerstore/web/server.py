"""The server: Datasette with our plugin, on a socket of its own, until somebody stops it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from datasette import plugins
from datasette.app import Datasette
from datasette.database import Database, QueryInterrupted, Results
from datasette.utils import sqlite3

from layerstore.errors import InvalidInputError, QueryError, QueryStoppedError, StoreError
from layerstore.sql.sqlite.recognition import resolve
from layerstore.sql.sqlite.sandbox import Sandbox
from layerstore.sql.store import SQLMetadataStore
from layerstore.web import guard, plugin
from layerstore.web.site import Site
from layerstore.words import readable

_HERE: Final = Path(__file__).parent
_COUNT: Final = "select count(*) from "
_COUNTED_AT_MOST: Final = 50_000
_COUNT_LIMIT_MS: Final = 30
_MOST_ROWS: Final = 10_000  # of what Datasette asks by itself
_MOST_BYTES: Final = 16 * 1024 * 1024
_GRACE_S: Final = 2
_LAST_S: Final = 4
"""After a signal, so long until the process ends whatever still runs."""


class Row(tuple[Any, ...]):
    """A row as Datasette takes it: by number, and by the name of a column."""

    places: dict[str, int]

    def __getitem__(self, key: Any) -> Any:
        """Return a value."""
        return super().__getitem__(self.places[key] if isinstance(key, str) else key)

    def keys(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.places)


class StoreDatabase(Database):  # type: ignore[misc]  # Datasette has no types
    """Datasette's database, whose SQL runs in processes that can be killed, one for each of Datasette's threads.

    It counts rows for a page only up to a number, and no longer than somebody would wait. Without a count the page says
    none. By the address (`?_nocount=1`) it would be in every link, and off for all.
    """

    def __init__(self, datasette: Datasette, path: str) -> None:
        super().__init__(datasette, path, is_mutable=True)
        self._own = threading.local()
        self._sandboxes: list[Sandbox] = []

    async def execute(
        self,
        sql: str,
        params: Any = None,
        truncate: bool = False,
        custom_time_limit: int | None = None,
        page_size: int | None = None,
        **_: Any,
    ) -> Results:
        """Run SQL; a count of Datasette's own is bounded.

        Raises:
            sqlite3.Error: the SQL is wrong, or may not be run.
            QueryInterrupted: it took too long, or counted too many, which Datasette takes for the same.
        """
        limit_ms = min(custom_time_limit or self.ds.sql_time_limit_ms, self.ds.sql_time_limit_ms)
        is_count = not truncate and sql.startswith(_COUNT)
        if is_count:
            limit_ms = _COUNT_LIMIT_MS
            sql = f"{_COUNT}(select 1 from {sql.removeprefix(_COUNT)} limit {_COUNTED_AT_MOST + 1})"
        most = self.ds.max_returned_rows + (self.ds.max_returned_rows == (page_size or self.ds.page_size))
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self.ds.executor,
                self._ask,
                sql,
                params or {},
                limit_ms / 1000,
                most if truncate else _MOST_ROWS,
                guard.is_csv.get(),
            )
        except QueryStoppedError as error:
            raise QueryInterrupted(error, sql, params) from error
        except QueryError as error:
            if guard.is_csv.get():  # Datasette would send an empty file
                raise InvalidInputError(f"the SQL failed: {error}") from error
            raise sqlite3.OperationalError(str(error)) from error
        if is_count and found.rows[0][0] > _COUNTED_AT_MOST:
            raise QueryInterrupted(None, sql, params)
        return found

    def end(self) -> None:
        """End whatever SQL runs."""
        for sandbox in self._sandboxes:
            sandbox.kill()

    def close(self) -> None:
        """Close all connections, and end the processes."""
        super().close()
        for sandbox in self._sandboxes:
            sandbox.close()

    def _ask(self, sql: str, params: Any, timeout_s: float, most_rows: int, is_csv: bool) -> Results:
        if not hasattr(self._own, "sandbox"):
            self._own.sandbox = Sandbox(self.path)
            self._sandboxes.append(self._own.sandbox)
        answer = self._own.sandbox.ask(sql, params, timeout_s=timeout_s, most_rows=most_rows, most_bytes=_MOST_BYTES)
        kind = type("Row", (Row,), {"places": {name: at for at, name in enumerate(answer.columns)}})
        rows = [kind(map(readable, row) if is_csv else row) for row in answer.rows]
        return Results(rows, answer.truncated, [(name,) for name in answer.columns])


class StoreDatasette(Datasette):  # type: ignore[misc]  # Datasette has no types
    """Datasette on one store: `.app()` is what a server runs, `.client` asks it without one.

    Attributes:
        layerstore: the store, as the plugin's pages ask it.
        layerstore_host: the address that is listened on.
        store_database: the store, as Datasette's own pages ask it.
    """

    def __init__(self, site: Site, host: str) -> None:
        # Whatever else is installed beside Datasette could write.
        for other, _ in plugins.pm.list_plugin_distinfo():
            plugins.pm.unregister(other)
        if not plugins.pm.is_registered(plugin):
            plugins.pm.register(plugin)
        self.layerstore = site
        self.layerstore_host = host
        super().__init__(
            metadata=plugin.metadata(),
            settings=dict(plugin.SETTINGS),
            template_dir=str(_HERE / "templates"),
            static_mounts=[("-/layerstore", str(_HERE / "static"))],
        )
        self.remove_database("_memory")
        self.store_database = StoreDatabase(self, site.path)
        self.add_database(self.store_database, name=plugin.DATABASE)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InvalidInputError(f"no address is known for --host {host}: {error.strerror or error}") from error
    try:
        return socket.create_server(address, family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StoreError(
                f"port {port} of {host} is in use: stop what uses it, or give another one, such as --port 0 for any"
                " that is free"
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInputError(f"--host {host} is no address of this machine") from error
        raise StoreError(f"port {port} of {host} cannot be listened on: {error.strerror}") from error


@contextmanager
def shown(path: str, *, source: str | None = None, verify: bool = True) -> Iterator[Site]:
    """Open a store to be shown; when the body is over, nothing of it runs any more.

    Raises:
        StoreError: it cannot be opened.
    """
    if resolve(path) is None:
        raise InvalidInputError("a store in memory is this process's alone: give a file")
    with SQLMetadataStore(path, read_only=True) as store:
        site = Site(store, source=source, verify=verify)
        try:
            yield site
        finally:
            site.stop()


def serve(site: Site, host: str, port: int, ready: Callable[[str], None], give_up: Callable[[], None]) -> None:
    """Answer on an address until SIGINT or SIGTERM comes; `ready` is told the address once that is so.

    What is being answered gets two seconds to end. Where something then still holds the process up, `give_up` is called
    two seconds later, and the process ends.

    Raises:
        InvalidInputError: there is no such address here.
        StoreError: the port is taken, or may not be used.
    """
    listening = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
    # Uvicorn ends in order, and then gives the signal on to who would have had it.
    with closing(listening), suppress(KeyboardInterrupt):
        asyncio.run(_Server(StoreDatasette(site, host), partial(ready, address), give_up).serve([listening]))


class _Server(uvicorn.Server):
    def __init__(self, datasette: StoreDatasette, ready: Callable[[], None], give_up: Callable[[], None]) -> None:
        self._datasette = datasette
        self._ready = ready
        self._give_up = give_up
        super().__init__(
            uvicorn.Config(
                datasette.app(),
                http=guard.Connection,
                log_config=None,
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, and see to it that it does."""
        if not self.should_exit:
            last = threading.Timer(_LAST_S, self._end_at_once)
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give what is being answered its time, and SQL half of it."""
        logging.getLogger("uvicorn.error").disabled = True  # it tells of each request that it cancels, with a traceback
        asyncio.get_running_loop().call_later(_GRACE_S / 2, self._datasette.store_database.end)
        await super().shutdown(sockets)
        self._datasette.store_database.end()

    def _end_at_once(self) -> None:
        """A thread that is in the middle of SQL or Python cannot be ended, and Python would wait for it."""
        try:
            self._datasette.store_database.end()
            self._datasette.layerstore.stop()
            self._give_up()
        finally:
            os._exit(0)
