"""Directory trees, archives and databases made to do harm: taken or refused, and nothing is written elsewhere."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import (
    FSMetadataStore,
    InvalidKeyError,
    LayerstoreError,
    SQLMetadataStore,
    StoreError,
    TransferError,
    export_directory,
    import_directory,
    verify,
)
from layerstore.transfer.exporting import export_tar
from tests.conftest import assert_sound
from tests.robustness.hostile.conftest import everything
from tests.support.archives import Member, archive, member
from tests.support.counting import Counted
from tests.support.entries import LISTS, MAPPINGS, V1
from tests.support.strategies import KEYS

NASTY = [
    "",
    ".",
    "..",
    "...",
    "/",
    "//",
    "~",
    "*",
    "a",
    "a\nb",
    "\x1b[31m",
    "-rf",
    ".tmp-x",
    "é",
    "\u202e",
    " ",
    "\\",
    "C:",
    "etc",
    "passwd",
    "sha256",
    "1" * 64,
    "x" * 255,
    "x" * 256,
    "distribution",
    "image",
    "vfs",
    LISTS,
    MAPPINGS,
    V1,
    f"registry,{'a' * 64}",
]
SEGMENTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
PATHS = st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join)
VALUES = st.one_of(
    st.sampled_from([b"", b"[]", b"[{}]", b"null", b"{", b"sha256:" + b"1" * 64, b"\xff\xfe", b"[" * 500]),
    st.binary(max_size=40),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place to work in, two levels below what must not change; whoever follows a name or link writes there."""
    here = tmp_path / "around" / "here"
    here.mkdir(parents=True)
    for victim in (tmp_path / "victim", tmp_path / "around" / "victim", tmp_path / "around" / "etc" / "passwd"):
        victim.parent.mkdir(exist_ok=True)
        victim.write_bytes(b"untouched")
    monkeypatch.chdir(here)
    before = everything(tmp_path)
    yield here
    shutil.rmtree(here)
    here.mkdir()
    assert everything(tmp_path) == before


def fresh(place: Path, name: str) -> Path:
    """Return a directory of the trial's own, empty."""
    shutil.rmtree(place / name, ignore_errors=True)
    (place / name).mkdir()
    return place / name


def assert_all_goes_out_and_stays_inside(store: SQLMetadataStore, place: Path) -> None:
    """What is in the store can be given out, below the target; what no directory can hold is named or refused."""
    target = fresh(place, "out") / "distribution"
    try:
        report = export_directory(store, target)
    except InvalidKeyError:
        assert not target.exists()
        with pytest.raises(InvalidKeyError):
            export_tar(store, io.BytesIO())
        return
    with FSMetadataStore(target) as files:
        assert list(files.entries()) == [
            entry for entry in store.entries() if "/".join(entry[:2]) not in {one.path for one in report.skipped}
        ]
    for path in target.rglob("*"):
        assert not path.is_symlink()
        assert path.resolve().is_relative_to(target.resolve())


MEMBERS = st.builds(
    lambda name, value, kind, link, time: member(
        name,
        value if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else b"",
        type=kind,
        linkname=link,
        mtime=time,
    ),
    st.one_of(
        PATHS,
        PATHS.map("distribution/{}".format),
        PATHS.map("image/vfs/distribution/{}".format),
        KEYS.map("distribution/n/{}".format),
        KEYS.map(f"{MAPPINGS}/{{}}".format),
    ).filter(lambda name: "\0" not in name),
    VALUES,
    st.sampled_from(
        [
            *[tarfile.REGTYPE] * 6,
            tarfile.CONTTYPE,
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.DIRTYPE,
            tarfile.FIFOTYPE,
            b"Z",
        ]
    ),
    st.sampled_from(["", "/etc/passwd", "..", "../../victim", "distribution/n/a", "."]),
    st.sampled_from([0, 1_700_000_000, -1, 2**40, -(2**40)]),
)


