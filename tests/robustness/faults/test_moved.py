"""A store whose file is removed, renamed or replaced while it is open acknowledges no write that nobody will find."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import (
    LayerstoreError,
    SQLMetadataStore,
    StoreOpenError,
    V2Metadata,
    V2MetadataService,
    export_directory,
    import_directory,
    verify,
)
from tests.conftest import transact
from tests.robustness.faults.conftest import held
from tests.support.counting import Counted
from tests.support.strategies import sha256

Move = Callable[[Path], None]


def another(path: Path) -> Path:
    """Make a store that has something else."""
    with SQLMetadataStore(path) as store:
        store.set("n", "other", b"another's")
    return path


def remove(path: Path) -> None:
    path.unlink()


def remove_with_its_log(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def replace_by_another(path: Path) -> None:
    another(path.with_suffix(".new")).rename(path)


def replace_by_a_copy(path: Path) -> None:
    """As a careless restore does."""
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_suffix(".old"))
    path.parent.mkdir()
    another(path)


def remove_the_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def replace_the_log(path: Path) -> None:
    Path(f"{path}-wal").rename(f"{path}-wal.old")
    shutil.copy(f"{path}-wal.old", f"{path}-wal")


def remove_the_index_of_the_log(path: Path) -> None:
    Path(f"{path}-shm").unlink()


MOVES: tuple[Move, ...] = (
    remove,
    remove_with_its_log,
    rename,
    replace_by_another,
    replace_by_a_copy,
    replace_by_a_directory,
    replace_the_folder,
    remove_the_log,
    replace_the_log,
    remove_the_index_of_the_log,
)
OF_THE_LOG = (remove_the_log, replace_the_log, remove_the_index_of_the_log)

WRITES: dict[str, Callable[[SQLMetadataStore], object]] = {
    "set": lambda store: store.set("n", "k", b"new"),
    "set of a list": lambda store: store.set("v2metadata-by-diffid", "k", b"[]"),
    "delete": lambda store: store.delete("n", "k"),
    "add": lambda store: V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2))),
    "set_many": lambda store: store.set_many([("n", "k", b"new")]),
    "transaction": transact,
    "quarantine": lambda store: store.quarantine("n", "k", b"", "reason"),
    "import": lambda store: import_directory(store, SQLMetadataStore(":memory:")),
}
WHOLE: dict[str, Callable[[SQLMetadataStore, Path], object]] = {
    "entries": lambda store, _: list(store.entries()),
    "export": export_directory,
    "verify": lambda store, _: verify(store),
    "repair": lambda store, _: verify(store, repair=True),
    "backup": SQLMetadataStore.backup,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a store that has an entry, in a folder of its own."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "layers.db"
    with SQLMetadataStore(path) as store:
        store.set("n", "k", b"old")
    return path


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_every_write_is_refused_and_nothing_at_the_path_is_changed(path: Path, move: Move, counted: Counted):
    with SQLMetadataStore(path) as store:
        store.set("n", "k", b"known")
        move(path)
        before = held(path.parent.parent)
        for name, write in WRITES.items():
            if name == "import" and move in OF_THE_LOG:
                continue  # it may fork, before which the store closes its connection: the next one has another log
            counted("faults")
            with pytest.raises(StoreOpenError) as caught:
                write(store)
            assert caught.value.path == str(path), name
            assert str(path) in str(caught.value), name
            assert "open the store again" in str(caught.value), name
        assert held(path.parent.parent) == before


@pytest.mark.parametrize("move", [move for move in MOVES if move not in OF_THE_LOG], ids=lambda move: move.__name__)
def test_work_on_the_whole_store_is_refused_and_makes_no_file(path: Path, move: Move, tmp_path: Path, counted: Counted):
    """It has a connection of its own, which must not be on another file than the thread's."""
    with SQLMetadataStore(path) as store:
        store.set("n", "k", b"known")
        move(path)
        for work in WHOLE.values():
            counted("faults")
            with pytest.raises(LayerstoreError, match=str(path)):
                work(store, tmp_path / "target")
            assert not (tmp_path / "target").exists() or os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize("move", [remove, rename, replace_by_another], ids=lambda move: move.__name__)
