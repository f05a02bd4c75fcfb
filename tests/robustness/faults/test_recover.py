"""A damaged database: what its whole pages hold comes out, and nothing else does."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreCorruptError, StoreError, StoreOpenError, verify
from layerstore.keys import Record
from layerstore.transfer.recovering import recover
from tests.conftest import OpenSQL
from tests.robustness.faults.damaged import PAGE, fill, held_by, noise, rows
from tests.support.command import BAD, Run, assert_one_line_error, database, run, run_process
from tests.support.counting import Counted
from tests.support.strategies import sha256

__all__ = ["database", "run", "run_process"]  # fixtures of the command's tests

LISTS = "v2metadata-by-diffid"


def test_of_a_whole_database_everything_comes_out(broken: Path, tmp_path: Path, open_sql: OpenSQL):
    everything = fill(broken)

    report = recover(broken, tmp_path / "new.db")

    assert (report.recovered, report.kept_in_quarantine, report.ok) == (len(everything), 1, True)
    assert (report.unreadable_pages, report.pages) == (0, broken.stat().st_size // PAGE)
    new = open_sql(tmp_path / "new.db")
    assert {(record.namespace, record.key): record for record in new._records()} == everything
    with SQLMetadataStore(broken, read_only=True) as old:
        for table in ("quarantine", "v2_metadata", "diff_id_by_digest", "v1_ids"):
            columns = "namespace, key, value, reason, quarantined_at_ns" if table == "quarantine" else "*"
            query = f"SELECT {columns} FROM {table} ORDER BY 1, 2"
            found = [rows(store, query) for store in (old, new)]
            if table == "v2_metadata":  # gaps in the positions are closed
                found = [[row[:1] + row[2:] for row in of] for of in found]
            assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(12))
def test_a_noisy_page_takes_nothing_along_but_what_it_held(
    broken: Path, tmp_path: Path, seed: int, open_sql: OpenSQL, counted: Counted
):
    everything = fill(broken)
    luck = random.Random(seed)
    held = held_by(broken)
    pages = luck.sample(range(1, len(held)), luck.choice([1, 2, 5, 20]))
    if seed == 0:
        pages = [1]  # the schema, and where every table begins
    noise(broken, pages, luck)
    before = broken.read_bytes()
    counted("faults", len(pages))

    report = recover(broken, tmp_path / "new.db")

    assert broken.read_bytes() == before
    assert sorted(os.listdir(broken.parent)) == [broken.name, f"{broken.name}-queue"]
    assert report.unreadable_pages >= 1
    new = open_sql(tmp_path / "new.db")
    found = {(record.namespace, record.key): record for record in new._records()}
    lost = everything.keys() - found.keys()
    assert lost <= held[0].union(*(held[page] for page in pages)), "lost from a page that was whole"
    if seed == 0:
        assert lost == set()
    for place, record in found.items():
        # A value that went on in a noisy page is as long as before, but may be another: no page has a checksum.
        assert record == everything[place] or place in held[0]
    assert report.recovered == len(found)
    verify(new, repair=True)
    assert verify(new).ok


def test_sqlite_itself_stops_at_the_first_of_them(broken: Path):
    """Which is why this is not left to reading the table."""
    fill(broken)
    with SQLMetadataStore(broken) as store:
        (root,) = rows(store, "SELECT rootpage FROM sqlite_master WHERE name = 'metadata'")
    noise(broken, [int(str(root[0]))], random.Random(1))

    with (
        SQLMetadataStore(broken, read_only=True) as store,
        pytest.raises(StoreCorruptError, match="layerstore recover"),
    ):
        list(store.entries())


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.999])
def test_of_a_truncated_file_comes_out_what_is_left(broken: Path, tmp_path: Path, part: float, counted: Counted):
    everything = fill(broken)
    held = held_by(broken)
    size = int(broken.stat().st_size * part)
    os.truncate(broken, size)
    counted("faults")

    recover(broken, tmp_path / "new.db")

    with SQLMetadataStore(tmp_path / "new.db") as store:
        found = {(record.namespace, record.key) for record in store._records()}
    assert found <= everything.keys()
    assert found >= set().union(*held[1 : size // PAGE + 1]) - held[0]


WRITER = """
import os, sys
from layerstore import SQLMetadataStore
store = SQLMetadataStore(sys.argv[1])
store.engine  # the log must not be written back meanwhile
for number in range(40):
    store.set("n", f"{number:02}", bytes([number]) * 500)
connection = store._backend._connections.local.handle.connection
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
for number in range(40):
    connection.execute("UPDATE metadata SET value = zeroblob(600) WHERE key = ?", (f"{number:02}",))
