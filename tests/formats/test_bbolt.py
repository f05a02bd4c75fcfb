"""bbolt files: those of real engines read whole, and whatever is wrong with one is one clear error."""

from __future__ import annotations

import fcntl
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import TransferError
from layerstore.formats import bbolt
from tests.formats import bolt

ENGINES = Path(__file__).parent.parent / "golden" / "engines"
GOLDEN = sorted([*ENGINES.glob("*.boltdb"), *ENGINES.glob("*meta.db")])


def content(bucket: bbolt.Bucket) -> dict[bytes, object]:
    return {**bucket.values, **{key: content(value) for key, value in bucket.buckets.items()}}


def read(path: Path) -> dict[bytes, object]:
    return content(bbolt.read(str(path)).root)


def leaves(path: Path) -> Iterator[bytes]:
    """Yield what a file's leaf pages hold, in any order, found without the tree."""
    data = path.read_bytes()
    for start in range(0, len(data), 4096):
        if struct.unpack_from("<H", data, start + 8)[0] == bolt.LEAF:
            yield data[start : start + 4096]


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_a_real_engines_file_is_read(path: Path):
    found = read(path)

    assert found.keys() in ({b"v1"}, {b"digestCompressor", b"knownLocations"})
    seen = b"".join(leaves(path))
    for key, value in found.items():
        assert key in seen
        assert value


def test_keys_are_found_in_all_pages_of_a_large_bucket(tmp_path: Path):
    wanted: dict[bytes, bolt.Tree] = {
        b"a": {b"%05d" % number: b"x" * 100 for number in range(5000)},
        b"b": {b"%05d" % number: {b"labels": {b"k": b"v"}, b"size": b"1"} for number in range(500)},
        b"c": {},
    }
    path = bolt.write(tmp_path / "file", wanted)

    assert read(path) == wanted


def test_a_value_larger_than_a_page_is_read(tmp_path: Path):
    path = bolt.write(tmp_path / "file", {b"large": b"x" * 100_000, b"next": b"y"})

    assert read(path) == {b"large": b"x" * 100_000, b"next": b"y"}


def test_a_bucket_is_found_by_its_path_or_is_not_there():
    root = bbolt.read(str(ENGINES / "containerd-2.1.9-meta.db")).root
    images = root.below(b"v1", b"default", b"images")

    assert b"127.0.0.1:27889/sid/one:1" in images.buckets
    assert root.below(b"v1", b"nowhere", b"images") == ({}, {})
    assert root.below(b"v1", b"version") == ({}, {})  # a value


def test_the_older_meta_page_is_used_if_the_newer_one_is_torn(tmp_path: Path):
    whole = bolt.build({b"key": b"value"})
    for torn in (0, bolt.PAGE):
        path = tmp_path / str(torn)
        path.write_bytes(whole[: torn + 20] + b"\xff" * 30 + whole[torn + 50 :])
        assert read(path) == {b"key": b"value"}


def test_a_file_that_a_daemon_holds_is_said_to_be_in_use(tmp_path: Path):
    path = bolt.write(tmp_path / "file", {b"key": b"value"})
    with path.open("rb") as daemon:
        fcntl.flock(daemon, fcntl.LOCK_EX)
        with pytest.raises(TransferError, match="a running program holds its lock") as caught:
            bbolt.read(str(path), wait_s=0.1)

    assert bbolt.is_in_use(caught.value)
    assert caught.value.path == str(path)
    assert read(path) == {b"key": b"value"}