def test_the_next_thread_does_not_see_another_file_than_the_first(path: Path, move: Move, counted: Counted):
    caught: list[BaseException] = []

    def read(store: SQLMetadataStore) -> None:
        try:
            store.get("n", "k")
        except LayerstoreError as error:
            caught.append(error)

    with SQLMetadataStore(path) as store:
        counted("faults")
        move(path)
        thread = threading.Thread(target=read, args=(store,))
        thread.start()
        thread.join()

    assert [type(error) for error in caught] == [StoreOpenError]
    assert str(path) in str(caught[0])


def test_a_thread_that_reads_goes_on_with_the_file_that_it_has_open(path: Path):
    """A lookup does not look at the path: that would cost a tenth of it."""
    with SQLMetadataStore(path) as store:
        assert store.get("n", "k") == b"old"
        replace_by_another(path)

        assert store.get("n", "k") == b"old"
    with SQLMetadataStore(path) as store:
        assert store.get("n", "other") == b"another's"


def test_a_transaction_that_is_open_meanwhile_is_the_last_one(path: Path, counted: Counted):
    """Its commit comes right behind the moment at which the file was still there; no later one is taken."""
    with SQLMetadataStore(path) as store:
        with store.transaction():
            store.set("n", "k", b"new")
            counted("faults")
            path.rename(path.with_suffix(".old"))
        with pytest.raises(StoreOpenError):
            store.set("n", "k", b"newer")
    Path(f"{path}-wal").rename(path.with_suffix(".old-wal"))
    with SQLMetadataStore(path.with_suffix(".old")) as store:
        assert store.get("n", "k") == b"new"


def test_a_writer_that_waited_for_another_looks_behind_the_lock(path: Path, counted: Counted):
    other = SQLMetadataStore(path)
    caught: list[BaseException] = []
    begun = threading.Event()

    def write(store: SQLMetadataStore) -> None:
        store.get("n", "k")
        begun.set()
        try:
            V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2)))
        except LayerstoreError as error:
            caught.append(error)

    with SQLMetadataStore(path) as store, other:
        with other.transaction():
            thread = threading.Thread(target=write, args=(store,))
            thread.start()
            begun.wait()
            counted("faults")
            replace_by_another(path)
        thread.join()

    assert [type(error) for error in caught] == [StoreOpenError]


def test_back_at_its_path_the_store_goes_on(path: Path):
    """It is the same file again, and nothing was written into another one meanwhile."""
    with SQLMetadataStore(path) as store:
        rename(path)
        with pytest.raises(StoreOpenError):
            store.set("n", "k", b"lost")
        path.with_suffix(".old").rename(path)
        store.set("n", "k", b"found")

        assert store.get("n", "k") == b"found"
    with SQLMetadataStore(path) as store:
        assert store.get("n", "k") == b"found"


def test_a_file_that_a_link_leads_to_is_the_same_whichever_way_it_is_opened(path: Path, tmp_path: Path):
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with SQLMetadataStore(link) as store, SQLMetadataStore(path) as direct:
        store.set("n", "k", b"through the link")
        V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2)))

        assert direct.get("n", "k") == b"through the link"
        another(tmp_path / "other.db")
        link.unlink()
        link.symlink_to(tmp_path / "other.db")
        with pytest.raises(StoreOpenError, match="replaced"):
            store.set("n", "k", b"lost")
        direct.set("n", "k", b"kept")


PROGRAM = """
import sys
from layerstore import SQLMetadataStore, StoreOpenError
with SQLMetadataStore(sys.argv[1]) as store:
    acknowledged = 0
    print("ready", flush=True)
    try:
        while True:
            store.set("n", str(acknowledged), b"")
            acknowledged += 1
    except StoreOpenError:
        print(acknowledged, flush=True)
"""


@pytest.mark.parametrize("round_", range(5))
def test_what_a_writer_acknowledges_while_its_file_is_moved_is_in_the_moved_file(
    path: Path, round_: int, counted: Counted
):
    """A rename in the middle of its work: it stops, and what it had acknowledged until then is where the file is."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(round_ * 20):
            os.stat(path)
        counted("faults")
        moved = path.with_suffix(".old")
        path.rename(moved)
        # The log follows, so that what it still holds is found from there.
        acknowledged = int(writer.stdout.readline())
        log = Path(f"{path}-wal")
        if log.exists():
            log.rename(f"{moved}-wal")
    with SQLMetadataStore(moved) as store:
        kept = sum(1 for _ in store.entries("n"))
        assert kept in (acknowledged + 1, acknowledged + 2)  # with "k"; the last may be done and not acknowledged
