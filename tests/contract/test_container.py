"""A store as Python's container: `in`, `len`, iteration, truth, pickling; the layers and repositories of its lists."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import (
    CorruptRecordError,
    FSMetadataStore,
    InvalidInputError,
    LayerstoreError,
    SQLMetadataStore,
    StoreBusyError,
    StoreOpenError,
    V2Metadata,
    V2MetadataService,
    verify,
)
from tests.conftest import AnyStore, OpenSQL
from tests.support.strategies import sha256


def test_what_is_in_a_store(store: AnyStore):
    store.set("n", "k", b"")
    store.set("n", "a/b", b"1")

    assert ("n", "k") in store
    assert ("n", "other") not in store
    assert len(store) == 2
    assert list(store) == [("n", "a/b"), ("n", "k")]


def test_an_empty_store_is_true(store: AnyStore):
    assert (bool(store), len(store), list(store)) == (True, 0, [])


@pytest.mark.parametrize("entry", ["n", ("n",), ("n", 1), 5, ("n", "k", b"")], ids=str)
def test_what_is_no_name_of_an_entry_cannot_be_asked_for(store: AnyStore, entry: object):
    with pytest.raises(InvalidInputError, match=r"\(namespace, key\) in store"):
        _ = entry in store


def test_layers_and_repositories_are_those_of_the_lists(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add(sha256(2), V2Metadata(sha256(12), "docker.io/library/b"))
    v2.add(sha256(1), V2Metadata(sha256(11), "docker.io/library/a"))
    v2.add(sha256(1), V2Metadata(sha256(11), "docker.io/library/b"))
    v2.add(sha256(3), V2Metadata(sha256(13)))
    store.set("v2metadata-by-diffid", "sha256/x", b"[]")

    assert list(v2.layers()) == [sha256(1), sha256(2), sha256(3)]
    assert list(v2.repositories()) == ["docker.io/library/a", "docker.io/library/b"]


def test_a_list_that_cannot_be_read_is_a_layer_and_an_error_for_who_asks_for_repositories(store: AnyStore):
    store.set("v2metadata-by-diffid", sha256(1).replace(":", "/"), b"{")
    v2 = V2MetadataService(store)

    assert list(v2.layers()) == [sha256(1)]
    with pytest.raises(CorruptRecordError, match=sha256(1)):
        list(v2.repositories())
    store.delete("v2metadata-by-diffid", sha256(1).replace(":", "/"))


def test_what_cannot_list_its_entries_says_so():
    class Plain:
        def get(self, namespace: str, key: str, /) -> bytes:
            raise NotImplementedError

        def set(self, namespace: str, key: str, value: bytes, /) -> None:
            raise NotImplementedError

        def delete(self, namespace: str, key: str, /) -> None:
            raise NotImplementedError

    with pytest.raises(LayerstoreError, match="Plain cannot list its entries"):
        list(V2MetadataService(Plain()).layers())
    with pytest.raises(LayerstoreError, match="has no store"):
        list(V2MetadataService(None).repositories())


def test_a_pickled_store_opens_the_same_again(sql_file: SQLMetadataStore, files: FSMetadataStore):
    for store in (sql_file, files):
        store.set("n", "k", b"1")
        with pickle.loads(pickle.dumps(store)) as again:
            assert (type(again), again.path, list(again)) == (type(store), store.path, [("n", "k")])
            again.set("n", "k", b"2")
        assert store.get("n", "k") == b"2"


def test_a_pickled_store_keeps_its_options(open_sql: OpenSQL, tmp_path: Path):
    store = open_sql(timeout_s=0)
    with pickle.loads(pickle.dumps(store)) as again, store.transaction(), pytest.raises(StoreBusyError):
        again.set("n", "k", b"")
    reader = pickle.loads(pickle.dumps(open_sql(read_only=True)))
    with reader, pytest.raises(LayerstoreError):
        reader.set("n", "k", b"")
    assert tmp_path.exists()


def test_another_process_opens_what_was_pickled(sql_file: SQLMetadataStore):
    sql_file.set("n", "k", b"1")
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).get('n', 'k'))"
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(sql_file), capture_output=True, check=True
    )

    assert done.stdout == b"b'1'\n"


def test_a_store_in_memory_cannot_be_pickled(sql_memory: SQLMetadataStore):
    with pytest.raises(InvalidInputError, match="no other process can open it"):
        pickle.dumps(sql_memory)


def test_a_backup_is_the_store_at_this_moment(sqlite_store: SQLMetadataStore, tmp_path: Path):
    sqlite_store.set("n", "k", b"1")
    size = sqlite_store.backup(tmp_path / "copy.db")
    sqlite_store.set("n", "k", b"2")

    assert (tmp_path / "copy.db").stat().st_size == size
    with SQLMetadataStore(tmp_path / "copy.db") as copy:
        assert copy.get("n", "k") == b"1"
        assert verify(copy).ok
    with pytest.raises(StoreOpenError, match="there is a file already"):
        sqlite_store.backup(tmp_path / "copy.db")


def test_a_path_that_a_shell_would_have_expanded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for make in (SQLMetadataStore, FSMetadataStore):
        for path in ("~/layers", Path("~/layers"), "~nobody"):
            with pytest.raises(InvalidInputError, match="expanduser"):
                make(path)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "~").mkdir()
    FSMetadataStore("~/distribution").set("n", "k", b"")
    assert (tmp_path / "~" / "distribution" / "n" / "k").exists()