@given(
    members=st.lists(MEMBERS, max_size=8),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    mode=st.sampled_from(["w", "w:gz", "w:bz2", "w:xz"]),
)
def test_an_archive_of_anything(members: list[Member], form: int, mode: str, place: Path, counted: Counted):
    """A good one is there, and the first one twice; each member is taken, named, or counted."""
    counted("inputs")
    path = place / "given.tar"
    good = member("distribution/n/good", b"good")
    path.write_bytes(archive(*members, *members[:1], good, mode=mode, form=form))
    with SQLMetadataStore(":memory:") as store:
        report = import_directory(store, path)
        assert report.read <= len(members) + 2
        assert store.get("n", "good") == b"good"
        assert_sound(store)
        assert_all_goes_out_and_stays_inside(store, place)
    with suppress(TransferError):  # several directories
        verify(path)


@given(
    members=st.lists(MEMBERS, min_size=1, max_size=4),
    mode=st.sampled_from(["w", "w:gz", "w:xz"]),
    change=st.tuples(
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
        st.one_of(st.none(), st.integers(0, 20_000)),
        st.binary(max_size=20),
    ),
)
def test_an_archive_with_other_bytes_in_it(
    members: list[Member],
    mode: str,
    change: tuple[list[tuple[int, int]], int | None, bytes],
    place: Path,
    counted: Counted,
):
    """Bytes that are others, an end that is missing, and one that does not belong there."""
    counted("inputs")
    flips, cut, tail = change
    content = bytearray(archive(*members, mode=mode))
    for at, byte in flips:
        content[at % len(content)] = byte
    path = place / "given.tar"
    path.write_bytes(bytes(content[:cut]) + tail)
    refused: list[TransferError | StoreError] = []
    with SQLMetadataStore(":memory:") as store:
        try:
            import_directory(store, path)
        except (TransferError, StoreError) as error:  # a file without a byte is a database that is yet to be made
            refused.append(error)
        assert [error.path for error in refused] in ([], [str(path)])
        assert not refused or list(store.entries()) == []
        assert_sound(store)
        assert_all_goes_out_and_stays_inside(store, place)


