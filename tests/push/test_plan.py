"""What a push would do, layer by layer; `tests/engines/test_plan.py` holds it against a daemon."""

from __future__ import annotations

import pytest

from layerstore import (
    InvalidDigestError,
    InvalidInputError,
    InvalidRepositoryError,
    PushPlan,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    plan_push,
)
from layerstore.push.plan import EXISTS, MOUNT, UPLOAD
from tests.conftest import AnyStore
from tests.support.strategies import sha256

LAYERS = [(sha256(0xA0 + number), size) for number, size in enumerate((1_000, 1_000_000, 20_000_000))]
TARGET = "localhost:5000/team/app"


def actions(planned: PushPlan) -> list[str]:
    return [layer.action for layer in planned.layers]


def test_nothing_known_is_uploaded(store: AnyStore):
    planned = plan_push(store, LAYERS, "busybox")
    assert planned.target_repository == "docker.io/library/busybox"
    assert actions(planned) == [UPLOAD] * 3
    assert {(layer.digest, layer.source_repository, layer.status) for layer in planned.layers} == {
        (None, None, "Pushed")
    }
    assert (planned.total(UPLOAD), planned.total(MOUNT)) == ((3, 21_001_000), (0, 0))


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("docker.io/library/alpine", "Mounted from library/alpine"),
        ("docker.io/team/app", "Mounted from team/app"),
        ("docker.io/team/app:1", "Mounted from team/app"),
    ],
)
def test_a_mount_is_printed_with_the_path_alone(store: AnyStore, source: str, status: str):
    V2MetadataService(store).add(LAYERS[0][0], V2Metadata(sha256(1), source))
    (layer,) = plan_push(store, LAYERS[:1], "busybox").layers
    assert (layer.action, layer.digest, layer.source_repository) == (MOUNT, sha256(1), source)
    assert layer.status == status


def test_a_port_is_no_tag(store: AnyStore):
    V2MetadataService(store).add(LAYERS[0][0], V2Metadata(sha256(1), "localhost:5000/a/b"))
    assert plan_push(store, LAYERS[:1], TARGET).layers[0].status == "Mounted from a/b"


def test_what_the_target_is_known_to_have_exists(store: AnyStore):
    """Also when the best association of the digest is another repository's."""
    for diff_id, _ in LAYERS:
        V2MetadataService(store).add(diff_id, V2Metadata(sha256(1), TARGET))
        V2MetadataService(store).add(diff_id, V2Metadata(sha256(1), "localhost:5000/team/newer"))
    planned = plan_push(store, LAYERS, TARGET)
    assert actions(planned) == [EXISTS] * 3
    assert {(layer.digest, layer.status) for layer in planned.layers} == {(sha256(1), "Layer already exists")}


def test_behind_another_digest_the_target_is_found_for_a_large_layer_only(store: AnyStore):
    for diff_id, _ in LAYERS:
        V2MetadataService(store).add(diff_id, V2Metadata(sha256(1), TARGET, "0" * 64))
        V2MetadataService(store).add(diff_id, V2Metadata(sha256(2), "registry.example/app"))
    planned = plan_push(store, LAYERS, TARGET)
    assert actions(planned) == [UPLOAD, UPLOAD, EXISTS]
    assert planned.layers[0].reason == "the target is known to have it, but not as a digest that is looked for"


def test_the_same_is_mounted_where_something_is_to_mount(store: AnyStore):
    for diff_id, _ in LAYERS:
        V2MetadataService(store).add(diff_id, V2Metadata(sha256(1), TARGET, "0" * 64))
        V2MetadataService(store).add(diff_id, V2Metadata(sha256(2), "localhost:5000/other"))
    assert actions(plan_push(store, LAYERS, TARGET)) == [MOUNT] * 3


def test_a_layer_that_comes_twice_is_planned_once(store: AnyStore):
    planned = plan_push(store, [LAYERS[0], LAYERS[1], LAYERS[0]], TARGET)
    assert [layer.diff_id for layer in planned.layers] == [LAYERS[0][0], LAYERS[1][0]]
    with pytest.raises(InvalidInputError, match="two sizes"):
        plan_push(store, [LAYERS[0], (LAYERS[0][0], 5)], TARGET)


def test_a_list_that_cannot_be_read_is_an_upload_that_says_so(store: AnyStore):
    store.set("v2metadata-by-diffid", LAYERS[0][0].replace(":", "/"), b"[{")
    (layer,) = plan_push(store, LAYERS[:1], TARGET).layers
    assert layer.action == UPLOAD
    assert layer.reason.startswith("its list cannot be read (")


def test_a_digest_that_the_list_has_lost_does_not_help_docker(sql_store: SQLMetadataStore):
    sql_store.set("diffid-by-digest", sha256(1).replace(":", "/"), LAYERS[0][0].encode())
    (layer,) = plan_push(sql_store, LAYERS[:1], TARGET).layers
    assert (layer.action, layer.reason) == (
        UPLOAD,
        "its list is gone; a digest of it is known, but not where from",
    )


def test_bad_names_are_refused(store: AnyStore):
    with pytest.raises(InvalidRepositoryError):
        plan_push(store, LAYERS, "a//b")
    with pytest.raises(InvalidDigestError):
        plan_push(store, [("x", 1)], TARGET)
    assert plan_push(store, [], TARGET).layers == ()
