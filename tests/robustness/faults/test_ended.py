"""A store that is used when it is no more: closed, in a thread that outlives it, in a forked child."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from layerstore import LayerstoreError, SQLMetadataStore, StoreClosedError, StoreError
from tests.conftest import OpenSQL
from tests.robustness.faults.conftest import child, held
from tests.robustness.faults.operations import ALL, Outcome, fill, outcome
from tests.support.counting import Counted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "out").mkdir()
    fill(tmp_path / "folder" / "layers.db")
    return tmp_path / "folder" / "layers.db"


def assert_closed(found: Outcome, place: str) -> None:
    assert found.error == "StoreClosedError", found
    assert found.said == f"{place}: this store was closed; make a new SQLMetadataStore"


@pytest.mark.parametrize("name", ALL)
def test_after_close_everything_says_so_and_names_the_file(path: Path, tmp_path: Path, name: str, counted: Counted):
    store = SQLMetadataStore(path)
    store.close()
    before = held(path.parent)
    counted("faults")

    assert_closed(outcome(ALL[name], store, tmp_path / "out"), str(path))
    with pytest.raises(StoreClosedError, match=str(path)):
        _ = store.engine
    assert held(path.parent) == before
    assert not (tmp_path / "out" / "copy.db").exists()


def test_a_thread_that_outlives_the_store_is_told_so(path: Path, tmp_path: Path, counted: Counted):
    """It has used the store before, so that it has a connection, which is closed behind its back."""
    used, closed = threading.Event(), threading.Event()
    found: dict[str, Outcome] = {}
    store = SQLMetadataStore(path)

    def work() -> None:
        store.get("n", "k")
        used.set()
        closed.wait()
        found.update({name: outcome(operation, store, tmp_path / "out") for name, operation in ALL.items()})

    thread = threading.Thread(target=work)
    thread.start()
    used.wait()
    store.close()
    before = held(path.parent)
    counted("faults", len(ALL))
    closed.set()
    thread.join()

    assert set(found) == set(ALL)
    for outcome_ in found.values():
        assert_closed(outcome_, str(path))
    assert held(path.parent) == before


def test_a_transaction_of_a_thread_that_outlives_the_store_is_not_kept(path: Path, open_sql: OpenSQL, counted: Counted):
    begun, closed = threading.Event(), threading.Event()
    caught: list[BaseException] = []
    store = SQLMetadataStore(path)

    def work() -> None:
        try:
            with store.transaction():
                store.set("n", "half", b"")
                begun.set()
                closed.wait()
        except LayerstoreError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    store.close()
    counted("faults")
    closed.set()
    thread.join()

    assert [isinstance(error, StoreError) for error in caught] == [True]
    assert "half" not in [key for _, key, _ in open_sql(path).entries("n")]


def test_in_a_child_that_was_forked_inside_a_transaction_everything_says_so(
    path: Path, tmp_path: Path, counted: Counted
):
    """SQLite would lose what is written there, and with it what the parent writes."""
    counted("faults", len(ALL))
    found = child("forked", path, tmp_path / "out")

    assert set(found) == set(ALL)
    for name, (error, said) in found.items():
        assert error == "StoreError", (name, said)
        assert "fork" in said or "rolled back" in said, (name, said)
    with SQLMetadataStore(path) as store:
        assert [key for _, key, _ in store.entries("n") if key.startswith(("new", "parent"))] == ["parent's"]
        assert store.get("n", "parent's") == repr(list(ALL)[-1]).encode()
