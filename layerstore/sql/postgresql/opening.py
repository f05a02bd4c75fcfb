"""Opening a database on a server: its address, making it ready, or refusing it.

An empty schema is filled by whoever comes first, behind a lock. An older one is not upgraded by whoever comes first:
that would lock out every builder that still has an older layerstore; `layerstore schema upgrade` does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from layerstore.errors import InvalidInputError, SchemaVersionError, StoreOpenError
from layerstore.sql.postgresql import statements
from layerstore.sql.postgresql.errors import mapping
from layerstore.sql.postgresql.sessions import Sessions
from layerstore.sql.schema import HEAD
from layerstore.sql.url import is_url, is_well_formed, options
from layerstore.sql.url import shown as without_password

OLDEST_SERVER: Final = 150000
"""PostgreSQL 15."""
_NEEDED: Final = "PostgreSQL 15 or later is needed"
LOCK: Final = 0x4C61_7972
"""The advisory lock behind which the schema is made or changed: "Layr"."""

_LOOK = """
SELECT current_setting('server_version_num')::int, version(),
  current_setting('server_encoding'), current_schema(),
  (SELECT obj_description(to_regclass(quote_ident(current_schema()) || '.metadata'), 'pg_class')),
  to_regclass(quote_ident(current_schema()) || '.metadata') IS NOT NULL,
  to_regclass(quote_ident(current_schema()) || '.alembic_version') IS NOT NULL,
  (SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class c
   WHERE c.relnamespace = to_regnamespace(quote_ident(current_schema())) AND c.relname IN ('v2_metadata',
   'diff_id_by_digest', 'v1_ids', 'blobs', 'locations', 'quarantine', 'alembic_version', 'layers', 'repositories',
   'registries', 'shared_layers', 'unlisted_digests', 'places'))
"""


_HAS_LOCKS: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ReadOnlySqlTransaction,
)


class Found(NamedTuple):
    """What a database is."""

    schema: str
    revision: str | None
    """`None` for an empty one."""
    usable_from: str
    """The revision that a version of layerstore must work with to use it."""


def sessions_of(url: str, *, read_only: bool) -> Sessions:
    """Return the sessions of a URL; none is made yet.

    Hosts may be given as libpq or as SQLAlchemy has them; `prepare=off` is for a pooler that is not known for one.

    Raises:
        StoreOpenError: psycopg is missing.
        InvalidInputError: it is no URL that PostgreSQL knows.
    """
    assert is_url(url)
    shown = without_password(url)
    base = url.partition("?")[0].replace("postgresql+psycopg:", "postgresql:", 1)
    if not is_well_formed(base):
        # It is not shown: a password may be in it.
        raise InvalidInputError(
            "not a URL of a database: postgresql://HOST/DATABASE, postgresql:///DATABASE or postgresql://USER:PASSWORD@"
            "HOST:PORT/DATABASE; in a password, % is written %25, @ %40, / %2F and ? %3F"
        )
    more: dict[str, Any] = {}
    hosts: list[tuple[str, str]] = []
    pooled = False
    for name, value in options(url):
        if name == "prepare":
            if value not in ("on", "off"):
                raise InvalidInputError(f"prepare is on or off, not {value!r}: {shown}")
            pooled = value == "off"
        elif name == "host":
            for one in value.split(","):
                host, colon, port = one.rpartition(":")
                hosts.append((host, port) if colon and port.isdigit() and not one.startswith("/") else (one, ""))
        else:
            more[name] = value
    try:
        conninfo = {**conninfo_to_dict(base), **more}
        if hosts:
            conninfo["host"] = ",".join(host for host, _ in hosts)
            if any(port for _, port in hosts):
                conninfo["port"] = ",".join(port or str(conninfo.get("port", "")) for _, port in hosts)
        conninfo.setdefault("connect_timeout", "30")
        conninfo.setdefault("application_name", "layerstore")
        conninfo_to_dict("", **conninfo)
    except psycopg.Error:
        # Not the driver's words: they repeat what it was given, a password too.
        raise InvalidInputError(
            f"not a URL that PostgreSQL knows, or with an option that it does not: {shown}"
        ) from None
    return Sessions({**conninfo, "client_encoding": "UTF8"}, shown, pooled=pooled, read_only=read_only)


def make_ready(sessions: Sessions) -> None:
    """Make the database usable: fill an empty one, or refuse it.

    Raises:
        StoreOpenError: it cannot be reached, or is not ours, or what lies there is no PostgreSQL of 15 or later.
        SchemaVersionError: it is of another revision.
        StoreError: the server failed.
    """
    with mapping(sessions.shown), sessions.connect() as connection:
        found = look(connection, sessions)
        if found.revision is None:
            if sessions.read_only:
                raise StoreOpenError(
                    f"there is no store in the schema {found.schema}: `layerstore import` makes one", sessions.shown
                )
            _fill(connection, sessions)
        elif found.revision != HEAD:
            _refuse(found, sessions.shown)
        if not sessions.read_only:
            _try_lock(connection, sessions.shown)


def _try_lock(connection: psycopg.Connection[Any], shown: str) -> None:
    """Refuse a server that speaks PostgreSQL's protocol and lacks the lock that transactions are made of."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT set_config('lock_timeout', '1ms', true)")
            connection.execute(statements.LOCK.text.encode())
    except _HAS_LOCKS:
        return  # whoever writes is told what it may not
    except psycopg.Error as error:
        raise StoreOpenError(f"this server cannot lock a table: use PostgreSQL 15 or later ({error})", shown) from error


