"""Archives through real pipes between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import text

from layerstore import SQLMetadataStore
from tests.support.archives import archive, member, needs_tar, packed, rows_of_directory, tree_archive
from tests.support.command import BAD, ROOT, Result, Run, assert_one_line_error
from tests.support.entries import GOLDEN_FILES, rows_of

LAYERSTORE = [sys.executable, "-m", "layerstore"]


@pytest.fixture
def golden_database(golden: Path, database: Path) -> Path:
    """The database, filled with what a real daemon wrote, with times that have nanoseconds."""
    from layerstore import import_directory

    with SQLMetadataStore(database) as store:
        import_directory(store, golden)
    return database


def test_export_into_import_makes_the_same_store(golden_database: Path, tmp_path: Path):
    """`layerstore export --tar - | layerstore import -`, the times to the nanosecond."""
    other = tmp_path / "other.db"
    with subprocess.Popen([*LAYERSTORE, "export", "--tar", "-"], stdout=subprocess.PIPE, cwd=ROOT) as sender:
        receiver = subprocess.run(
            [*LAYERSTORE, "--db", other, "import", "-"], stdin=sender.stdout, capture_output=True, cwd=ROOT, check=False
        )

    assert (sender.returncode, receiver.returncode, receiver.stderr) == (0, 0, b"")
    assert f"{GOLDEN_FILES} added".encode() in receiver.stdout
    with SQLMetadataStore(golden_database) as one, SQLMetadataStore(other) as two:
        assert rows_of(two) == rows_of(one)


def test_a_reader_that_goes_away_ends_the_export_quietly(golden_database: Path):
    """As `| head -c 10` does."""
    with subprocess.Popen(
        [*LAYERSTORE, "--db", golden_database, "export", "--tar", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        head = os.read(export.stdout.fileno(), 10)
        export.stdout.close()
        said = export.stderr.read()

    assert len(head) == 10
    assert said == b""
    assert export.returncode not in (0, BAD)


def test_a_full_disk_behind_standard_output_is_one_line(golden_database: Path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*LAYERSTORE, "--db", golden_database, "export", "--tar", "-"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
        )

    assert_one_line_error(Result(done.returncode, b"", done.stderr.decode()), "No space left")
    assert done.returncode == BAD


def test_what_cannot_be_exported_puts_nothing_into_the_pipe(run_process: Run, database: Path):
    with SQLMetadataStore(database) as store, store.engine.begin() as connection:
        connection.execute(text("INSERT INTO metadata VALUES ('n', '../a', x'00', 1)"))

    done = run_process("export", "--tar", "-")

    assert done.code == BAD
    assert_one_line_error(done, "'../a'")


@needs_tar
@pytest.mark.parametrize("compression", [(), ("-z",)])
def test_the_whole_of_standard_input_is_read_so_that_the_other_side_of_the_pipe_does_not_fail(
    compression: tuple[str, ...], tree: Path, database: Path
):
    """Archives are padded to whole records, which may be large: `tar` must not be killed while it writes the last."""
    content = packed(tree.parent, "-b", "2048", *compression, "distribution")
    if not compression:
        assert len(content) >= 1 << 20
    with tempfile.TemporaryFile() as said:
        importing = subprocess.Popen(
            [*LAYERSTORE, "--db", database, "import", "-"], stdin=subprocess.PIPE, stdout=said, stderr=said, cwd=ROOT
        )
        assert importing.stdin is not None
        try:
            with importing.stdin as pipe:
                pipe.write(content)
        finally:
            code = importing.wait()
    assert code == 0


def test_a_pipe_may_be_given_as_a_path(database: Path, expected: list[tuple[object, ...]]):
    """As a shell does for `layerstore import <(ssh builder …)`: it can be read once only, and from its beginning."""
    reading, writing = os.pipe()
    os.write(writing, tree_archive())  # less than a pipe holds
    os.close(writing)
    try:
        done = subprocess.run(
            [*LAYERSTORE, "--db", database, "import", f"/dev/fd/{reading}"],
            pass_fds=[reading],
            capture_output=True,
            timeout=30,
            cwd=ROOT,
            check=False,
        )
    finally:
        os.close(reading)

    assert (done.returncode, done.stderr) == (0, b"")
    with SQLMetadataStore(database) as store:
        assert rows_of(store) == expected


def test_an_archive_that_breaks_off_in_the_pipe_leaves_the_store_untouched(run_process: Run, database: Path):
    """Whatever was sent before it broke off; the other side may have failed for want of a disk, a network, a key."""
    with SQLMetadataStore(database) as store:
        store.set("n", "k", b"before")
        before = rows_of(store)
    content = archive(*(member(f"distribution/n/{key}", b"after") for key in "klm"))

    for cut in (1, 700, 1024, 2048):
        done = run_process("import", "-", stdin=content[:cut])
        assert done.code == BAD
        assert_one_line_error(done, "standard input")
    with SQLMetadataStore(database) as store:
        assert rows_of(store) == before


def test_standard_input_without_a_byte_is_refused(run_process: Run):
    """`ssh` that could not log in sends nothing; that is no empty archive."""
    done = run_process("import", "-")

    assert done.code == BAD
    assert_one_line_error(done, "standard input")


@needs_tar
def test_export_into_tar_makes_the_directory(golden_database: Path, golden: Path, tmp_path: Path):
    """`layerstore export --tar - | ssh builder tar -C … -x`."""
    with subprocess.Popen([*LAYERSTORE, "export", "--tar", "-"], stdout=subprocess.PIPE, cwd=ROOT) as sender:
        unpacked = subprocess.run(["tar", "-C", tmp_path, "-x"], stdin=sender.stdout, capture_output=True, check=False)

    assert (sender.returncode, unpacked.returncode, unpacked.stderr) == (0, 0, b"")
    assert rows_of_directory(tmp_path / "distribution") == rows_of_directory(golden)


def test_the_command_names_what_it_did_not_take(run_process: Run):
    content = archive(member("distribution/n/k", b"v"), member("distribution/../../x"))

    done = run_process("import", "-", stdin=content)

    assert done.code == 1
    assert "skipped: standard input/distribution/../../x: the path leads out of the archive\n" in done.out
