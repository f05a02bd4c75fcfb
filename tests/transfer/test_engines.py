"""Other engines' memories are recognised by their content wherever a path is taken, and imported."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import (
    InvalidInputError,
    SQLMetadataStore,
    TransferError,
    diff,
    import_directory,
    import_layers,
    prune,
    verify,
)
from layerstore.blobs import BlobRecord, decode, encode
from layerstore.formats import containers
from layerstore.keys import BLOBS
from tests.formats import bolt
from tests.formats.daemon import Containerd, answering, listening
from tests.formats.test_containerd import GZIP, make_root, namespaces
from tests.formats.test_containers import digest
from tests.support.command import DONE, Run
from tests.support.entries import MAPPINGS, layer_key, rows_of, write_file

ENGINES = Path(__file__).parent.parent / "golden" / "engines"
FIXTURES = sorted(ENGINES.iterdir())
CACHE = ENGINES / "podman-5.8.6-zstd-chunked.sqlite"


def records(store: SQLMetadataStore) -> dict[str, BlobRecord]:
    return {key: decode(value, key) for _, key, value in store.entries(BLOBS)}


def key(number: int) -> str:
    return f"sha256/{digest(number).encoded}"


@pytest.mark.parametrize("path", FIXTURES, ids=[path.name for path in FIXTURES])
def test_what_a_real_engine_wrote_is_imported_and_a_second_time_changes_nothing(path: Path, run: Run, database: Path):
    assert run("import", path).code == DONE
    with SQLMetadataStore(database) as store:
        before = rows_of(store)
        again = import_directory(store, path)
        assert rows_of(store) == before

    assert before
    assert (again.added, again.updated, again.ok, again.note_count) == (0, 0, True, 0)
    assert again.unchanged == again.read > 1
    assert run("verify").code == run("verify", path).code == DONE
    assert run("diff", path).code == DONE


def test_all_that_a_cache_knows_becomes_entries_with_their_times(sql_file: SQLMetadataStore):
    import_directory(sql_file, CACHE)

    found = records(sql_file)
    assert len(found) == 8
    chunked = found["sha256/ca77631cd2504abd5989990afc7c4c3e09b6228c4f8599ab002472655fef5e0a"]
    assert chunked == BlobRecord(
        diff_id="sha256:510fc0b9b024fbc2c0bc133ffbec36333b382da729ee7725b1d0e48e0c8a79a4",
        compression="zstd",
        variant="zstd:chunked",
        annotations={
            "io.github.containers.zstd-chunked.manifest-checksum": "sha256:"
            "8a187b7bb43598e91e1d25dcc4c483690e45585c9e30c09b2f03d7b786eee814",
            "io.github.containers.zstd-chunked.manifest-position": "150151:414:765:1",
            "io.github.containers.zstd-chunked.tarsplit-position": "150573:227:2221",
        },
        toc="sha256:8a187b7bb43598e91e1d25dcc4c483690e45585c9e30c09b2f03d7b786eee814",
        locations={"127.0.0.1:27889/pm/chunked": 1_795_730_436_820_266_103},
    )
    times = {row[1]: row[3] for row in rows_of(sql_file)}
    assert all(times[name] == record.modified_at_ns for name, record in found.items())


@pytest.mark.parametrize("name", [containers.NAME, "renamed"])
def test_a_cache_is_known_by_what_it_holds(name: str, tmp_path: Path, sql_file: SQLMetadataStore):
    shutil.copy(CACHE, tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / name)

    for path in (tmp_path / name, tmp_path / "link"):
        assert import_directory(sql_file, path).read == 8


def test_a_cache_that_a_killed_program_left_half_written_is_read_as_before(tmp_path: Path, sql_file: SQLMetadataStore):
    cache = tmp_path / containers.NAME
    shutil.copy(CACHE, cache)
    write = (
        "import os, sqlite3, sys; cache = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "cache.execute('PRAGMA cache_size = 1'); cache.execute('BEGIN EXCLUSIVE');"
        "cache.executemany('INSERT INTO DigestCompressors VALUES (?, 1)', [(f'sha256:{n:064}',) for n in range(4000)]);"
        "os.kill(os.getpid(), 9)"
    )
    for path in (cache, tmp_path):
        done = subprocess.run([sys.executable, "-c", write, str(cache)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert (tmp_path / f"{cache.name}-journal").exists()
        assert import_directory(sql_file, path).read == 8
    assert not (tmp_path / f"{cache.name}-journal").exists()


def test_a_folder_of_caches_is_both_of_them(tmp_path: Path, sql_file: SQLMetadataStore):
    shutil.copy(CACHE, tmp_path / containers.NAME)
    shutil.copy(ENGINES / "skopeo-1.9.3-gzip-preserved.boltdb", tmp_path / "blob-info-cache-v1.boltdb")
    report = import_directory(sql_file, tmp_path)

    assert [(os.path.basename(source.source), source.read) for source in report.sources] == [
        (containers.NAME, 8),
        ("blob-info-cache-v1.boltdb", 3),
    ]


def test_a_storage_is_known_by_its_layers(tmp_path: Path, sql_file: SQLMetadataStore):
    for driver in ("overlay-layers", "vfs-layers"):
        (tmp_path / driver).mkdir()
        shutil.copy(ENGINES / "podman-5.8.6-vfs-layers.json", tmp_path / driver / "layers.json")
    (tmp_path / "overlay-images").mkdir()

    assert import_directory(sql_file, tmp_path).read == 4
    assert import_directory(sql_file, tmp_path / "vfs-layers").read == 2
    assert len(records(sql_file)) == 2


def test_a_root_of_containerd_tells_compressions_by_its_content(tmp_path: Path, sql_file: SQLMetadataStore):
    file = "io.containerd.metadata.v1.bolt/meta.db"
    make_root(tmp_path / "c", file, "io.containerd.content.v1.content/blobs", 1, GZIP)
    expected = {key(1): BlobRecord(compression="gzip", locations={"docker.io/team/app": 7_000_000_009})}

    for path in (tmp_path / "c", tmp_path / "c" / file):
        import_directory(sql_file, path)
        assert records(sql_file) == expected
        sql_file.delete(BLOBS, key(1))


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A data root with Docker's metadata, BuildKit's and containerd's."""
    root = tmp_path / "docker"
    write_file(root / "image/overlay2/distribution", MAPPINGS, layer_key(1), digest(9).encode(), 1)
    make_root(root / "buildkit", "containerdmeta.db", "content/blobs", 3, GZIP)
    folder = root / "containerd/daemon"
    make_root(folder, "io.containerd.metadata.v1.bolt/meta.db", "io.containerd.content.v1.content/blobs", 4, GZIP)
    return root