def bomb_of_zeros() -> bytes:
    """One member of 128 MiB, in 128 KiB."""
    header = member("distribution/n/bomb").info
    header.size = 1 << 27
    compressor = zlib.compressobj(9, wbits=31)
    chunk = bytes(1 << 24)
    parts = [compressor.compress(header.tobuf(tarfile.GNU_FORMAT))]
    parts += [compressor.compress(chunk) for _ in range((1 << 27) // len(chunk))]
    return b"".join([*parts, compressor.compress(bytes(1024)), compressor.flush()])


def checksum(header: bytes | bytearray) -> bytes:
    return b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * ord(" "))


def gnu_sparse(name: str, size: int) -> bytes:
    """The header of a member that says that it unpacks to so many bytes, and holds none of them."""
    header = bytearray(member(name, type=tarfile.GNUTYPE_SPARSE).info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = size.to_bytes(12, "big")
    header[483] |= 0x80
    header[148:156] = checksum(header)
    return bytes(header)


def sparse_file() -> bytes:
    """A terabyte."""
    return gnu_sparse("distribution/n/sparse", 1 << 40) + bytes(1024)


def sparse_files() -> bytes:
    """25 members that are just below the limit of one: 1.5 GiB in 14 KB."""
    return b"".join(gnu_sparse(f"distribution/n/{number}", 63 << 20) for number in range(25)) + bytes(1024)


def endless_sparse_map() -> bytes:
    """10 GB of Python's integers, if they were all kept."""
    first = bytearray(gnu_sparse("distribution/n/k", 1 << 20))
    first[482] = 1
    first[148:156] = checksum(first)
    piece = b"".join(b"%011o\0%011o\0" % (at, 1) for at in range(21)) + b"\1" + bytes(7)
    compressor = zlib.compressobj(9, wbits=31)
    parts = [compressor.compress(bytes(first)), *(compressor.compress(piece * 2000) for _ in range(100))]
    return b"".join([*parts, compressor.compress(bytes(2048)), compressor.flush()])


def endless_name_of_a_gzip() -> bytes:
    return b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * (30 << 20)


def xz_that_wants_memory() -> bytes:
    header = bytearray(lzma.compress(archive(member("distribution/n/k", b"v")), filters=[{"id": lzma.FILTER_LZMA2}]))
    at = header.index(b"\x21\x01", 12) + 2  # the size of its dictionary, in the block's header
    assert header[at] == 22  # 8 MiB
    header[at] = 40
    end = 12 + (header[12] + 1) * 4
    header[end - 4 : end] = zlib.crc32(header[12 : end - 4]).to_bytes(4, "little")
    return bytes(header)


def many_empty_gzips() -> bytes:
    return gzip.compress(b"") * 50_000


def long_pax_record() -> bytes:
    return archive(member("distribution/n/k", b"v", pax_headers={"comment": "x" * (3 << 20)}))


def many_pax_records() -> bytes:
    return archive(member("distribution/n/k", b"v", pax_headers={f"record{number}": "x" for number in range(50_000)}))


def long_pax_headers_of_everything() -> bytes:
    """Global ones, of which each adds a name."""
    headers = [
        tarfile.TarInfo.create_pax_global_header({f"GNU.sparse.{number}": "x" * 60_000}) for number in range(2_000)
    ]
    return gzip.compress(b"".join(headers) + archive(member("distribution/n/k", b"v")))


def hard_links() -> bytes:
    """300 MiB, of which each is the same MiB."""
    first = member("distribution/n/first", bytes(1 << 20))
    links = [
        member(f"distribution/n/{number}", type=tarfile.LNKTYPE, linkname=first.info.name) for number in range(300)
    ]
    return archive(first, *links, mode="w:gz")


def gzip_in_gzip() -> bytes:
    content = archive(member("distribution/n/k", b"v"))
    for _ in range(30):
        content = gzip.compress(content)
    return content


def many_members() -> bytes:
    one = archive(member("distribution/n/k", b""))[:512]
    return gzip.compress(one * 5_000 + bytes(1024))


BOMBS = {
    "128 MiB of zeros": bomb_of_zeros,
    "a sparse file of a terabyte": sparse_file,
    "a sparse file with an endless map": endless_sparse_map,
    "a gzip whose name is 30 MiB long": endless_name_of_a_gzip,
    "50,000 empty gzips": many_empty_gzips,
    "an xz that wants 4 GiB": xz_that_wants_memory,
    "a pax record of three megabytes": long_pax_record,
    "50,000 pax records": many_pax_records,
    "2,000 global pax headers": long_pax_headers_of_everything,
    "gzip in gzip": gzip_in_gzip,
    "5,000 times the same name": many_members,
}
IMPORT = """
import re, sys
from layerstore import SQLMetadataStore, TransferError, import_directory
with SQLMetadataStore(":memory:") as store:
    try:
        report = import_directory(store, sys.argv[1])
        print(len(report.skipped), report.added)
    except TransferError as error:
        print("refused:", error)
    assert sum(len(value) for *_, value in store.entries()) < 100
print(re.search("VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_fills_neither_the_memory_nor_the_store(make: object, place: Path, counted: Counted):
    path = place / "given.tar"
    path.write_bytes(make())  # type: ignore[operator]  # a function of the table above
    counted("inputs")
    limit = 160 << 20
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, path],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < limit >> 10


SCAN = """
import re, sys
from layerstore import TransferError
from layerstore.formats import tar
given = 0
try:
    with open(sys.argv[1], "rb") as file:
        for _, found in tar.scan(file, sys.argv[1], max_bytes=int(sys.argv[2])):
            given += len(found.value)
            del found
except TransferError as error:
    print("refused:", error)
print(given)
print(re.search("VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize("make", [sparse_files, hard_links])
@pytest.mark.parametrize("max_bytes", [8 << 30, 200 << 20])
def test_what_unpacks_to_much_is_read_in_bounded_memory_and_limited(
    make: object, max_bytes: int, place: Path, counted: Counted
):
    path = place / "given.tar"
    path.write_bytes(make())  # type: ignore[operator]  # one of the functions above
    counted("inputs")
    limit = 256 << 20
    done = subprocess.run(
        [sys.executable, "-c", SCAN, path, str(max_bytes)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )

    assert done.returncode == 0, done.stderr
    given, peak = map(int, done.stdout.split()[-2:])
    assert peak < limit >> 10
    if max_bytes > 1 << 30:
        assert given >= 300 << 20
        assert "refused" not in done.stdout
    else:
        assert given <= max_bytes
        assert "--force" in done.stdout


NODES = st.recursive(
    st.one_of(
        VALUES,
        st.sampled_from(["link", "loop", "out", "pipe", "socket", "unreadable"]).map(str),
    ),
    lambda below: st.dictionaries(
        st.one_of(
            SEGMENTS.filter(lambda name: "/" not in name and "\0" not in name and name not in ("", ".", "..")).map(
                lambda name: name.encode()[:255]
            ),
            st.binary(min_size=1, max_size=5).filter(lambda name: not {0, 47} & {*name} and name not in (b".", b"..")),
        ),
        below,
        max_size=4,
    ),
    max_leaves=12,
)


def plant(path: bytes, node: object) -> None:
    """Make a tree of files, directories, links and what else a directory may hold."""
    if isinstance(node, dict):
        os.makedirs(path, exist_ok=True)
        for name, below in node.items():
            plant(os.path.join(path, name), below)
    elif isinstance(node, bytes):
        with open(path, "wb") as file:
            file.write(node)
    elif node == "pipe":
        os.mkfifo(path)
    else:
        targets = {"link": b"/etc/passwd", "loop": os.path.basename(path), "out": b"../../../.."}
        os.symlink(targets.get(str(node), b"absent"), path)


@given(tree=st.dictionaries(st.sampled_from(["n", LISTS, MAPPINGS, V1, "image", ".tmp-x"]), NODES, max_size=4))
def test_a_tree_of_anything(tree: dict[str, object], place: Path, counted: Counted):
    counted("inputs")
    base = fresh(place, "tree") / "distribution"
    base.mkdir()
    for name, node in tree.items():
        plant(os.fsencode(base / name), node)
    with SQLMetadataStore(":memory:") as store:
        with suppress(TransferError):  # a data root without any metadata
            report = import_directory(store, base)
            assert report.read >= report.added
            verify(base)
        assert_sound(store)
        assert_all_goes_out_and_stays_inside(store, place)


@given(
    rows=st.lists(
        st.tuples(
            st.one_of(SEGMENTS, st.sampled_from(["n", "..", "../..", "/etc", LISTS, MAPPINGS])),
            st.one_of(
                PATHS,
                st.sampled_from(["../../etc/x", "/etc/x", "a/../../x", "../victim", "a", "a/b"]),
                st.binary(max_size=5),
            ),
            st.one_of(VALUES, st.text(max_size=5), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)),
            st.one_of(
                st.integers(-(2**63), 2**63 - 1), st.text(max_size=4), st.binary(max_size=4), st.floats(allow_nan=False)
            ),
        ),
        max_size=6,
    )
)
def test_rows_that_other_tools_have_put_into_a_database(rows: list[tuple[object, ...]], place: Path, counted: Counted):
    """Keys such as `../../etc/x`, values and times of any type: no key leads an export out of its directory."""
    counted("inputs")
    path = fresh(place, "database") / "given.db"
    SQLMetadataStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        for row in rows:
            with suppress(UnicodeEncodeError):
                connection.execute("INSERT OR IGNORE INTO metadata VALUES (?, ?, ?, ?)", row)
        connection.commit()
    with SQLMetadataStore(path) as store:
        with suppress(LayerstoreError):
            assert_all_goes_out_and_stays_inside(store, place)
        with suppress(LayerstoreError):
            verify(store, repair=True)
    with SQLMetadataStore(":memory:") as store:
        with suppress(LayerstoreError):
            import_directory(store, path)
        assert_sound(store)
        assert_all_goes_out_and_stays_inside(store, place)
