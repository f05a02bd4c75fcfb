"""`--host` is everything that the machine has, each named; what cannot be read is a note."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, import_layers
from layerstore.formats import containers
from layerstore.transfer import place
from tests.formats.daemon import Containerd, answering, listening
from tests.formats.test_containerd import GZIP, make_root
from tests.formats.test_containers import digest
from tests.support.command import DONE, Run
from tests.support.entries import MAPPINGS, layer_key, write_file
from tests.transfer.test_engines import CACHE, ENGINES, key, records


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's file system: `var` is root's, `home` the caller's own, `run` has the sockets."""
    monkeypatch.setattr(place, "_SYSTEM", str(tmp_path / "var"))
    monkeypatch.setattr(place, "_SOCKETS", ((str(tmp_path / "run"), "containerd"), (str(tmp_path / "run2"), None)))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path


def test_everything_is_found_and_named(machine: Path, run: Run, database: Path):
    write_file(machine / "var/docker/image/overlay2/distribution", MAPPINGS, layer_key(1), digest(9).encode(), 1)
    make_root(machine / "var/buildkit/runc-native", "containerdmeta.db", "content/blobs", 2, GZIP)
    for owner in ("var", "home"):
        (machine / owner / "containers/cache").mkdir(parents=True)
        shutil.copy(CACHE, machine / owner / "containers/cache" / containers.NAME)
    storage = machine / "home/containers/storage/overlay-layers"
    storage.mkdir(parents=True)
    shutil.copy(ENGINES / "podman-5.8.6-vfs-layers.json", storage / "layers.json")
    labels = {"containerd.io/distribution.source.docker.io": "team/app"}
    with listening(machine / "run", answering(Containerd({digest(1): (labels, GZIP)}, {}).handle)):
        report = run("import", "--host", "--json").json

    assert [source["source"].removeprefix(str(machine)) for source in report["sources"]] == [
        f"containerd:{machine}/run",
        "/var/docker/image/overlay2/distribution",
        "/var/buildkit/runc-native/containerdmeta.db",
        "/var/containers/cache/blob-info-cache-v1.sqlite",
        "/home/containers/cache/blob-info-cache-v1.sqlite",
        "/home/containers/storage/overlay-layers/layers.json",
    ]
    assert report["ok"]
    with SQLMetadataStore(database) as store:
        assert {key(1), key(2)} < records(store).keys()


def test_containerds_files_are_read_where_it_does_not_run(machine: Path, sql_file: SQLMetadataStore):
    folder = machine / "var/containerd"
    make_root(folder, "io.containerd.metadata.v1.bolt/meta.db", "io.containerd.content.v1.content/blobs", 4, GZIP)
    import_layers(sql_file, *place.sources_here())

    assert list(records(sql_file)) == [key(4)]


def test_what_cannot_be_read_is_a_note(machine: Path, sql_file: SQLMetadataStore):
    for name in ("containers/cache", "docker"):
        (machine / "var" / name).mkdir(parents=True)
    shutil.copy(CACHE, machine / "var/containers/cache" / containers.NAME)
    (machine / "home/containers/cache").mkdir(parents=True)
    (machine / "home/containers/cache" / containers.NAME).write_bytes(CACHE.read_bytes()[:9000])
    report = import_layers(sql_file, *place.sources_here())

    assert report.ok
    assert report.added == 8
    assert {note.path.removeprefix(str(machine)) for note in report.notes} == {"/home/containers/cache"}
    assert "damaged" in report.notes[0].reason


def test_a_machine_without_engines_is_an_error(machine: Path, run: Run, database: Path):
    with pytest.raises(TransferError, match="no container engine has left anything here"):
        place.sources_here()
    assert run("import", "--host").code != DONE
    assert not database.exists()


def test_a_path_or_the_host_is_needed(run: Run, database: Path):
    done = run("import")

    assert done.code == 2
    assert "give a PATH, or --host" in done.err
