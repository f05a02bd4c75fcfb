"""Many entries at once on a server: indexes built last where nobody waits for them, and all or nothing where one is
refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from layerstore import InvalidInputError, SQLMetadataStore, V2Metadata
from layerstore.records import encode_list
from tests.conftest import assert_sound
from tests.support.postgresql import Server
from tests.support.strategies import sha256

MANY = 1200
INDEXES = """
SELECT c.relname, c.oid, c.relfilenode, pg_get_indexdef(c.oid) FROM pg_class c
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'i' ORDER BY 1
"""


def entries() -> Iterator[tuple[str, str, bytes]]:
    for number in range(MANY):
        diff_id, digest = sha256(number), sha256(number + 10_000)
        listed = encode_list([V2Metadata(digest, f"localhost:5000/app-{number % 7}")])
        yield "v2metadata-by-diffid", diff_id.replace(":", "/"), listed
        yield "diffid-by-digest", digest.replace(":", "/"), diff_id.encode()
        yield "v1id", f"localhost:5000,{number:064x}", diff_id.encode()


def indexes(server: Server, schema: str) -> list[tuple[Any, ...]]:
    return server.execute(INDEXES, schema)


def definitions(found: list[tuple[Any, ...]]) -> list[tuple[str, str]]:
    return [(name, definition) for name, _, _, definition in found]


def test_into_an_empty_store_the_indexes_are_built_last_and_are_those_of_before(
    postgresql_server: Server, schema: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "layerstore")
    with SQLMetadataStore(postgresql_server.url(schema)) as store:
        before = indexes(postgresql_server, schema)
        store.set_many(entries())
        loaded = indexes(postgresql_server, schema)
        store.set_many((namespace, key + "0", value) for namespace, key, value in entries())

        assert [record.message for record in caplog.records] == ["building indexes"]
        assert definitions(loaded) == definitions(before)
        assert {name for name, *_ in set(loaded) - set(before)} == {
            name for name, *_ in before if not name.endswith(("_pkey", "_pkc", "quarantine_by_key"))
        }
        assert indexes(postgresql_server, schema) == loaded, "it was not empty any more"
        assert len(store) == 6 * MANY
        assert_sound(store)


@pytest.mark.parametrize("why", ["somebody reads", "another role's", "in a transaction"])
def test_where_that_cannot_be_the_indexes_are_kept_up(postgresql_server: Server, schema: str, why: str):
    url = postgresql_server.url(schema)
    SQLMetadataStore(url).close()
    before = indexes(postgresql_server, schema)
    role = f"writer_{schema}"
    postgresql_server.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};"
        f" GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}"
    )
    with ExitStack() as stack:
        own = postgresql_server.url(schema, user=role) if why == "another role's" else url
        store, reader = (stack.enter_context(SQLMetadataStore(one)) for one in (own, url))
        if why == "somebody reads":
            stack.enter_context(reader.transaction(deferred=True))
            assert len(reader) == 0
        with store.transaction() if why == "in a transaction" else ExitStack():
            store.set_many(entries())
            if why != "another role's":
                assert len(reader) == 0, "it reads what was there before, and waits for nobody"
        assert len(store) == 3 * MANY
        assert_sound(store)

    assert indexes(postgresql_server, schema) == before
    postgresql_server.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


LONG = json.dumps([{"Digest": sha256(1), "SourceRepository": "r" * 3000, "HMAC": ""}]).encode()
NUL = json.dumps([{"Digest": sha256(1), "SourceRepository": "r\0", "HMAC": ""}]).encode()


@pytest.mark.parametrize(("value", "why"), [(LONG, "over 2000 bytes"), (NUL, "NUL")], ids=["too long", "NUL"])
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_a_large_set_many_with_one_entry_that_postgresql_cannot_hold_changes_nothing(
    postgresql_server: Server, schema: str, value: bytes, why: str, filled: bool
):
    with SQLMetadataStore(postgresql_server.url(schema)) as store:
        if filled:
            store.set_many(entries())
        before = list(store._records()), indexes(postgresql_server, schema)

        with pytest.raises(InvalidInputError, match=why):
            store.set_many([*entries(), ("v2metadata-by-diffid", sha256(1).replace(":", "/"), value)])

        assert (list(store._records()), indexes(postgresql_server, schema)) == before
        store.set("n", "k", b"the session goes on")
        assert_sound(store)
