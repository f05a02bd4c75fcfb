"""Values, keys and digests of any kind: the documented error or the documented answer, and no bytes are lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import (
    CorruptRecordError,
    FSMetadataStore,
    InvalidDigestError,
    InvalidInputError,
    NotFoundError,
    SQLMetadataStore,
    V1IDService,
    V2Metadata,
    V2MetadataService,
    existence_candidates,
    mount_candidates,
    verify,
)
from layerstore.gojson import MAX_DEPTH
from tests.conftest import AnyStore, assert_sound, sqlite_of
from tests.support.counting import Counted
from tests.support.strategies import NEAR_DIGESTS, sha256

LISTS, LAYER = "v2metadata-by-diffid", sha256(1)
KEY = LAYER.replace(":", "/")
BLOB = sha256(2)
ENTRY = f'{{"Digest":"{BLOB}","SourceRepository":"localhost:5000/a","HMAC":""}}'

READABLE = {
    "nested as deep as Go reads": f'[{{"Digest":"{BLOB}","x":{"[" * (MAX_DEPTH - 2)}{"]" * (MAX_DEPTH - 2)}}}]',
    "a number of a million digits": f'[{{"Digest":"{BLOB}","x":{"9" * 1_000_000}}}]',
    "a number beyond every type": f'[{{"Digest":"{BLOB}","x":-1e999999999}}]',
    "lone surrogates": f'[{{"Digest":"{BLOB}","SourceRepository":"\\ud800\\udc00\\udfff\\ud800"}}]',
    "a field 10,000 times": "[{" + ",".join([f'"Digest":"{BLOB}"'] * 10_000) + "}]",
    "fields in any case": f'[{{"dIGEST":"x","DIGEST":"{BLOB}"}}]',
    "10,000 entries": f"[{','.join([ENTRY] * 10_000)}]",
    "a string of escapes": f'[{{"Digest":"{BLOB}","SourceRepository":"{chr(92)}u0000{chr(92)}n" }}]',
    "white space": f'{" " * 1_000_000}[{{"Digest":"{BLOB}"}}]\n\n',
}
UNREADABLE = {
    "nested deeper": f'[{{"Digest":"{BLOB}","x":{"[" * MAX_DEPTH}{"]" * MAX_DEPTH}}}]',
    "a million arrays": "[" * 1_000_000,
    "a million objects": '{"a":' * 1_000_000,
    "a number as a digest": '[{"Digest":1e400}]',
    "no number": f'[{{"Digest":"{BLOB}","x":01}}]',
    "NaN": f'[{{"Digest":"{BLOB}","x":NaN}}]',
    "an object": ENTRY,
    "two documents": f"[{ENTRY}][{ENTRY}]",
    "a byte order mark": f"\ufeff[{ENTRY}]",
    "a string without end": f'[{{"Digest":"{"x" * 1_000_000}',
    "nothing": "",
}


@pytest.mark.parametrize("text", READABLE.values(), ids=READABLE.keys())
def test_a_list_within_the_limits_is_read_and_derived(sql_memory: SQLMetadataStore, text: str, counted: Counted):
    counted("inputs")
    sql_memory.set(LISTS, KEY, text.encode())

    assert {entry.digest for entry in V2MetadataService(sql_memory).get_metadata(LAYER)} == {BLOB}
    assert_sound(sql_memory)


def test_a_string_of_100_megabytes(sql_memory: SQLMetadataStore, inputs: int, counted: Counted):
    """A tenth of it in the suite, for its share of the time."""
    counted("inputs")
    repository = "x" * (100_000_000 if inputs >= 100 else 10_000_000)
    sql_memory.set(LISTS, KEY, f'[{{"Digest":"{BLOB}","SourceRepository":"{repository}"}}]'.encode())

    assert V2MetadataService(sql_memory).get_metadata(LAYER) == [V2Metadata(BLOB, repository)]
    assert_sound(sql_memory)


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_list_beyond_them_is_a_corrupt_record_and_its_bytes_are_kept(
    sql_memory: SQLMetadataStore, text: str, counted: Counted
):
    counted("inputs")
    v2 = V2MetadataService(sql_memory)
    sql_memory.set(LISTS, KEY, text.encode())

    with pytest.raises(CorruptRecordError) as caught:
        v2.get_metadata(LAYER)
    assert len(str(caught.value)) < 1000, "an error does not show the whole value"
    v2.add(LAYER, V2Metadata(BLOB))
    kept = sqlite_of(sql_memory).run("SELECT CAST(value AS BLOB) FROM quarantine")
    assert kept == [(text.encode(),)]
    assert v2.get_metadata(LAYER) == [V2Metadata(BLOB)]


TEXTS = st.one_of(
    NEAR_DIGESTS,
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Lo"]), max_size=6),
    st.sampled_from(
        ["", ".", "..", "../x", "/etc/passwd", "a//b", "a\0b", "x" * 5000, "sha256:" + "a" * 63 + "\n", "..\\x"]
    ),
    st.lists(st.sampled_from(["..", ".", "a", "", ".tmp-a", "\udc80", "é"]), max_size=5).map("/".join),
)


@given(namespace=TEXTS, key=TEXTS, value=st.binary(max_size=20))
def test_any_name_is_taken_whole_or_refused(namespace: str, key: str, value: bytes, store: AnyStore, counted: Counted):
    """By every store alike; what was taken is found under that name alone."""
    counted("inputs")
    before = list(store.entries())
    try:
        store.set(namespace, key, value)
    except InvalidInputError:
        assert list(store.entries()) == before
        with pytest.raises((InvalidInputError, NotFoundError)):
            store.get(namespace, key)
        return
    assert store.get(namespace, key) == value
    assert {(of, name) for of, name, _ in store.entries()} == {(of, name) for of, name, _ in before} | {
        (namespace, key)
    }
    if isinstance(store, FSMetadataStore):
        store.delete(namespace, key)  # or it may be in the way of a directory
        assert list(store.entries()) == before


@given(text=TEXTS, other=TEXTS)
def test_any_digest_repository_and_v1_id_is_taken_or_refused(text: str, other: str, counted: Counted):
    counted("inputs")
    with SQLMetadataStore(":memory:") as store:
        v2, v1 = V2MetadataService(store), V1IDService(store)
        odd = V2Metadata(text, other, text)
        uses: list[Callable[[], object]] = [
            lambda: v2.add(text, V2Metadata(BLOB, other, text)),
            lambda: v2.add(LAYER, odd),
            lambda: v2.tag_and_add(LAYER, b"key", odd),
            lambda: v2.remove(odd),
            lambda: v2.get_metadata(text),
            lambda: v2.get_diff_id(text),
            lambda: v2.get_metadata_many([text, other]),
            lambda: v1.set(text, other, LAYER),
            lambda: v1.set("a" * 64, text, other),
            lambda: v1.get(text, other),
            lambda: mount_candidates([odd, V2Metadata(BLOB, text)], other, hmac_key=b"key"),
            lambda: existence_candidates([odd, V2Metadata(BLOB, text)], other, hmac_key=b"key"),
        ]
        for use in uses:
            with suppress(InvalidInputError, NotFoundError):
                use()
        assert_sound(store)
        kinds = {found.kind for found in verify(store).findings if found.severity != "info"}
        assert kinds == set(), "what the services take is never a finding"


@given(text=TEXTS)
def test_what_is_no_digest_is_said_in_one_line(text: str, counted: Counted):
    counted("inputs")
    said = ""
    with SQLMetadataStore(":memory:") as store:
        try:
            V2MetadataService(store).get_metadata(text)
        except InvalidDigestError as error:
            said = str(error)
        except NotFoundError:
            said = text  # it is one
    assert said
    assert "\n" not in said
