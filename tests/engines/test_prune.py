"""After a prune by the layers that are left, the daemon mounts these; what went is uploaded again, or comes back."""

from __future__ import annotations

import pytest

from layerstore import TransferError, prune
from tests.engines.conftest import Trial


def test_the_daemon_mounts_what_was_kept_and_uploads_what_was_pruned(trial: Trial):
    host, app, gone = trial.host("a"), trial.name("one/app"), trial.name("old/gone")
    image, archive, store = trial.home / "image.tar", trial.home / "gone.tar", trial.home / "layers.db"
    with host.running():
        host.make(trial.name("one/base"), [5_000, 200_000])
        host.build(app, 3_000, base=trial.name("one/base"))
        pruned = host.make(gone, [4_000, 150_000])
        for name in (trial.name("one/base"), app, gone):
            host.push(name)
        host.docker("save", "--output", image, gone)
        host.remove(gone)
        with pytest.raises(TransferError, match="a Docker daemon runs on it"):
            prune(host.data_root, keep_layers=host.data_root)
    trial.layerstore(store, "import", host.data_root)

    # The store, and the directory itself: the same goes.
    on_store = trial.layerstore(store, "prune", "--keep-layers", host.data_root, "--to", archive)
    on_files = trial.layerstore(store, "prune", host.data_root, "--keep-layers", host.data_root)
    for report in (on_store, on_files):
        assert (report["lists"], report["associations"], report["mappings"]) == (2, 2, 2)
        assert (report["shortened"], report["unreadable"], report["changed"]) == (0, 0, 0)
    assert not {association.diff_id for association in host.associations()} & set(pruned)
    assert trial.layerstore(store, "diff", host.distribution)["equal"] == 6
    assert trial.layerstore(store, "verify")["findings"] == []

    # On the pruned directory. Layers that are loaded again are not known any more.
    with host.running():
        assert host.push(app, trial.name("two/app")) == ["Mounted from one/app"] * 3
        host.docker("load", "--input", image)
        assert host.push(gone, trial.name("two/gone")) == ["Pushed"] * 2
    assert trial.registry.layer_bytes("two/app") == [0] * 3
    assert trial.registry.layer_bytes("two/gone") == trial.registry.image("two/gone").sizes

    # On what the pruned store gives out.
    host.forget()
    trial.layerstore(store, "export", host.distribution)
    with host.running():
        assert host.push(app, trial.name("three/app")) == ["Mounted from one/app"] * 3
        assert host.push(gone, trial.name("three/gone")) == ["Pushed"] * 2

    # With the archive of what went, the control.
    assert trial.layerstore(store, "import", archive)["added"] == 4
    host.forget()
    trial.layerstore(store, "export", host.distribution)
    with host.running():
        assert host.push(gone, trial.name("four/gone")) == ["Mounted from old/gone"] * 2
    assert trial.registry.layer_bytes("four/gone") == [0] * 2
