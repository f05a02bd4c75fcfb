"""containerd's metadata: files of real engines, and what their labels mean, ports and compressions included."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import re
from pathlib import Path

import pytest

from layerstore import Digest, TransferError
from layerstore.blobs import BlobRecord
from layerstore.collection import Odd
from layerstore.formats import bbolt, containerd
from layerstore.formats.containerd import SOURCE, UNCOMPRESSED, Blob
from tests.formats import bolt
from tests.formats.test_bbolt import content, damage
from tests.formats.test_containers import digest, go_time

ENGINES = Path(__file__).parent.parent / "golden" / "engines"
GOLDEN = sorted(ENGINES.glob("*meta.db"))

GZIP, ZSTD, TAR = b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"a file's name"


def metadata(path: Path) -> containerd.MetaFile:
    return containerd.MetaFile(str(path.parent), (path.name,), ("content", "blobs"), "")


def records(
    *blobs: Blob, images: tuple[str, ...] = (), heads: dict[str, bytes] | None = None
) -> tuple[dict[Digest, BlobRecord], list[Odd]]:
    """Return what the labels of one namespace say."""
    found = list(containerd.facts("ns", images, blobs, (heads or {}).get))
    return (
        dict(fact for fact in found if not isinstance(fact, Odd)),
        [fact for fact in found if isinstance(fact, Odd)],
    )


def labelled(number: int, at: int = 5, **labels: str) -> Blob:
    """Return a blob with sources by the names of its arguments, in which `_` stands for a dot."""
    return Blob(digest(number), {SOURCE + host.replace("_", "."): value for host, value in labels.items()}, at)


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_all_that_the_labels_of_real_engines_say_is_read(path: Path):
    """Each label that stands in the file, with the port that all images' names in it have."""
    expected = set()
    namespaces = content(bbolt.read(str(path)).root)[b"v1"]
    assert isinstance(namespaces, dict)
    for namespace in (found for found in namespaces.values() if isinstance(found, dict)):
        for name, blob in namespace[b"content"][b"blob"].items():
            when = bbolt.time_ns(blob[b"updatedat"])
            for key, value in blob[b"labels"].items():
                if key == UNCOMPRESSED.encode():
                    expected.add((name.decode(), "is", value.decode()))
                elif key.startswith(SOURCE.encode()):
                    expected |= {
                        (name.decode(), f"127.0.0.1:27889/{part.decode()}", when) for part in value.split(b",")
                    }
    found: set[tuple[object, ...]] = set()
    for fact in containerd.read(metadata(path)):
        assert not isinstance(fact, Odd)
        found |= {(fact[0], name, seen) for name, seen in fact[1].locations.items()}
        found |= {(fact[0], "is", fact[1].diff_id)} if fact[1].diff_id else set()

    assert found == expected
    assert len(found) > 1


def test_a_port_is_exact_where_an_image_has_the_name():
    found, odd = records(
        labelled(1, h="team/app,team/other"), images=("h:5000/team/app:1", f"h:6000/team/other@{digest(9)}")
    )

    assert found[digest(1)].locations == {"h:5000/team/app": 5, "h:6000/team/other": 5}
    assert odd == []


def test_the_only_port_that_is_known_of_a_host_is_taken_and_said():
    found, odd = records(labelled(1, h="gone"), images=("h:5000/team/app", "other:1/gone"))

    assert found[digest(1)].locations == {"h:5000/gone": 5}
    assert [(one.path, one.kind) for one in odd] == [("ns/h", "uncertain")]
    assert "h:5000" in odd[0].reason


@pytest.mark.parametrize("images", [(), ("h:5000/a", "h:6000/b"), ("no image's name",)])
def test_a_port_that_nothing_tells_is_left_out_and_said(images: tuple[str, ...]):
    found, odd = records(labelled(1, localhost="gone"), labelled(2, h_x="gone"), images=images)

    assert found[digest(1)].locations == {"localhost/gone": 5}
    assert found[digest(2)].locations == {"h.x/gone": 5}
    assert [one.kind for one in odd] == ["uncertain"] * 2
    assert "no name of an image has" in odd[0].reason


def test_a_host_that_is_none_without_its_port_is_left_out():
    """`registry/app` would be `docker.io/registry/app`."""
    found, odd = records(labelled(1, registry="app", docker_io="a/b"))

    assert found[digest(1)].locations == {"docker.io/a/b": 5}
    assert [one.path for one in odd] == ["ns/registry"]
    assert odd[0].reason.startswith("left out")


def test_both_ports_of_one_name_are_taken_and_said():
    found, odd = records(labelled(1, h="app"), images=("h:5000/app:1", "h:6000/app:1", "h:5000/app:2"))

    assert found[digest(1)].locations == {"h:5000/app": 5, "h:6000/app": 5}
    assert len(odd) == 1


