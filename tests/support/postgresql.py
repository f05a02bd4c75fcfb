"""A PostgreSQL server of the tests' own: made in a temporary folder by an unprivileged user, gone with the run.

`initdb` and `postgres` are Debian's package `postgresql`. Where they are not, tests that need a server are skipped and
say so; with `LAYERSTORE_REQUIRE_POSTGRESQL` in the environment they fail.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from layerstore import SQLMetadataStore

ROLE = "tester"
ROOT = Path(__file__).resolve().parent.parent.parent


def programs() -> Path | None:
    """Return the folder of the newest server's programs, or `None`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    own = shutil.which("initdb")
    return Path(own).resolve().parent if own else None


def unprivileged() -> dict[str, Any]:
    """Return how a process is started that must not be root's."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("no unprivileged user: PostgreSQL refuses to run as root")


class Server:
    """One cluster and, while it runs, its server."""

    def __init__(self, folder: Path, *, fsync: bool = False, settings: dict[str, str] | None = None) -> None:
        bin_ = programs()
        assert bin_ is not None
        self.bin = bin_
        self.folder = folder
        self.data = folder / "data"
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
            "port": str(free_port()),
            "fsync": "on" if fsync else "off",
            "max_connections": "200",
            "timezone": "UTC",
            **(settings or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        who = unprivileged()
        if who:
            os.chown(folder, who["user"], who["group"])
        self._who = who

    @property
    def port(self) -> str:
        return self.settings["port"]

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the server's programs as its user."""
        subprocess.run([self.bin / program, *arguments], check=True, capture_output=True, cwd=self.folder, **self._who)

    def make(self) -> None:
        """Make the cluster."""
        self.run("initdb", "-N", "-D", str(self.data), "-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        # A test's process that is killed leaves no server behind.
        ends = ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") else []
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*ends, self.bin / "postgres", "-D", self.data, *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._who,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.conninfo(), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                ended = self.process.poll()
                if ended is not None or time.monotonic() > deadline:
                    log_text = (self.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the server did not start ({error}): {log_text}") from error
                time.sleep(0.02)
            else:
                return

    def stop(self, how: str = "fast") -> None:
        """Stop the server: `smart`, `fast` or `immediate`, as `pg_ctl -m` has it."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal({"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
        process.wait(60)

    def restart(self, how: str = "fast") -> None:
        """Stop the server, and start it again."""
        self.stop(how)
        self.start()

    def conninfo(self, database: str = "postgres") -> str:
        return f"host={self.folder} port={self.port} user={ROLE} dbname={database}"

    def execute(self, statement: str, *parameters: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the owner of everything; return its rows."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def url(self, schema: str | None = None, *, user: str = ROLE, database: str = "postgres", tcp: bool = False) -> str:
        """Return the URL of a schema for a store."""
        host = "127.0.0.1" if tcp else quote(str(self.folder), safe="")
        path = "" if schema is None else f"&options={quote(f'-c search_path={schema}')}"
        return f"postgresql:///{database}?host={host}&port={self.port}&user={user}{path}"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def running(*, fsync: bool = False, settings: dict[str, str] | None = None) -> Iterator[Server]:
    """Make a server and run it for the body. Its folder has a short name, as a socket's path has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="layerstore-pg-", dir="/tmp"))
    server = Server(folder, fsync=fsync, settings=settings)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def refuse_without() -> None:
    """Skip a test where no server is installed, or fail it where one is demanded."""
    if programs() is not None:
        return
    what = "PostgreSQL is not installed here (Debian: apt-get install postgresql)"
    if "LAYERSTORE_REQUIRE_POSTGRESQL" in os.environ:
        pytest.fail(what)
    pytest.skip(what)


_made = iter(range(10**9))


def new_schema(server: Server) -> str:
    """Make an empty schema; return its name."""
    name = f"test_{os.getpid()}_{next(_made)}"
    server.execute(f"CREATE SCHEMA {name}")
    return name


_SHAPE = """
    SELECT c.relname, c.relkind, pg_get_indexdef(c.oid), (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid),
      (SELECT string_agg(a.attname || ' ' || a.atttypid, ',' ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND c.relkind <> 'i' AND NOT a.attisdropped)
    FROM pg_class c WHERE c.relnamespace = %s::regnamespace ORDER BY 1
"""


class Schemas:
    """Schemas of a store that are given out again, once emptied: to make one takes longer than most tests.

    What looks at them between the tests stays connected: a session that is new takes the server longer than that.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._shape: list[tuple[Any, ...]] | None = None
        self._empty: list[str] = []
        self._looking: dict[str, SQLMetadataStore] = {}
        self._connection = psycopg.connect(server.conninfo(), autocommit=True)
        self._connection.execute("SET lock_timeout = '20s'")

    def take(self) -> str:
        """Return the name of a schema that is new, or as a store that was just opened leaves it."""
        return self._empty.pop() if self._empty else new_schema(self.server)

    def look(self, name: str) -> SQLMetadataStore:
        """Return a store on a schema that no test has used, to look at what one has left there."""
        if name not in self._looking:
            self._looking[name] = SQLMetadataStore(self.server.url(name))
        return self._looking[name]

    def give_back(self, name: str) -> None:
        """Empty a schema, or drop it where a test has changed what tables it has."""
        shape = self._connection.execute(_SHAPE.encode(), (name,)).fetchall()
        self._shape = self._shape or shape
        if shape == self._shape:
            for relation, kind, *_ in shape:
                if kind == "r" and relation != "alembic_version":
                    self._connection.execute(f"DELETE FROM {name}.{relation}".encode())
                elif kind == "S":
                    self._connection.execute(f"ALTER SEQUENCE {name}.{relation} RESTART".encode())
            self._empty.append(name)
            return
        if name in self._looking:
            self._looking.pop(name).close()
        drop_schema(self.server, name)

    def close(self) -> None:
        for store in self._looking.values():
            store.close()
        self._connection.close()


def drop_schema(server: Server, name: str) -> None:
    """Drop a schema, which nobody may use any more."""
    server.execute(f"SET lock_timeout = '20s'; DROP SCHEMA {name} CASCADE")


def machine_on(schemas: Schemas, machine: Any) -> Any:
    """Return a state machine whose store is in a schema of its own while an example lasts."""

    class ServerMachine(machine):  # type: ignore[misc]  # it is a parameter
        schema: str | None = None

        def open(self) -> SQLMetadataStore:
            self.schema = self.schema or schemas.take()
            return SQLMetadataStore(schemas.server.url(self.schema), durability="normal")

        def teardown(self) -> None:
            super().teardown()
            assert self.schema is not None
            schemas.give_back(self.schema)

    return ServerMachine


class Proxy:
    """Stands between a client and the server: counts round trips, and can cut what is open.

    A round trip ends with the server's `ReadyForQuery` (Z), once for each Sync of the client's, however many statements
    go before it.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.trips = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def url(self, schema: str, more: str = "") -> str:
        return (
            f"postgresql://{ROLE}@127.0.0.1:{self.port}/postgres?sslmode=disable&gssencmode=disable"
            f"&options={quote(f'-c search_path={schema}')}{more}"
        )

    def cut(self) -> None:
        """End all connections, as a network does."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for one in pair:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut all connections, and wait until none is forwarded any more."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", int(self._server.port)))
            self._pairs.append((client, upstream))
            self._start(self._forward, client, upstream)
            self._start(self._answer, upstream, client)

    def _start(self, run: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _forward(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while piece := client.recv(1 << 16):
                upstream.sendall(piece)
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_RDWR)

    def _answer(self, upstream: socket.socket, client: socket.socket) -> None:
        rest = b""
        with suppress(OSError):
            while piece := upstream.recv(1 << 16):
                rest += piece
                while len(rest) >= 5 and len(rest) >= (whole := 1 + int.from_bytes(rest[1:5], "big")):
                    self.trips += rest[:1] == b"Z"
                    rest = rest[whole:]
                client.sendall(piece)
        for one in (upstream, client):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
