"""Arguments of a wrong type are an InvalidInputError that says what is needed, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import layerstore
from layerstore import InvalidInputError, SQLMetadataStore
from tests.conftest import AnyStore
from tests.support.strategies import sha256

api: Any = layerstore  # to a type checker these are the mistakes that they are
LAYER, BLOB, V1_ID = sha256(1), sha256(2), "a" * 64
KNOWN = api.V2Metadata(BLOB, "docker.io/library/a")

Call = Callable[[Any], object]
OF_A_STORE: dict[str, Call] = {
    "get, namespace": lambda store: store.get(1, "k"),
    "get, key": lambda store: store.get("n", None),
    "get, key of bytes": lambda store: store.get("n", b"k"),
    "set, key": lambda store: store.set("n", 5, b""),
    "set, value": lambda store: store.set("n", "k", "text"),
    "delete": lambda store: store.delete(None, None),
    "entries": lambda store: list(store.entries(5)),
    "get_many, key": lambda store: store.get_many("n", [1]),
    "get_many, keys": lambda store: store.get_many("n", None),
    "get_many, text": lambda store: store.get_many("n", "key"),
    "set_many, entry": lambda store: store.set_many([("n", "k")]),
    "set_many, entries": lambda store: store.set_many(5),
    "add, layer": lambda store: api.V2MetadataService(store).add(None, KNOWN),
    "add, association": lambda store: api.V2MetadataService(store).add(LAYER, BLOB),
    "add, digest": lambda store: api.V2MetadataService(store).add(LAYER, api.V2Metadata(5)),
    "add, repository": lambda store: api.V2MetadataService(store).add(LAYER, api.V2Metadata(BLOB, 5)),
    "tag_and_add, association": lambda store: api.V2MetadataService(store).tag_and_add(LAYER, None, BLOB),
    "tag_and_add, key": lambda store: api.V2MetadataService(store).tag_and_add(LAYER, "key", KNOWN),
    "remove": lambda store: api.V2MetadataService(store).remove(BLOB),
    "get_metadata": lambda store: api.V2MetadataService(store).get_metadata(5),
    "get_metadata_many": lambda store: api.V2MetadataService(store).get_metadata_many(5),
    "get_metadata_many, text": lambda store: api.V2MetadataService(store).get_metadata_many(LAYER),
    "get_diff_id": lambda store: api.V2MetadataService(store).get_diff_id(b"x"),
    "get_diff_ids": lambda store: api.V2MetadataService(store).get_diff_ids([None]),
    "v1.get": lambda store: api.V1IDService(store).get(5, "registry"),
    "v1.get, registry": lambda store: api.V1IDService(store).get(V1_ID, None),
    "v1.set": lambda store: api.V1IDService(store).set(V1_ID, "registry", None),
    "layer_candidates, layer": lambda store: api.layer_candidates(store, 5, "docker.io/library/a"),
    "layer_candidates, target": lambda store: api.layer_candidates(store, LAYER, None),
    "known_layers": lambda store: api.known_layers(store, 5),
}
OTHERS: dict[str, Call] = {
    "compute_hmac, key": lambda _: api.compute_hmac("key", KNOWN),
    "compute_hmac, association": lambda _: api.compute_hmac(b"key", BLOB),
    "compute_hmac_key": lambda _: api.compute_hmac_key("user"),
    "compute_hmac_key, password": lambda _: api.compute_hmac_key(api.AuthConfig("user", 5)),
    "check_hmac": lambda _: api.check_hmac(BLOB, b"key"),
    "mount_candidates": lambda _: api.mount_candidates([BLOB], "docker.io/library/a"),
    "mount_candidates, target": lambda _: api.mount_candidates([KNOWN], 5),
    "existence_candidates": lambda _: api.existence_candidates(None, "docker.io/library/a"),
    "push_attempts": lambda _: api.push_attempts("large"),
    "canonical_repository": lambda _: api.canonical_repository(None),
    "Digest.parse": lambda _: api.Digest.parse(None),
    "import_directory, store": lambda _: api.import_directory(None, "."),
    "import_directory, path": lambda store: api.import_directory(store, 5),
    "export_directory, path": lambda store: api.export_directory(store, None),
    "export_directory, on_conflict": lambda store: api.export_directory(store, "/nowhere/x", on_conflict=5),
    "verify": lambda _: api.verify(5),
    "diff": lambda store: api.diff(store, 5),
    "prune, age": lambda store: api.prune(store, older_than=5),
    "prune, registry": lambda store: api.prune(store, registry=[5]),
    "look_up, store": lambda _: api.look_up(".", "x"),
    "look_up, term": lambda store: api.look_up(store, 5),
    "stats": lambda _: api.stats("."),
    "query, SQL": lambda store: api.query(store, 5).__enter__(),
    "recover": lambda _: api.recover(5, "new.db"),
    "drop_quarantined": lambda store: api.drop_quarantined(store, "1"),
    "restore_quarantined": lambda store: api.restore_quarantined(store, "1"),
    "restore_quarantined, store": lambda _: api.restore_quarantined(".", 1),
    "find_image": lambda _: api.find_image(5, "busybox"),
    "find_image, name": lambda _: api.find_image(".", 5),
    "plan_push": lambda store: api.plan_push(store, [LAYER], "docker.io/library/a"),
    "SQLMetadataStore": lambda _: api.SQLMetadataStore(5),
    "SQLMetadataStore, timeout": lambda _: api.SQLMetadataStore(":memory:", timeout_s="long"),
    "a service": lambda _: api.V2MetadataService("layers.db"),
    "a service of V1 IDs": lambda _: api.V1IDService(5),
}


@pytest.mark.parametrize("call", OF_A_STORE.values(), ids=OF_A_STORE.keys())
def test_a_store_and_its_services_say_what_they_need(store: AnyStore, call: Call):
    with pytest.raises(InvalidInputError) as refused:
        call(store)

    assert len(str(refused.value)) > 10
    assert len(store) == 0


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS.keys())
def test_every_other_function_says_what_it_needs(sql_memory: SQLMetadataStore, call: Call):
    with pytest.raises(InvalidInputError) as refused:
        call(sql_memory)

    assert len(str(refused.value)) > 10
    assert len(sql_memory) == 0
