"""What one engine learned, another one mounts: real programs, and the bytes that a registry was sent.

Each trial has its control: the same push where nothing was written. `LAYERSTORE_TRIAL_PATH` names a folder with other
releases of the programs than Debian's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore, TransferError, import_layers
from layerstore.blobs import BlobRecord, decode
from layerstore.digest import Digest
from layerstore.formats import containers
from layerstore.keys import BLOBS, key_digest
from tests.engines.conftest import Trial
from tests.engines.host import Host, docker_archive, layer
from tests.engines.others import Containerd, Skopeo
from tests.engines.processes import SEARCH, program

SIZES = [400_000, 150_000]


class Hosts:
    """A registry that has an image, which one Skopeo pushed there, and hosts that are to learn that."""

    def __init__(self, trial: Trial, home: Path) -> None:
        self._trial, self._home = trial, home
        self._made = 0
        home.mkdir()
        self.archive = home / "image.tar"
        layers = [layer({f"file-{number}": os.urandom(size)}) for number, size in enumerate(SIZES)]
        self.diff_ids = docker_archive(self.archive, "app:latest", layers)
        self.owner = home.name.replace("__", "_").replace("_", "-")
        self.image = self.name("one")
        self.first = self.skopeo()
        self.first.copy(f"docker-archive:{self.archive}", f"docker://{self.image}")

    def name(self, repository: str) -> str:
        return f"{self._trial.name(self.owner)}/{repository}:latest"

    def repository(self, name: str) -> str:
        return self.name(name).removesuffix(":latest")

    def skopeo(self, skopeo: str = "") -> Skopeo:
        return Skopeo(self._new("skopeo"), skopeo or program("skopeo"))

    def containerd(self) -> Containerd:
        return Containerd(self._new("containerd"), self._trial.sockets)

    def docker(self, *, containerds_store: bool = False) -> Host:
        return self._trial.host(f"host-{len(self._trial.hosts)}", containerds_store=containerds_store)

    def oci(self, repository: str) -> Path:
        """Return an OCI archive of an image that the registry has, with the very same blobs."""
        archive = self._new("oci.tar")
        self.skopeo().copy(f"docker://{self.name(repository)}", f"oci-archive:{archive}")
        return archive

    def database(self, *places: object) -> Path:
        """Import by the command into a new database."""
        database = self._new("layers.db")
        for place in places:
            self._trial.layerstore(database, "import", place)
        return database

    def export(self, database: Path, *arguments: object) -> dict[str, Any]:
        """Export by the command; return its report."""
        return self._trial.layerstore(database, "export", *arguments)

    def layers(self, repository: str = "one") -> list[Digest]:
        return list(map(Digest, self._trial.registry.image(f"{self.owner}/{repository}").layers))

    def fetched(self, repository: str) -> list[str]:
        """Return the digests of the layers of a repository's image that were downloaded from it."""
        layers = self.layers(repository)
        found = [digest for name, digest in self._trial.registry.fetched if name == f"{self.owner}/{repository}"]
        return [digest for digest in found if digest in layers]

    def sent(self, repository: str) -> tuple[list[int], int]:
        """Return how many bytes of each layer were sent for a repository, and how many blobs were mounted into it."""
        repository = f"{self.owner}/{repository}"
        return self._trial.registry.layer_bytes(repository), len(self._trial.registry.mounted.get(repository, {}))

    def _new(self, name: str) -> Path:
        self._made += 1
        return self._home / f"{self._made}-{name}"


def blobs(database: Path) -> dict[Digest, BlobRecord]:
    with SQLMetadataStore(database) as store:
        return {Digest(key_digest(key) or ""): decode(value, key) for _, key, value in store.entries(BLOBS)}


@pytest.fixture
def hosts(trial: Trial, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    missing = [name for name in ("skopeo", "containerd", "ctr") if shutil.which(name, path=SEARCH) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)} (.ci/packages names the packages)")
    # Of its own for each parameter too: what the registry has already, nobody uploads.
    own = f"{zlib.crc32(request.node.name.encode()):08x}"
    home = trial.home / f"{request.node.originalname.removeprefix('test_')[:30]}_{own}"
    yield Hosts(trial, home)
    shutil.rmtree(home)


