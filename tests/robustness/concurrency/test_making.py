"""Making a file while others open it: no lock is lost on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OpenSQL

ROOT = Path(__file__).resolve().parents[3]


def keys_seen_by_another_process(path: Path) -> list[str]:
    """Open the store in another process, read it, and close it, which makes that process try to remove the log."""
    code = (
        "import sys; from layerstore import SQLMetadataStore\n"
        "with SQLMetadataStore(sys.argv[1]) as store: print(*(key for _, key, _ in store.entries()))"
    )
    result = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.split()


@pytest.mark.parametrize("call", ["fchmod", "chmod", "close"])
def test_a_thread_that_makes_the_file_drops_no_lock_of_one_that_has_opened_it(
    tmp_path: Path, open_sql: OpenSQL, monkeypatch: pytest.MonkeyPatch, call: str
):
    """POSIX drops all locks of a process on a file when any of its descriptors of it is closed.

    Without its lock on the file, a connection's log is removed by the next process that closes the store, and
    what is written to it from then on is lost. Source: sqlite.org/howtocorrupt.html, section 2.2.
    """
    path = tmp_path / "layers.db"
    real = getattr(os, call)
    opened, checked = threading.Event(), threading.Event()

    def use_meanwhile() -> None:
        store = open_sql(path)
        store.set("n", "before", b"")
        opened.set()
        assert checked.wait(60)
        store.set("n", "after", b"")

    other = threading.Thread(target=use_meanwhile)

    def with_somebody_in_between(*arguments: Any, **options: Any) -> Any:
        if path.exists() and not opened.is_set() and threading.current_thread() is not other:
            monkeypatch.setattr(os, call, real)
            other.start()
            assert opened.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, with_somebody_in_between)
    first = open_sql(path)
    if not opened.is_set():  # the file is made without this call: then there is no such moment
        other.start()
        assert opened.wait(60)
    seen = keys_seen_by_another_process(path)
    checked.set()
    other.join()
    first.set("n", "last", b"")

    assert seen == ["before"]
    assert keys_seen_by_another_process(path) == ["after", "before", "last"]


def test_opening_it_again_drops_no_lock_of_who_has_it_open(tmp_path: Path, open_sql: OpenSQL):
    """Which looks whether the file is mounted alone, by a descriptor of it."""
    path = tmp_path / "layers.db"
    store = open_sql(path)
    store.set("n", "before", b"")
    open_sql(path).close()

    assert keys_seen_by_another_process(path) == ["before"]
    store.set("n", "after", b"")
    assert keys_seen_by_another_process(path) == ["after", "before"]