def test_no_lock_is_held_while_the_content_is_used(tmp_path: Path):
    path = bolt.write(tmp_path / "file", {b"key": b"value"})
    found = bbolt.read(str(path))
    with path.open("rb") as daemon:
        fcntl.flock(daemon, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert content(found.root) == {b"key": b"value"}


def test_a_link_is_followed_where_a_person_gave_it_and_not_below(tmp_path: Path):
    bolt.write(tmp_path / "file", {b"key": b"value"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "file")

    assert content(bbolt.read(str(tmp_path / "folder" / "link")).root) == {b"key": b"value"}
    with pytest.raises(TransferError):
        bbolt.read(str(tmp_path), "folder", "link")
    assert content(bbolt.read(str(tmp_path), "file").root) == {b"key": b"value"}


def test_what_is_not_there_is_told_from_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        bbolt.read(str(tmp_path), "file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TransferError, match="cannot be read"):
        bbolt.read(str(tmp_path / "pipe"))
    bolt.write(tmp_path / "file", {b"key": b"value"})
    os.truncate(tmp_path / "file", bbolt.MAX_BYTES + 1)
    with pytest.raises(TransferError, match=f"cannot be read: larger than {bbolt.MAX_BYTES} bytes"):
        bbolt.read(str(tmp_path), "file")


def crafted() -> Iterator[tuple[str, bytes]]:
    """Yield files whose pages have sound headers, and cannot be."""
    pages = bolt.Pages()
    same = pages.add(bolt.LEAF, 1, bolt.leaf([(0, b"key", b"value")]))
    yield "used twice", bolt.assemble(pages, pages.add(bolt.BRANCH, 2, bolt.branch([(b"a", same), (b"b", same)])))

    pages = bolt.Pages()
    pages.add(bolt.BRANCH, 1, bolt.branch([(b"a", 3)]))
    yield "used twice", bolt.assemble(pages, 3)

    # As many buckets as a page can have, each of them this very page again: exponential, if it were followed.
    pages = bolt.Pages()
    pages.add(bolt.LEAF, 60, bolt.leaf([(1, b"%02d" % n, struct.pack("<QQ", 3, 0)) for n in range(60)]))
    yield "used twice", bolt.assemble(pages, 3)

    # The same, with the elements one over the other.
    pages = bolt.Pages()
    inner = struct.pack("<QQQHHI", 0, 0, 0, bolt.LEAF, 1, 0) + bolt.leaf([(0, b"a", b"b")])
    body = b"".join(struct.pack("<IIII", 1, 2000 - 16 * n, 0, len(inner)) for n in range(60))
    pages.add(bolt.LEAF, 60, body.ljust(2000, b"\0") + inner)
    yield "does not fit", bolt.assemble(pages, 3)

    pages = bolt.Pages()
    pages.add(bolt.LEAF, 2, bolt.leaf([(0, b"b", b""), (0, b"a", b"")]))
    yield "not in order", bolt.assemble(pages, 3)

    pages = bolt.Pages()
    deeper = struct.pack("<QQQHHI", 0, 0, 0, bolt.LEAF, 1, 0) + bolt.leaf([(1, b"a", b"\0" * 64)])
    pages.add(bolt.LEAF, 1, bolt.leaf([(1, b"a", deeper)]))
    yield "where none can be", bolt.assemble(pages, 3)

    pages = bolt.Pages()
    pages.add(bolt.LEAF, 0xFFFF, b"")
    yield "table of elements", bolt.assemble(pages, 3)

    pages = bolt.Pages()
    pages.add(bolt.BRANCH, 1, bolt.branch([(b"a", 2**63)]))
    yield "not in the file", bolt.assemble(pages, 3)

    yield "not in the file", bolt.build({b"key": {bytes([n]): b"x" * 900 for n in range(100)}})[: 4 * bolt.PAGE]
    yield "no meta page", b"\0" * 8192
    yield "no meta page", b""


@pytest.mark.parametrize(("reason", "file"), list(crafted()))
def test_what_cannot_be_is_one_error_that_says_what_and_where(reason: str, file: bytes, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(file)
    with pytest.raises(TransferError, match=f"{path}: a damaged bolt database.*{reason}"):
        read(path)


def test_a_chain_of_pages_as_long_as_the_file_needs_no_recursion(tmp_path: Path):
    pages = bolt.Pages()
    for number in range(3, 20_003):
        pages.add(bolt.BRANCH, 1, bolt.branch([(b"a", number + 1)]))
    pages.add(bolt.LEAF, 1, bolt.leaf([(0, b"key", b"value")]))
    path = tmp_path / "file"
    path.write_bytes(bolt.assemble(pages, 3))

    assert read(path) == {b"key": b"value"}


@pytest.mark.slow
@pytest.mark.parametrize("golden", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_damaged_files_are_read_or_are_one_error(golden: Path):
    """600 times each: bytes changed, zeroed or copied from elsewhere, in the used part, or the end cut off."""
    whole = golden.read_bytes()
    used = [start for start in range(0, len(whole), 64) if any(whole[start : start + 64])]
    refused = []
    for seed in range(600):
        try:
            content(bbolt.File(damage(whole, used, random.Random(seed)), "file").root)
        except TransferError as error:
            refused.append(str(error))

    assert len(refused) > 100
    assert [message for message in refused if "a damaged bolt database" not in message] == []


def damage(whole: bytes, used: list[int], chance: random.Random) -> bytes:
    """Return a file with damage of one of several kinds."""
    file = bytearray(whole)
    kind = chance.randrange(4)
    for _ in range(chance.randrange(1, 6)):
        start = chance.choice(used) + chance.randrange(64)
        if kind == 0:
            file[start] = chance.randrange(256)
        elif kind == 1:
            length = chance.choice((8, 512, 4096))
            file[start : start + length] = b"\0" * len(file[start : start + length])
        elif kind == 2:
            other = chance.choice(used)
            file[start : start + 512] = file[other : other + 512]
    return bytes(file[: chance.randrange(len(file))] if kind == 3 else file)
