"""Names in the database that are not UTF-8, as another program may write them: reported, set aside, never lost."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from layerstore import (
    CorruptRecordError,
    SQLMetadataStore,
    StoreError,
    V2Metadata,
    V2MetadataService,
    diff,
    export_directory,
    import_directory,
    verify,
)
from layerstore.transfer.exporting import export_tar
from tests.conftest import OpenSQL, assert_sound
from tests.support.command import BAD, FOUND, Run, assert_one_line_error
from tests.support.entries import MAPPINGS, quarantine_of, rows_of
from tests.support.strategies import sha256
from tests.transfer.test_verify import finding, kinds, put_layer, run_sql

ODD_KEY = ("CAST(x'6b' AS TEXT)", "CAST(x'6bff' AS TEXT)")
ODD_NAMESPACE = ("CAST(x'fe' AS TEXT)", "'key'")
ODD_LIST = ("'v2metadata-by-diffid'", "CAST(x'7368613235362fff' AS TEXT)")
AS_BYTES = ("x'6bfd'", "x'00ff'")
ALL = {
    ODD_KEY: ("k", "k\\xff"),
    ODD_NAMESPACE: ("\\xfe", "key"),
    ODD_LIST: ("v2metadata-by-diffid", "sha256/\\xff"),
    AS_BYTES: ("k\\xfd", "\0\\xff"),
}


def put_odd(store: SQLMetadataStore, name: tuple[str, str], value: str = "x'76'") -> None:
    run_sql(store, f"INSERT INTO metadata VALUES ({name[0]}, {name[1]}, {value}, 7)")


@pytest.fixture
def with_odd_names(sqlite_store: SQLMetadataStore) -> SQLMetadataStore:
    """A store with entries before, between and behind those whose name is not UTF-8."""
    put_layer(sqlite_store, 1, 11)
    sqlite_store.set("a", "first", b"1")
    sqlite_store.set("k", "k", b"2")
    sqlite_store.set("k", "z", b"3")
    sqlite_store.set("zz", "last", b"4")
    return sqlite_store


@pytest.mark.parametrize(("name", "shown"), ALL.items())
def test_verify_reports_it_in_a_shown_form_and_checks_the_rest(
    with_odd_names: SQLMetadataStore, name: tuple[str, str], shown: tuple[str, str]
):
    put_odd(with_odd_names, name)

    report = verify(with_odd_names)

    assert not report.ok
    assert kinds(report) == {"invalid-key": ("error", 1)}
    assert finding(report, "invalid-key").examples[0].startswith("/".join(shown))
    assert report.checked == 6
    verify(with_odd_names, repair=True)


@pytest.mark.parametrize(("name", "shown"), ALL.items())
def test_repair_sets_it_aside_with_its_exact_name_and_leaves_the_rest(
    with_odd_names: SQLMetadataStore, name: tuple[str, str], shown: tuple[str, str]
):
    before = rows_of(with_odd_names)
    put_odd(with_odd_names, name)

    report = verify(with_odd_names, repair=True)

    assert (report.ok, finding(report, "invalid-key").repaired) == (True, 1)
    assert rows_of(with_odd_names) == before
    ((namespace, key, value, reason),) = quarantine_of(with_odd_names)
    assert (namespace, key, value) == (*shown, b"v")
    exact = [part.removeprefix("CAST(").removesuffix(" AS TEXT)") for part in name]
    assert all(part.upper().strip("X'") in str(reason).upper() for part in exact if part.startswith("x"))
    assert set(kinds(verify(with_odd_names))) == {"quarantined"}


def test_many_of_them_among_others_are_each_set_aside(open_sql: OpenSQL):
    store = open_sql()
    for name in ALL:
        put_odd(store, name)
    for number in range(200, 256):
        put_odd(store, ("'n'", f"CAST(x'{number:02x}' AS TEXT)"))
        store.set("n", f"{number}", b"")

    report = verify(store, repair=True)

    assert finding(report, "invalid-key").repaired == len(ALL) + 56
    assert report.checked == 56
    assert [row[0] for row in rows_of(store)] == ["n"] * 56
    assert len(quarantine_of(store)) == len(ALL) + 56


@pytest.mark.parametrize(("name", "shown"), ALL.items())
def test_what_reads_everything_says_where_it_is_and_what_to_do(
    with_odd_names: SQLMetadataStore, tmp_path: Path, name: tuple[str, str], shown: tuple[str, str]
):
    put_odd(with_odd_names, name)
    actions: list[Callable[[], object]] = [
        lambda: list(with_odd_names.entries()),
        lambda: export_directory(with_odd_names, tmp_path / "out"),
        lambda: export_tar(with_odd_names, io.BytesIO()),
        lambda: diff(with_odd_names, with_odd_names),
    ]

    for action in actions:
        with pytest.raises(CorruptRecordError, match="layerstore verify") as caught:
            action()
        assert (caught.value.namespace, caught.value.key) == shown
    assert not (tmp_path / "out").exists()
    verify(with_odd_names, repair=True)


def test_what_does_not_come_upon_it_works(with_odd_names: SQLMetadataStore):
    put_odd(with_odd_names, ODD_KEY)

    assert with_odd_names.get("k", "z") == b"3"
    assert with_odd_names.get_many("k", ["k", "z"]) == {"k": b"2", "z": b"3"}
    assert [key for _, key, _ in with_odd_names.entries("zz")] == ["last"]
    V2MetadataService(with_odd_names).add(sha256(1), V2Metadata(sha256(12)))
    verify(with_odd_names, repair=True)


def test_an_import_from_such_a_store_names_it_and_takes_the_rest(
    with_odd_names: SQLMetadataStore, open_sql: OpenSQL, tmp_path: Path
):
    for name in ALL:
        put_odd(with_odd_names, name)
    other = open_sql(tmp_path / "other.db")

    report = import_directory(other, with_odd_names)

    assert not report.ok
    assert (report.read, report.added) == (6, 6)
    assert len(report.skipped) == len(ALL)
    assert all("not UTF-8" in skipped.reason for skipped in report.skipped)
    if with_odd_names.path is not None:
        assert import_directory(other, with_odd_names.path).unchanged == 6
    verify(with_odd_names, repair=True)


def test_the_commands_say_it_in_one_line(run: Run, database: Path):
    with SQLMetadataStore(database) as store:
        put_odd(store, ODD_KEY)

    assert_one_line_error(run("export", "--tar", "-"), "k\\\\xff", "verify")
    assert run("diff", database, database).code == BAD
    assert run("verify").code == FOUND
    assert run("verify", "--repair").code == 0
    assert run("export", "--tar", "-").code == 0


def test_derived_rows_that_are_not_utf8_are_stale_and_derived_anew(open_sql: OpenSQL):
    store = open_sql()
    put_layer(store, 1, 11, 12)
    put_layer(store, 2, 21)
    run_sql(store, "UPDATE v2_metadata SET source_repository = CAST(x'ff' AS TEXT) WHERE position = 2")
    run_sql(store, "INSERT INTO v2_metadata VALUES (CAST(x'fe' AS TEXT), 1, 'd', 'r', '')")

    report = verify(store, repair=True)

    assert kinds(report) == {"stale-rows": ("error", 2)}
    assert report.ok
    assert_sound(store)


def test_a_value_need_be_no_text(open_sql: OpenSQL):
    """It is bytes; of a mapping, text that is no DiffID."""
    store = open_sql()
    with store.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO metadata VALUES (:n, :k, CAST(x'ff' AS TEXT), 1)"),
            {"n": MAPPINGS, "k": sha256(1).replace(":", "/")},
        )

    assert kinds(verify(store, repair=True)) == {"unreadable": ("error", 1)}


def test_a_check_inside_a_transaction_leaves_its_reads_as_strict_as_before(with_odd_names: SQLMetadataStore):
    put_odd(with_odd_names, ODD_KEY)

    with with_odd_names.transaction():
        assert kinds(verify(with_odd_names)) == {"invalid-key": ("error", 1)}
        with pytest.raises(StoreError, match="another program wrote text that is not UTF-8"):
            with_odd_names._run("SELECT key FROM metadata")
        assert kinds(verify(with_odd_names)) == {"invalid-key": ("error", 1)}

    verify(with_odd_names, repair=True)
