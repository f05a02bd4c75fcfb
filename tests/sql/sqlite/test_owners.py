"""What we make is for its owner alone, and a database that others may change is warned of, once."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, import_directory
from layerstore.transfer.directory import new_file
from layerstore.transfer.exporting import export_tar
from tests.conftest import OpenSQL
from tests.support.command import GOLDEN, Run, database, run, run_process
from tests.support.counting import Counted

__all__ = ["database", "run", "run_process"]  # fixtures of the command's tests

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_what_we_make_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, open_sql: OpenSQL, counted: Counted):
    folder = tmp_path / "a" / "b"
    store = open_sql(folder / "layers.db")
    import_directory(store, GOLDEN)
    store.backup(folder / "copy.db")
    with new_file(str(folder / "new.tar")) as file:
        counted("access")
        assert [mode(path) for path in folder.glob("new.tar.tmp-*")] == [0o600]
        export_tar(store, file)
    store.set("n", "k", b"")  # with a log: the import may have let go of it

    modes = {path.name: mode(path) for path in folder.iterdir()}
    assert {"layers.db", "layers.db-wal", "layers.db-shm", "layers.db-queue", "copy.db", "new.tar"} == set(modes)
    assert set(modes.values()) == {0o600}
    assert [mode(folder), mode(folder.parent)] == [0o700, 0o700]
    counted("access", len(modes))


def test_an_archive_that_is_replaced_leaves_its_mode(tmp_path: Path, sql_file: SQLMetadataStore):
    path = tmp_path / "given.tar"
    path.touch()
    path.chmod(0o640)
    with new_file(str(path), overwrite=True) as file:
        export_tar(sql_file, file)

    assert mode(path) == 0o640
    assert path.stat().st_size > 0


@pytest.mark.usefixtures("umask")
def test_files_that_are_open_during_an_import_are_for_their_owner_alone(
    sql_file: SQLMetadataStore, tmp_path: Path, counted: Counted
):
    """Those without a name too, in which SQLite keeps what does not fit into memory."""
    tar = subprocess.run(["tar", "-C", GOLDEN.parent, "-c", "distribution"], capture_output=True, check=True).stdout
    (tmp_path / "given.tar").write_bytes(tar)
    before = set(os.listdir("/proc/self/fd"))
    seen: dict[str, int] = {}

    def look(_done: int, _total: int | None) -> None:
        for descriptor in set(os.listdir("/proc/self/fd")) - before:
            try:
                name, status = os.readlink(f"/proc/self/fd/{descriptor}"), os.stat(f"/proc/self/fd/{descriptor}")
            except FileNotFoundError:
                continue  # the listing's own
            if stat.S_ISREG(status.st_mode) and not name.endswith("given.tar"):
                seen[name] = stat.S_IMODE(status.st_mode)

    import_directory(sql_file, tmp_path / "given.tar", progress=look)

    counted("access", len(seen))
    assert {name: found for name, found in seen.items() if found & 0o077} == {}


def place(folder: Path) -> Path:
    """Make a store in a folder of its own."""
    folder.mkdir(mode=0o700)
    path = folder / "layers.db"
    with SQLMetadataStore(path) as store:
        store.set("n", "k", b"value")
    return path


def world_writable_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def world_writable_file(path: Path) -> None:
    path.chmod(0o666)


def foreign_file(path: Path) -> None:
    os.chown(path, NOBODY, -1)


def foreign_folder(path: Path) -> None:
    os.chown(path.parent, NOBODY, -1)


OPEN_TO_OTHERS: dict[Callable[[Path], None], str] = {
    world_writable_folder: "everybody may write to {path.parent} ",
    world_writable_file: "everybody may write to {path} ",
    foreign_file: "{path} belongs to the user with number 65534",
    foreign_folder: "{path.parent} belongs to the user with number 65534",
}
CASES = [
    pytest.param(change, says, id=change.__name__, marks=needs_root if change.__name__.startswith("foreign") else ())
    for change, says in OPEN_TO_OTHERS.items()
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "above").mkdir()
    return place(tmp_path / "above" / "folder")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return [record.getMessage() for record in caplog.records if record.name == "layerstore"]


@pytest.mark.parametrize(("change", "says"), CASES)
def test_a_database_that_others_may_change_is_warned_of_once(
    path: Path, change: Callable[[Path], None], says: str, caplog: pytest.LogCaptureFixture, counted: Counted
):
    """Also when it is only read: what is read there is whatever others like."""
    change(path)
    counted("access")
    for read_only in (True, False):
        with SQLMetadataStore(path, read_only=read_only) as store:
            assert store.get("n", "k") == b"value"

    [message] = warnings(caplog)
    assert message.startswith(f"{path}: other users may change this database: ")
    assert says.format(path=path) in message
    assert "`ch" in message


def test_the_command_says_it_once_on_standard_error(run_process: Run, path: Path, counted: Counted):
    world_writable_folder(path)
    counted("access")

    result = run_process("--db", path, "get", "n", "k")

    assert (result.code, result.out) == (0, "value")
    assert result.err.count("\n") == 1
    assert result.err.startswith(f"layerstore: warning: {path}: other users may change this database: everybody")


def sticky(path: Path) -> None:
    """As /tmp is: others may write there, and not replace what is mine."""
    path.parent.chmod(0o1777)


def of_a_group(path: Path) -> None:
    """As builders share a store."""
    path.parent.chmod(0o770)
    path.chmod(0o660)


def readable(path: Path) -> None:
    path.parent.chmod(0o755)
    path.chmod(0o644)


@pytest.mark.parametrize("change", [sticky, of_a_group, readable], ids=lambda change: change.__name__)
def test_what_others_cannot_change_is_not_warned_of(
    path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
):
    change(path)
    with SQLMetadataStore(path) as store:
        store.set("n", "k", b"")

    assert warnings(caplog) == []


def test_a_link_is_warned_of_for_the_place_that_it_leads_to(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    world_writable_folder(path)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    SQLMetadataStore(link).close()

    assert [f"everybody may write to {path.parent} " in message for message in warnings(caplog)] == [True]


_AS_NOBODY = """
import os, sys
from layerstore import SQLMetadataStore
SQLMetadataStore(":memory:").close()  # what is imported may lie where nobody may look
os.setgid(65534)
os.setuid(65534)
with SQLMetadataStore(sys.argv[1], read_only=True) as store:
    print(store.get("n", "k").decode())
"""


@needs_root
def test_what_belongs_to_root_is_not_warned_of(sql_file: SQLMetadataStore):
    """As for `ssh`: root may change everything anyway. A folder of its own, as that of the test is closed to others."""
    sql_file.set("n", "k", b"value")
    with tempfile.TemporaryDirectory() as folder:
        sql_file.backup(f"{folder}/layers.db")
        os.chmod(folder, 0o755)
        os.chmod(f"{folder}/layers.db", 0o644)
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, f"{folder}/layers.db"], capture_output=True, text=True, check=False
        )

    assert (done.stdout, done.stderr) == ("value\n", "")
