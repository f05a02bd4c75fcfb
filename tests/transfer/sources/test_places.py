"""What a place may be: data roots with several drivers and users, databases that others write to, stores."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from layerstore import (
    FSMetadataStore,
    SQLMetadataStore,
    StoreClosedError,
    StoreOpenError,
    TransferError,
    export_directory,
    import_directory,
)
from tests.support.archives import plain_rows
from tests.support.command import GOLDEN, GOLDEN_FILES, Run
from tests.support.entries import AT, LISTS, MAPPINGS, layer_key, rows_of, sources_of, whole, write_file
from tests.transfer.sources.conftest import counts, fill_database, fill_directory, untouched

ROOTS = [
    "image/overlay2",
    "image/vfs",
    "100000.100000/image/overlay2",
    "231072.231072/image/overlay2",
    "231072.231072/image/vfs",
]


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A data root with several drivers and remapped users, each with an entry of its own and a shared one."""
    root = tmp_path / "docker"
    for number, of in enumerate(ROOTS):
        base = fill_directory(root / of / "distribution", str(number), b"own")
        write_file(base, MAPPINGS, layer_key(1), b"sha256:" + str(number).encode() * 64, AT + number)
    (root / "image" / "overlay2" / "imagedb").mkdir()
    (root / "image" / "aufs").mkdir()
    (root / "overlay2" / "l").mkdir(parents=True)
    (root / "not.a.user" / "image" / "vfs" / "distribution" / "n").mkdir(parents=True)
    return root


def test_all_drivers_and_users_of_a_data_root_are_merged_by_time(sql_file: SQLMetadataStore, data_root: Path):
    report = import_directory(sql_file, data_root)

    assert sources_of(report) == [str(data_root / of / "distribution") for of in ROOTS]
    assert counts(report) == [(2, 2, 0, 0, 0)] + [(2, 1, 1, 0, 0)] * 4
    assert {row[1] for row in plain_rows(sql_file)} == {"0", "1", "2", "3", "4", layer_key(1)}
    assert sql_file.get(MAPPINGS, layer_key(1)) == b"sha256:" + b"4" * 64
    assert len(report.conflicts) == 4


def test_the_metadata_of_one_user_is_a_data_root_of_its_own(sql_file: SQLMetadataStore, data_root: Path):
    report = import_directory(sql_file, data_root / "231072.231072")

    assert sources_of(report) == [str(data_root / of / "distribution") for of in ROOTS[3:]]


@pytest.mark.parametrize("folders", [["image"], ["image/overlay2/imagedb"], ["image/overlay2", "1.1/image/vfs"]])
def test_a_data_root_without_metadata_is_an_error_that_says_so(
    folders: list[str], sql_file: SQLMetadataStore, tmp_path: Path
):
    root = tmp_path / "docker"
    for folder in folders:
        (root / folder).mkdir(parents=True)

    with untouched(sql_file), pytest.raises(TransferError, match="recorded nothing yet") as raised:
        import_directory(sql_file, root)
    assert raised.value.path == str(root)


def test_a_link_to_a_data_root_is_followed_as_it_is_the_operators(
    sql_file: SQLMetadataStore, data_root: Path, tmp_path: Path
):
    (tmp_path / "link").symlink_to(data_root)

    assert import_directory(sql_file, tmp_path / "link").read == 2 * len(ROOTS)


def test_another_database_is_taken_with_its_times(sql_file: SQLMetadataStore, tmp_path: Path):
    with SQLMetadataStore(tmp_path / "other.db") as other:
        import_directory(other, GOLDEN)
        expected = rows_of(other)

    report = import_directory(sql_file, tmp_path / "other.db")

    assert rows_of(sql_file) == expected
    assert counts(report) == [(GOLDEN_FILES, GOLDEN_FILES, 0, 0, 0)]
    assert sources_of(report) == [str(tmp_path / "other.db")]


def test_a_database_is_read_while_another_process_writes_to_it(sql_file: SQLMetadataStore, tmp_path: Path):
    """What was committed is seen, also when it is in the write-ahead log alone; what is open is not waited for."""
    with SQLMetadataStore(tmp_path / "other.db") as other:
        other.set_many([("n", "0", b""), ("n", "1", b"")])
        assert (tmp_path / "other.db-wal").stat().st_size > 0
        with other.transaction():
            other.set("n", "2", b"not committed")
            report = import_directory(sql_file, tmp_path / "other.db")
        assert (report.read, [row[1] for row in plain_rows(sql_file)]) == (2, ["0", "1"])
        assert import_directory(sql_file, tmp_path / "other.db").added == 1


def test_one_moment_of_a_database_is_taken_while_a_writer_goes_on(sql_file: SQLMetadataStore, tmp_path: Path):
    """The writer keeps two entries equal in each transaction; so they are in what is taken."""
    stop, wrote = threading.Event(), threading.Event()
    with SQLMetadataStore(tmp_path / "other.db", durability="normal") as other:

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                other.set_many([("n", key, str(number).encode()) for key in ("a", "z")])
                wrote.set()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert wrote.wait(30)
            for _ in range(10):
                import_directory(sql_file, tmp_path / "other.db", on_conflict="replace")
                assert sql_file.get("n", "a") == sql_file.get("n", "z")
        finally:
            stop.set()
            writer.join()


def test_a_backup_is_read_and_not_changed(sql_file: SQLMetadataStore, tmp_path: Path):
    with SQLMetadataStore(fill_database(tmp_path / "other.db", "k", b"v")) as other:
        other.backup(tmp_path / "backup.db")
    before = (tmp_path / "backup.db").read_bytes()

    assert import_directory(sql_file, tmp_path / "backup.db").added == 1
    assert (tmp_path / "backup.db").read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith("backup.db-")]