@pytest.fixture
def other(hosts: Hosts) -> Skopeo:
    """A Skopeo that knows nothing yet, with a cache that can be written."""
    skopeo = hosts.skopeo()
    if not skopeo.uses_sqlite:
        pytest.skip("this Skopeo keeps its cache in BoltDB, which is read and not written; 1.14 and later use SQLite")
    return skopeo


ALL, NONE = "all", "none"


def uploaded(hosts: Hosts, repository: str) -> str:
    """Return whether all layers were sent for a repository, or none."""
    layers, _ = hosts.sent(repository)
    assert layers
    assert len(set(map(bool, layers))) == 1
    return ALL if all(layers) else NONE


# Into the cache of Skopeo


def test_what_skopeo_learned_another_skopeo_mounts(hosts: Hosts, other: Skopeo):
    report = hosts.export(hosts.database(hosts.first.cache), other.cache / containers.NAME)
    other.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('two')}")
    hosts.skopeo().copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('control')}")

    assert report["added"] > 2
    assert hosts.sent("two") == ([0, 0], 2)
    assert uploaded(hosts, "control") == ALL


def test_what_an_older_skopeo_learned_a_newer_one_mounts(hosts: Hosts, other: Skopeo):
    """Of its own accord, the newer one does not read the older one's cache: BoltDB beside its own."""
    debians = shutil.which("skopeo", path="/usr/bin")
    older = None if debians is None else hosts.skopeo(debians)
    if older is None or older.uses_sqlite:
        pytest.skip("no Skopeo before 1.14 is here, which keeps its cache in BoltDB")
    control = hosts.skopeo()
    older.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('older')}")
    [bolt] = older.cache.iterdir()
    control.cache.mkdir(parents=True)
    shutil.copy(bolt, control.cache)
    hosts.export(hosts.database(older.cache), other.cache / containers.NAME)
    other.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('two')}")
    control.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('control')}")

    assert bolt.name == containers.BOLT_NAME
    assert hosts.sent("two") == ([0, 0], 2)
    assert uploaded(hosts, "control") == ALL


def test_a_layer_that_a_host_has_unpacked_is_not_pulled_in_another_compression(hosts: Hosts, other: Skopeo):
    packer, control = hosts.skopeo(), hosts.skopeo()
    packer.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('zstd')}", "--dest-compress-format=zstd")
    for skopeo in (other, control):
        skopeo.unpack(hosts.image)
    hosts.export(hosts.database(packer.cache), other.cache / containers.NAME)
    other.unpack(hosts.name("zstd"))
    told = hosts.fetched("zstd")
    control.unpack(hosts.name("zstd"))

    assert set(hosts.layers("zstd")).isdisjoint(hosts.layers("one"))
    assert told == []
    assert sorted(hosts.fetched("zstd")) == sorted(hosts.layers("zstd"))


def test_what_containerd_learned_skopeo_mounts(hosts: Hosts, other: Skopeo):
    containerd = hosts.containerd()
    with containerd.running():
        containerd.pull(hosts.image)
        database = hosts.database(f"containerd:{containerd.socket}?namespace=default")
    assert [blobs(database)[layer].compression for layer in hosts.layers()] == ["gzip", "gzip"]
    hosts.export(database, other.cache / containers.NAME)
    other.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('two')}")
    hosts.skopeo().copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('control')}")

    assert hosts.sent("two") == ([0, 0], 2)
    assert uploaded(hosts, "control") == ALL


def test_what_docker_learned_skopeo_mounts_if_it_is_told_the_compression(hosts: Hosts, other: Skopeo):
    docker, control = hosts.docker(), hosts.skopeo()
    with docker.running():
        docker.docker("load", "--input", hosts.archive)
        docker.push("app:latest", hosts.name("docker"))
    database = hosts.database(docker.data_root)
    hosts.export(database, control.cache / containers.NAME)
    hosts.export(database, "--assume-compression", "gzip", other.cache / containers.NAME)
    other.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('two')}")
    control.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('control')}")

    assert hosts.sent("two") == ([0, 0], 2)
    assert hosts.layers("two") == hosts.layers("docker")
    assert uploaded(hosts, "control") == ALL  # the same file without a compression


