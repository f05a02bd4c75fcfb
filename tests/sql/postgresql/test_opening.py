"""What opening a database on a server makes, takes and refuses; and that no message has a password."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from layerstore import (
    InvalidInputError,
    NotFoundError,
    SchemaVersionError,
    SQLMetadataStore,
    StoreBusyError,
    StoreError,
    StoreOpenError,
    StoreReadOnlyError,
    V2Metadata,
    V2MetadataService,
)
from layerstore.sql.schema import HEAD
from tests.conftest import assert_sound
from tests.support import postgresql
from tests.support.postgresql import ROLE, Server
from tests.support.strategies import sha256

PASSWORD = "s3cret-w0rd"


@pytest.fixture
def database(postgresql_server: Server) -> Iterator[str]:
    """The name of an empty database."""
    name = f"d_{postgresql.new_schema(postgresql_server)}"
    postgresql_server.execute(f"CREATE DATABASE {name}")
    yield name
    postgresql_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_an_empty_schema_is_filled_and_found_again(postgresql_url: str):
    with SQLMetadataStore(postgresql_url) as store:
        store.set("n", "k", b"v")
    with SQLMetadataStore(postgresql_url, read_only=True) as again:
        assert again.get("n", "k") == b"v"
        with pytest.raises(StoreReadOnlyError, match="read_only"):
            again.set("n", "k", b"w")
        with pytest.raises(StoreReadOnlyError), again.transaction():
            pass
        with pytest.raises(StoreReadOnlyError):
            V2MetadataService(again).add(sha256(1), V2Metadata(sha256(2)))


def test_to_read_only_nothing_is_made(postgresql_url: str):
    with pytest.raises(StoreOpenError, match="no store in the schema"):
        SQLMetadataStore(postgresql_url, read_only=True)
    with pytest.raises(StoreOpenError, match="no store in the schema"):
        SQLMetadataStore(postgresql_url, read_only=True)


def test_many_who_open_an_empty_database_at_once_all_succeed(postgresql_url: str):
    code = (
        "import sys; from layerstore import SQLMetadataStore\n"
        "with SQLMetadataStore(sys.argv[1]) as store: store.set('n', sys.argv[2], b'')"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, postgresql_url, f"k{one}"]) for one in range(6)]

    assert [one.wait(60) for one in running] == [0] * 6
    with SQLMetadataStore(postgresql_url) as store:
        assert [key for _, key, _ in store.entries()] == [f"k{one}" for one in range(6)]
        assert_sound(store)


@pytest.mark.parametrize(
    "made",
    ["CREATE TABLE metadata(id int)", "CREATE TABLE quarantine(id int)", "CREATE VIEW layers AS SELECT 1 AS one"],
)
def test_what_another_program_made_is_refused_and_left_alone(postgresql_server: Server, schema: str, made: str):
    postgresql_server.execute(f"SET search_path = {schema}; {made}")

    with pytest.raises(StoreOpenError, match=r"another program's|other objects of our names"):
        SQLMetadataStore(postgresql_server.url(schema))
    found = postgresql_server.execute("SELECT count(*) FROM pg_class WHERE relnamespace = %s::regnamespace", schema)
    assert found[0][0] == 1


def test_a_store_in_another_schema_of_the_path_is_not_taken_for_the_own(postgresql_server: Server, schema: str):
    other = postgresql.new_schema(postgresql_server)
    with SQLMetadataStore(postgresql_server.url(other)) as store:
        store.set("n", "k", b"of the other")
    path = quote(f"-c search_path={schema},{other}")
    with SQLMetadataStore(f"{postgresql_server.url()}&options={path}") as store, pytest.raises(NotFoundError):
        store.get("n", "k")
    postgresql.drop_schema(postgresql_server, other)


def test_a_database_without_the_schema_is_refused(postgresql_server: Server):
    with pytest.raises(StoreOpenError, match="no schema of the search path"):
        SQLMetadataStore(postgresql_server.url("there_is_none"))


def test_an_older_schema_is_upgraded_only_on_request(postgresql_server: Server, schema: str):
    url = postgresql_server.url(schema)
    SQLMetadataStore(url).close()
    postgresql_server.execute(f"UPDATE {schema}.alembic_version SET version_num = '0001'")

    for read_only in (True, False):
        with pytest.raises(SchemaVersionError, match="run `layerstore schema upgrade`"):
            SQLMetadataStore(url, read_only=read_only)
    postgresql_server.execute(f"UPDATE {schema}.alembic_version SET version_num = '{HEAD}'")


def test_a_newer_schema_is_used_if_it_says_so_and_else_refused(postgresql_server: Server, schema: str):
    url = postgresql_server.url(schema)
    SQLMetadataStore(url).close()
    postgresql_server.execute(f"UPDATE {schema}.alembic_version SET version_num = '9998'")

    with SQLMetadataStore(url) as store:
        store.set("n", "k", b"v")
    postgresql_server.execute(f"COMMENT ON TABLE {schema}.metadata IS 'layerstore 9998'")
    with pytest.raises(SchemaVersionError, match="install a newer layerstore"):
        SQLMetadataStore(url)


def test_a_store_without_its_revision_is_refused(postgresql_server: Server, schema: str):
    url = postgresql_server.url(schema)
    SQLMetadataStore(url).close()
    postgresql_server.execute(f"DELETE FROM {schema}.alembic_version")

    with pytest.raises(StoreOpenError, match="its schema revision is missing"):
        SQLMetadataStore(url)


def test_another_encoding_is_refused(postgresql_server: Server, database: str):
    postgresql_server.execute(f"CREATE DATABASE {database}_latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with pytest.raises(StoreOpenError, match="the database is in LATIN1"):
            SQLMetadataStore(postgresql_server.url(database=f"{database}_latin"))
    finally:
        postgresql_server.execute(f"DROP DATABASE {database}_latin")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("database", "does not exist"),
        ("user", "does not exist"),
        ("port", "[Cc]onnection refused"),
        ("host", "cannot be opened"),
    ],
)
def test_what_cannot_be_reached_says_why(postgresql_server: Server, more: str, said: str):
    url = {
        "database": postgresql_server.url(database="there_is_none"),
        "user": postgresql_server.url(user="nobody_here"),
        "port": f"postgresql://{ROLE}@127.0.0.1:{postgresql.free_port()}/postgres",
        "host": f"postgresql://{ROLE}@no-such-host.invalid/postgres",
    }[more]

    with pytest.raises(StoreOpenError, match=said):
        SQLMetadataStore(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:layers",
        "postgresql://h:a-word/",
        "postgresql:///d?no_such_option=1",
        "postgresql:///d?prepare=perhaps",
        "postgresql+psycopg:///d?port=x&port=y",
    ],
)
def test_what_is_no_url_is_invalid_input(url: str):
    with pytest.raises((InvalidInputError, StoreOpenError)):
        SQLMetadataStore(url)


def test_both_ways_to_name_several_hosts_and_both_schemes_work(postgresql_server: Server, schema: str):
    closed = postgresql.free_port()
    path = f"options={quote(f'-c search_path={schema}')}"
    for url in (
        f"postgresql://{ROLE}@127.0.0.1:{closed},127.0.0.1:{postgresql_server.port}/postgres?{path}",
        f"postgresql+psycopg://{ROLE}@/postgres?host=127.0.0.1:{closed}&host=127.0.0.1:{postgresql_server.port}&{path}",
        f"postgresql+psycopg://{ROLE}@127.0.0.1:{postgresql_server.port}/postgres?{path}",
    ):
        with SQLMetadataStore(url) as store:
            store.set("n", "k", b"v")


def test_no_message_log_or_repr_has_the_password(postgresql_server: Server, caplog: pytest.LogCaptureFixture):
    said: list[str] = []
    caplog.set_level(logging.DEBUG)
    postgresql_server.execute(f"DROP ROLE IF EXISTS keeper; CREATE ROLE keeper LOGIN PASSWORD '{PASSWORD}'")
    here = f"127.0.0.1:{postgresql_server.port}"
    for url in (
        f"postgresql://keeper:{PASSWORD}@{here}/there_is_none",
        f"postgresql://keeper:{PASSWORD}@{here}/postgres?options={quote('-c search_path=there_is_none')}",
        f"postgresql:///postgres?host=127.0.0.1&port={postgresql_server.port}&user=nobody&password={PASSWORD}",
        f"postgresql://keeper:{PASSWORD}@127.0.0.1:{postgresql.free_port()}/postgres",
        f"postgresql://keeper:{PASSWORD}@{here}/postgres?no_such={PASSWORD[::-1]}",
        f"postgresql+psycopg://keeper:{PASSWORD}@no-such-host.invalid/x",
        f"postgresql://keeper:a#{PASSWORD}@no-such-host.invalid/x",
        *(f"postgresql://keeper:a{mark}{PASSWORD}@{here}/postgres" for mark in "@/?"),
        *(f"postgresql://keeper:{PASSWORD}{mark}a@{here}/postgres" for mark in "@/?"),
    ):
        with pytest.raises((StoreError, InvalidInputError)) as caught:
            SQLMetadataStore(url)
        error: BaseException | None = caught.value
        while error is not None:
            said += [str(error), repr(error), repr(getattr(error, "path", ""))]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    schema = postgresql.new_schema(postgresql_server)
    postgresql_server.execute(f"GRANT ALL ON SCHEMA {schema} TO keeper")
    path = quote(f"-c search_path={schema}")
    with SQLMetadataStore(f"postgresql://keeper:{PASSWORD}@{here}/postgres?options={path}") as store:
        store.set("n", "k", b"v")
        said += [repr(store), str(store.path), repr(store.engine), repr(store.engine.url)]
    postgresql.drop_schema(postgresql_server, schema)

    assert said
    assert not [text for text in (*said, caplog.text) if PASSWORD in text]
    assert all("keeper" in text for text in said if "SQLMetadataStore(" in text)


@pytest.mark.parametrize("timeout_s", [0, 0.2])
def test_a_writer_waits_so_long_and_no_longer(postgresql_url: str, timeout_s: float):
    with SQLMetadataStore(postgresql_url) as one, SQLMetadataStore(postgresql_url, timeout_s=timeout_s) as two:
        one.set("n", "k", b"v")
        with one.transaction():
            with pytest.raises(StoreBusyError, match="another writer"):
                two.set("n", "k", b"w")
            with pytest.raises(StoreBusyError), two.transaction():
                pass
            with pytest.raises(StoreBusyError):
                V2MetadataService(two).add(sha256(1), V2Metadata(sha256(2)))
            assert two.get("n", "k") == b"v"


def test_a_reader_and_a_writer_need_the_rights_that_the_page_names(postgresql_server: Server, schema: str):
    """The statements of docs/fleet.md."""
    url = postgresql_server.url(schema)
    SQLMetadataStore(url).close()
    page = (postgresql.ROOT / "docs" / "fleet.md").read_text()
    statements = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert len(statements) == 1
    postgresql_server.execute("DROP ROLE IF EXISTS layers_reader; DROP ROLE IF EXISTS layers_writer")
    postgresql_server.execute(
        f"SET search_path = {schema}; {statements[0].replace('SCHEMA public', f'SCHEMA {schema}')}"
    )
    with SQLMetadataStore(postgresql_server.url(schema, user="layers_writer")) as writer:
        V2MetadataService(writer).add(sha256(1), V2Metadata(sha256(2), "localhost:5000/a"))
        V2MetadataService(writer).remove(V2Metadata(sha256(2), "localhost:5000/a"))
        writer.set_many(("n", f"k{number:04}", b"v") for number in range(1500))
        with writer.transaction():
            writer.quarantine("n", "k", b"v", "why")
    with SQLMetadataStore(postgresql_server.url(schema, user="layers_reader"), read_only=True) as reader:
        assert reader.get("n", "k0000") == b"v"
        assert_sound(reader)
    with SQLMetadataStore(postgresql_server.url(schema, user="layers_reader")) as reader:
        with pytest.raises(StoreReadOnlyError, match="this role may not do that"):
            reader.set("n", "k", b"w")
        with pytest.raises(StoreReadOnlyError):
            V2MetadataService(reader).add(sha256(1), V2Metadata(sha256(2)))
    postgresql_server.execute("DROP OWNED BY layers_reader, layers_writer; DROP ROLE layers_reader, layers_writer")
