"""Members that no directory of Docker's has: each is named in the report, none is fatal, none is followed."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, diff, export_directory, import_directory, verify
from layerstore.formats import tar
from tests.support.archives import Member, Save, archive, listing, member, plain_rows
from tests.support.counting import Counted
from tests.support.entries import LISTS, entries, layer_key, quarantine_of, rows_of


@pytest.fixture(autouse=True)
def each_is_counted(counted: Counted) -> None:
    counted("headers")


FIRST, LAST = member("distribution/n/first", b"1"), member("distribution/n/last", b"2")
TAKEN = [("n", "first", b"1"), ("n", "last", b"2")]

HOSTILE = {
    "absolute name": (member("/etc/passwd", b"root"), "outside every namespace"),
    "absolute name with a parent": (member(f"/x/../{LISTS}/{layer_key(1)}", b"[]"), "out of the archive"),
    "parent": (member("../x"), "out of the archive"),
    "parent of a namespace": (member("distribution/../../x"), "out of the archive"),
    "parent below a namespace": (member("distribution/n/../../../x"), "out of the archive"),
    "parent below a folder": (member("a/../../b"), "out of the archive"),
    "parent at the end": (member("distribution/n/.."), "out of the archive"),
    "dot": (member("distribution/n/./x"), "is '.'"),
    "empty segment": (member("distribution/n//x"), "is empty"),
    "symbolic link": (member("distribution/n/l", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "link to a good member": (member("distribution/n/l", type=tarfile.SYMTYPE, linkname="first"), "a link"),
    "hard link to a later member": (
        member("distribution/n/l", type=tarfile.LNKTYPE, linkname="distribution/n/last"),
        "a hard link to what",
    ),
    "hard link out": (member("distribution/n/l", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "a hard link to what"),
    "hard link out by parents": (
        member("distribution/n/l", type=tarfile.LNKTYPE, linkname="distribution/n/../n/first"),
        "a hard link to what",
    ),
    "hard link to itself": (
        member("distribution/n/l", type=tarfile.LNKTYPE, linkname="distribution/n/l"),
        "a hard link to what",
    ),
    "character device": (member("distribution/n/d", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "device"),
    "block device": (member("distribution/n/d", type=tarfile.BLKTYPE, devmajor=8), "device"),
    "pipe": (member("distribution/n/p", type=tarfile.FIFOTYPE), "pipe"),
    "type that nobody knows": (member("distribution/n/z", type=b"Z"), "device"),
    "outside every namespace": (member("distribution/README", b"text"), "outside every namespace"),
    "at the top": (member("README", b"text"), "outside every namespace"),
    "no name": (member("", b"text"), "outside every namespace"),
    "NUL": (member("distribution/n/a", b"", pax_headers={"path": "distribution/n/a\0b"}), "NUL"),
    "segment of 10,000 characters": (member("distribution/n/" + "x" * 10_000), "239 bytes"),
    "namespace of 10,000 characters": (member("distribution/" + "x" * 10_000 + "/k"), "239 bytes"),
}


def named(skipped_path: str, path: Path, name: str) -> bool:
    """Tell whether a report names both the archive and the member in it."""
    return skipped_path.startswith(f"{path}/") and skipped_path.endswith(name)


FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
CASES = {
    f"{name}, {form}": (*case, FORMATS[form])
    for name, case in HOSTILE.items()
    for form in FORMATS
    if form == "pax" or not case[0].info.pax_headers
}


@pytest.mark.parametrize(("hostile", "says", "form"), CASES.values(), ids=CASES.keys())
def test_a_hostile_member_is_named_and_the_others_are_taken(
    hostile: Member, says: str, form: int, sql_memory: SQLMetadataStore, save: Save
):
    path = save(archive(FIRST, hostile, LAST, form=form))

    report = import_directory(sql_memory, path)

    assert plain_rows(sql_memory) == TAKEN
    assert len(report.skipped) == 1
    name = hostile.info.pax_headers.get("path", hostile.info.name)
    assert named(report.skipped[0].path, path, name)
    assert says in report.skipped[0].reason
    assert (report.read, report.temporary, report.ok) == (2, 0, False)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("name", ["distribution/n/caf\udce9", "distribution/\udcff/k", "\udcff\udcfe/x"])
def test_a_name_that_is_not_utf8_is_shown_with_its_bytes(
    name: str, form: int, sql_memory: SQLMetadataStore, save: Save
):
    path = save(archive(FIRST, member(name, b"x"), LAST, form=form))

    report = import_directory(sql_memory, path)

    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
    assert [found.path for found in report.skipped] == [f"{path}/{shown}"]
    assert plain_rows(sql_memory) == TAKEN


def test_temporary_files_are_counted(sql_memory: SQLMetadataStore, save: Save):
    names = ["distribution/n/.tmp-k123", "distribution/.tmp-n/k", "distribution/n/.tmp-folder/k"]

    report = import_directory(sql_memory, save(archive(FIRST, *(member(name) for name in names), LAST)))

    assert plain_rows(sql_memory) == TAKEN
    assert (report.read, report.temporary, report.skipped, report.ok) == (2, 3, (), True)


def test_a_folder_above_the_directory_may_have_a_temporary_name(sql_memory: SQLMetadataStore, save: Save):
    """What an archive was made from is the operator's; the rules are for what is below."""
    import_directory(sql_memory, save(archive(member(".tmp-restored/distribution/n/k", b"kept"))))

    assert plain_rows(sql_memory) == [("n", "k", b"kept")]


