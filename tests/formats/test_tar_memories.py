"""What other engines remember is found inside archives by its content, and what a container brings along is not."""

from __future__ import annotations

import gzip
import io
import os
import shutil
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, import_directory, verify
from layerstore.blobs import BlobRecord, decode
from layerstore.collection import Odd
from layerstore.formats import containers, tar
from layerstore.keys import BLOBS, Record
from tests.formats import bolt
from tests.formats.test_containerd import GZIP, ZSTD, make_root, namespaces
from tests.formats.test_containers import digest
from tests.support.archives import Save, archive, member, needs_tar, packed
from tests.support.command import DONE, Run
from tests.support.entries import MAPPINGS, layer_key, rows_of, write_file

ENGINES = Path(__file__).parent.parent / "golden" / "engines"
CACHES = sorted(ENGINES.glob("*.sqlite"))
CACHE = ENGINES / "podman-5.8.6-zstd-chunked.sqlite"
CONTAINERD = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.content.v1.content/blobs")
MEMORIES = {
    **{f"var/lib/containers/cache/{containers.NAME}, {path.stem}": path for path in CACHES},
    "renamed": CACHE,
    "./cache/blob-info-cache-v1.boltdb": ENGINES / "skopeo-1.9.3-gzip-preserved.boltdb",
    "renamed.bolt": ENGINES / "skopeo-1.9.3-gzip-preserved.boltdb",
    "/var/lib/containers/storage/vfs-layers/layers.json": ENGINES / "podman-5.8.6-vfs-layers.json",
    **{f"containerd/{CONTAINERD[0]}, {path.stem}": path for path in sorted(ENGINES.glob("*meta.db"))},
}


def records(store: SQLMetadataStore) -> dict[str, BlobRecord]:
    return {key: decode(value, key) for _, key, value in store.entries(BLOBS)}


def blob(number: int) -> str:
    return f"sha256/{digest(number).encoded}"


@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_in_an_archive_is_what_it_is_as_a_file(name: str, save: Save, sql_file: SQLMetadataStore):
    with SQLMetadataStore(":memory:") as other:
        import_directory(other, MEMORIES[name])
        expected = rows_of(other)
    path = name.partition(", ")[0]
    archived = save(archive(member("a/readme", b"text"), member(path, MEMORIES[name].read_bytes()), member("z")))
    report = import_directory(sql_file, archived)

    assert expected
    assert rows_of(sql_file) == expected
    assert (report.ok, [one.source for one in report.sources]) == (True, [f"{archived}/{path.lstrip('./')}"])
    again = import_directory(sql_file, archived)
    assert (again.ok, again.added, again.updated, again.unchanged) == (True, 0, 0, again.read)
    assert verify(archived).checked == len(expected)


def test_a_compressed_archive_on_standard_input_is_read_once(run: Run, database: Path):
    content = archive(member(f"cache/{containers.NAME}", CACHE.read_bytes()))
    done = run("import", "-", stdin=gzip.compress(content))

    assert done.code == DONE
    with SQLMetadataStore(database) as store:
        assert len(records(store)) == 8


@pytest.mark.parametrize("content_first", [True, False])
def test_containerds_tree_tells_compressions_wherever_its_content_stands(
    content_first: bool, tmp_path: Path, save: Save, sql_file: SQLMetadataStore
):
    make_root(tmp_path / "root", *CONTAINERD, 1, ZSTD + b"more")
    meta, content = CONTAINERD[0], f"{CONTAINERD[1]}/sha256/{digest(1).encoded}"
    names = [content, meta] if content_first else [meta, content]
    members = [member(f"./root/{name}", (tmp_path / "root" / name).read_bytes()) for name in names]

    assert import_directory(sql_file, save(archive(*members))).ok
    assert records(sql_file) == {
        blob(1): BlobRecord(compression="zstd", locations={"docker.io/team/app": 7_000_000_009})
    }


@needs_tar
def test_an_archive_of_a_data_root_is_all_that_the_host_knows(tmp_path: Path, save: Save, sql_file: SQLMetadataStore):
    """A container's file system may hold caches as well: whoever made its image wrote them."""
    root = tmp_path / "docker"
    write_file(root / "image/overlay2/distribution", MAPPINGS, layer_key(1), digest(9).encode(), 1)
    make_root(root / "buildkit", "containerdmeta.db", "content/blobs", 3, GZIP)
    make_root(root / "containerd/daemon", *CONTAINERD, 4, GZIP)
    bolt.write(root / "buildkit/cache.db", {b"_main": {b"k": b"v"}})
    (root / "network/files").mkdir(parents=True)
    whole = bolt.build({b"libnetwork": {b"k": {b"%03d" % n: b"v" * 99 for n in range(99)}}})
    (root / "network/files/local-kv.db").write_bytes(whole[: 3 * bolt.PAGE] + bytes(len(whole) - 3 * bolt.PAGE))
    for below in (
        "overlay2/x/diff/var/lib/containers/cache",
        "volumes/data/_data/containers/cache",
        "buildkit/runc-overlayfs/snapshots/snapshots/1/fs/root",
        "containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs",
    ):
        (root / below).mkdir(parents=True)
        shutil.copy(CACHE, root / below / containers.NAME)
    (root / "engine-id").write_text("x")
    report = import_directory(sql_file, save(packed(tmp_path, "docker")))

    assert report.ok, report
    assert sorted(one.source.rpartition("given.tar/docker/")[2] for one in report.sources) == [
        "buildkit/containerdmeta.db",
        f"containerd/daemon/{CONTAINERD[0]}",
        "image/overlay2/distribution",
    ]
    assert sorted(records(sql_file)) == [blob(3), blob(4)]
    assert len(rows_of(sql_file)) == 3