def test_what_needs_no_port_is_not_said():
    blob = Blob(
        digest(1),
        {
            f"{SOURCE}docker.io": "library/busybox,team/app",
            f"{SOURCE}127.0.0.1:5000": "app",  # as dockerd's graph drivers write it
            f"{SOURCE}ghcr.io": "app",
            f"{SOURCE}::1": "app",
            f"{SOURCE}[::1]:5000": "app",
        },
        None,
    )
    found, odd = records(blob, images=("ghcr.io/other", "[::1]:7000/app"))

    assert found[digest(1)].locations == dict.fromkeys(
        (
            "docker.io/library/busybox",
            "docker.io/team/app",
            "127.0.0.1:5000/app",
            "ghcr.io/app",
            "[::1]:7000/app",
            "[::1]:5000/app",
        )
    )
    assert odd == []


def test_an_address_without_a_known_port_stands_in_brackets():
    found, _ = records(Blob(digest(1), {f"{SOURCE}fc00::1": "app"}, 5))

    assert found[digest(1)].locations == {"[fc00::1]/app": 5}


def test_odd_labels_are_said_and_the_rest_is_taken():
    blob = Blob(digest(1), {f"{SOURCE}docker.io": "busybox,library/ok,UPPER,,", UNCOMPRESSED: "sha256:1"}, 5)
    found, odd = records(blob)

    assert found == {digest(1): BlobRecord(locations={"docker.io/library/ok": 5})}
    assert sorted(one.reason.partition(":")[0] for one in odd) == [
        "'docker.io/busybox' is not canonical",
        "not a digest",
        "not a repository name",
    ]
    assert {(one.path, one.kind) for one in odd} == {(f"ns/{digest(1)}", "unreadable")}


def test_a_compression_is_what_the_content_is_whatever_a_manifest_calls_it():
    plain: dict[str, str] = {UNCOMPRESSED: digest(3)}
    found, _ = records(
        *(Blob(digest(number), {UNCOMPRESSED: digest(100 + number)}, 5) for number in (1, 2, 5, 6)),
        Blob(digest(3), plain, 5),
        labelled(4, docker_io="library/a"),
        Blob(digest(7), {f"{SOURCE}docker.io": "a/b", "containerd.io/gc.ref.content.config": digest(4)}, 5),
        heads={
            digest(1): GZIP,
            digest(2): ZSTD,
            digest(3): TAR,
            digest(4): b'{"architecture"',
            digest(5): TAR,
            digest(7): b'{"schemaVersion"',
        },
    )

    assert {blob: record.compression for blob, record in found.items()} == {
        digest(1): "gzip",
        digest(2): "zstd",
        digest(3): "uncompressed",
        digest(4): "uncompressed",  # the configuration of a manifest
        digest(5): None,  # neither compressed nor known to be a layer as it is
        digest(6): None,  # not there
        digest(7): None,  # a manifest
    }


def test_diff_ids_that_are_not_those_of_the_images_snapshot_are_not_taken():
    chain = f"sha256:{hashlib.sha256(f'{digest(11)} {digest(12)}'.encode()).hexdigest()}"
    manifest = Blob(
        digest(1),
        {
            "containerd.io/gc.ref.content.config": digest(2),
            "containerd.io/gc.ref.content.l.0": digest(3),
            "containerd.io/gc.ref.content.l.1": digest(4),
        },
        5,
    )
    config = Blob(digest(2), {"containerd.io/gc.ref.snapshot.overlayfs": chain}, 5)

    def layers(first: int, second: int) -> list[Blob]:
        return [Blob(digest(3), {UNCOMPRESSED: digest(first)}, 5), Blob(digest(4), {UNCOMPRESSED: digest(second)}, 5)]

    found, odd = records(manifest, config, *layers(11, 12))
    assert {record.diff_id for record in found.values()} == {digest(11), digest(12)}
    assert odd == []

    found, odd = records(manifest, config, *layers(11, 13))
    assert found == {}
    assert ["not those of its snapshot" in one.reason for one in odd] == [True, True]


# Files


def namespaces(**blobs: tuple[int, str]) -> bolt.Tree:
    """Return the tree of a file with one blob in each namespace: its number, and the repository at docker.io."""
    return {
        b"v1": {
            name.encode(): {
                b"content": {
                    b"blob": {
                        str(digest(number)).encode(): {
                            b"createdat": go_time(1, 0),
                            b"updatedat": go_time(7, 9),
                            b"size": b"\2",
                            b"labels": {f"{SOURCE}docker.io".encode(): path.encode()},
                        }
                    }
                }
            }
            for name, (number, path) in blobs.items()
        }
        | {b"version": b"\x08"}
    }


def make_root(root: Path, file: str, blobs: str, number: int, head: bytes) -> None:
    (root / file).parent.mkdir(parents=True)
    bolt.write(root / file, namespaces(moby=(number, "team/app")))
    (root / blobs / "sha256").mkdir(parents=True)
    (root / blobs / "sha256" / digest(number).encoded).write_bytes(head)


