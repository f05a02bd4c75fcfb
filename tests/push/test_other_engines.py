"""What Podman and Skopeo would try, by their own rule; containerd's is in `tests/formats/test_containerd_live.py`."""

from __future__ import annotations

import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from layerstore.blobs import BlobRecord, encode
from layerstore.keys import BLOBS, digest_key
from layerstore.push.candidates import containers_candidates
from layerstore.push.layers import engine_candidates, known_layers

LAYER, ONE, TWO, THREE = (f"sha256:{number:064x}" for number in range(4))


def blob(compressed: str | None = "gzip", /, **seen: int | None) -> BlobRecord:
    return BlobRecord(compression=compressed, locations={f"h:1/{name}": when for name, when in seen.items()})


def choose(blobs: dict[str, BlobRecord], asked: str = LAYER, diff_id: str | None = LAYER) -> list[tuple[str, str]]:
    found = containers_candidates(blobs, "h:1/target", asked=asked, diff_id=diff_id)
    assert all(isinstance(one, V2Metadata) and one.hmac == "" for one in found)
    return [(one.digest, one.source_repository) for one in found]


def test_others_come_by_age_and_the_plain_layer_last():
    blobs = {LAYER: blob("uncompressed", new=99), ONE: blob(a=1, b=3, c=None), TWO: blob(d=2)}

    # By time: b, d, a, then c, which has none; the asked one is the plain layer itself, so it comes first.
    assert choose(blobs) == [(LAYER, "h:1/new"), (ONE, "h:1/b"), (TWO, "h:1/d"), (ONE, "h:1/a"), (ONE, "h:1/c")]
    # Another one is asked for: it comes first, and the plain layer last, which is beyond the five.
    assert choose(blobs, asked=TWO) == [
        (TWO, "h:1/d"),
        (ONE, "h:1/b"),
        (ONE, "h:1/a"),
        (ONE, "h:1/c"),
        (LAYER, "h:1/new"),
    ]


def test_five_places_at_most():
    names = {f"n{number}": number for number in range(6)}

    assert choose({ONE: blob(**names)}) == [(ONE, f"h:1/n{number}") for number in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize("places", range(6))
def test_blobs_without_a_place_here_are_looked_for_in_what_is_left(places: int):
    known = {f"n{number}": number for number in range(places)}
    elsewhere = BlobRecord(compression="gzip", locations={"other:1/a": 5})
    blobs = {ONE: blob(**known), TWO: elsewhere, THREE: blob()} | ({} if places else {ONE: blob(None, x=1)})
    looks = [digest for digest, name in choose(blobs) if not name]

    assert looks == [TWO, THREE][: min(2, 5 - places)]
    assert choose(blobs)[:places] == [(ONE, f"h:1/n{number}") for number in reversed(range(places))]


def test_a_blob_of_unknown_or_another_compression_is_never_used():
    assert choose({ONE: blob(None, a=1), TWO: blob("xz", a=1), THREE: blob("zstd", a=1)}) == [(THREE, "h:1/a")]
    docker = containers_candidates(
        {THREE: blob("zstd", a=1)}, "h:1/t", asked=LAYER, diff_id=LAYER, compressions={"gzip"}
    )
    assert docker == []


def test_a_manifest_that_must_not_change_takes_the_exact_blob_only():
    blobs = {ONE: blob(a=1), TWO: blob(b=2)}

    assert choose(blobs, asked=ONE, diff_id=None) == [(ONE, "h:1/a")]


# Of a layer that a store knows


@pytest.fixture
def store(sql_file: SQLMetadataStore) -> SQLMetadataStore:
    """A store that knows three blobs of a layer: by Docker, by others, and by both."""
    v2 = V2MetadataService(sql_file)
    v2.add(LAYER, V2Metadata(ONE, "h:1/docker/old"))
    v2.add(LAYER, V2Metadata(ONE, "h:1/docker/new"))
    v2.add(LAYER, V2Metadata(TWO, "h:1/both"))
    for digest, locations in ((TWO, {"h:1/both": 5, "h:1/team/others": 7}), (THREE, {"other:1/team/app": 9})):
        record = BlobRecord(diff_id=LAYER, compression="zstd", locations=locations)
        sql_file.set(BLOBS, digest_key(digest), encode(record))
    return sql_file


def steps(store: SQLMetadataStore, engine: str, target: str = "h:1/team/app") -> list[tuple[str, str, str]]:
    known = known_layers(store, [LAYER])[LAYER]
    return [(one.action, one.digest, one.source_repository) for one in engine_candidates(known, target, engine)]


def test_containerd_tries_one_name_for_each_blob(store: SQLMetadataStore):
    assert steps(store, "containerd") == [("mount", ONE, "h:1/docker/old"), ("mount", TWO, "h:1/team/others")]
    assert steps(store, "containerd", "other:1/x") == [("mount", THREE, "other:1/team/app")]
    assert steps(store, "containerd", "nowhere:1/x") == []


def test_podman_tries_what_has_a_compression(store: SQLMetadataStore):
    assert steps(store, "containers") == [
        ("mount", TWO, "h:1/team/others"),
        ("mount", TWO, "h:1/both"),
        ("check", THREE, ""),
    ]
    store.set(BLOBS, digest_key(ONE), encode(BlobRecord(compression="gzip")))
    assert steps(store, "containers")[2:4] == [("mount", ONE, "h:1/docker/new"), ("mount", ONE, "h:1/docker/old")]
