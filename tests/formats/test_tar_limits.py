"""What is bounded: headers, maps of sparse files, what one archive may give in all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, import_directory, verify
from layerstore.collection import Odd
from layerstore.formats import tar
from layerstore.formats.tar_members import MAX_HEADER
from layerstore.keys import Record
from tests.support.archives import Member, Save, archive, member, plain_rows
from tests.support.counting import Counted


@pytest.fixture(autouse=True)
def each_is_counted(counted: Counted) -> None:
    counted("headers")


FIRST, LAST = member("distribution/n/first", b"1"), member("distribution/n/last", b"2")
TAKEN = [("n", "first", b"1"), ("n", "last", b"2")]


def with_comment(size: int) -> Member:
    """Make a member whose pax header has so many bytes, in one record `<length> comment=x…`."""
    text = "x" * (size - len(f"{size} comment=\n"))
    return member("distribution/n/k", b"v", pax_headers={"comment": text})


@pytest.mark.parametrize("over", [0, 1, 900_000, 5 << 20])
def test_a_pax_header_over_64_kib_is_named_with_its_member(over: int, sql_memory: SQLMetadataStore, save: Save):
    """Some readers take minutes for 900 KB; the others are taken all the same."""
    size = MAX_HEADER + over
    content = archive(FIRST, with_comment(size), LAST)
    assert b"%011o" % size in content
    path = save(content)

    report = import_directory(sql_memory, path)

    if not over:
        assert report.ok
        assert plain_rows(sql_memory) == sorted([*TAKEN, ("n", "k", b"v")])
        return
    assert plain_rows(sql_memory) == TAKEN
    assert [(found.path, found.reason) for found in report.skipped] == [
        (f"{path}/distribution/n/k", f"a header of {size} bytes, over 64 KiB")
    ]
    assert [found.kind for found in verify(path).findings if found.severity != "info"] == ["unreadable-file"]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.SOLARIS_XHDTYPE])
def test_a_name_over_64_kib_is_named_with_its_member(kind: bytes, sql_memory: SQLMetadataStore, save: Save):
    path = save(
        archive(FIRST, member("././@LongLink", b"x" * (MAX_HEADER + 1), type=kind), member("distribution/n/k"), LAST)
    )

    report = import_directory(sql_memory, path)

    assert plain_rows(sql_memory) == TAKEN
    assert [found.reason for found in report.skipped] == [f"a header of {MAX_HEADER + 1} bytes, over 64 KiB"]


def test_a_global_header_over_64_kib_is_an_error_as_it_is_about_all_that_follow(
    sql_memory: SQLMetadataStore, save: Save
):
    path = save(
        archive(FIRST) + tarfile.TarInfo.create_pax_global_header({"comment": "x" * MAX_HEADER}) + archive(LAST)
    )

    with pytest.raises(TransferError, match="over 64 KiB"):
        import_directory(sql_memory, path)
    assert plain_rows(sql_memory) == []


def pax(*records: bytes) -> Member:
    """Make a pax header of records that need not be right."""
    return member("pax", b"".join(records), type=tarfile.XHDTYPE)


BAD_HEADERS = {
    "no length": b"comment=x\n",
    "length of nothing": b"0 a=b\n",
    "length too small": b"3 a=b\n",
    "length too large": b"99 a=b\n",
    "no end of line": b"6 a=bc",
    "negative": b"-6 a=b\n",
    "length without end": b"9" * 3000,
    "no size": b"13 size=none\n",
    "negative size": b"12 size=-51\n",
    "size without end": b"1012 size=" + b"9" * 1001 + b"\n",
    "half a piece": b"28 GNU.sparse.size=1000000\n22 GNU.sparse.offset=1\n",
    "piece that is no number": b"28 GNU.sparse.size=1000000\n22 GNU.sparse.offset=x\n",
    "map that is none": b"28 GNU.sparse.size=1000000\n22 GNU.sparse.map=a,b\n",
    "map that is odd": b"28 GNU.sparse.size=1000000\n20 GNU.sparse.map=1\n",
    "map behind the end": b"22 GNU.sparse.size=10\n23 GNU.sparse.map=20,1\n",
    "map of what is not there": b"24 GNU.sparse.size=1000\n23 GNU.sparse.map=0,900\n",
    "map that goes back": b"24 GNU.sparse.size=1000\n27 GNU.sparse.map=2,1,0,1\n",
    "size that is none": b"21 GNU.sparse.size=x\n",
}


@pytest.mark.parametrize("text", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_pax_header_that_is_none_is_damage(text: bytes, sql_memory: SQLMetadataStore, save: Save):
    path = save(archive(FIRST, pax(text), member("distribution/n/k", b"value")))

    with pytest.raises(TransferError, match="the archive is damaged"):
        import_directory(sql_memory, path)
    assert plain_rows(sql_memory) == []


def sparse(map_: bytes, size: int = 1000) -> bytes:
    """Make an archive of a sparse file whose map begins its content, as in version 1.0."""
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
    return archive(FIRST, member("distribution/n/k", map_, pax_headers=headers), LAST)


def test_the_sparse_file_that_is_damaged_below_is_good_as_a_whole(sql_memory: SQLMetadataStore, save: Save):
    content = sparse(b"2\n0\n3\n998\n2\n".ljust(512, b"\0") + b"abcde")

    assert import_directory(sql_memory, save(content)).ok
    assert ("n", "k", b"abc" + bytes(995) + b"de") in plain_rows(sql_memory)


BAD_MAPS = {
    "empty": b"",
    "no end of line": b"1".ljust(512, b"1"),
    "no number": b"a\n".ljust(512, b"\0"),
    "negative": b"-1\n".ljust(512, b"\0"),
    "a million pieces": b"1000000\n".ljust(512, b"\0"),
    "more than there are": b"3\n0\n1\n".ljust(512, b"\0"),
    "content that is missing": b"1\n0\n9\n".ljust(512, b"\0") + b"abc",
    "behind the end": b"1\n1000\n1\n".ljust(512, b"\0") + b"abc",
    "twice": b"2\n0\n1\n0\n1\n".ljust(512, b"\0") + b"abc",
    "a long number": b"1\n" + b"9" * 400 + b"\n1\n",
}


@pytest.mark.parametrize("map_", BAD_MAPS.values(), ids=BAD_MAPS.keys())
def test_a_map_that_does_not_fit_is_damage(map_: bytes, sql_memory: SQLMetadataStore, save: Save):
    with pytest.raises(TransferError, match="the archive is damaged"):
        import_directory(sql_memory, save(sparse(map_.ljust(512, b"\0"))))
    assert plain_rows(sql_memory) == []


def test_a_sparse_file_counts_with_what_it_gives():
    """A file of the archive has a few bytes; its value would have 64 MiB and one."""
    content = sparse(b"1\n0\n0\n".ljust(512, b"\0"), (64 << 20) + 1)

    odd = [found for _, found in scanned(content) if isinstance(found, Odd)]

    assert [(found.path, found.reason) for found in odd] == [("distribution/n/k", "larger than 64 MiB")]


def scanned(content: bytes, max_bytes: int = tar.MAX_BYTES) -> list[tuple[str, Record | Odd]]:
    return list(tar.scan(io.BytesIO(content), "given.tar", max_bytes=max_bytes))


def test_what_an_archive_gives_in_all_is_limited_and_the_limit_can_be_lifted():
    members = [member(f"distribution/n/{number}", b"x" * 1000) for number in range(10)]
    links = [member(f"distribution/n/l{n}", type=tarfile.LNKTYPE, linkname="distribution/n/0") for n in range(10)]
    content = archive(*members, *links, mode="w:gz")

    assert len(scanned(content)) == 20
    assert len(scanned(content, max_bytes=20_000)) == 20
    for limit in (0, 9_999, 19_999):
        with pytest.raises(TransferError, match=f"more than {limit} bytes in all"):
            scanned(content, max_bytes=limit)


@pytest.mark.slow
def test_many_large_files_take_no_more_memory_than_two(tmp_path: Path):
    """Sparse files of 20 MiB in a few KB of archive, as an attacker would send them."""
    peaks = [peak_of_an_import(tmp_path, sparse_files(number, 20 << 20), number) for number in (2, 8)]

    # The peak of one run and another differ by two files or so; six more would take 120 MiB.
    assert peaks[1] < peaks[0] + (60 << 20), peaks


def sparse_files(number: int, size: int) -> bytes:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
    map_ = b"1\n0\n0\n".ljust(512, b"\0")
    return archive(*(member(f"distribution/n/{n}", map_, pax_headers=headers) for n in range(number)))


def peak_of_an_import(tmp_path: Path, content: bytes, number: int) -> int:
    """Return the most bytes of memory that the command had."""
    path, database = tmp_path / f"{number}.tar", tmp_path / f"{number}.db"
    path.write_bytes(content)
    command = [sys.executable, "-m", "layerstore", "--db", str(database), "import", "--force", "--quiet", str(path)]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    with SQLMetadataStore(database) as store:
        assert sum(1 for _ in store.entries("n")) == number
    database.unlink()
    return usage.ru_maxrss * 1024