@needs_tar
def test_a_sparse_file_is_read(tmp_path: Path, save: Save, sql_file: SQLMetadataStore):
    with open(bolt.write(tmp_path / "meta.db", namespaces(moby=(1, "a/b"))), "ab") as file:
        file.truncate(4 << 20)
    content = packed(tmp_path, "--sparse", "meta.db")

    assert len(content) < 1 << 20
    import_directory(sql_file, save(content))
    assert list(records(sql_file)) == [blob(1)]


def test_a_large_sparse_file_is_said_and_not_unpacked(save: Save, sql_file: SQLMetadataStore):
    cache = member(f"cache/{containers.NAME}", CACHE.read_bytes())
    content = bolt.build(namespaces(moby=(1, "a/b")))
    sparse = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": f"0,{len(content)}"}
    large = [
        member("lib/meta.db", content, pax_headers=sparse),
        member("log/lastlog", b"x" * len(content), pax_headers=sparse),
    ]
    report = import_directory(sql_file, save(archive(*large, cache)))

    assert [one.path.rpartition("given.tar/")[2] for one in report.skipped] == ["lib/meta.db"]
    assert len(records(sql_file)) == 8


def test_what_cannot_be_used_is_said_with_its_place(tmp_path: Path, save: Save, sql_file: SQLMetadataStore):
    cache = tmp_path / containers.NAME
    containers.write(str(cache), [(digest(1), BlobRecord(compression="gzip"))])
    held = bolt.build({b"v1": {b"ns": {b"content": {b"blob": {str(digest(2)).encode(): {b"labels": LABELS}}}}}})
    content = archive(member("c/cache", cache.read_bytes()), member("d/meta.db", held))
    report = import_directory(sql_file, save(content))

    assert [(one.path.rpartition("given.tar/")[2], one.reason) for one in report.skipped] == [
        (f"d/meta.db/ns/{digest(2)}", "not a digest: 'sha256:1'")
    ]
    assert list(records(sql_file)) == [blob(1)]


LABELS = {b"containerd.io/uncompressed": b"sha256:1"}
WHOLE = bolt.build(namespaces(moby=(1, "a/b")))
DAMAGED = {
    "lib/meta.db": WHOLE[: 3 * bolt.PAGE],
    "cache/blob-info-cache-v1.boltdb": WHOLE[:100] + bytes(8000),
    f"cache/{containers.NAME}": CACHE.read_bytes()[:9000],
    "renamed": CACHE.read_bytes()[:9000],
    "vfs-layers/layers.json": b'[{"id":"a","compression":"x"}]',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_error_that_names_the_file_in_the_archive(name: str, save: Save, run: Run, database: Path):
    archived = save(archive(member(f"distribution/{MAPPINGS}/{layer_key(1)}", digest(9).encode())))
    archived.write_bytes(archive(member(name, DAMAGED[name])))
    done = run("import", archived)

    assert done.code != DONE
    assert f"{archived}/{name}: " in done.err
    assert not database.exists()


def test_files_outside_every_namespace_are_named_where_no_memory_is(save: Save, sql_file: SQLMetadataStore):
    entry = member(f"distribution/{MAPPINGS}/{layer_key(1)}", digest(9).encode())
    others = [member(f"other/{number}", b"SQLite format 3\0 of another program") for number in range(1500)]
    report = import_directory(sql_file, save(archive(*others, entry)))

    assert (report.read, report.skipped_count) == (1, 1500)
    assert report.skipped[999].reason == "a file outside every namespace"


def test_a_memory_in_which_nothing_is_recorded_is_an_error_unless_it_is_meant(save: Save, sql_file: SQLMetadataStore):
    archived = save(archive(member("buildkit/containerdmeta.db", bolt.build({}))))
    with pytest.raises(TransferError, match="nothing is recorded there"):
        import_directory(sql_file, archived)

    assert import_directory(sql_file, archived, allow_empty=True).read == 0


def test_what_all_memories_take_is_bounded_and_nothing_stays_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    size = CACHE.stat().st_size
    content = archive(*(member(f"{number}/cache", CACHE.read_bytes()) for number in range(3)))

    def scan(**limits: int | bool) -> list[Record | Odd]:
        return [found for _, found in tar.scan(io.BytesIO(content), "given.tar", **limits)]  # type: ignore[arg-type]

    with pytest.raises(TransferError, match="too many bytes"):
        scan(max_bytes=3 * size - 1)
    reading = tar.scan(io.BytesIO(content), "given.tar", max_bytes=3 * size)
    assert isinstance(next(reading)[1], Record)
    assert [len(files) for _, _, files in os.walk(tmp_path)] == [0, 3]
    del reading  # its end removes what was unpacked
    assert os.listdir(tmp_path) == []
    assert len(scan(max_bytes=3 * size)) == len(scan(max_bytes=1, force=True)) == 3 * 8


def test_what_is_no_file_is_no_memory(save: Save, sql_file: SQLMetadataStore):
    """A link by the name of a cache, and a cache in what looks like a namespace."""
    content = archive(
        member("cache/real", CACHE.read_bytes()),
        member(f"cache/{containers.NAME}", type=b"2", linkname="/etc/passwd"),
        member(f"distribution/n/{containers.BOLT_NAME}", b"value"),
    )
    report = import_directory(sql_file, save(content))

    assert [one.reason for one in report.skipped] == ["a link, device, socket or pipe"]
    assert (len(records(sql_file)), sql_file.get("n", containers.BOLT_NAME)) == (8, b"value")
