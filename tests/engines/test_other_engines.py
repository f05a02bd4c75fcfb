"""What one engine learned, another one mounts: real programs, and the bytes that a registry was sent.

Each trial has its control: the same push where nothing was written. `LAYERSTORE_TRIAL_PATH` names a folder with other
releases of the programs than Debian's.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from layerstore.blobs import BlobRecord, decode
from layerstore.digest import Digest
from layerstore.formats import containerd_live, containers, containers_sqlite
from layerstore.formats.containerd_live import Socket
from layerstore.keys import BLOBS, key_digest
from tests.engines.conftest import Trial
from tests.engines.others import Containerd, Skopeo, make_archive
from tests.engines.processes import SEARCH

SIZES = [400_000, 150_000]


class Hosts:
    """A registry that has an image, which one Skopeo pushed there, and hosts that are to learn that."""

    def __init__(self, trial: Trial, home: Path) -> None:
        self._trial, self._home = trial, home
        self._pushes = 0
        home.mkdir()
        self.archive = home / "image.tar"
        self.diff_ids = make_archive(self.archive, SIZES, seed=hash(home.name))
        self.owner = home.name.replace("_", "-")
        self.image = self.name("one")
        self.first = self.skopeo()
        self.first.copy(f"docker-archive:{self.archive}", f"docker://{self.image}")
        self.oci = home / "oci.tar"
        self.skopeo().copy(f"docker://{self.image}", f"oci-archive:{self.oci}")

    def name(self, repository: str) -> str:
        return f"{self._trial.name(self.owner)}/{repository}:latest"

    def skopeo(self) -> Skopeo:
        self._pushes += 1
        return Skopeo(self._home / f"skopeo-{self._pushes}")

    def containerd(self) -> Containerd:
        self._pushes += 1
        return Containerd(self._home / f"containerd-{self._pushes}", self._trial.sockets)

    def store(self, *places: object) -> SQLMetadataStore:
        """Import by the command into a new database, and open it."""
        self._pushes += 1
        database = self._home / f"{self._pushes}.db"
        for place in places:
            self._trial.layerstore(database, "import", place)
        return SQLMetadataStore(database)

    def sent(self, repository: str) -> tuple[list[int], int]:
        """Return how many bytes of each layer were sent for a repository, and how many blobs were mounted into it."""
        repository = f"{self.owner}/{repository}"
        return self._trial.registry.layer_bytes(repository), len(self._trial.registry.mounted.get(repository, {}))


def blobs(store: SQLMetadataStore) -> dict[Digest, BlobRecord]:
    return {Digest(key_digest(key) or ""): decode(value, key) for _, key, value in store.entries(BLOBS)}


@pytest.fixture
def hosts(trial: Trial, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    missing = [name for name in ("skopeo", "containerd", "ctr") if shutil.which(name, path=SEARCH) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)} (.ci/packages names the packages)")
    home = trial.home / str(request.node.originalname).removeprefix("test_")[:40].rstrip("_")
    yield Hosts(trial, home)
    shutil.rmtree(home)


def test_what_skopeo_learned_another_skopeo_mounts(hosts: Hosts):
    other, control = hosts.skopeo(), hosts.skopeo()
    if not other.uses_sqlite:
        pytest.skip(
            "this Skopeo keeps its cache in BoltDB, which is read (below) and not written: 1.14 and later do not"
        )
    with hosts.store(hosts.first.cache) as store:
        written = containers_sqlite.write(str(other.cache / containers_sqlite.NAME), blobs(store).items())
    assert written.added == len(blobs_of(hosts.first))
    other.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('two')}")
    control.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('control')}")

    assert hosts.sent("two") == ([0, 0], 2)
    assert min(hosts.sent("control")[0]) > 100_000


def blobs_of(skopeo: Skopeo) -> set[str]:
    """Return the blobs that a cache in SQLite has."""
    return {
        row[0] for row in containers_sqlite.rows(str(skopeo.cache / containers_sqlite.NAME)) if row[1] != "contents"
    }


def test_what_skopeo_learned_containerd_mounts(hosts: Hosts):
    containerd, control = hosts.containerd(), hosts.containerd()
    with hosts.store(hosts.first.cache) as store, containerd.running():
        containerd.load(hosts.oci, hosts.name("two"))
        socket = Socket(str(containerd.socket), ("default",))
        written = containerd_live.write(socket, blobs(store).items(), target=hosts.name("two").removesuffix(":latest"))
        assert (written.added, written.updated) == (3, 0)
        containerd.push(hosts.name("two"))
    with control.running():
        control.load(hosts.oci, hosts.name("control"))
        control.push(hosts.name("control"))

    assert hosts.sent("two") == ([0, 0], 3)  # the configuration too
    assert min(hosts.sent("control")[0]) > 100_000


def test_what_containerd_learned_skopeo_mounts(hosts: Hosts):
    containerd, other = hosts.containerd(), hosts.skopeo()
    if not other.uses_sqlite:
        pytest.skip("this Skopeo keeps its cache in BoltDB, which is not written: 1.14 and later do not")
    with containerd.running():
        containerd.pull(hosts.image)
        with hosts.store(f"containerd:{containerd.socket}?namespace=default") as store:
            found = blobs(store)
    assert [found[Digest(digest)].compression for digest in layers(hosts)] == ["gzip", "gzip"]
    containers_sqlite.write(str(other.cache / containers_sqlite.NAME), found.items())
    other.copy(f"docker-archive:{hosts.archive}", f"docker://{hosts.name('two')}")

    assert hosts.sent("two") == ([0, 0], 2)


def layers(hosts: Hosts) -> list[str]:
    return hosts._trial.registry.image(f"{hosts.owner}/one").layers


def test_what_containerd_forgot_is_written_back(hosts: Hosts):
    containerd = hosts.containerd()
    with containerd.running():
        containerd.pull(hosts.image)
        socket = f"containerd:{containerd.socket}?namespace=default"
        with hosts.store(socket) as store:
            containerd.forget()
            containerd.load(hosts.oci, hosts.name("control"))
            containerd.push(hosts.name("control"))
            containerd.ctr("image", "tag", hosts.name("control"), hosts.name("two"))
            containerd_live.write(Socket.parse(socket), blobs(store).items(), images=[hosts.name("two")])
            containerd.push(hosts.name("two"))

    assert min(hosts.sent("control")[0]) > 100_000
    assert hosts.sent("two") == ([0, 0], 3)


def test_a_stopped_containerds_files_say_what_it_said_itself(hosts: Hosts):
    containerd = hosts.containerd()
    with containerd.running():
        containerd.pull(hosts.image)
        with hosts.store(f"containerd:{containerd.socket}") as store:
            live = blobs(store)
        # Another database: a file that the daemon holds is said to be in use.
        with pytest.raises(AssertionError, match="a running program holds its lock"):
            hosts.store(containerd.root / "io.containerd.metadata.v1.bolt" / "meta.db")
    with hosts.store(containerd.root) as store:
        offline = blobs(store)

    def timeless(found: dict[Digest, BlobRecord]) -> dict[Digest, tuple[object, ...]]:
        # containerd 1.6 does not say by its socket when a blob was updated.
        return {blob: (one.diff_id, one.compression, sorted(one.locations)) for blob, one in found.items()}

    assert timeless(live) == timeless(offline)
    assert sorted(one.diff_id for one in offline.values() if one.diff_id) == sorted(hosts.diff_ids)


def test_a_cache_that_skopeo_made_is_read_whole(hosts: Hosts):
    with hosts.store(hosts.first.cache) as store:
        found = blobs(store)

    assert {found[Digest(digest)].diff_id for digest in layers(hosts)} == set(hosts.diff_ids)
    assert {found[Digest(digest)].compression for digest in layers(hosts)} == {"gzip"}
    place = hosts.image.removesuffix(":latest")
    assert all(place in found[Digest(digest)].locations for digest in layers(hosts))


def test_pushes_beside_imports_and_exports_of_a_large_cache_all_mount(hosts: Hosts):
    """Skopeo goes on without its cache if it is held for five seconds, and says so to nobody."""
    other = hosts.skopeo()
    if not other.uses_sqlite:
        pytest.skip("this Skopeo keeps its cache in BoltDB, which is not written: 1.14 and later do not")
    cache = str(other.cache / containers_sqlite.NAME)
    with hosts.store(hosts.first.cache) as store:
        containers_sqlite.write(cache, blobs(store).items())
    rounds, over = [0, 0], threading.Event()

    def export() -> None:
        while not over.is_set():
            rounds[0] += 1
            places = {f"{name}/{rounds[0]}": rounds[0] for name in ("h:1/a", "h:1/b")}
            record = BlobRecord(compression="gzip", locations=places)
            containers_sqlite.write(cache, ((Digest(f"sha256:{number:064x}"), record) for number in range(10_000)))

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
