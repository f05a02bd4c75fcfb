"""What an operation costs in statements, transactions and syncs. Counted, not timed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from layerstore import Blob, SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService, look_up
from tests.conftest import sqlite_of
from tests.support.strategies import sha256

LAYER, BLOB, REPOSITORY = sha256(1), sha256(2), "localhost:5000/team/app"


@contextmanager
def traced(store: SQLMetadataStore) -> Iterator[list[str]]:
    """Collect the statements that the thread's own connection runs."""
    connection = sqlite_of(store)._connections.local.handle.connection
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    try:
        yield statements
    finally:
        connection.set_trace_callback(None)


LOOKUPS: dict[str, Callable[[SQLMetadataStore], object]] = {
    "get": lambda store: store.get("diffid-by-digest", BLOB.replace(":", "/")),
    "get_many": lambda store: store.get_many("diffid-by-digest", [BLOB.replace(":", "/"), "other"]),
    "v1.get": lambda store: V1IDService(store).get("a" * 64, "registry"),
    "get_diff_id": lambda store: V2MetadataService(store).get_diff_id(BLOB),
    "get_metadata": lambda store: V2MetadataService(store).get_metadata(LAYER),
    "get_diff_ids": lambda store: V2MetadataService(store).get_diff_ids([BLOB, sha256(3)]),
    "get_metadata_many": lambda store: V2MetadataService(store).get_metadata_many([LAYER, sha256(3)]),
}


@pytest.mark.parametrize("look_up", LOOKUPS.values(), ids=LOOKUPS.keys())
def test_a_lookup_is_one_statement(sqlite_store: SQLMetadataStore, look_up: Callable[[SQLMetadataStore], object]):
    V2MetadataService(sqlite_store).add(LAYER, V2Metadata(BLOB, REPOSITORY))
    V1IDService(sqlite_store).set("a" * 64, "registry", LAYER)

    with traced(sqlite_store) as statements:
        assert look_up(sqlite_store)

    assert len(statements) == 1
    assert statements[0].startswith("SELECT")


KNOWN = "sha256:" + "ab" * 32


@pytest.mark.parametrize("text", [KNOWN, KNOWN[7:], KNOWN[7:19]], ids=["a digest", "its digits", "its first digits"])
def test_digits_are_looked_up_without_reading_all_names(sqlite_store: SQLMetadataStore, text: str):
    """Of a million layers there are 50,000 repositories."""
    V2MetadataService(sqlite_store).add(LAYER, V2Metadata(KNOWN, REPOSITORY))

    with traced(sqlite_store) as statements:
        [found] = look_up(sqlite_store, text)

    assert isinstance(found, Blob)
    assert statements
    assert not [line for line in statements if "RECURSIVE" in line or "FROM repositories" in line]


@pytest.mark.parametrize("length", [0, 3, 50])
def test_an_add_is_one_transaction(sqlite_store: SQLMetadataStore, length: int):
    v2 = V2MetadataService(sqlite_store)
    sqlite_store.set("n", "first", b"")  # before its first write, a connection opens the log
    for number in range(length):
        v2.add(LAYER, V2Metadata(sha256(100 + number), REPOSITORY))

    with traced(sqlite_store) as statements:
        v2.add(LAYER, V2Metadata(BLOB, REPOSITORY))

    control = [line for line in statements if re.match("BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE", line)]
    assert control == ["BEGIN IMMEDIATE", "COMMIT"]
    assert (statements[0], statements[-1]) == ("BEGIN IMMEDIATE", "COMMIT")
    # The list and the mapping are read at once, and written; of the derived rows, one comes, and at the cap one goes.
    assert len(statements) <= 8


def test_many_adds_are_one_transaction_and_two_statements_for_each_key(sqlite_store: SQLMetadataStore):
    v2 = V2MetadataService(sqlite_store)
    v2.add(sha256(1000), V2Metadata(sha256(1001), REPOSITORY))

    with traced(sqlite_store) as statements:
        v2.add_many([(sha256(number), V2Metadata(sha256(100 + number), REPOSITORY)) for number in range(20)])

    assert (statements[0], statements[-1]) == ("BEGIN IMMEDIATE", "COMMIT")
    # A list and a mapping are read and written for each; a layer's derived rows are read, and one comes.
    assert len(statements) == 2 + 20 * 6


PROGRAM = """
import os
from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
with SQLMetadataStore({path!r}, durability={durability!r}) as store:
    v2 = V2MetadataService(store)
    digests = ["sha256:%064x" % number for number in range(21)]
    v2.add(digests[0], V2Metadata(digests[0]))
    os.write(1, b"begin\\n")
    for digest in digests[1:]:
        v2.add(digests[0], V2Metadata(digest))
    os.write(1, b"end\\n")
    for digest in digests:
        v2.get_diff_id(digest)
        v2.get_metadata(digests[0])
    os.write(1, b"looked up\\n")
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed, which counts the system calls")
@pytest.mark.parametrize(("durability", "syncs"), [("full", 20), ("normal", 0)])
def test_an_add_is_one_sync_and_a_lookup_none(tmp_path: Path, durability: str, syncs: int):
    log = tmp_path / "calls"
    program = PROGRAM.format(path=str(tmp_path / "layers.db"), durability=durability)
    trace = ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-o", str(log)]
    subprocess.run([*trace, sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)

    _, adds, lookups, _ = re.split(r'"(?:begin|end|looked up)\\n"', log.read_text())
    assert len(re.findall(r"sync\(", adds)) == syncs
    assert len(re.findall(r"sync\(", lookups)) == 0


def test_an_add_of_a_new_layer_is_at_most_45_calls_in_9_modules_of_ours(sql_file: SQLMetadataStore):
    v2 = V2MetadataService(sql_file)
    for number in range(3):
        v2.add(sha256(100 + number), V2Metadata(sha256(200 + number), REPOSITORY))
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("layerstore."):
            calls.append((frame.f_globals["__name__"], frame.f_code.co_name))

    sys.setprofile(note)
    try:
        v2.add(LAYER, V2Metadata(BLOB, REPOSITORY))
    finally:
        sys.setprofile(None)

    assert 0 < len(calls) <= 45, calls
    assert len({module for module, _ in calls}) <= 9, calls