def look(connection: psycopg.Connection[Any], sessions: Sessions) -> Found:
    """Return what a database is.

    Raises:
        StoreOpenError: it is not ours, and not empty; it has no schema, no UTF-8, or an older server.
    """
    shown = sessions.shown
    try:
        row = connection.execute(_LOOK).fetchone()
        assert row is not None
        number, whole, encoding, schema, comment, has_metadata, has_version, others = row
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise StoreOpenError(f"{_NEEDED}, and this server is another ({error})", shown) from error
    if not str(whole).startswith("PostgreSQL ") or number < OLDEST_SERVER:
        raise StoreOpenError(f"{_NEEDED}, and this is {whole}", shown)
    if encoding != "UTF8":
        raise StoreOpenError(
            f"the database is in {encoding}: make one by `createdb --encoding=UTF8 --template=template0`", shown
        )
    if schema is None:
        raise StoreOpenError("no schema of the search path is there: make one, or set search_path", shown)
    if not has_metadata:
        if others:
            raise StoreOpenError(
                f"the schema {schema} has other objects of our names ({others}): use another schema", shown
            )
        return Found(schema, None, HEAD)
    mark, _, usable_from = (comment or "").partition(" ")
    if mark != "layerstore":
        raise StoreOpenError(f"the table {schema}.metadata is another program's: use another database or schema", shown)
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if has_version else None
    if row is None:
        raise StoreOpenError("a damaged store: its schema revision is missing: restore a backup", shown)
    return Found(schema, row[0], usable_from)


def _fill(connection: psycopg.Connection[Any], sessions: Sessions) -> None:
    from layerstore.sql.postgresql.schema import creation  # an existing store need not wait for SQLAlchemy

    with locked(connection):
        if look(connection, sessions).revision is None:  # else another process was faster
            for statement in creation(HEAD):
                connection.execute(statement)


@contextmanager
def locked(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Hold the body in one transaction, behind the lock of all who make or change a schema."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        yield


def _refuse(found: Found, shown: str) -> None:
    from layerstore.sql import migrate

    assert found.revision is not None
    if found.revision in migrate.revisions():
        raise SchemaVersionError(
            f"its schema is revision {found.revision}, this version of layerstore needs {HEAD}:"
            " run `layerstore schema upgrade`",
            shown,
        )
    if found.usable_from > HEAD:
        raise migrate.unknown(found.revision, shown)


def revision(url: str) -> str | None:
    """Return the schema's revision of a database; `None` for an empty one.

    Raises:
        StoreOpenError: it cannot be reached, or is not ours.
    """
    sessions = sessions_of(url, read_only=True)
    try:
        with mapping(sessions.shown), sessions.connect() as connection:
            return look(connection, sessions).revision
    finally:
        sessions.close()


def move_to(url: str, wanted: str) -> tuple[str, str]:
    """Bring a schema to a revision, up or down; return the revisions before and after.

    Raises:
        StoreOpenError: there is no store, or it is not ours.
        InvalidInputError: there is no such revision, or PostgreSQL never had it.
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the database is as it was.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError

    from layerstore.sql import migrate
    from layerstore.sql.postgresql.schema import BORN

    before = revision(url)
    sessions = sessions_of(url, read_only=False)
    if before is None:
        raise StoreOpenError("there is no store in it: `layerstore import` makes one", sessions.shown)
    known = migrate.revisions()
    target = HEAD if wanted == "head" else wanted
    if target not in known:
        raise InvalidInputError(f"no revision {wanted!r}: `layerstore schema history` lists them")
    if target < BORN:
        raise InvalidInputError(f"a store on PostgreSQL begins with revision {BORN}: {target} is of files alone")
    if before not in known:
        raise migrate.unknown(before, sessions.shown)
    steps = migrate.upwards(target) if target >= before else migrate.downwards(target)
    engine = create_engine("postgresql+psycopg://", creator=lambda: sessions.connect(autocommit=False))
    try:
        with mapping(sessions.shown), engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            migrate.run(connection, steps, sessions.shown)
    except DBAPIError as error:
        raise sessions.error(error.orig or error) from error
    finally:
        engine.dispose()
        sessions.close()
    return before, target
