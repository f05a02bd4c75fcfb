"""Errors: one line that says what, where and what next; the right exit code; never a traceback."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from layerstore import SQLMetadataStore
from tests.support.command import BAD, FOUND, GOLDEN, ROOT, Run, assert_one_line_error, with_places

LAYER = "sha256/" + "1" * 64


def missing(_path: Path) -> None:
    """There is no such file."""


def directory(path: Path) -> None:
    path.mkdir()


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def empty(path: Path) -> None:
    path.touch()


def another_programs(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()


def newer(path: Path) -> None:
    from layerstore import SQLMetadataStore

    SQLMetadataStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()


def damaged(path: Path) -> None:
    from layerstore import SQLMetadataStore, import_directory

    with SQLMetadataStore(path) as store:
        import_directory(store, GOLDEN)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


BAD_DATABASES: dict[Callable[[Path], None], str] = {
    missing: "`layerstore import`",
    directory: "director",
    garbage: "not a layerstore database",
    empty: "import",
    another_programs: "another program made it",
    newer: "install a newer layerstore",
    damaged: "`layerstore recover FILE NEW`",
}
READING = [["list"], ["get", "n", "k"], ["show", "host/name"], ["export", "OUT"], ["verify"], ["diff", "GOLDEN"]]
WRITING = [["set", "n", "k", "v"], ["delete", "n", "k"], ["import", "GOLDEN"], ["verify", "--repair"]]
TAKES_DIRECTORIES = ("verify", "diff")


def pairs(makers: Iterable[Callable[[Path], None]], commands: list[list[str]]) -> list[ParameterSet]:
    """Return each bad database with each command, but for directories with what can work on one."""
    return [
        pytest.param(make, words, id=f"{make.__name__}-{' '.join(words)}")
        for make in makers
        for words in commands
        if make is not directory or words[0] not in TAKES_DIRECTORIES
    ]


@pytest.mark.parametrize(("make", "arguments"), pairs(BAD_DATABASES, READING))
def test_a_database_that_cannot_be_read_is_named_with_what_to_do(
    run: Run, database: Path, tmp_path: Path, make: Callable[[Path], None], arguments: list[str]
):
    database.parent.mkdir()
    make(database)

    result = run(*with_places(arguments, tmp_path))

    assert result.code == BAD
    assert_one_line_error(result, database, BAD_DATABASES[make])


@pytest.mark.parametrize(("make", "arguments"), pairs([directory, garbage, another_programs, newer], WRITING))
def test_a_database_that_cannot_be_written_is_named_and_left_as_it_was(
    run: Run, database: Path, tmp_path: Path, make: Callable[[Path], None], arguments: list[str]
):
    database.parent.mkdir()
    make(database)
    before = database.read_bytes() if database.is_file() else None

    result = run(*with_places(arguments, tmp_path))

    assert result.code == BAD
    assert_one_line_error(result, database)
    assert before == (database.read_bytes() if database.is_file() else None)


BAD_INPUT = {
    "short prefix": (["show", "abc"], ["'abc'", "12 hex digits"]),
    "short digest": (["show", "sha256:abc"], ["12 hex digits"]),
    "key out of the base": (["get", "n", "../x"], ["'../x'", "'..'"]),
    "absolute key": (["get", "n", "/etc/passwd"], ["is empty"]),
    "empty key": (["set", "n", "", "v"], ["is empty"]),
    "temporary key": (["delete", "n", ".tmp-x"], [".tmp-"]),
    "namespace of two segments": (["list", "a/b"], ["'a/b'", "one path segment"]),
    "empty namespace": (["list", ""], ["is empty"]),
    "invalid key to set": (["set", "n", "a/../b", "v"], ["'..'"]),
    "invalid namespace to set": (["set", "..", "k", "v"], ["'..'"]),
    "unreadable value": (["set", "v2metadata-by-diffid", LAYER, "{"], ["nothing was stored", "--force"]),
    "import of nothing": (["import", "/nowhere/at/all"], ["/nowhere/at/all", "give "]),
    "import of a file": (["import", "LICENSE"], ["LICENSE", "tar archive"]),
    "verify of nothing": (["verify", "/nowhere/at/all"], ["/nowhere/at/all"]),
    "verify of a file": (["verify", "LICENSE"], ["LICENSE"]),
    "diff with nothing": (["diff", "/nowhere/at/all"], ["/nowhere/at/all"]),
    "export to a file": (["export", "LICENSE"], ["LICENSE"]),
    "export below a file": (["export", "/dev/null/x"], ["/dev/null"]),
    "unknown revision": (["schema", "upgrade", "x"], ["'x'", "history"]),
}


@pytest.mark.parametrize(("arguments", "parts"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_exits_with_3_and_is_named_with_what_to_do(
    run: Run, small: Path, tmp_path: Path, arguments: list[str], parts: list[str]
):
    before = run("list", "--json").out

    result = run(*with_places(arguments, tmp_path))

    assert result.code == BAD
    assert_one_line_error(result, *parts)
    assert run("list", "--json").out == before
    assert small.exists()


NOT_UTF8 = {
    "get key": (["get", "n", b"caf\xe9"], BAD),
    "get namespace": (["get", b"\xff", "k"], BAD),
    "set key": (["set", "n", b"\xff", "v"], BAD),
    "delete key": (["delete", "n", b"\xff"], BAD),
    "list": (["list", b"\xff"], BAD),
    "show": (["show", b"caf\xe9"], FOUND),
    "import": (["import", b"/nowhere/\xff"], BAD),
    "import as JSON": (["import", "--json", b"/nowhere/\xff"], BAD),
    "verify": (["verify", b"/nowhere/\xff"], BAD),
    "diff": (["diff", b"/nowhere/\xff"], BAD),
    "db": (["--db", b"/nowhere/\xff.db", "list"], BAD),
    "schema": (["schema", "upgrade", b"\xff"], BAD),
}


@pytest.mark.parametrize(("arguments", "code"), NOT_UTF8.values(), ids=NOT_UTF8.keys())
def test_arguments_that_are_not_utf8_are_errors_like_others(
    run: Run, small: Path, arguments: list[str | bytes], code: int
):
    result = run(*arguments)

    assert result.code == code
    assert_one_line_error(result)
    assert small.exists()


@pytest.mark.parametrize(
    "arguments", [["import", "--json"], ["verify", "--json"], ["import"], ["verify"]], ids=" ".join
)
def test_a_directory_whose_name_is_not_utf8_can_be_worked_on(run: Run, tmp_path: Path, arguments: list[str]):
    """Also where standard output takes nothing but UTF-8, as it does in most locales."""
    base = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(base + b"/n")).mkdir(parents=True)
    (Path(os.fsdecode(base + b"/n")) / "k").write_bytes(b"")
    Path(os.fsdecode(base + b"/v1id")).mkdir()

    result = run(*arguments, base)

    assert (result.code, result.err) == (0, "")
    assert "--json" not in arguments or result.json["ok"] is True


def test_a_database_whose_name_is_not_utf8_can_be_worked_on(run_process: Run, run: Run, tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/\xff.db"

    assert run_process("--db", path, "set", "n", "k", "v") == (0, b"", "")
    assert run_process("--db", path, "get", "n", "k").out == "v"
    for arguments in (["verify"], ["schema", "current", "--json"], ["verify", "--json"], ["list"]):
        assert run("--db", path, *arguments).code == 0


def test_an_error_stays_one_line_whatever_the_paths_hold(run: Run, tmp_path: Path):
    for arguments in (["--db", f"{tmp_path}/a\nb.db", "list"], ["import", f"{tmp_path}/\x1b\n"], ["show", "a\nb"]):
        result = run("set", "n", "k", "v") if arguments[0] == "show" else run("--version")
        assert result.code == 0
        result = run(*arguments)
        assert result.code in (FOUND, BAD)
        assert_one_line_error(result)
        assert "\x1b" not in result.err


def test_nothing_known_stays_one_line_whatever_the_databases_name_holds(run: Run, tmp_path: Path):
    path = f"{tmp_path}/a\n\x1b.db"
    run("--db", path, "set", "n", "k", "v")

    result = run("--db", path, "show", "host/name")
    assert result.code == FOUND
    assert_one_line_error(result)


@pytest.mark.parametrize(
    "arguments", [["list"], ["get", "v2metadata-by-diffid", LAYER], ["--help"]], ids=lambda words: words[0]
)
def test_a_full_disk_behind_standard_output_is_one_line(imported: Path, run: Run, arguments: list[str]):
    run("set", "v2metadata-by-diffid", LAYER, "[]")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "layerstore", "--db", imported, *arguments],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.stderr.startswith("layerstore: ")
    assert done.stderr.count("\n") == 1
    assert done.returncode == BAD


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_line_and_stores_nothing(run: Run, database: Path, number: signal.Signals):
    class Interrupted(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            signal.raise_signal(number)
            return b"never read"

    # Whoever runs the tests in the background ignores the signal, and Python then leaves it so.
    before = [signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGTERM)]
    try:
        result = run("set", "n", "k", stdin=Interrupted())
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])

    assert result.code == 130
    assert result.err.strip() == "layerstore: interrupted; nothing is half written, run it again"
    assert not database.exists()


CLOSED = {"list >&-": 0, "verify >&-": 0, "import - <&-": 3, "get n absent >&- 2>&-": 1}


@pytest.mark.parametrize(("line", "code"), CLOSED.items())
def test_closed_streams_are_no_failure_of_ours(line: str, code: int, database: Path):
    """As cron and daemons start programs."""
    with SQLMetadataStore(database) as store:
        store.set("n", "k", b"v")
    command = f'"$0" -m layerstore --db "$1" {line}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, database], capture_output=True, text=True, check=False
    )

    assert done.returncode == code
    assert "Traceback" not in done.stderr
