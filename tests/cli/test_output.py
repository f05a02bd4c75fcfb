"""Terminals and pipes: a progress bar on one, silence in the other; JSON that every program reads."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.command import GOLDEN, GOLDEN_FILES, REPOSITORY, ROOT, Run, with_places


def on_a_terminal(*arguments: str | Path) -> tuple[int, bytes, str]:
    """Run the command with a terminal as its standard error; return its code, its output, and what was drawn."""
    ours, theirs = pty.openpty()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "layerstore", *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=output,  # a file never makes the command wait, as a pipe would
            stderr=theirs,
        )
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the other end was closed
            while part := os.read(ours, 4096):
                drawn += part
        os.close(ours)
        code = process.wait()
        output.seek(0)
        return code, output.read(), drawn.decode()


@pytest.mark.slow
def test_long_work_draws_a_bar_on_a_terminal(database: Path, tmp_path: Path):
    for label, arguments in (
        ("reading", ["import", GOLDEN]),
        ("exporting", ["export", tmp_path / "out"]),
        ("checking", ["verify", tmp_path / "out"]),
        ("checking", ["verify"]),
    ):
        code, output, drawn = on_a_terminal(*arguments)

        assert code == 0
        assert label in drawn
        assert "100%" in drawn or "178 of 178" in drawn
        assert label.encode() not in output
        assert b"\x1b" not in output
    assert database.exists()


@pytest.mark.parametrize(
    "arguments", [["import", "--quiet", "GOLDEN"], ["import", "-q", "GOLDEN"], ["list"]], ids=" ".join
)
def test_a_terminal_stays_clean_when_it_shall(imported: Path, tmp_path: Path, arguments: list[str]):
    code, _, drawn = on_a_terminal(*with_places(arguments, tmp_path))

    assert (code, drawn) == (0, "")
    assert imported.exists()


def test_an_error_on_a_terminal_has_a_line_of_its_own(imported: Path, tmp_path: Path):
    code, output, drawn = on_a_terminal("import", tmp_path / "missing")

    assert (code, output) == (3, b"")
    assert drawn.splitlines()[-1].startswith("layerstore: ")
    assert imported.exists()


def closed_early(arguments: Sequence[str | Path], lines: int) -> tuple[int, str, list[bytes]]:
    """Run the command and close its standard output after some lines, as `head` does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    read = [process.stdout.readline() for _ in range(lines)]
    process.stdout.close()
    with process.stderr as stderr:
        error = stderr.read().decode()
    return process.wait(), error, read


@pytest.mark.parametrize(("arguments", "lines"), [(["list", "--json"], 1), (["list", "--json"], 0), (["list"], 0)])
def test_a_pipe_that_is_closed_early_ends_the_command_quietly(imported: Path, arguments: list[str], lines: int):
    """With the code that a shell gives to a program that SIGPIPE ended, so that it is not taken for "not found"."""
    code, error, read = closed_early(arguments, lines)

    assert error == ""
    assert code == 141
    assert read == [b"[\n"] * lines
    assert imported.exists()


def test_a_value_into_a_closed_pipe_ends_the_command_quietly(run: Run, imported: Path):
    run("set", "n", "k", stdin=b"x" * 1_000_000)

    assert closed_early(["get", "n", "k"], 0)[:2] == (141, "")
    assert imported.exists()


def test_head_takes_what_it_wants(run_process: Run, imported: Path):
    done = subprocess.run(
        f"{sys.executable} -m layerstore list | head -n 1", shell=True, cwd=ROOT, capture_output=True, check=True
    )

    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
    assert run_process("list").out.count("\n") == GOLDEN_FILES
    assert imported.exists()


JSON = [
    ["import", "--json", "GOLDEN"],
    ["export", "--json", "OUT"],
    ["verify", "--json"],
    ["diff", "--json", "GOLDEN"],
    ["show", "--json", REPOSITORY],
    ["list", "--json"],
    ["schema", "current", "--json"],
    ["schema", "history", "--json"],
]


@pytest.mark.parametrize("arguments", JSON, ids=" ".join)
def test_json_is_one_document_and_nothing_else(run: Run, small: Path, tmp_path: Path, arguments: list[str]):
    result = run(*with_places(arguments, tmp_path))

    assert result.err == ""
    assert result.out.endswith("\n")
    assert isinstance(json.loads(result.out), dict | list)
    assert small.exists()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", JSON, ids=" ".join)
def test_json_draws_no_bar_into_its_output(small: Path, tmp_path: Path, arguments: list[str]):
    """On a terminal the bar is on standard error, so that standard output can be piped on."""
    if arguments[0] not in ("import", "export", "verify"):
        arguments = ["--db", str(small), *arguments]
    _, output, _ = on_a_terminal(*with_places(arguments, tmp_path))

    assert isinstance(json.loads(output), dict | list)
