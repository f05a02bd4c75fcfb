"""Exports of several processes into one directory at once: each succeeds, and the directory is right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, import_directory
from tests.support.entries import GOLDEN_FILES, directory_modes, files_of

EXPORTS = """
import sys
from layerstore import SQLMetadataStore, export_directory

with SQLMetadataStore(sys.argv[1], read_only=True) as store:
    for target in sys.argv[2:]:
        sys.stdin.readline()
        report = export_directory(store, target)
        print(report.written + report.unchanged, flush=True)
"""
PROCESSES = 4
ROUNDS = 4


@pytest.mark.parametrize("there", [False, True], ids=["new", "half there"])
def test_exports_into_one_directory_at_once(sql_file: SQLMetadataStore, golden: Path, tmp_path: Path, there: bool):
    import_directory(sql_file, golden)
    targets = [tmp_path / f"target-{number}" for number in range(ROUNDS)]
    if there:
        for target in targets:
            (target / "diffid-by-digest").mkdir(parents=True, mode=0o755)
            target.chmod(0o700)
    command = [sys.executable, "-c", EXPORTS, str(sql_file.path), *map(str, targets)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    for target in targets:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("now\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == f"{GOLDEN_FILES}\n", process.stderr.read()
        assert files_of(target) == files_of(golden)
        assert directory_modes(target) == directory_modes(golden)
        assert sorted(os.listdir(target)) == sorted(os.listdir(golden))
    for process in processes:
        with process:
            process.communicate()
        assert process.returncode == 0