def test_a_file_over_the_limit_is_named_and_not_read(
    sql_memory: SQLMetadataStore, save: Save, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tar, "MAX_VALUE", 1 << 20)
    at_the_limit = member("distribution/n/limit", b"\0" * (1 << 20))
    over = member("distribution/n/over", b"\0" * ((1 << 20) + 1))

    report = import_directory(sql_memory, save(archive(over, at_the_limit, LAST, mode="w:gz")))

    assert [row[1] for row in plain_rows(sql_memory)] == ["last", "limit"]
    assert [(Path(found.path).name, found.reason) for found in report.skipped] == [("over", "larger than 1 MiB")]


ODD_NUMBERS = ["9" * 30, "-" + "9" * 30, "inf", "-inf", "nan", "1e999990", "-1e999990", "1e-999990", "1e999999"]
ODD_TIMES = ["-1", "-99999999999", "99999999999", "1e400", *ODD_NUMBERS]


@pytest.mark.parametrize("time", [*ODD_TIMES, "", "yesterday", "0x10", "1_0", "1.", "\u0661"])
def test_no_time_is_fatal(time: str, sql_memory: SQLMetadataStore, save: Save):
    """The entry is taken with some time of 64 bits; what a clock says is no reason to lose a mount."""
    path = save(archive(FIRST, member("distribution/n/k", b"v", pax_headers={"mtime": time}), LAST))

    report = import_directory(sql_memory, path)

    assert report.ok
    assert plain_rows(sql_memory) == sorted([*TAKEN, ("n", "k", b"v")])
    assert all(-(2**63) <= record.modified_at_ns < 2**63 for record in sql_memory._records())


@pytest.mark.parametrize("time", [-1, -(2**40), 2**40, 2**62], ids=str)
def test_no_time_of_a_gnu_header_is_fatal(time: int, sql_memory: SQLMetadataStore, save: Save):
    path = save(archive(member("distribution/n/k", b"v", mtime=time), form=tarfile.GNU_FORMAT))

    assert import_directory(sql_memory, path).ok

    expected = max(-(2**63), min(time * 10**9, 2**63 - 1))
    assert [record.modified_at_ns for record in sql_memory._records()] == [expected]


@pytest.mark.parametrize("time", ODD_TIMES)
def test_no_time_keeps_an_archive_from_being_checked_or_compared(time: str, tmp_path: Path, save: Save):
    path = save(archive(FIRST, member("distribution/n/k", b"v", pax_headers={"mtime": time}), LAST))
    (tmp_path / "distribution").mkdir()

    assert verify(path).checked == 3
    assert len(diff(path, tmp_path / "distribution").only_left) == 3


