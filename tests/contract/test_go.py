"""Every document that Go was seen to read, as a list in every store: read and added to as Docker does."""

from __future__ import annotations

import pytest

from layerstore import (
    CorruptRecordError,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
)
from tests.conftest import AnyStore
from tests.golden.go_observed import DECODED
from tests.support.strategies import sha256

NEW = V2Metadata(sha256(1), "localhost:5000/new")


def test_every_list_is_read_and_added_to_as_by_docker(store: AnyStore):
    v2 = V2MetadataService(store)
    aside = 0
    for number, (name, document, entries) in enumerate(DECODED, 100):
        layer = sha256(number)
        store.set("v2metadata-by-diffid", layer.replace(":", "/"), document)
        if entries is None:
            with pytest.raises(CorruptRecordError):
                v2.get_metadata(layer)
            aside += 1
        else:
            assert v2.get_metadata(layer) == [V2Metadata(*entry) for entry in entries], name

        v2.add(layer, NEW)
        before = [V2Metadata(*entry) for entry in entries or ()]
        assert v2.get_metadata(layer) == [*before, NEW], name
        v2.remove(NEW)
        if before:
            assert v2.get_metadata(layer) == before, name
        else:
            assert ("v2metadata-by-diffid", layer.replace(":", "/")) not in store

    if isinstance(store, SQLMetadataStore):
        assert len(store.quarantined()) == aside
