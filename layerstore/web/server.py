"""The server: Datasette with our plugin, on a socket of its own, until somebody stops it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
from datasette import plugins
from datasette.app import Datasette
from datasette.database import Database, QueryInterrupted

from layerstore.errors import InvalidInputError, StoreError
from layerstore.sql.store import SQLMetadataStore
from layerstore.web import guard, plugin
from layerstore.web.describing import DATABASE, SETTINGS, metadata
from layerstore.web.guard import App
from layerstore.web.site import Site

_HERE: Final = Path(__file__).parent
_COUNT: Final = "select count(*) from "
_COUNTED_AT_MOST: Final = 50_000
_COUNT_LIMIT_MS: Final = 30
_GRACE_S: Final = 2


class StoreDatabase(Database):  # type: ignore[misc]  # Datasette has no types
    """Datasette's database, which counts rows for a page only up to a number, and no longer than somebody would wait.

    Without a count the page says none. By the address (`?_nocount=1`) it would be in every link, and off for all. A
    limit of time alone does not do: SQLite counts a whole table in one step that nothing interrupts.
    """

    async def execute(self, sql: str, params: Any = None, truncate: bool = False, **options: Any) -> Any:
        """Run SQL; what is asked for by somebody is truncated, Datasette's own counts are not.

        Raises:
            sqlite3.Error: the SQL is wrong, or may not be run.
            QueryInterrupted: it took too long, or counted too many, which Datasette takes for the same.
        """
        if truncate or not sql.startswith(_COUNT):
            try:
                return await super().execute(sql, params, truncate=truncate, **options)
            except Exception as error:
                guard.note_failure(error)
                raise
        bounded = f"{_COUNT}(select 1 from {sql.removeprefix(_COUNT)} limit {_COUNTED_AT_MOST + 1})"
        found = await super().execute(bounded, params, **{**options, "custom_time_limit": _COUNT_LIMIT_MS})
        if found.rows[0][0] > _COUNTED_AT_MOST:
            raise QueryInterrupted(None, sql, params)
        return found


class StoreDatasette(Datasette):  # type: ignore[misc]  # Datasette has no types
    """Datasette on one store: `.app()` is what a server runs, `.client` asks it without one.

    Attributes:
        layerstore: the store, as the plugin's pages ask it.
        layerstore_host: the address that is listened on.
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
            metadata=metadata(),
            settings=dict(SETTINGS),
            template_dir=str(_HERE / "templates"),
            static_mounts=[("-/layerstore", str(_HERE / "static"))],
        )
        self.remove_database("_memory")
        self.add_database(StoreDatabase(self, site.path, is_mutable=True), name=DATABASE)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        InvalidInputError: there is no such address here.
        StoreError: the port is taken, or may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InvalidInputError(f"no address is known for --host {host}: {error.strerror or error}") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise StoreError(
                f"port {port} of {host} is taken: stop what uses it, or give another one, such as --port 0 for any"
                " that is free"
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInputError(f"--host {host} is no address of this machine") from error
        raise StoreError(f"port {port} of {host} cannot be listened on: {error.strerror}") from error
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """Return the address as one types it."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}/"


@contextmanager
def shown(path: str, *, source: str | None = None, verify: bool = True) -> Iterator[Site]:
    """Open a store to be shown; when the body is over, nothing of it runs any more.

    Raises:
        StoreError: it cannot be opened.
    """
    with SQLMetadataStore(path, read_only=True) as store:
        if store.path is None:
            raise InvalidInputError("a store in memory is this process's alone: give a file")
        site = Site(store, source=source, verify=verify)
        try:
            yield site
        finally:
            site.stop()


def serve(site: Site, listening: socket.socket, host: str, ready: Callable[[], None]) -> None:
    """Answer on a socket until SIGINT or SIGTERM comes; `ready` is called when it does.

    What is being answered gets two seconds to end.
    """
    server = _Server(StoreDatasette(site, host).app(), ready)
    # Uvicorn ends in order, and then gives the signal on to who would have had it.
    with closing(listening), suppress(KeyboardInterrupt):
        asyncio.run(server.serve(sockets=[listening]))


class _Server(uvicorn.Server):
    def __init__(self, app: App, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