os.kill(os.getpid(), 9)
"""


def killed_writer(path: Path) -> None:
    """Leave a log behind that has 40 entries, and half a transaction."""
    done = subprocess.run([sys.executable, "-c", WRITER, path], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert Path(f"{path}-wal").stat().st_size > 40 * 500


def test_what_the_log_holds_comes_out_and_what_was_not_committed_does_not(
    broken: Path, tmp_path: Path, counted: Counted
):
    killed_writer(broken)
    counted("faults")

    report = recover(broken, tmp_path / "new.db")

    assert report.recovered == 40
    with SQLMetadataStore(tmp_path / "new.db") as store:
        assert [len(value) for *_, value in store.entries()] == [500] * 40


def test_of_a_torn_log_comes_out_what_was_committed_before(broken: Path, tmp_path: Path, counted: Counted):
    """A byte in the middle is another: all that follows is nothing, as for SQLite."""
    killed_writer(broken)
    log = Path(f"{broken}-wal")
    content = bytearray(log.read_bytes())
    for at in range(32, len(content), (24 + PAGE) * 7):
        copy = tmp_path / f"at-{at}"
        copy.mkdir()
        torn = content.copy()
        torn[at + 24 + 99] ^= 1
        shutil.copy(broken, copy / "broken.db")
        (copy / "broken.db-wal").write_bytes(torn)
        counted("faults")
        found = 0
        with suppress(StoreOpenError):  # it has no entry
            found = recover(copy / "broken.db", copy / "new.db").recovered
        with SQLMetadataStore(copy / "broken.db") as store:
            assert sum(1 for _ in store.entries()) == found


def test_what_was_deleted_does_not_come_back(broken: Path, tmp_path: Path):
    fill(broken)
    with SQLMetadataStore(broken) as store:
        deleted = [(namespace, key) for namespace, key, _ in store.entries() if namespace != "other"]
        with store.transaction():
            for namespace, key in deleted:
                store.delete(namespace, key)
        kept = list(store._records())

    assert recover(broken, tmp_path / "new.db").recovered == len(kept)
    with SQLMetadataStore(tmp_path / "new.db") as store:
        assert list(store._records()) == kept


def test_of_two_versions_the_later_one_stays_and_the_other_is_in_quarantine(broken: Path, tmp_path: Path):
    """A page of an earlier state lies behind the end, as a file system may leave one."""
    with SQLMetadataStore(broken) as store:
        store._put(Record("n", "k", b"early", 1000))
    early = broken.read_bytes()
    with SQLMetadataStore(broken) as store:
        store._put(Record("n", "k", b"later", 2000))
    page = next(at for at in range(0, len(early), PAGE) if b"early" in early[at : at + PAGE])
    with open(broken, "ab") as file:
        file.write(early[page : page + PAGE])

    report = recover(broken, tmp_path / "new.db")

    assert (report.recovered, report.older, report.ok) == (1, 1, False)
    with SQLMetadataStore(tmp_path / "new.db") as store:
        assert list(store._records()) == [Record("n", "k", b"later", 2000)]
        assert rows(store, "SELECT key, value FROM quarantine") == [("k", b"early")]


def test_what_cannot_be_an_entry_goes_to_quarantine(broken: Path, tmp_path: Path):
    with SQLMetadataStore(broken) as store:
        store.set(LISTS, sha256(1).replace(":", "/"), b"{")
        with store.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO metadata VALUES ('n', '../x', x'00', 1)")
            connection.exec_driver_sql("INSERT INTO metadata VALUES ('n', CAST(x'ff' AS TEXT), x'00', 1)")

    report = recover(broken, tmp_path / "new.db")

    assert (report.recovered, report.quarantined, report.ok) == (1, 2, False)
    with SQLMetadataStore(tmp_path / "new.db") as store:
        assert {row[0] for row in rows(store, "SELECT key FROM quarantine")} == {
            "../x",
            sha256(1).replace(":", "/"),
        }
        assert [key for _, key, _ in store.entries()] == ["\\xff"]


def another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (a, b, c); INSERT INTO t VALUES (1, 2, 3)")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "No such file"),
    "a directory": (Path.mkdir, "directory"),
    "an empty file": (Path.touch, "no layerstore entry"),
    "text": (lambda path: path.write_text("no database" * 1000), "no layerstore entry"),
    "noise": (lambda path: path.write_bytes(random.Random(1).randbytes(40 * PAGE + 7)), "no layerstore entry"),
    "another program's database": (another_program, "no layerstore entry"),
    "an empty store": (lambda path: SQLMetadataStore(path).close(), "no layerstore entry"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_where_nothing_of_ours_is_nothing_is_made(broken: Path, tmp_path: Path, what: str, run: Run, counted: Counted):
    make, says = REFUSED[what]
    make(broken)
    before = broken.read_bytes() if broken.is_file() else None
    counted("faults")

    with pytest.raises(StoreOpenError, match=says):
        recover(broken, tmp_path / "new" / "new.db")
    result = run("recover", broken, tmp_path / "new" / "new.db")

    assert result.code == BAD
    assert_one_line_error(result, broken, says)
    assert not (tmp_path / "new").exists() or os.listdir(tmp_path / "new") == []
    assert before == (broken.read_bytes() if broken.is_file() else None)


def test_a_file_in_the_new_ones_place_and_a_database_that_is_open_here_are_refused(broken: Path, tmp_path: Path):
    fill(broken)
    (tmp_path / "new.db").write_bytes(b"mine")

    with pytest.raises(StoreOpenError, match="there is a file already"):
        recover(broken, tmp_path / "new.db")
    with SQLMetadataStore(broken) as store, pytest.raises(StoreError, match="open in this process"):
        recover(store.path or "", tmp_path / "other.db")
    assert (tmp_path / "new.db").read_bytes() == b"mine"
    assert not (tmp_path / "other.db").exists()


def test_a_full_disk_leaves_nothing(broken: Path, tmp_path: Path, counted: Counted):
    fill(broken)
    counted("faults")
    done = subprocess.run(
        [sys.executable, "-m", "layerstore", "recover", broken, tmp_path / "new.db"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )

    assert (done.returncode, done.stdout) == (BAD, "")
    assert "`ulimit -f`" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["state"]


@pytest.mark.parametrize("flips", [1, 30, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_bytes_are_it_ends_and_makes_a_sound_store(
    broken: Path, tmp_path: Path, flips: int, seed: int, counted: Counted
):
    """Single bytes are others, anywhere: a page may look whole and not be."""
    everything = fill(broken)
    luck = random.Random(f"{flips} {seed}")
    content = bytearray(broken.read_bytes())
    for _ in range(flips):
        content[luck.randrange(len(content))] = luck.randrange(256)
    broken.write_bytes(content)
    counted("faults", flips)

    report = recover(broken, tmp_path / "new.db")

    assert report.recovered + report.quarantined > len(everything) // 2
    with SQLMetadataStore(tmp_path / "new.db") as store:
        assert verify(store, repair=True).checked == report.recovered
        left = {found.kind for found in verify(store).findings if found.severity != "info"}
        assert left <= {"odd-digest"}  # a list that can be read, of which a digest cannot be one


def test_holes_of_a_terabyte_are_passed_over_and_counted(broken: Path, tmp_path: Path, open_sql: OpenSQL):
    everything = fill(broken)
    pages = broken.stat().st_size // PAGE
    os.truncate(broken, 1 << 40)

    report = recover(broken, tmp_path / "new.db")

    assert report.recovered == len(everything)
    assert (report.pages, report.unreadable_pages) == ((1 << 40) // PAGE, (1 << 40) // PAGE - pages)
    assert len(list(open_sql(tmp_path / "new.db")._records())) == len(everything)


def test_a_row_that_ends_in_a_hole_is_whole(broken: Path, tmp_path: Path, open_sql: OpenSQL):
    """As `cp --sparse=always` leaves it: the pages of zeros are part of the file."""
    with SQLMetadataStore(broken) as store:
        store.set("n", "zeros", bytes(100 * PAGE))
        store.set("n", "k", b"value")
    sparse = tmp_path / "sparse.db"
    subprocess.run(["cp", "--sparse=always", broken, sparse], check=True)

    report = recover(sparse, tmp_path / "new.db")

    assert (report.recovered, report.unreadable_pages, report.ok) == (2, 0, True)
    assert open_sql(tmp_path / "new.db").get("n", "zeros") == bytes(100 * PAGE)


@pytest.mark.parametrize("what", ["the database", "its log"])
def test_a_pipe_in_the_place_of_a_file_is_an_error_at_once(broken: Path, tmp_path: Path, what: str):
    fill(broken)
    place = broken if what == "the database" else Path(f"{broken}-wal")
    place.unlink(missing_ok=True)
    os.mkfifo(place)

    with pytest.raises(StoreOpenError, match="pipe"):
        recover(broken, tmp_path / "new.db")
    with pytest.raises(StoreOpenError, match="pipe"):
        SQLMetadataStore(broken)


_IN_LITTLE_MEMORY = """
import resource, sys
from layerstore.transfer import recovering
import layerstore.sql.migrate
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20),) * 2)
print(recovering.recover(sys.argv[1], sys.argv[2]).recovered)
"""
_LARGE_LOG = """
import os, sys
from layerstore import SQLMetadataStore
store = SQLMetadataStore(sys.argv[1], durability="normal")
with store._backend.snapshot() as snapshot:
    snapshot.count()
    for number in range(400):
        store.set("n", f"{number:03}", os.urandom(200_000))
    os._exit(0)
"""


def test_a_long_log_is_not_read_into_memory(broken: Path, tmp_path: Path):
    """80 MB of it, with 40 to spare."""
    subprocess.run([sys.executable, "-c", _LARGE_LOG, broken], check=True)
    assert os.path.getsize(f"{broken}-wal") > 80_000_000

    done = subprocess.run(
        [sys.executable, "-c", _IN_LITTLE_MEMORY, broken, tmp_path / "new.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("400\n", "")
