"""What a database, a path or an argument holds never steers a terminal; JSON reads back as it was."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from tests.support.command import ROOT, Run

# Escape, DEL, C1, the marks that turn the direction of text, line separators, a private and an unassigned character.
STEERING = (
    "\x1b[2J\x07\x7f\x9b\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\ue000\U000e0001"
)
NAME = f"a{STEERING}é\U0001f600b"


@pytest.fixture
def odd(database: Path) -> Path:
    with SQLMetadataStore(database) as store:
        store.set("other", NAME, NAME.encode())
        store.set("v1id", NAME, b"x")
        store.quarantine("other", NAME, NAME.encode(), NAME)
    return database


def assert_harmless(output: bytes) -> None:
    text = re.sub(r"\x1b\[(?:\?25[lh]|K)", "", output.decode())  # the bar of long work
    assert all(character.isprintable() or character in "\t\r\n" for character in text), ascii(text)


def on_a_terminal(*arguments: str) -> bytes:
    """Run the command with a terminal as its output and errors; return what reached it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux's way to say that the other end was closed
        pass
    os.close(ours)
    process.wait()
    return shown


SQL = "SELECT key, value, reason FROM quarantine"
COMMANDS = {
    "list": ["list"],
    "list, JSON": ["list", "--json"],
    "get": ["get", "other", NAME],
    "get what is not there": ["get", "other", f"{NAME}x"],
    "quarantine": ["quarantine", "list"],
    "quarantine, JSON": ["quarantine", "list", "--json"],
    "quarantine show": ["quarantine", "show", "1"],
    "verify": ["verify"],
    "verify, JSON": ["verify", "--json"],
    "show": ["show", NAME],
    **{f"query, {form}": ["query", "--format", form, SQL] for form in ("table", "csv", "tsv", "json", "jsonl")},
    "a column's name": ["query", f'SELECT 1 AS "{NAME}"'],
    "SQL that is wrong": ["query", f'SELECT "{NAME}".x'],
    "an option": [f"--{NAME}"],
    "an option's value": ["query", "--format", NAME, "SELECT 1"],
    "a command": [NAME],
    "a path": ["import", f"/nowhere/{NAME}"],
    "a number": ["quarantine", "show", NAME],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_nothing_steers_a_terminal(odd: Path, arguments: list[str]):
    shown = on_a_terminal(*arguments)

    assert shown
    assert_harmless(shown)
    assert odd.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--json"],
        ["quarantine", "list", "--json"],
        ["query", "--json", SQL],
        ["query", "--format", "jsonl", SQL],
    ],
    ids=" ".join,
)
def test_json_is_escaped_also_in_a_pipe_and_reads_back_as_it_was(run: Run, odd: Path, arguments: list[str]):
    result = run(*arguments)

    assert_harmless(result.raw)
    assert "é\U0001f600" in result.out
    rows = json.loads(result.out if arguments[-1] != SQL or "jsonl" not in arguments else f"[{result.out}]")
    assert NAME in [row["key"] for row in rows]
    assert odd.exists()


def test_a_program_gets_the_bytes_as_they_are(run: Run, odd: Path):
    assert run("get", "other", NAME).raw == NAME.encode()
    assert run("quarantine", "show", "1").raw == NAME.encode()
    assert odd.exists()
