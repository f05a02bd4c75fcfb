"""What the services raise is in the words of who asked: layers, digests, V1 images; the entry stands behind it."""

from __future__ import annotations

import pickle

import pytest

from layerstore import CorruptRecordError, ImageNotFoundError, NotFoundError, V1IDService, V2MetadataService
from tests.conftest import AnyStore
from tests.support.strategies import sha256


def test_what_is_not_known_is_named(store: AnyStore):
    v2, v1 = V2MetadataService(store), V1IDService(store)
    layer = sha256(1)
    entry = f"(no entry {layer.replace(':', '/')!r} in namespace "

    with pytest.raises(NotFoundError) as found:
        v2.get_metadata(layer)
    assert str(found.value) == f"nothing is known about layer {layer} {entry}'v2metadata-by-diffid')"
    with pytest.raises(NotFoundError) as found:
        v2.get_diff_id(layer)
    assert str(found.value) == f"nothing is known about digest {layer} {entry}'diffid-by-digest')"
    with pytest.raises(NotFoundError) as found:
        v1.get("a" * 64, "registry:5000")
    assert str(found.value).startswith(f"nothing is known about V1 image {'a' * 64} at registry:5000 (no entry ")
    with pytest.raises(NotFoundError, match=r"^no entry 'k' in namespace 'n'$"):
        store.get("n", "k")


def test_what_cannot_be_read_is_named(store: AnyStore):
    store.set("diffid-by-digest", sha256(1).replace(":", "/"), b"x")

    with pytest.raises(CorruptRecordError, match=f"^what is stored about digest {sha256(1)} is unreadable "):
        V2MetadataService(store).get_diff_id(sha256(1))
    store.delete("diffid-by-digest", sha256(1).replace(":", "/"))


def test_an_image_that_is_not_there_keeps_its_hint_across_processes():
    error = pickle.loads(pickle.dumps(ImageNotFoundError("/var/lib/docker", "app:1", "; did you mean app:1.0?")))

    assert str(error).startswith("/var/lib/docker: no image 'app:1'; did you mean app:1.0?")
