"""How often a call waits for the server: counted behind a proxy, exact on any machine."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService
from layerstore.push.layers import known_layers
from tests.support.postgresql import Proxy
from tests.support.strategies import sha256

LAYER, BLOB = sha256(1), sha256(2)
HERE = V2Metadata(BLOB, "localhost:5000/team/app")

Call = Callable[[SQLMetadataStore], object]
CALLS: dict[str, tuple[int, Call]] = {
    "get": (1, lambda store: store.get("n", "k")),
    "get_many": (1, lambda store: store.get_many("n", [f"k{number}" for number in range(100)])),
    "set": (1, lambda store: store.set("n", "k", b"v")),
    "set of a list": (1, lambda store: store.set("v2metadata-by-diffid", "sha256/" + "a" * 64, b"[]")),
    "set of a mapping": (1, lambda store: V1IDService(store).set("a" * 64, "registry", LAYER)),
    "delete": (1, lambda store: store.delete("n", "gone")),
    "get_diff_id": (1, lambda store: V2MetadataService(store).get_diff_id(BLOB)),
    "get_diff_ids": (1, lambda store: V2MetadataService(store).get_diff_ids([BLOB, sha256(9)])),
    "get_metadata": (1, lambda store: V2MetadataService(store).get_metadata(LAYER)),
    "known_layers": (1, lambda store: known_layers(store, [LAYER])),
    "add": (2, lambda store: V2MetadataService(store).add(LAYER, HERE)),
    "add to a new layer": (2, lambda store: V2MetadataService(store).add(sha256(3), V2Metadata(sha256(4), "r"))),
    "remove": (3, lambda store: V2MetadataService(store).remove(HERE)),
}


@pytest.mark.parametrize("how", ["prepared", "not prepared"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_takes_so_many_round_trips(proxy: Proxy, schema: str, call: str, how: str):
    """The first time as well, when its statements are prepared."""
    trips, do = CALLS[call]
    with SQLMetadataStore(proxy.url(schema, "&prepare=off" if how == "not prepared" else "")) as store:
        store.set("n", "k", b"v")
        for number in range(2):
            V2MetadataService(store).add(LAYER, HERE)
            store.set("n", "gone", b"")
            before = proxy.trips
            do(store)
            assert proxy.trips - before == trips, f"call {number + 1}"


def test_a_transaction_adds_one_at_its_beginning_and_one_at_its_end(proxy: Proxy, schema: str):
    with SQLMetadataStore(proxy.url(schema)) as store:
        store.set("n", "k", b"v")
        before = proxy.trips
        with store.transaction():
            store.get("n", "k")
            store.set("n", "k", b"w")

        assert proxy.trips - before == 4


def test_sessions_are_as_many_as_calls_at_once(proxy: Proxy, schema: str):
    """One thread after the other uses the same."""
    with SQLMetadataStore(proxy.url(schema)) as store:
        opened = len(proxy._pairs)
        for _ in range(20):
            thread = threading.Thread(target=store.set, args=("n", "k", b"v"))
            thread.start()
            thread.join()

        assert len(proxy._pairs) - opened == 1