def test_the_files_of_every_root_are_found(tmp_path: Path):
    bolts, blobs = "io.containerd.metadata.v1.bolt/meta.db", "io.containerd.content.v1.content/blobs"
    make_root(tmp_path / "containerd", bolts, blobs, 1, GZIP)
    make_root(tmp_path / "docker/containerd/daemon", bolts, blobs, 2, ZSTD)
    make_root(tmp_path / "docker/buildkit", "containerdmeta.db", "content/blobs", 3, GZIP)
    make_root(tmp_path / "buildkitd/runc-overlayfs", "containerdmeta.db", "content/blobs", 4, GZIP)

    def found(root: str) -> list[tuple[Digest, str | None]]:
        files = containerd.files_below(str(tmp_path / root), os.listdir(tmp_path / root))
        return [(fact[0], fact[1].compression) for file in files for fact in containerd.read(file) if len(fact) == 2]

    assert found("containerd") == [(digest(1), "gzip")]
    assert found("docker") == [(digest(2), "zstd"), (digest(3), "gzip")]
    assert found("buildkitd") == [(digest(4), "gzip")]
    assert found("docker/buildkit") == [(digest(3), "gzip")]
    assert found(".") == []


def test_every_namespace_of_a_file_is_read(tmp_path: Path):
    path = bolt.write(tmp_path / "meta.db", namespaces(moby=(1, "a/b"), buildkit=(2, "a/b"), other=(1, "c/d")))
    found = list(containerd.read(metadata(path)))

    # `go_time(7, 9)`, in nanoseconds.
    assert found == [
        (digest(2), BlobRecord(locations={"docker.io/a/b": 7_000_000_009})),
        (digest(1), BlobRecord(locations={"docker.io/a/b": 7_000_000_009})),
        (digest(1), BlobRecord(locations={"docker.io/c/d": 7_000_000_009})),
    ]


def test_the_file_of_a_running_daemon_is_in_use(tmp_path: Path):
    path = bolt.write(tmp_path / "meta.db", namespaces(moby=(1, "a/b")))
    with path.open("rb") as daemon:
        fcntl.flock(daemon, fcntl.LOCK_EX)
        with pytest.raises(TransferError) as caught:
            list(containerd.read(metadata(path)))

    assert bbolt.is_in_use(caught.value)


def test_content_behind_a_link_tells_no_compression(tmp_path: Path):
    make_root(tmp_path / "buildkit", "containerdmeta.db", "content/blobs", 3, GZIP)
    blob = tmp_path / "buildkit/content/blobs/sha256" / digest(3).encoded
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    [file] = containerd.files_below(str(tmp_path / "buildkit"), os.listdir(tmp_path / "buildkit"))

    assert [fact[1].compression for fact in containerd.read(file) if len(fact) == 2] == [None]


def test_a_bolt_database_of_another_program_is_refused(tmp_path: Path):
    path = bolt.write(tmp_path / "meta.db", {b"v2": {b"a": b"b"}})
    with pytest.raises(TransferError, match="not containerd's metadata"):
        list(containerd.read(metadata(path)))


def test_a_file_in_which_nothing_was_recorded_yet_is_empty(tmp_path: Path):
    """As BuildKit makes it when dockerd starts."""
    assert list(containerd.read(metadata(bolt.write(tmp_path / "meta.db", {})))) == []


def test_a_digest_that_is_none_is_damage(tmp_path: Path):
    path = bolt.write(tmp_path / "meta.db", {b"v1": {b"n": {b"content": {b"blob": {b"sha256:1": {b"size": b"1"}}}}}})
    with pytest.raises(TransferError, match="damaged bolt database: not a digest"):
        list(containerd.read(metadata(path)))


@pytest.mark.slow
@pytest.mark.parametrize("golden", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_damaged_metadata_is_one_error_or_read(golden: Path, tmp_path: Path):
    """750 times each. No blob gets the DiffID of another. A digit of a digest that turned into another one cannot be
    told, but no registry has such a blob, and no image such a layer."""
    whole = golden.read_bytes()
    used = [start for start in range(0, len(whole), 64) if any(whole[start : start + 64])]
    pairs = {(fact[0], fact[1].diff_id) for fact in containerd.read(metadata(golden)) if len(fact) == 2}
    digests = set(re.findall(rb"sha256:[0-9a-f]{64}", whole))
    refused, path = 0, tmp_path / "meta.db"
    for seed in range(750):
        damaged = damage(whole, used, random.Random(seed))
        path.write_bytes(damaged)
        try:
            found = [fact for fact in containerd.read(metadata(path)) if not isinstance(fact, Odd)]
        except TransferError:
            refused += 1
            continue
        for blob, record in found:
            if record.diff_id is not None and (blob, record.diff_id) not in pairs:
                assert not {blob.encode(), record.diff_id.encode()} <= digests, seed

    assert refused > 100