# Into the labels of containerd


def push_by_containerd(hosts: Hosts, database: Path, image: str, *, told: bool, options: Sequence[object] = ()) -> None:
    """Load an image that the registry has into a fresh containerd, tell it what is known, and push it."""
    containerd, name = hosts.containerd(), hosts.name("two" if told else "control")
    with containerd.running():
        containerd.load(hosts.oci(image), name)
        if told:
            hosts.export(database, f"containerd:{containerd.socket}?namespace=default", *options)
        containerd.push(name)


@pytest.mark.parametrize("chosen", [True, False], ids=["--to", "--image"])
def test_what_skopeo_learned_containerd_mounts(hosts: Hosts, chosen: bool):
    database = hosts.database(hosts.first.cache)
    options = ["--to", hosts.repository("two")] if chosen else ["--image", hosts.name("two")]
    push_by_containerd(hosts, database, "one", told=True, options=options)
    push_by_containerd(hosts, database, "one", told=False)

    assert hosts.sent("two") == ([0, 0], 3)  # the configuration too
    assert uploaded(hosts, "control") == ALL


def test_what_docker_learned_containerd_mounts(hosts: Hosts):
    docker = hosts.docker()
    with docker.running():
        docker.docker("load", "--input", hosts.archive)
        docker.push("app:latest", hosts.name("docker"))
    database = hosts.database(docker.data_root)
    push_by_containerd(hosts, database, "docker", told=True)
    push_by_containerd(hosts, database, "docker", told=False)

    assert hosts.sent("two") == ([0, 0], 2)
    assert uploaded(hosts, "control") == ALL


def test_what_containerd_learned_another_containerd_mounts(hosts: Hosts):
    first = hosts.containerd()
    with first.running():
        first.pull(hosts.image)
        database = hosts.database(f"containerd:{first.socket}")
    push_by_containerd(hosts, database, "one", told=True, options=["--to", hosts.repository("two")])
    push_by_containerd(hosts, database, "one", told=False)

    assert hosts.sent("two") == ([0, 0], 3)
    assert uploaded(hosts, "control") == ALL


def test_what_containerd_forgot_is_written_back(hosts: Hosts):
    containerd, oci = hosts.containerd(), hosts.oci("one")
    with containerd.running():
        containerd.pull(hosts.image)
        socket = f"containerd:{containerd.socket}?namespace=default"
        database = hosts.database(socket)
        containerd.forget()
        containerd.load(oci, hosts.name("control"))
        containerd.push(hosts.name("control"))
        containerd.ctr("image", "tag", hosts.name("control"), hosts.name("two"))
        hosts.export(database, socket)
        containerd.push(hosts.name("two"))

    assert uploaded(hosts, "control") == ALL
    assert hosts.sent("two") == ([0, 0], 3)