def _sized(size: bytes) -> bytes:
    """Make an archive whose second header gives a size as these twelve bytes."""
    content = bytearray(archive(FIRST, LAST))
    start = 1024  # after a header and a block of content
    content[start + 124 : start + 136] = size
    header = content[start : start + 512]
    header[148:156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(content)


@pytest.mark.parametrize(
    "size",
    [b"\xff" * 12, b"\xff" * 10 + b"\xfe\x00", b"\xff" * 4 + b"\0" * 8, b"\x80" + b"\xff" * 11, b"77777777777\0"],
    ids=["-1", "-512", "far below zero", "far too large", "8 GiB"],
)
@pytest.mark.timeout(20)  # reading on behind the end of the file takes for ever
def test_a_size_that_cannot_be_is_an_error_that_names_the_archive(
    size: bytes, sql_memory: SQLMetadataStore, save: Save
):
    path = save(_sized(size))

    with pytest.raises(TransferError, match=str(path)):
        import_directory(sql_memory, path)
    assert plain_rows(sql_memory) == []


def test_headers_nested_without_end_are_an_error_that_names_the_archive(sql_memory: SQLMetadataStore, save: Save):
    """Each says that the name of the next is a long one."""
    nested = member("x" * 200).info.tobuf(tarfile.GNU_FORMAT)[:1024] * 3000
    path = save(nested + archive(LAST))

    with pytest.raises(TransferError, match=str(path)):
        import_directory(sql_memory, path)


def test_nothing_is_written_but_the_store(
    sql_file: SQLMetadataStore, tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
):
    """Neither below the working directory, nor above it, nor where a link or an absolute name points to."""
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    (here.parent / "victim").write_bytes(b"unharmed")
    monkeypatch.chdir(here)
    wild = [
        member(str(tmp_path / "absolute")),
        member("../victim", b"harmed"),
        member("distribution/n/link", type=tarfile.SYMTYPE, linkname=str(here.parent)),
        member("distribution/n/link/victim", b"harmed"),
        member("distribution/n/hard", type=tarfile.LNKTYPE, linkname="../victim"),
        *(hostile for hostile, _ in HOSTILE.values()),
    ]
    path = save(archive(FIRST, *wild, LAST))
    before = listing(tmp_path)

    import_directory(sql_file, path)
    verify(path)

    assert listing(tmp_path) == before
    assert (here.parent / "victim").read_bytes() == b"unharmed"


def test_what_came_from_a_hostile_archive_can_be_exported(sql_memory: SQLMetadataStore, tmp_path: Path, save: Save):
    """Nothing that was taken keeps the rest from going out again."""
    import_directory(sql_memory, save(archive(FIRST, *(hostile for hostile, _ in HOSTILE.values()), LAST)))

    assert export_directory(sql_memory, tmp_path / "out" / "distribution").written >= 2
    assert {path.name for path in (tmp_path / "out" / "distribution" / "n").iterdir()} >= {"first", "last"}


def test_of_a_member_that_is_there_twice_the_last_one_counts(sql_file: SQLMetadataStore, save: Save):
    """As when it is unpacked; derived rows are those of the last one (the fixture checks them)."""
    name = f"distribution/{LISTS}/{layer_key(1)}"
    other = f"./distribution/{LISTS}/{layer_key(1)}"

    report = import_directory(
        sql_file, save(archive(member(name, entries(1, 2, 3)), member(other, entries(4)), mode="w:gz"))
    )

    assert sql_file.get(LISTS, layer_key(1)) == entries(4)
    assert (report.added, report.updated, report.conflicts) == (1, 0, ())


@pytest.mark.parametrize("values", [(b"[", entries(1)), (entries(1), b"["), (b"[", b"{")], ids=str)
def test_what_the_report_says_is_in_quarantine_is_there(
    values: tuple[bytes, bytes], sql_file: SQLMetadataStore, save: Save
):
    """Also of a member that is there twice: nothing is dropped silently."""
    members = [member(f"distribution/{LISTS}/{layer_key(1)}", value) for value in values]

    report = import_directory(sql_file, save(archive(*members)))

    set_aside = [row[3] for row in quarantine_of(sql_file)]
    assert sorted(found.reason for found in report.quarantined) == sorted(map(str, set_aside))
    source = report.sources[0]
    assert source.read == source.added + source.updated + source.unchanged + source.quarantined
    assert len(rows_of(sql_file)) == source.added
