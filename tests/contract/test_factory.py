"""The suite runs over a store of somebody's own, by one option."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_suite(factory: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--assert", "plain", "--store", factory]
    command.append("tests/contract/test_store.py")
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_store_that_keeps_the_contract_passes():
    done = run_suite("layerstore:FSMetadataStore")

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_one_that_does_not_fails():
    done = run_suite(f"{__name__}:Forgetful")

    assert done.returncode == 1, done.stdout
    assert " failed" in done.stdout


class Forgetful:
    """Takes everything, and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, namespace: str, key: str, value: bytes) -> None:
        pass
