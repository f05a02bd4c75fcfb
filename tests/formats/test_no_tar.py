"""What is no tar that can be read is called what it is, with what would be right; never "damaged"."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import os
import pty
import shlex
import shutil
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, diff, import_directory, verify
from tests.support.archives import TREE, Save, rows_of_directory, tree_archive, write_tree
from tests.support.command import BAD, USAGE, Run, assert_one_line_error
from tests.support.entries import rows_of, whole

HAS_ZSTD = importlib.util.find_spec("compression") is not None and importlib.util.find_spec("compression.zstd")


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t(x)")
        content = connection.serialize()
    connection.close()
    return content


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("distribution/n/k", "v")
    return file.getvalue()


def by_program(*command: str) -> Callable[[bytes], bytes]:
    def compress(content: bytes) -> bytes:
        return subprocess.run(command, input=content, capture_output=True, check=True).stdout

    return compress


TAR = tree_archive()
LZIP = b"LZIP\1\x0c" + bytes(600)
COMPRESSED = {
    "lz4": (b"\x04\x22\x4d\x18" + bytes(600), "lz4", "lz4 -dc"),
    "compress": (b"\x1f\x9d\x90" + b"x" * 600, "compress", "gzip -dc"),
    "lzip": (LZIP, "lzip", "lzip -dc"),
    "lzop": (b"\x89LZO\0\r\n\x1a\n" + bytes(600), "lzop", "lzop -dc"),
    "snappy": (b"\xff\x06\0\0sNaPpY" + bytes(600), "snappy", "snzip -dc"),
    "gzip in gzip": (gzip.compress(gzip.compress(TAR)), "gzip inside gzip", "gzip -dc"),
    "xz in bzip2": (bz2.compress(lzma.compress(TAR)), "xz inside bzip2", "bzip2 -dc"),
    "lz4 in gzip": (gzip.compress(b"\x04\x22\x4d\x18" + bytes(600)), "lz4 inside gzip", "gzip -dc"),
}
if not HAS_ZSTD:
    COMPRESSED["zstd"] = (b"\x28\xb5\x2f\xfd" + bytes(600), "zstd", "zstd -dc")
    COMPRESSED["zstd, skippable"] = (b"\x50\x2a\x4d\x18" + bytes(600), "zstd", "zstd -dc")


def refused(path: Path, store: SQLMetadataStore | None = None) -> str:
    """Return why an import, a check and a comparison refuse a file; for one reason."""
    said = set()
    with SQLMetadataStore(":memory:") as other:
        into = store or other
        before = whole(into)
        for work in (lambda: import_directory(into, path), lambda: verify(path), lambda: diff(path, into)):
            with pytest.raises(TransferError) as raised:
                work()
            assert raised.value.path == str(path)
            said.add(str(raised.value))
        assert whole(into) == before
    assert len(said) == 1
    return said.pop()


@pytest.mark.parametrize(("content", "what", "tool"), COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_compression_that_cannot_be_read_is_named_with_the_command_that_unpacks_it(
    content: bytes, what: str, tool: str, tmp_path: Path, run_process: Run
):
    path = tmp_path / "given $it.tar"
    path.write_bytes(content)

    said = refused(path)

    assert what in said
    assert f"`{tool} {shlex.quote(str(path))} | layerstore import -`" in said
    assert "damaged" not in said
    done = run_process("import", "-", stdin=content)
    assert done.code == BAD
    assert_one_line_error(done, "standard input", what, f"| {tool} | layerstore import -")


@pytest.mark.parametrize("tool", ["zstd", "lz4", "xz", "bzip2", "gzip"])
def test_the_command_that_is_named_imports_the_archive(
    tool: str, save: Save, run_process: Run, database: Path, expected: list[tuple[object, ...]]
):
    """What the real programs write is recognised, and their own command takes it in."""
    if shutil.which(tool) is None:
        pytest.skip(f"the program `{tool}` is not here")
    content = by_program(tool, "-c")(TAR)
    done = run_process("import", save(content))
    if done.code == BAD:
        assert f"{tool} -dc" in done.err
        assert run_process("import", "-", stdin=by_program(tool, "-dc")(content)).code == 0
    with SQLMetadataStore(database) as store:
        assert rows_of(store) == expected


def test_what_old_xz_writes_is_read(sql_memory: SQLMetadataStore, save: Save, expected: list[tuple[object, ...]]):
    """The format `lzma`: without a checksum, and with hardly anything to know it by."""
    assert import_directory(sql_memory, save(lzma.compress(TAR, lzma.FORMAT_ALONE))).ok
    assert rows_of(sql_memory) == expected


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_compressed_pieces_one_behind_the_other_are_read_as_one(
    compress: Callable[[bytes], bytes], sql_memory: SQLMetadataStore, save: Save, expected: list[tuple[object, ...]]
):
    """As `pigz` and `pbzip2` write: cut anywhere, and compressed piece by piece."""
    pieces = [TAR[at : at + 1000] for at in range(0, len(TAR), 1000)]

    assert import_directory(sql_memory, save(b"".join(map(compress, pieces)))).ok
    assert rows_of(sql_memory) == expected


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_noise_behind_a_compressed_archive_is_damage(compress: Callable[[bytes], bytes], save: Save):
    assert "damaged" in refused(save(compress(TAR) + b"noise"))


OTHERS = {
    "zip": (zipped(), "a zip archive", "unpack it"),
    "empty zip": (b"PK\5\6" + bytes(18), "a zip archive", "unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(600), "a 7z archive", "unpack it"),
    "rar": (b"Rar!\x1a\x07\1\0" + bytes(600), "a RAR archive", "unpack it"),
    "cpio": (b"070701" + b"0" * 600, "a cpio archive", "cpio -id"),
    "old cpio": (b"\xc7\x71" + b"\1" * 600, "a cpio archive", "cpio -id"),
    "rpm": (b"\xed\xab\xee\xdb\3\0" + bytes(600), "an RPM package", "archive of Docker's"),
    "deb": (b"!<arch>\ndebian-binary   " + b" " * 600, "Debian package", "archive of Docker's"),
    "bolt": (bytes(16) + b"\xda\xed\x0c\xed" + bytes(600), "a bolt database", "path of the file itself"),
    "web page": (b"<!DOCTYPE html>\n<html>" + b" " * 600, "an HTML page", "download"),
    "xml": (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "an XML document", "download"),
    "json": (b'{"message":"not found"}', "JSON", "archive of Docker's"),
    "json list": (b'[\n  {"message":"not found"}]', "JSON", "archive of Docker's"),
    "message": (b"Permission denied (publickey).\n", "but text: 'Permission denied (publickey).'", "may have failed"),
    "message before a tar": (b"Welcome to host!\n" + b"x" * 2000, "text: 'Welcome to host!'", "printed a message"),
    "terminal sequences": (b"\x1b[31mno\n" + b"x" * 2000, "text: '\\x1b[31mno'", "printed a message"),
    "noise": (bytes(range(256)) * 3, "not a layerstore database, and not a tar archive", "give a tar"),
    "less than a block": (b"\x80\0x" * 20, "not a layerstore database, and not a tar archive", "give a tar"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_what_is_no_tar_is_called_what_it_is(
    name: str, compress: Callable[[bytes], bytes], save: Save, run_process: Run
):
    content, what, remedy = OTHERS[name]
    said = refused(save(compress(content)))

    assert what.partition(":")[0] in said
    assert what.partition(":")[2] in said
    assert remedy in said
    assert "damaged" not in said
    assert ("gzip" in said) == (compress is gzip.compress)
    done = run_process("import", "-", stdin=compress(content))
    assert done.code == BAD
    assert "\x1b" not in done.err
    assert_one_line_error(done, "standard input", what.partition(":")[0])


def test_a_database_on_standard_input_is_called_one(run_process: Run, save: Save):
    """It cannot be read from a pipe, as SQLite has to go back and forth in it."""
    done = run_process("import", "-", stdin=database())
    assert done.code == BAD
    assert_one_line_error(done, "it is a database in a pipe or on standard input", "path of its file")

    path = save(gzip.compress(database()))
    assert f"`gzip -dc {path} > copy.db`" in refused(path)


@pytest.mark.parametrize(
    "content", [gzip.compress(b""), bz2.compress(b""), lzma.compress(b"")], ids=["gzip", "bzip2", "xz"]
)
def test_what_is_compressed_of_nothing_is_empty(content: bytes, save: Save):
    assert "it is empty" in refused(save(content))


def test_standard_input_that_is_empty_is_called_so(run_process: Run):
    done = run_process("import", "-", stdin=b"")

    assert done.code == BAD
    assert_one_line_error(done, "standard input", "it is empty", "may have failed")


@pytest.mark.timeout(30)  # nobody types an archive
def test_a_terminal_is_refused(database: Path):
    main, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [os.sys.executable, "-m", "layerstore", "--db", database, "import", "-"],  # type: ignore[attr-defined]
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
        )
        with pytest.raises(TransferError, match="a device: give"):
            verify(os.ttyname(terminal))
    finally:
        os.close(main)
        os.close(terminal)

    assert done.returncode == USAGE
    assert "is a terminal" in done.stderr


@pytest.mark.parametrize("first", ["BZh91AY&SYdir", "LZIPdir", "{dir", "<html", "PK\3\4"])
def test_a_tar_whose_first_name_begins_as_something_else_is_a_tar(
    first: str, sql_memory: SQLMetadataStore, tmp_path: Path, save: Save
):
    base = write_tree(tmp_path / "distribution")

    assert import_directory(sql_memory, save(tree_archive(f"{first}/distribution/"))).read == len(TREE)
    assert [row[:3] for row in rows_of(sql_memory)] == [row[:3] for row in rows_of_directory(base)]
