"""Any program of store operations does on every store what it does on a dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from layerstore import FSMetadataStore, NotFoundError, SQLMetadataStore
from tests.conftest import AnyStore, UndoError, assert_sound
from tests.support import postgresql

# No key is a directory of another one, which files cannot have; the order of bytes is not that of names.
KEYS = st.sampled_from(
    ["a", "b-c", "b/x", "b/y/z", "b0", "B", "é", "\uffff", "\U00010000", f"sha256/{1:064x}", f"sha256/{2:064x}"]
)
NAMESPACES = st.sampled_from(["v2metadata-by-diffid", "diffid-by-digest", "blob-by-digest", "v1id", "n", "n-"])
VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b'{"Locations":[{"Repository":"h.io/a"},{"Repository":"h.io/b","SeenAt":"2026-11-26T21:43:11Z"}]}',
            b'{"DiffID":"sha256:%064x","Compression":"zstd","Locations":[{"Repository":"h.io/b"}]}' % 9,
            b"[]",
            b"null",
            b"[{}]",
            b'[{"Digest":"a:b"},{"Digest":"a:b"}]',
            b'[{"Digest":"c:d"},{"Digest":"a:b"}]',
        ]
    ),
)


class StoreMachine(RuleBasedStateMachine):
    store: AnyStore

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.open()
        self.model: dict[tuple[str, str], bytes] = {}
        self.open_transactions: list[dict[tuple[str, str], bytes]] = []

    def open(self) -> AnyStore:
        raise NotImplementedError

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(namespace=NAMESPACES, key=KEYS, value=VALUES)
    def set(self, namespace: str, key: str, value: bytes) -> None:
        self.store.set(namespace, key, value)
        self.model[namespace, key] = value

    @rule(namespace=NAMESPACES, key=KEYS)
    def get(self, namespace: str, key: str) -> None:
        try:
            found = self.store.get(namespace, key)
        except NotFoundError:
            assert (namespace, key) not in self.model
        else:
            assert found == self.model[namespace, key]

    @rule(namespace=NAMESPACES, key=KEYS)
    def delete(self, namespace: str, key: str) -> None:
        try:
            self.store.delete(namespace, key)
        except NotFoundError:
            assert (namespace, key) not in self.model
        else:
            del self.model[namespace, key]

    @rule(namespace=NAMESPACES, keys=st.lists(KEYS, max_size=5))
    def get_many(self, namespace: str, keys: list[str]) -> None:
        expected = {key: self.model[namespace, key] for key in keys if (namespace, key) in self.model}
        assert self.store.get_many(namespace, keys) == expected

    @rule(entries=st.lists(st.tuples(NAMESPACES, KEYS, VALUES), max_size=4))
    def set_many(self, entries: list[tuple[str, str, bytes]]) -> None:
        self.store.set_many(entries)
        self.model.update(((namespace, key), value) for namespace, key, value in entries)

    @rule(namespace=NAMESPACES)
    def entries_of_a_namespace(self, namespace: str) -> None:
        assert list(self.store.entries(namespace)) == [entry for entry in self.sorted() if entry[0] == namespace]

    @rule()
    def reopen(self) -> None:
        if not isinstance(self.store, SQLMetadataStore) or self.store.path is not None:
            self.store.close()
            self.store = self.open()

    @rule(entry=st.tuples(NAMESPACES, KEYS, VALUES), inner=VALUES, undo=st.booleans(), undo_inner=st.booleans())
    @precondition(lambda self: isinstance(self.store, SQLMetadataStore))
    def transact(self, entry: tuple[str, str, bytes], inner: bytes, undo: bool, undo_inner: bool) -> None:
        assert isinstance(self.store, SQLMetadataStore)
        before = dict(self.model)
        try:
            with self.store.transaction():
                self.set(*entry)
                between = dict(self.model)
                try:
                    with self.store.transaction():
                        self.set("v2metadata-by-diffid", f"sha256/{1:064x}", inner)
                        self.delete(entry[0], entry[1])
                        if undo_inner:
                            raise UndoError
                except UndoError:
                    self.model = between
                assert list(self.store.entries()) == self.sorted()
                if undo:
                    raise UndoError
        except UndoError:
            self.model = before

    @invariant()
    def entries_are_those_of_the_dict(self) -> None:
        assert list(self.store.entries()) == self.sorted()

    @invariant()
    def derived_rows_are_right(self) -> None:
        if isinstance(self.store, SQLMetadataStore):
            assert_sound(self.store)

    def sorted(self) -> list[tuple[str, str, bytes]]:
        rows = [(namespace, key, value) for (namespace, key), value in self.model.items()]
        return sorted(rows, key=lambda row: (row[0].encode(), row[1].encode()))


class FileMachine(StoreMachine):
    def open(self) -> AnyStore:
        return SQLMetadataStore(self.folder / "layers.db", durability="normal")


class MemoryMachine(StoreMachine):
    def open(self) -> AnyStore:
        return SQLMetadataStore(":memory:")


class DirectoryMachine(StoreMachine):
    def open(self) -> AnyStore:
        return FSMetadataStore(self.folder / "distribution")


TestSQLFile = FileMachine.TestCase
TestSQLMemory = MemoryMachine.TestCase
TestFiles = DirectoryMachine.TestCase
HALF = settings().max_examples // 2
TestSQLFile.settings = TestFiles.settings = settings(max_examples=HALF, stateful_step_count=20)
TestSQLMemory.settings = settings(stateful_step_count=30)


def test_postgresql(schemas: postgresql.Schemas):
    machine = postgresql.machine_on(schemas, StoreMachine)
    run_state_machine_as_test(machine, settings=settings(max_examples=HALF, stateful_step_count=15))