def test_what_skopeo_learned_docker_with_containerds_store_mounts(hosts: Hosts):
    """As Docker 29 keeps images by default. The CI job of docs/engines.md: load, tag, export, push, import."""
    version = subprocess.run([program("dockerd"), "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.split()[2].partition(".")[0]) < 25:
        pytest.skip("this Docker is too old for containerd's store: 25 and later have it")
    database, oci, later = hosts.database(hosts.first.cache), hosts.oci("one"), {}
    for repository in ("control", "two"):
        docker, name = hosts.docker(containerds_store=True), hosts.name(repository)
        with docker.running():
            docker.docker("load", "--input", oci)
            docker.docker("tag", docker.docker("image", "ls", "--quiet", "--no-trunc").split()[0], name)
            if repository == "two":
                hosts.export(database, docker.containerd, "--image", name, "--to", hosts.repository(repository))
            docker.docker("push", name)
            later = blobs(hosts.database(docker.containerd))

    assert uploaded(hosts, "control") == ALL
    assert hosts.sent("two") == ([0, 0], 3)
    assert all(hosts.repository("two") in later[layer].locations for layer in hosts.layers())


# Into Docker's directory


def push_by_docker(hosts: Hosts, database: Path, *, told: bool) -> list[str]:
    """Load the image into a fresh Docker with a graph driver, tell it what is known, and push it."""
    docker = hosts.docker()
    with docker.running():
        docker.docker("load", "--input", hosts.archive)
    if told:
        hosts.export(database, docker.distribution)
    with docker.running():
        return docker.push("app:latest", hosts.name("two" if told else "control"))


def test_what_skopeo_learned_docker_mounts(hosts: Hosts):
    database = hosts.database(hosts.first.cache)

    assert push_by_docker(hosts, database, told=True) == [f"Mounted from {hosts.owner}/one"] * 2
    assert push_by_docker(hosts, database, told=False) == ["Pushed"] * 2
    assert hosts.sent("two") == ([0, 0], 2)
    assert uploaded(hosts, "control") == ALL


@pytest.mark.parametrize("by_a_cache", [False, True], ids=["straight", "by the cache of Podman"])
def test_what_containerd_learned_docker_mounts(hosts: Hosts, by_a_cache: bool, tmp_path: Path):
    containerd = hosts.containerd()
    with containerd.running():
        containerd.pull(hosts.image)
        database = hosts.database(f"containerd:{containerd.socket}")
    if by_a_cache:
        cache = tmp_path / containers.NAME
        hosts.export(database, cache)
        database = hosts.database(cache)

    assert push_by_docker(hosts, database, told=True) == [f"Mounted from {hosts.owner}/one"] * 2
    assert push_by_docker(hosts, database, told=False) == ["Pushed"] * 2
    assert hosts.sent("two") == ([0, 0], 2)
    assert uploaded(hosts, "control") == ALL


# What is read


def test_a_stopped_containerds_files_say_what_it_said_itself(hosts: Hosts):
    containerd = hosts.containerd()
    with containerd.running():
        containerd.pull(hosts.image)
        live = blobs(hosts.database(f"containerd:{containerd.socket}"))
        held = containerd.root / "io.containerd.metadata.v1.bolt" / "meta.db"
        with (
            pytest.raises(TransferError, match="a running program holds its lock"),
            SQLMetadataStore(":memory:") as store,
        ):
            import_layers(store, held)
    offline = blobs(hosts.database(containerd.root))

    def timeless(found: dict[Digest, BlobRecord]) -> dict[Digest, tuple[object, ...]]:
        # containerd 1.6 does not say by its socket when a blob was updated.
        return {blob: (one.diff_id, one.compression, sorted(one.locations)) for blob, one in found.items()}

    assert timeless(live) == timeless(offline)
    assert sorted(one.diff_id for one in offline.values() if one.diff_id) == sorted(hosts.diff_ids)


def test_a_cache_that_skopeo_made_is_read_whole(hosts: Hosts):
    found = blobs(hosts.database(hosts.first.cache))

    assert [found[layer].diff_id for layer in hosts.layers()] == hosts.diff_ids
    assert [found[layer].compression for layer in hosts.layers()] == ["gzip", "gzip"]
    assert all(hosts.repository("one") in found[layer].locations for layer in hosts.layers())


def test_pushes_beside_imports_and_exports_of_a_large_cache_all_mount(hosts: Hosts, other: Skopeo):
    """Skopeo goes on without its cache if that is held for five seconds, and tells nobody."""
    cache = str(other.cache / containers.NAME)
    hosts.export(hosts.database(hosts.first.cache), cache)
    rounds, over = [0, 0], threading.Event()

    def export() -> None:
        while not over.is_set():
            rounds[0] += 1
            places = {f"{name}/{rounds[0]}": rounds[0] for name in ("h:1/a", "h:1/b")}
            record = BlobRecord(compression="gzip", locations=places)
            containers.write(cache, ((Digest(f"sha256:{number:064x}"), record) for number in range(10_000)))

    def read() -> None:
        while not over.is_set():
            rounds[1] += sum(1 for _ in containers.read_sqlite(cache)) > 2

    with ThreadPoolExecutor() as pool:
        working = [pool.submit(export), pool.submit(read)]
        try:
            for number in range(8):
                other.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name(f'n{number}')}")
        finally:
            over.set()
        for one in working:
            one.result()

    assert [hosts.sent(f"n{number}") for number in range(8)] == [([0, 0], 2)] * 8
    assert min(rounds) >= 1