def test_a_data_root_is_all_that_it_has(data_root: Path, sql_file: SQLMetadataStore):
    report = import_directory(sql_file, data_root)

    assert [source.source.removeprefix(str(data_root)) for source in report.sources] == [
        "/image/overlay2/distribution",
        "/containerd/daemon/io.containerd.metadata.v1.bolt/meta.db",
        "/buildkit/containerdmeta.db",
    ]
    assert report.ok
    assert sorted(records(sql_file)) == [key(3), key(4)]
    assert len(rows_of(sql_file)) == 3


def test_a_data_root_is_checked_and_compared_by_dockers_own_directory(data_root: Path, sql_file: SQLMetadataStore):
    import_directory(sql_file, data_root / "image/overlay2/distribution")

    assert verify(data_root).checked == 1
    assert diff(data_root, sql_file).ok


def test_a_data_root_whose_buildkit_has_built_nothing_is_imported(data_root: Path, sql_file: SQLMetadataStore):
    bolt.write(data_root / "buildkit/containerdmeta.db", {})
    report = import_directory(sql_file, data_root)

    assert (report.ok, report.added) == (True, 2)


def test_a_file_that_a_daemon_holds_is_a_note_that_names_its_socket(data_root: Path, sql_file: SQLMetadataStore):
    held = data_root / "containerd/daemon/io.containerd.metadata.v1.bolt/meta.db"
    with held.open("rb") as daemon:
        fcntl.flock(daemon, fcntl.LOCK_EX)
        report = import_directory(sql_file, data_root)

        assert report.ok
        [note] = report.notes
        assert note.path == str(held)
        assert "containerd:/run/docker/containerd/containerd.sock?namespace=moby" in note.reason
        assert len(rows_of(sql_file)) == 2
        with pytest.raises(TransferError, match="a running program holds its lock"):
            import_directory(sql_file, held)


def test_notes_are_printed_and_are_no_failure(data_root: Path, run: Run, database: Path):
    held = data_root / "buildkit/containerdmeta.db"
    with held.open("rb") as daemon:
        fcntl.flock(daemon, fcntl.LOCK_EX)
        done = run("import", data_root)
        assert done.code == DONE
        assert f"note: {held}: left out: a running program holds its lock" in done.out
        report = run("import", "--json", data_root).json
        assert (report["note_count"], report["notes"][0]["path"]) == (1, str(held))