def test_a_database_of_another_program_is_refused_and_not_changed(sql_file: SQLMetadataStore, tmp_path: Path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE metadata (namespace, key, value, modified_at_ns)")
    before = path.read_bytes()

    with untouched(sql_file), pytest.raises(StoreOpenError, match=str(path)):
        import_directory(sql_file, path)
    assert path.read_bytes() == before


def test_an_empty_file_is_refused_and_not_changed(sql_file: SQLMetadataStore, tmp_path: Path):
    """Half a download, or a full disk: neither a database nor an archive."""
    path = tmp_path / "empty"
    path.touch()

    with untouched(sql_file), pytest.raises((StoreOpenError, TransferError), match=str(path)):
        import_directory(sql_file, path)
    assert path.read_bytes() == b""


def test_a_store_in_memory_is_a_source(sql_file: SQLMetadataStore, sql_memory: SQLMetadataStore):
    sql_memory.set("n", "k", b"v")

    report = import_directory(sql_file, sql_memory)

    assert rows_of(sql_file) == rows_of(sql_memory)
    assert sources_of(report) == [":memory:"]


def test_a_store_in_memory_takes_another_one(sql_memory: SQLMetadataStore):
    with SQLMetadataStore(":memory:") as other:
        other.set("n", "k", b"v")
        assert import_directory(sql_memory, other).added == 1
        assert rows_of(sql_memory) == rows_of(other)


def test_a_store_of_files_is_a_source_with_its_times(sql_file: SQLMetadataStore, tmp_path: Path):
    base = fill_directory(tmp_path / "distribution", "k", b"v")

    report = import_directory(sql_file, FSMetadataStore(base))

    assert rows_of(sql_file) == [("n", "k", b"v", AT)]
    assert sources_of(report) == [str(base)]


def test_what_a_store_of_files_has_beside_entries_is_in_the_report(sql_file: SQLMetadataStore, tmp_path: Path):
    """As when its path is given: every file that is not taken is named."""
    base = fill_directory(tmp_path / "distribution", "k", b"v")
    (base / "n" / "link").symlink_to("k")
    (base / "n" / ".tmp-k1").touch()
    (base / "README").touch()

    by_path, by_store = (import_directory(sql_file, place) for place in (base, FSMetadataStore(base)))

    assert [found.path for found in by_store.skipped] == [f"{base}/README", f"{base}/n/link"]
    assert (by_store.skipped, by_store.temporary) == (by_path.skipped, by_path.temporary)


def test_a_store_is_no_source_of_news_to_itself(sql_store: SQLMetadataStore):
    """As an object, and by its path; whatever is done with conflicts."""
    import_directory(sql_store, GOLDEN)
    before = whole(sql_store)
    path = [] if sql_store.path is None else [sql_store.path]

    for place in (sql_store, *path):
        for on_conflict in ("merge", "replace", "keep"):
            report = import_directory(sql_store, place, on_conflict=on_conflict)  # type: ignore[arg-type]
            assert counts(report) == [(GOLDEN_FILES, 0, 0, GOLDEN_FILES, 0)]
            assert whole(sql_store) == before


def test_its_own_export_is_no_news_to_a_store(sql_file: SQLMetadataStore, tmp_path: Path):
    import_directory(sql_file, GOLDEN)
    before = whole(sql_file)
    export_directory(sql_file, tmp_path / "distribution")

    assert import_directory(sql_file, tmp_path / "distribution").unchanged == GOLDEN_FILES
    assert whole(sql_file) == before


def test_a_store_that_cannot_list_its_entries_is_refused(sql_file: SQLMetadataStore):
    class Bare:
        def get(self, _namespace: str, _key: str, /) -> bytes:
            return b""

        def set(self, _namespace: str, _key: str, _value: bytes, /) -> None:
            return None

        def delete(self, _namespace: str, _key: str, /) -> None:
            return None

    with pytest.raises(TransferError, match="Bare cannot list"):
        import_directory(sql_file, Bare())


def test_a_closed_store_is_an_error(sql_file: SQLMetadataStore, tmp_path: Path):
    other = SQLMetadataStore(tmp_path / "other.db")
    other.close()

    with untouched(sql_file), pytest.raises(StoreClosedError):
        import_directory(sql_file, other)


def test_the_database_may_be_imported_into_itself_by_the_command(run: Run, database: Path):
    fill_database(database, "k", b"v")

    done = run("import", "--json", database)

    assert (done.code, done.json["added"], done.json["unchanged"]) == (0, 0, 1)


def test_a_key_too_long_for_a_directory_is_quarantined_and_the_rest_is_taken(
    sql_file: SQLMetadataStore, tmp_path: Path
):
    """An earlier version, or another program, could write it into a database."""
    key = f"alg/{'x' * 240}"
    with SQLMetadataStore(fill_database(tmp_path / "other.db", "k", b"v")) as other, other.engine.begin() as connection:
        for namespace, value in ((MAPPINGS, b"sha256:" + b"1" * 64), (LISTS, b"[]"), ("n" * 240, b"")):
            connection.execute(
                text("INSERT INTO metadata VALUES (:n, :k, :v, 0)"), {"n": namespace, "k": key, "v": value}
            )

    report = import_directory(sql_file, tmp_path / "other.db")

    assert [row[:2] for row in rows_of(sql_file)] == [("n", "k")]
    assert report.quarantined_count == 3
    assert all("over 239 bytes" in found.reason for found in report.quarantined)
