"""`list`, `get`, `set`, `delete`."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import NotFoundError, SQLMetadataStore
from layerstore.keys import Record
from tests.support.command import BAD, DONE, FOUND, GOLDEN, GOLDEN_FILES, Run, assert_one_line_error, lines
from tests.support.strategies import sha256

MAPPINGS = "diffid-by-digest"
KEY = "sha256/" + "1" * 64
EVERY_BYTE = bytes(range(256)) + b"\r\n\0"


def stored(database: Path, namespace: str, key: str) -> bytes:
    with SQLMetadataStore(database, read_only=True) as store:
        return store.get(namespace, key)


def test_get_writes_the_bytes_as_they_are(run: Run, imported: Path):
    for path in sorted(GOLDEN.glob("*/sha256/*"))[::40]:
        namespace = path.parent.parent.name
        result = run("get", namespace, f"sha256/{path.name}")
        assert result == (DONE, path.read_bytes(), "")
    assert imported.exists()


def test_get_and_set_move_any_bytes_through_pipes(run_process: Run, database: Path):
    """In real pipes: nothing is decoded, no newline is added or changed."""
    assert run_process("set", "n", "k", stdin=EVERY_BYTE) == (DONE, b"", "")
    assert run_process("get", "n", "k") == (DONE, EVERY_BYTE, "")
    assert stored(database, "n", "k") == EVERY_BYTE


@pytest.mark.parametrize("dash", [[], ["-"]], ids=["no-value", "dash"])
def test_set_reads_standard_input(run: Run, database: Path, dash: list[str]):
    assert run("set", "n", "k", *dash, stdin=EVERY_BYTE).code == DONE
    assert stored(database, "n", "k") == EVERY_BYTE


def test_set_takes_its_value_as_an_argument_and_replaces(run: Run, database: Path):
    for digit in "23":
        assert run("set", MAPPINGS, KEY, "sha256:" + digit * 64) == (DONE, b"", "")
    assert stored(database, MAPPINGS, KEY) == b"sha256:" + b"3" * 64


def test_set_takes_bytes_that_are_no_text_as_an_argument(run_process: Run, database: Path):
    assert run_process("set", "n", "k", b"\xff\xfe").code == DONE
    assert stored(database, "n", "k") == b"\xff\xfe"


@pytest.mark.parametrize(
    ("namespace", "key", "value"),
    [
        (MAPPINGS, KEY, "sha256:short"),
        (MAPPINGS, KEY, ""),
        (MAPPINGS, "sha256/short", sha256(1)),
        ("v2metadata-by-diffid", KEY, "{}"),
        ("v1id", "registry,short", sha256(1)),
    ],
)
def test_set_refuses_what_its_namespace_cannot_have_unless_forced(
    run: Run, database: Path, namespace: str, key: str, value: str
):
    result = run("set", namespace, key, value)
    assert result.code == BAD
    assert_one_line_error(result, f"{namespace}/{key}", "nothing was stored", "--force")
    assert not database.exists()

    assert run("set", "--force", namespace, key, value).code == DONE
    assert stored(database, namespace, key) == value.encode()


def test_set_keeps_the_derived_rows_right(run: Run, database: Path):
    run("set", "v2metadata-by-diffid", KEY, f'[{{"Digest":"{sha256(1)}","SourceRepository":"host/a"}}]')

    assert KEY.replace("/", ":") in run("show", "host/a").out
    assert run("verify", database).code == FOUND  # the digest maps to no layer


def test_delete_removes_and_says_when_there_is_nothing(run: Run, database: Path):
    run("set", "n", "k", "v")

    assert run("delete", "n", "k") == (DONE, b"", "")
    with pytest.raises(NotFoundError):
        stored(database, "n", "k")
    for command in ("delete", "get"):
        result = run(command, "n", "k")
        assert result.code == FOUND
        assert_one_line_error(result, "'k'", "'n'")


def test_list_shows_every_entry_by_time_size_and_place(run: Run, database: Path):
    with SQLMetadataStore(database) as store:
        store._put(Record("n", "b", b"12345", 1_700_000_000_999_999_999))
        store._put(Record("m", "é/x", b"", -1))

    assert run("list") == (
        DONE,
        "1969-12-31 23:59:59 UTC       0  m/é/x\n2023-11-14 22:13:20 UTC       5  n/b\n".encode(),
        "",
    )


def test_list_shows_one_namespace(run: Run, imported: Path):
    assert imported.exists()
    result = run("list", MAPPINGS)

    assert len(lines(result.out)) == GOLDEN_FILES // 2
    assert all(f"  {MAPPINGS}/sha256/" in line for line in lines(result.out))
    nothing = run("list", "diffid-by-diges")
    assert (nothing.code, nothing.raw) == (FOUND, b"")
    assert nothing.err.endswith(
        "no namespace 'diffid-by-diges' in " + str(imported) + "; did you mean diffid-by-digest?\n"
    )
    assert len(lines(run("list").out)) == GOLDEN_FILES


def time(ns: int) -> dict[str, object]:
    return {"modified_at_ns": ns, "modified_at": f"1970-01-01T00:00:00.{ns:09d}Z"}


def test_list_in_json_has_every_field(run: Run, database: Path):
    with SQLMetadataStore(database) as store:
        store._put(Record("n", "k", b'\xff{"', 5))
        store._put(Record("n", "é", "ü\u2028".encode(), 6))

    assert run("list", "--json").json == [
        {"namespace": "n", "key": "k", "value": '\\xff{"', **time(5)},
        {"namespace": "n", "key": "é", "value": "ü\u2028", **time(6)},
    ]
    assert run("list", "--json", "unknown").json == []


def test_times_that_no_calendar_has_are_shown_in_nanoseconds(run: Run, database: Path):
    with SQLMetadataStore(database) as store:
        store._put(Record("n", "k", b"", -(2**63)))

    result = run("list")
    assert result.code == DONE
    assert result.out.endswith("  n/k\n")