def test_a_data_root_of_containerds_store_alone_is_imported(tmp_path: Path, sql_file: SQLMetadataStore):
    root = tmp_path / "docker"
    (root / "image").mkdir(parents=True)
    folder = root / "containerd/daemon"
    make_root(folder, "io.containerd.metadata.v1.bolt/meta.db", "io.containerd.content.v1.content/blobs", 4, GZIP)

    assert import_directory(sql_file, root).added == 1


def test_a_running_containerd_is_a_source_by_its_socket(tmp_path: Path, run: Run, database: Path):
    path = tmp_path / "socket"
    labels = {"containerd.io/distribution.source.docker.io": "team/app"}
    with listening(path, answering(Containerd({digest(1): (labels, GZIP)}, {}).handle)):
        done = run("import", f"containerd:{path}?namespace=moby")
        assert (done.code, f"imported containerd:{path}?namespace=moby into" in done.out) == (DONE, True)
        assert run("diff", f"containerd:{path}").code == DONE
        with SQLMetadataStore(database) as store:
            assert list(records(store)) == [key(1)]
            with pytest.raises(TransferError, match=f"a socket: .*if it is containerd's, give containerd:{path}"):
                import_directory(store, path)
            with pytest.raises(TransferError, match="no such file"):
                import_directory(store, Path(f"containerd:{path}"))  # a path is a file of that name
            with pytest.raises(InvalidInputError, match="namespace"):
                import_directory(store, f"containerd:{path}?x=1")


def test_engines_and_dockers_own_are_merged_in_one_import(data_root: Path, tmp_path: Path, sql_file: SQLMetadataStore):
    """Both know one blob: its places are united, and what only one knows is kept."""
    cache = tmp_path / "cache"
    known = BlobRecord(diff_id=digest(9), compression="gzip", locations={"docker.io/team/app": 5, "h:1/a": 6})
    containers.write(str(cache), [(digest(3), known)])
    import_layers(sql_file, cache, data_root)

    assert records(sql_file)[key(3)] == BlobRecord(
        diff_id=digest(9), compression="gzip", locations={"docker.io/team/app": 7_000_000_009, "h:1/a": 6}
    )


def test_what_two_engines_say_of_a_blob_is_a_conflict_that_verify_names(tmp_path: Path, sql_file: SQLMetadataStore):
    for name, layer in (("one", 8), ("two", 9)):
        containers.write(str(tmp_path / name), [(digest(1), BlobRecord(diff_id=digest(layer)))])
    import_layers(sql_file, tmp_path / "one", tmp_path / "two")

    assert records(sql_file)[key(1)].conflicts == {"DiffID": (digest(8), digest(9))}
    assert not verify(sql_file).ok


def test_a_memory_is_compared_and_checked_but_not_changed(tmp_path: Path, sql_file: SQLMetadataStore):
    path = tmp_path / "cache"
    record = BlobRecord(compression="gzip", locations={"h:1/a": 6})
    containers.write(str(path), [(digest(1), record)])
    before = path.read_bytes()
    sql_file.set(BLOBS, key(1), encode(record))

    assert diff(path, sql_file).ok
    assert verify(path).checked == 1
    with pytest.raises(TransferError, match="it can only be read"):
        verify(path, repair=True)
    with pytest.raises(TransferError, match="it can only be read"):
        prune(path, registry="h:1")
    assert path.read_bytes() == before


def test_an_empty_memory_is_an_error_unless_it_is_meant(tmp_path: Path, sql_file: SQLMetadataStore):
    path = tmp_path / "cache"
    containers.write(str(path), [])
    with pytest.raises(TransferError, match="there is no entry in it"):
        import_directory(sql_file, path)

    assert import_directory(sql_file, path, allow_empty=True).read == 0


def test_a_containerd_without_content_is_an_error_unless_it_is_meant(tmp_path: Path, sql_file: SQLMetadataStore):
    asked = f"containerd:{tmp_path}/s?namespace=moby"
    with listening(tmp_path / "s", answering(Containerd({}, {}).handle)):
        with pytest.raises(TransferError, match="there is no entry in it"):
            import_directory(sql_file, asked)

        assert import_directory(sql_file, asked, allow_empty=True).read == 0


def test_damage_is_found_before_a_database_is_made(tmp_path: Path, run: Run, database: Path):
    whole = bolt.build(namespaces(moby=(1, "a/b")))
    path = tmp_path / "meta.db"
    path.write_bytes(whole[: 3 * bolt.PAGE])
    done = run("import", path)

    assert done.code != DONE
    assert "a damaged bolt database" in done.err
    assert not database.exists()


def test_a_socket_is_no_source_by_itself(tmp_path: Path, sql_file: SQLMetadataStore):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(TransferError, match="a socket"):
            import_directory(sql_file, tmp_path / "s")
