"""`quarantine list|show|restore|drop`: what is printed, and the exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from layerstore.words import time_text
from tests.support.command import BAD, DONE, FOUND, USAGE, Run, assert_one_line_error
from tests.support.entries import LISTS, entries, layer_key, whole

KEY = layer_key(1)


@pytest.fixture
def with_quarantine(database: Path) -> Path:
    """A database with three values in quarantine: one readable, one not, one whose bytes would steer a terminal."""
    with SQLMetadataStore(database) as store:
        store.set(LISTS, KEY, entries(1))
        store.quarantine(LISTS, KEY, entries(2), "conflict: a later write")
        store.quarantine(LISTS, layer_key(2), b"[", "the JSON ends too early")
        store.quarantine("n", "\x1b[31mred", b"\x00\xff\x1b", "a reason\nof two lines")
    return database


def state(database: Path) -> object:
    with SQLMetadataStore(database, read_only=True) as store:
        return whole(store)


def test_list_says_number_time_size_place_and_reason(with_quarantine: Path, run: Run):
    done = run("quarantine", "list")

    lines = done.out.splitlines()
    assert (done.code, len(lines)) == (DONE, 3)
    assert lines[0].split()[0] == "1"
    assert f"UTC  {len(entries(2))}  " in lines[0]
    assert f"  {LISTS}/{KEY}  " in lines[0]
    assert lines[0].endswith("  conflict: a later write")
    assert "\x1b" not in done.out
    assert "\\x1b[31mred" in lines[2]
    assert lines[2].endswith("a reason\\nof two lines")
    assert with_quarantine.exists()


def test_list_as_json_has_every_field(with_quarantine: Path, run: Run):
    with SQLMetadataStore(with_quarantine) as store:
        times = [one.quarantined_at_ns for one in store.quarantined()]

    assert run("quarantine", "list", "--json").json[1:] == [
        {
            "number": 2,
            "namespace": LISTS,
            "key": layer_key(2),
            "value": "[",
            "reason": "the JSON ends too early",
            "quarantined_at_ns": times[1],
            "quarantined_at": time_text(times[1]),
        },
        {
            "number": 3,
            "namespace": "n",
            "key": "\x1b[31mred",
            "value": "\x00\\xff\x1b",
            "reason": "a reason\nof two lines",
            "quarantined_at_ns": times[2],
            "quarantined_at": time_text(times[2]),
        },
    ]


def test_an_empty_quarantine_lists_nothing(database: Path, run: Run):
    SQLMetadataStore(database).close()

    assert run("quarantine", "list")[:2] == (DONE, b"")
    assert run("quarantine", "list", "--json").json == []


def test_show_prints_the_bytes_as_they_are(with_quarantine: Path, run: Run):
    before = state(with_quarantine)

    assert run("quarantine", "show", 3)[:2] == (DONE, b"\x00\xff\x1b")
    assert run("quarantine", "show", "1", "--db", with_quarantine).raw == entries(2)
    assert state(with_quarantine) == before


def test_restore_swaps(with_quarantine: Path, run: Run):
    done = run("quarantine", "restore", 1)

    assert (done.code, done.out) == (DONE, f"restored {LISTS}/{KEY}\n")
    assert run("get", LISTS, KEY).raw == entries(2)
    with SQLMetadataStore(with_quarantine) as store:
        assert [one.value for one in store.quarantined()][-1] == entries(1)


def test_restore_of_what_cannot_be_read_needs_force(with_quarantine: Path, run: Run):
    before = state(with_quarantine)

    refused = run("quarantine", "restore", 2)
    assert refused.code == BAD
    assert_one_line_error(refused, f"{LISTS}/{layer_key(2)}", "--force")
    assert state(with_quarantine) == before

    assert run("quarantine", "restore", "--force", 2).code == DONE
    assert run("get", LISTS, layer_key(2)).raw == b"["


def test_restore_of_a_key_that_breaks_the_key_rules_is_refused(database: Path, run: Run):
    with SQLMetadataStore(database) as store:
        store.quarantine("n", "../x", b"v", "why")

    for options in ((), ("--force",)):
        refused = run("quarantine", "restore", 1, *options)
        assert refused.code == BAD
        assert_one_line_error(refused, "'../x'")


@pytest.mark.parametrize(
    "arguments", [("show", 9), ("restore", 9), ("restore", "--force", 9), ("drop", 9), ("drop", 1, 9, 2)], ids=str
)
def test_a_number_that_is_not_there_is_not_found_and_nothing_is_done(
    arguments: tuple[object, ...], with_quarantine: Path, run: Run
):
    before = state(with_quarantine)

    done = run("quarantine", *arguments)

    assert done.code == FOUND
    assert_one_line_error(done, "9", "quarantine")
    assert state(with_quarantine) == before


def test_drop_forgets_those_that_are_named(with_quarantine: Path, run: Run):
    done = run("quarantine", "drop", 3, 1)

    assert (done.code, done.out) == (DONE, "2 dropped\n")
    assert [of["number"] for of in run("quarantine", "list", "--json").json] == [2]
    assert run("get", LISTS, KEY).raw == entries(1)
    assert with_quarantine.exists()


def test_a_number_that_is_said_twice_is_dropped_and_counted_once(with_quarantine: Path, run: Run):
    assert run("quarantine", "drop", 1, 1).out == "1 dropped\n"
    assert with_quarantine.exists()


def test_drop_all_forgets_everything_and_nothing_else(with_quarantine: Path, run: Run):
    assert run("quarantine", "drop", "--all").out == "3 dropped\n"
    assert run("quarantine", "list").raw == b""
    assert run("quarantine", "drop", "--all").out == "0 dropped\n"
    assert run("get", LISTS, KEY).raw == entries(1)
    assert with_quarantine.exists()


WRONG = [
    ("drop",),
    ("drop", "--all", 1),
    ("drop", "one"),
    ("show",),
    ("show", "x"),
    ("show", 1, 2),
    ("restore",),
    ("restore", 1, 2),
    ("restore", "1.5"),
    ("list", 1, 2),
    ("empty",),
]


@pytest.mark.parametrize("arguments", WRONG, ids=str)
def test_wrong_usage_does_nothing(arguments: tuple[object, ...], with_quarantine: Path, run: Run):
    before = state(with_quarantine)

    done = run("quarantine", *arguments)

    assert (done.code, done.raw) == (USAGE, b"")
    assert "Error: " in done.err
    assert state(with_quarantine) == before


@pytest.mark.parametrize("arguments", [("list",), ("show", 1), ("restore", 1), ("drop", 1), ("drop", "--all")], ids=str)
def test_without_a_database_it_is_an_error_and_none_is_made(arguments: tuple[object, ...], database: Path, run: Run):
    done = run("quarantine", *arguments)

    assert done.code == BAD
    assert_one_line_error(done, database)
    assert not database.exists()
