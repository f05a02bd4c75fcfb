"""One database under two names has two logs: writing to it is refused, before anything is lost."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreOpenError, verify
from layerstore.sql.reading.totals import stats
from layerstore.sql.sqlite import opening
from layerstore.sql.sqlite import place as wal
from layerstore.transfer.recovering import recover
from tests.conftest import OpenSQL
from tests.support.command import BAD, DONE, ROOT, Run, assert_one_line_error, database, run, run_process
from tests.support.counting import Counted

__all__ = ["database", "run", "run_process"]  # fixtures of the command's tests


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "layers.db"
    with SQLMetadataStore(path) as store:
        store.set("n", "k", b"value")
    return path


def killed(path: Path) -> None:
    """Write to the store in a process that dies, so that all of it is in the log beside this name."""
    script = "import os, sys, layerstore; layerstore.SQLMetadataStore(sys.argv[1]).set('n', 'new', b'1'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, check=False).returncode == 9
    assert os.path.getsize(f"{path}-wal") > 0


WRITING: dict[str, Callable[[Path], object]] = {
    "open": SQLMetadataStore,
    "move to a revision": lambda path: opening.move_to(str(path), "head"),
}


@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING.keys())
def test_a_hard_link_is_refused_under_both_names(
    path: Path, tmp_path: Path, write: Callable[[Path], object], counted: Counted
):
    os.link(path, tmp_path / "other.db")
    before = path.read_bytes()

    for name in (path, tmp_path / "other.db"):
        counted("names")
        with pytest.raises(StoreOpenError, match=rf"2 names .*`layerstore --db {name} backup NEW`.*`mv NEW {name}`"):
            write(name)
    assert path.read_bytes() == before


def test_what_the_error_advises_makes_one_name_of_each_and_loses_nothing(path: Path, tmp_path: Path, run: Run):
    """Also what is in the log beside one of the names, as its writer was killed."""
    killed(path)
    other = tmp_path / "other.db"
    os.link(path, other)

    assert_one_line_error(run("--db", path, "set", "n", "k", "v"), path, "2 names")
    assert run("--db", path, "backup", tmp_path / "NEW").code == DONE
    os.replace(tmp_path / "NEW", path)

    for name, entries in ((path, {"k", "new", "after"}), (other, {"k", "after"})):
        with SQLMetadataStore(name) as store:
            store.set("n", "after", b"1")
            assert {key for _, key, _ in store.entries()} == entries
        assert verify(name).ok


def test_who_has_it_open_goes_on(path: Path, tmp_path: Path, open_sql: OpenSQL):
    store = open_sql(path)
    os.link(path, tmp_path / "other.db")

    store.set("n", "new", b"1")
    assert store.get("n", "new") == b"1"
    os.unlink(tmp_path / "other.db")


def test_a_reader_is_warned_once(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    os.link(path, tmp_path / "other.db")
    with caplog.at_level(logging.WARNING, "layerstore"):
        for _ in range(2):
            with SQLMetadataStore(path, read_only=True) as store:
                assert store.get("n", "k") == b"value"

    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{path}: the file has 2 names")


@pytest.fixture
def mount() -> Iterator[Callable[[Path, Path], None]]:
    """Bind-mount a file or directory at another place, until the test is over."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    places: list[Path] = []

    def bind(what: Path, where: Path) -> None:
        if subprocess.run(["mount", "--bind", what, where], capture_output=True, check=False).returncode != 0:
            pytest.skip("this root may not mount")
        places.append(where)

    yield bind
    for place in reversed(places):
        subprocess.run(["umount", place], check=True)


def test_a_file_that_is_mounted_alone_is_refused(
    path: Path, tmp_path: Path, mount: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture, counted: Counted
):
    alone = tmp_path / "alone.db"
    alone.touch()
    mount(path, alone)
    (tmp_path / "link.db").symlink_to(alone)

    for name in (alone, tmp_path / "link.db"):
        counted("names")
        with pytest.raises(StoreOpenError, match=r"mounted alone .*backup NEW.* mount the directory"):
            SQLMetadataStore(name)
        with SQLMetadataStore(name, read_only=True) as store:
            assert store.get("n", "k") == b"value"
    assert len(caplog.records) == 2
    with SQLMetadataStore(path) as store:
        store.set("n", "new", b"1")


def test_a_directory_that_is_mounted_is_fine_also_below_it(
    path: Path, tmp_path: Path, mount: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture
):
    """As `docker run -v /srv:/data`, and a subPath of Kubernetes: a process here and there share one log."""
    (tmp_path / "mounted").mkdir()
    mount(path.parent, tmp_path / "mounted")

    with SQLMetadataStore(path) as here, SQLMetadataStore(tmp_path / "mounted" / "layers.db") as there:
        there.set("n", "new", b"1")
        assert here.get("n", "new") == b"1"
        here.set("n", "newer", b"2")
        assert there.get("n", "newer") == b"2"
    assert caplog.records == []


@pytest.fixture
def link(path: Path, tmp_path: Path) -> Path:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.db"
    link.symlink_to(path)
    return link


def test_the_log_behind_a_symbolic_link_is_cut(link: Path, path: Path, open_sql: OpenSQL):
    store = open_sql(link, durability="normal")
    with store.transaction():
        for number in range(5):
            store.set("large", f"{number}", os.urandom(wal.LIMIT // 4))

    assert os.path.getsize(f"{path}-wal") <= wal.LIMIT


def test_the_size_of_the_log_behind_a_symbolic_link_is_known(link: Path, path: Path, open_sql: OpenSQL):
    store = open_sql(link)
    store.set("n", "k", b"1")

    assert stats(store).wal_bytes == os.path.getsize(f"{path}-wal") > 0


def test_recover_reads_the_log_behind_a_symbolic_link(link: Path, path: Path, tmp_path: Path, open_sql: OpenSQL):
    killed(path)

    report = recover(link, tmp_path / "new.db")

    assert (report.path, report.recovered, report.ok) == (str(link), 2, True)
    assert open_sql(tmp_path / "new.db").get("n", "new") == b"1"


@pytest.mark.parametrize("kind", ["device", "pipe", "socket"])
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, kind: str, read_only: bool, run_process: Run, counted: Counted
):
    path = Path("/dev/null") if kind == "device" else tmp_path / "layers.db"
    if kind == "pipe":
        os.mkfifo(path)
    counted("names")
    with closing(socket.socket(socket.AF_UNIX)) as server:
        if kind == "socket":
            server.bind(str(path))
        with pytest.raises(StoreOpenError, match=r"a (device|named pipe|socket), not a database file"):
            SQLMetadataStore(path, read_only=read_only)
        result = run_process("--db", path, "get", "n", "k")
    assert result.code == BAD
    assert "chmod" not in result.err
