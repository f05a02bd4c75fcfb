"""An archive of the store unpacks to the directory that an export writes, and is whole or absent."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import os
import pty
import select
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from layerstore import FSMetadataStore, InvalidKeyError, SQLMetadataStore, TransferError, export_directory
from layerstore import import_directory as take_in
from layerstore.formats import tar
from layerstore.keys import Record
from layerstore.transfer.directory import new_file
from layerstore.transfer.exporting import export_archive, export_tar
from tests.support.archives import listing, needs_tar
from tests.support.command import BAD, Run, assert_one_line_error
from tests.support.entries import AT, GOLDEN_FILES, directory_modes, files_of, rows_of

ODD_ENTRIES = [
    Record("n", "d\u00e9p\u00f4t/\U0001f600", b"\0\xff", AT),
    Record("n", "long/" + "/".join(["x" * 200] * 3), b"long", 1_000_000_001),
    Record("n", "a b\n-c", b"", 1),
    Record("n", "large", bytes(range(256)) * 1000, AT + 1),
    Record("n", "on the second", b"", 1_700_000_000_000_000_000),
]


@pytest.fixture
def golden_and_odd(sql_file: SQLMetadataStore, golden: Path) -> SQLMetadataStore:
    """What a daemon wrote, each file at a time of its own, and entries with odd names, sizes and times."""
    take_in(sql_file, golden)
    for record in ODD_ENTRIES:
        sql_file._put(record)
    return sql_file


@pytest.fixture
def exported(golden_and_odd: SQLMetadataStore, tmp_path: Path) -> Path:
    """The directory that the archive must unpack to."""
    export_directory(golden_and_odd, tmp_path / "exported" / "distribution")
    return tmp_path / "exported" / "distribution"


@pytest.fixture
def packed(golden_and_odd: SQLMetadataStore, tmp_path: Path) -> Path:
    """The archive."""
    path = tmp_path / "packed.tar"
    with path.open("wb") as file:
        assert export_tar(golden_and_odd, file).written == GOLDEN_FILES + len(ODD_ENTRIES)
    return path


def test_python_unpacks_the_directory(packed: Path, exported: Path, tmp_path: Path):
    """Names, bytes and modes; it restores times as floats, which have no room for nanoseconds."""
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "unpacked", filter="tar")

    unpacked = tmp_path / "unpacked" / "distribution"
    assert listing(tmp_path / "unpacked")[0] == "distribution"
    assert directory_modes(unpacked) == directory_modes(exported)
    found, wanted = files_of(unpacked), files_of(exported)
    assert {path: file[:2] for path, file in found.items()} == {path: file[:2] for path, file in wanted.items()}
    assert all(abs(file.modified_at_ns - wanted[path].modified_at_ns) < 1000 for path, file in found.items())


@needs_tar
def test_tar_unpacks_the_directory_with_its_times_to_the_nanosecond(packed: Path, exported: Path, tmp_path: Path):
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    done = subprocess.run(["tar", "-C", unpacked, "-p", "-xf", packed], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert files_of(unpacked / "distribution") == files_of(exported)
    assert directory_modes(unpacked / "distribution") == directory_modes(exported)
    assert directory_modes(exported)["."] == 0o700


def test_taken_in_again_it_is_the_same_store(
    golden_and_odd: SQLMetadataStore, sql_memory: SQLMetadataStore, packed: Path
):
    """The times to the nanosecond, before 1970 too."""
    golden_and_odd._put(Record("n", "old", b"", -1_500_000_001))
    with packed.open("wb") as file:
        export_tar(golden_and_odd, file)

    assert take_in(sql_memory, packed).ok
    assert rows_of(sql_memory) == rows_of(golden_and_odd)


def test_directories_come_before_what_is_in_them_and_once(packed: Path):
    with tarfile.open(packed) as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    seen: set[str] = set()
    for member in members:
        assert os.path.dirname(member.name) in seen | {""}
        if member.isdir():
            seen.add(member.name)
    assert len(set(names)) == len(names)


def test_a_directory_is_packed_as_well_as_a_database(golden: Path, packed: Path, tmp_path: Path):
    with (tmp_path / "other.tar").open("wb") as file:
        assert export_tar(FSMetadataStore(golden), file).written == GOLDEN_FILES
    with tarfile.open(packed) as one, tarfile.open(tmp_path / "other.tar") as other:
        ours = {member.name: member.pax_headers for member in one if member.isfile()}
        theirs = {member.name: member.pax_headers for member in other if member.isfile()}
    assert len(theirs) == GOLDEN_FILES
    assert theirs.items() <= ours.items()


def test_the_same_store_gives_the_same_bytes(golden_and_odd: SQLMetadataStore):
    """So that two archives can be compared by their checksums."""
    contents = []
    for _ in range(2):
        file = io.BytesIO()
        export_tar(golden_and_odd, file)
        contents.append(file.getvalue())
    assert contents[0] == contents[1]


def test_the_command_writes_a_file_and_in_place_of_an_old_one_only_if_told_to(run: Run, database: Path, tmp_path: Path):
    with SQLMetadataStore(database) as store:
        store._put(ODD_ENTRIES[0])
        before = rows_of(store)
    target = tmp_path / "x.tar"
    assert run("export", "--tar", target).code == 0
    target.write_bytes(b"old")

    done = run("export", "--tar", target)
    assert done.code == BAD
    assert_one_line_error(done, target, "there is a file already", "--overwrite")
    assert target.read_bytes() == b"old"

    done = run("export", "--tar", "--overwrite", target, "--json")
    assert done.json | {"path": str(target), "written": 1, "ok": True} == done.json
    assert listing(tmp_path) == ["state", "state/layers.db", "x.tar"]
    with SQLMetadataStore(":memory:") as copy:
        take_in(copy, target)
        assert rows_of(copy) == before


@pytest.mark.parametrize("there", ["empty", "link", "dangling", "directory", "database"])
def test_no_file_is_replaced_by_the_library_unless_it_is_told_to(
    there: str, sql_file: SQLMetadataStore, tmp_path: Path
):
    target, other = tmp_path / "x.tar", tmp_path / "other"
    other.write_bytes(b"other")
    if there == "empty":
        target.touch()
    elif there == "directory":
        target.mkdir()
    elif there == "database":
        SQLMetadataStore(target).close()
    else:
        target.symlink_to(other if there == "link" else tmp_path / "nowhere")
    before = listing(tmp_path)

    with pytest.raises(TransferError, match=r"there is a file already|it is a database") as raised:
        export_archive(sql_file, target)
    assert raised.value.path == str(target)
    assert listing(tmp_path) == before
    if there in ("directory", "database"):
        with pytest.raises(TransferError):
            export_archive(sql_file, target, overwrite=True)
    else:
        export_archive(sql_file, target, overwrite=True)
        assert not target.is_symlink()
        assert tarfile.is_tarfile(target)
    assert other.read_bytes() == b"other"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_somebody_made_meanwhile_is_not_replaced(golden_and_odd: SQLMetadataStore, tmp_path: Path):
    target = tmp_path / "x.tar"

    def make(done: int, _total: int | None) -> None:
        if done == 10:
            target.write_bytes(b"somebody's")

    with pytest.raises(TransferError, match="there is a file already"):
        export_archive(golden_and_odd, target, progress=make)
    assert target.read_bytes() == b"somebody's"
    assert not list(tmp_path.glob("x.tar.tmp-*"))


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "x.tar": bytes,
    "x": bytes,
    "x.tar.gz": gzip.decompress,
    "x.tgz": gzip.decompress,
    "X.TAR.GZ": gzip.decompress,
    "x.tar.bz2": bz2.decompress,
    "x.tbz2": bz2.decompress,
    "x.tar.xz": lzma.decompress,
    "x.txz": lzma.decompress,
}


@pytest.mark.parametrize(("name", "unpack"), COMPRESSIONS.items())
def test_an_archive_is_compressed_as_its_name_says(
    name: str, unpack: Callable[[bytes], bytes], golden_and_odd: SQLMetadataStore, packed: Path, tmp_path: Path
):
    target = tmp_path / "out" / name
    target.parent.mkdir()
    assert export_archive(golden_and_odd, target).written == GOLDEN_FILES + len(ODD_ENTRIES)
    assert unpack(target.read_bytes()) == packed.read_bytes()
    first = target.read_bytes()

    export_archive(golden_and_odd, target, overwrite=True)
    assert target.read_bytes() == first

    with SQLMetadataStore(":memory:") as copy:
        assert take_in(copy, target).ok
        assert rows_of(copy) == rows_of(golden_and_odd)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x.tar.zst", "| zstd >"),
        ("x.tzst", "| zstd >"),
        ("x.tar.lz4", "| lz4 >"),
        ("x.tar.lz", "| lzip >"),
        ("x.tar.lzma", "| xz --format=lzma >"),
        ("x.tar.Z", "| compress >"),
        ("x.zip", "an archive is a tar"),
        ("x.7z", "an archive is a tar"),
    ],
)
def test_a_compression_that_cannot_be_written_is_refused_with_what_can(
    name: str, says: str, run: Run, database: Path, tmp_path: Path
):
    SQLMetadataStore(database).close()

    done = run("export", "--tar", tmp_path / name)

    assert done.code == BAD
    assert_one_line_error(done, tmp_path / name, says, ".tar.gz")
    assert not (tmp_path / name).exists()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["pipe", "pipe.gz"])
def test_a_pipe_that_an_export_breaks_off_into_gets_no_end_mark(
    name: str, golden_and_odd: SQLMetadataStore, tmp_path: Path
):
    pipe = tmp_path / name
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def fail(done: int, _total: int | None) -> None:
        if done == 20:
            raise RuntimeError("in the middle")

    try:
        with pytest.raises(RuntimeError, match="in the middle"):
            export_archive(golden_and_odd, pipe, progress=fail)
        gc.collect()
        content = os.read(reader, 1 << 16)
    finally:
        os.close(reader)

    with pytest.raises(TransferError, match="cut off" if content else "it is empty"):
        list(tar.scan(io.BytesIO(content), name))


def test_nothing_is_written_to_a_terminal(golden_and_odd: SQLMetadataStore):
    main, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "layerstore", "--db", str(golden_and_odd.path), "export", "--tar", "-"],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert not select.select([main], [], [], 0)[0]
    finally:
        os.close(main)
        os.close(terminal)

    assert done.returncode == 2
    assert "terminal" in done.stderr


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_beside_it(
    golden_and_odd: SQLMetadataStore, tmp_path: Path
):
    folder = tmp_path / "folder"
    folder.mkdir()
    target = folder / "x.tar"
    target.write_bytes(b"old")
    seen: list[list[str]] = []

    def fail(done: int, _total: int | None) -> None:
        if done == 100:
            seen.append(sorted(os.listdir(folder)))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), new_file(str(target), overwrite=True) as file:
        export_tar(golden_and_odd, file, progress=fail)
    gc.collect()  # what was left half done must not come back when it is collected

    assert len(seen[0]) == 2  # the old file, and the new one under another name
    assert target.read_bytes() == b"old"
    assert os.listdir(folder) == ["x.tar"]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_export_that_breaks_off_never_gets_its_end_mark(golden_and_odd: SQLMetadataStore):
    """So that whoever reads the pipe can tell, also after what is left of it was collected."""

    def fail(done: int, _total: int | None) -> None:
        if done == 100:
            raise RuntimeError

    file = io.BytesIO()
    with pytest.raises(RuntimeError):
        export_tar(golden_and_odd, file, progress=fail)
    gc.collect()

    assert b"\0" * 1024 not in file.getvalue()[-2048:]


def test_a_key_that_breaks_the_rules_is_found_before_anything_is_written(
    run: Run, database: Path, tmp_path: Path, sql_memory: SQLMetadataStore
):
    with SQLMetadataStore(database) as in_file:
        for store in (in_file, sql_memory):
            with store.engine.begin() as connection:
                connection.execute(text("INSERT INTO metadata VALUES ('n', '../a', x'00', 1), ('m', 'k', x'00', 1)"))
    file = io.BytesIO()
    target = tmp_path / "x.tar"
    target.write_bytes(b"old")

    with pytest.raises(InvalidKeyError):
        export_tar(sql_memory, file)
    done = run("export", "--tar", "--overwrite", target)

    assert file.getvalue() == b""
    assert done.code == BAD
    assert_one_line_error(done, "'../a'")
    assert target.read_bytes() == b"old"
    assert listing(tmp_path) == ["state", "state/layers.db", "x.tar"]


@pytest.mark.parametrize("where", ["missing/x.tar", "folder", "file/x.tar"])
def test_a_place_where_no_file_can_be_is_an_error_that_names_it(where: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    before = listing(tmp_path)

    with pytest.raises(TransferError, match=str(tmp_path / where)), new_file(str(tmp_path / where)):
        pass
    assert listing(tmp_path) == before


def test_a_pipe_or_device_is_written_to_and_not_replaced(run: Run, database: Path, tmp_path: Path):
    """`--tar /dev/null`, given by root, must leave the device what it is."""
    with SQLMetadataStore(database) as store:
        store._put(ODD_ENTRIES[0])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        done = run("export", "--tar", pipe)
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
        content = os.read(reader, 1 << 16)
    finally:
        os.close(reader)

    assert done.code == 0
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames()[-1] == f"distribution/n/{ODD_ENTRIES[0].key}"


@pytest.mark.parametrize(
    "options", [("--delete",), ("--dry-run",), ("--delete", "--dry-run"), ("--on-conflict", "merge")]
)
def test_what_only_a_directory_can_have_is_wrong_usage_with_a_tar(
    options: tuple[str, ...], run: Run, database: Path, tmp_path: Path
):
    SQLMetadataStore(database).close()

    assert run("export", "--tar", tmp_path / "x.tar", *options).code == 2
    assert run("export", "-", *options).code == 2
    assert run("export", tmp_path / "directory", "--overwrite").code == 2
    assert not (tmp_path / "directory").exists()
    assert not (tmp_path / "x.tar").exists()


def test_an_empty_store_is_an_archive_without_entries(sql_file: SQLMetadataStore):
    file = io.BytesIO()

    assert export_tar(sql_file, file).written == 0
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        assert not [member for member in archive if member.isfile()]
