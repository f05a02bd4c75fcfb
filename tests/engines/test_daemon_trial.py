"""A real daemon runs on the directory that layerstore wrote: it mounts, finds and pulls as on its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest

from layerstore import (
    AuthConfig,
    FSMetadataStore,
    V2MetadataService,
    compute_hmac_key,
    mount_candidates,
    push_attempts,
)
from tests.engines.conftest import Trial
from tests.engines.host import Host

SIZES = [5_000, 200_000, 11 << 20]
"""A layer of each class that Docker's push tells apart."""


class Pushed(NamedTuple):
    """A host that has pushed two images, and a store that took in what it knew."""

    host: Host
    store: Path
    base: list[str]
    app: list[str]
    blobs: list[str]


@pytest.fixture(scope="module")
def pushed(trial: Trial) -> Pushed:
    """A daemon builds and pushes, and is stopped; its data root is imported, and its directory emptied."""
    host = trial.host("a")
    with host.running():
        base = host.make(trial.name("one/base"), SIZES)
        app = host.build(trial.name("one/app"), 3_000, base=trial.name("one/base"))
        assert host.push(trial.name("one/base")) == ["Pushed"] * 3
        assert host.push(trial.name("one/app")) == ["Mounted from one/base"] * 3 + ["Pushed"]
    store = trial.home / "layers.db"
    report = trial.layerstore(store, "import", host.data_root)
    assert (report["added"], report["skipped"], report["quarantined"]) == (8, [], [])
    assert trial.layerstore(store, "verify")["findings"] == []
    assert trial.layerstore(store, "diff", host.distribution)["equal"] == 8
    host.forget()
    return Pushed(host, store, base, app, trial.registry.image("one/app").layers)


def test_a_daemon_runs_on_what_was_exported(trial: Trial, pushed: Pushed):
    """To another repository it mounts every layer, in the same one it finds them, and a pull knows the blobs."""
    host, app = pushed.host, trial.name("one/app")
    host.forget()
    assert trial.layerstore(pushed.store, "export", host.distribution)["written"] == 8
    assert trial.layerstore(pushed.store, "diff", host.distribution)["times_differ"] == 0
    taken = host.associations()
    with host.running():
        assert host.push(app, trial.name("two/app")) == ["Mounted from one/app"] * 4
        assert host.push(app) == ["Layer already exists"] * 4
        host.remove(app)
        # The lower three are layers of one/base: the blobs' digests tell the daemon so.
        assert host.pull(app, pushed.blobs) == ["Already exists"] * 3 + ["Pull complete"]
        new = host.build(trial.name("two/new"), 4_000, base=app)
        assert host.push(trial.name("two/new")) == ["Mounted from two/app"] * 4 + ["Pushed"]
    assert trial.registry.layer_bytes("two/app") == [0] * 4

    written = host.associations()
    assert written > taken
    # Of the whole data root, the label of the manifest that was pulled would come too, from the daemon's containerd.
    report = trial.layerstore(pushed.store, "import", host.distribution)
    assert (report["conflicts"], report["evicted"], report["skipped"], report["quarantined"]) == ([], 0, [], [])
    assert report["added"] == 2  # the new layer's list, and its blob's mapping
    connection = sqlite3.connect(pushed.store)
    try:
        assert set(connection.execute("SELECT diff_id, digest, source_repository, hmac FROM v2_metadata")) == written
        assert set(connection.execute("SELECT digest, diff_id FROM diff_id_by_digest")) == host.mappings()
    finally:
        connection.close()
    assert {diff_id for diff_id, *_ in written} == {*pushed.app, *new}
    assert trial.layerstore(pushed.store, "diff", host.distribution)["equal"] == 10
    assert {found["severity"] for found in trial.layerstore(pushed.store, "verify")["findings"]} <= {"info"}


def test_without_the_export_it_uploads_every_layer(trial: Trial, pushed: Pushed):
    """The control: it is what was exported that spares the upload."""
    pushed.host.forget()
    with pushed.host.running():
        assert pushed.host.push(trial.name("one/base"), trial.name("control/base")) == ["Pushed"] * 3
    assert trial.registry.layer_bytes("control/base") == trial.registry.image("control/base").sizes
    assert min(trial.registry.layer_bytes("control/base")) > 0


def test_the_daemon_mounts_from_where_mount_candidates_says(trial: Trial):
    """Of many repositories, the first candidate is the one that the registry is asked to mount from."""
    host = trial.host("b")
    names = ["team1/app", "team1/tools/app", "team2/app", "team2/tools/app", "other"]
    with host.running():
        layers = host.make(trial.name(names[0]), SIZES)
        for name in names:
            host.push(trial.name(names[0]), trial.name(name))
        for target in ("team1/tools/new", "team2/new", "team1/new", "alone"):
            expected = {}
            with FSMetadataStore(host.distribution) as files:
                for diff_id, size in zip(layers, SIZES, strict=True):
                    first, *_ = mount_candidates(
                        V2MetadataService(files).get_metadata(diff_id),
                        trial.name(target),
                        hmac_key=compute_hmac_key(AuthConfig()),
                        limit=push_attempts(size).mounts,
                    )
                    expected[first.digest] = first.source_repository.removeprefix(trial.name(""))
            statuses = host.push(trial.name(names[0]), trial.name(target))
            assert trial.registry.mounted[target] == expected
            assert statuses == [f"Mounted from {repository}" for repository in expected.values()]
