"""An export that is killed leaves each file whole or absent, and the next one makes the directory right."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, export_directory, import_directory
from tests.support.entries import GOLDEN_FILES, files_of, run_python, write_file

KILLED = """
import os, signal, sys
from layerstore import SQLMetadataStore, export_directory
from layerstore.files import tree
from layerstore.transfer import placing

database, target, moment, number, batch = sys.argv[1:]
placing._BATCH = int(batch)
left = int(number)

def die(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(function):
    def call(*arguments, **options):
        result = function(*arguments, **options)
        die()
        return result
    return call

if moment == "rename":
    os.rename, tree.rename = dying(os.rename), dying(tree.rename)
elif moment == "sync":
    placing.sync_file_system = dying(placing.sync_file_system)
elif moment == "write":
    os.open = dying(os.open)
with SQLMetadataStore(database, read_only=True) as store:
    export_directory(store, target, on_conflict="replace", delete=True, progress=die if moment == "callback" else None)
"""

MOMENTS = [
    ("callback", 1, 1),
    ("callback", 100, 7),
    ("callback", GOLDEN_FILES, 20_000),
    ("rename", 1, 20_000),
    ("rename", 90, 20_000),
    ("rename", GOLDEN_FILES, 20_000),
    ("sync", 1, 20_000),
    ("sync", 2, 50),
    ("write", 150, 30),
]
INTO_NOTHING = [
    ("callback", 100, 7),
    ("rename", 1, 20_000),
    ("rename", 2, 20_000),
    ("sync", 1, 20_000),
    ("sync", 2, 20_000),
    ("write", 150, 20_000),
]


@pytest.mark.parametrize("when", MOMENTS, ids=str)
def test_a_killed_export_leaves_each_file_whole_or_absent(
    sql_file: SQLMetadataStore, golden: Path, tmp_path: Path, when: tuple[str, int, int]
):
    """A third of the files are there with older bytes: each is the old or the new one, never anything else."""
    target = tmp_path / "target"
    import_directory(sql_file, golden)
    wanted = files_of(golden)
    for path in sorted(wanted)[::3]:
        namespace, _, key = path.partition("/")
        write_file(target, namespace, key, b"older bytes").chmod(0o644)
    older = files_of(target)

    died = run_python(KILLED, sql_file.path, target, *when)

    assert died.returncode == -signal.SIGKILL, died.stderr
    for path, found in files_of(target).items():
        if "/.tmp-" not in path:
            assert found in (wanted[path], older.get(path)), path
    assert {path for path in older if path not in files_of(target)} == set()

    export_directory(sql_file, target, on_conflict="replace", delete=True)
    assert {path: file for path, file in files_of(target).items() if "/.tmp-" not in path} == wanted


@pytest.mark.parametrize("when", INTO_NOTHING, ids=str)
def test_a_killed_export_into_nothing_leaves_each_namespace_whole_or_absent(
    sql_file: SQLMetadataStore, golden: Path, tmp_path: Path, when: tuple[str, int, int]
):
    target = tmp_path / "target"
    import_directory(sql_file, golden)
    wanted = files_of(golden)

    died = run_python(KILLED, sql_file.path, target, *when)

    assert died.returncode == -signal.SIGKILL, died.stderr
    there = {path: file for path, file in files_of(target).items() if not path.startswith(".tmp-")}
    namespaces = {path.partition("/")[0] for path in there}
    assert there == {path: file for path, file in wanted.items() if path.partition("/")[0] in namespaces}
    export_directory(sql_file, target)
    assert files_of(target) == wanted  # also: nothing is left of what was killed


def test_the_temporary_files_of_a_killed_export_are_no_entries(
    sql_file: SQLMetadataStore, golden: Path, tmp_path: Path
):
    import_directory(sql_file, golden)
    run_python(KILLED, sql_file.path, tmp_path / "target", "callback", GOLDEN_FILES, 20_000)

    with SQLMetadataStore(":memory:") as store:
        report = import_directory(store, tmp_path / "target", allow_empty=True)

    assert (report.read, report.temporary > 0, report.ok) == (0, True, True)
