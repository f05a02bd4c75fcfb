"""Any program of add, remove, lookups and raw writes gives Docker's answers and Docker's tree, on every store."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from layerstore import (
    CorruptRecordError,
    FSMetadataStore,
    NotFoundError,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
)
from tests.conftest import AnyStore, database_rows
from tests.property.docker_model import DIFF_IDS, LISTS, RAW_LISTS, Association, Docker, MissingError, key
from tests.support import postgresql
from tests.support.strategies import sha256

LAYER_TEXTS = [sha256(1), sha256(2), "sha512:" + "3" * 128, "a+b:C_1="]
LAYERS = st.sampled_from(LAYER_TEXTS)
DIGESTS = st.sampled_from([*(sha256(number) for number in range(16, 22)), "a:b", "c:d"])
ASSOCIATIONS = st.tuples(
    DIGESTS,
    st.sampled_from(["", "r", "docker.io/library/busybox", "a&b<c>\u2028é"]),
    st.sampled_from(["", "ab" * 32]),
)


class V2Machine(RuleBasedStateMachine):
    store: AnyStore

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("layerstore").setLevel(logging.CRITICAL)
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.open()
        self.v2 = V2MetadataService(self.store)
        self.docker = Docker()

    def open(self) -> AnyStore:
        raise NotImplementedError

    def teardown(self) -> None:
        logging.getLogger("layerstore").setLevel(logging.NOTSET)
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize(count=st.sampled_from([0, 0, 48, 50]), layer=LAYERS)
    def fill(self, count: int, layer: str) -> None:
        """Begin near the cap now and then, which few programs would reach."""
        for number in range(count):
            self.add(layer, (sha256(1000 + number), "filled", ""))

    @rule(layer=LAYERS, association=ASSOCIATIONS)
    def add(self, layer: str, association: Association) -> None:
        self.docker.add(layer, association)
        self.v2.add(layer, V2Metadata(*association))

    @rule(association=ASSOCIATIONS)
    def remove(self, association: Association) -> None:
        self.both(lambda: self.docker.remove(association), lambda: self.v2.remove(V2Metadata(*association)))

    @rule(layer=LAYERS, raw=st.sampled_from(RAW_LISTS))
    def raw_set(self, layer: str, raw: tuple[bytes, object]) -> None:
        self.docker.files[LISTS, key(layer)] = raw[0]
        self.store.set(LISTS, key(layer), raw[0])

    @rule(layer=LAYERS)
    def raw_delete(self, layer: str) -> None:
        def delete() -> None:
            if self.docker.files.pop((LISTS, key(layer)), None) is None:
                raise MissingError

        self.both(delete, lambda: self.store.delete(LISTS, key(layer)))

    @rule(digest=DIGESTS)
    def forget_a_mapping(self, digest: str) -> None:
        try:
            self.store.delete(DIFF_IDS, key(digest))
            del self.docker.files[DIFF_IDS, key(digest)]
        except NotFoundError:
            assert (DIFF_IDS, key(digest)) not in self.docker.files

    @rule(digest=DIGESTS)
    def get_diff_id(self, digest: str) -> None:
        self.both(lambda: self.docker.get_diff_id(digest), lambda: self.v2.get_diff_id(digest))

    @rule(layer=LAYERS)
    def get_metadata(self, layer: str) -> None:
        def ours() -> list[Association] | None:
            try:
                return [(entry.digest, entry.source_repository, entry.hmac) for entry in self.v2.get_metadata(layer)]
            except CorruptRecordError:
                return None

        self.both(lambda: self.docker.get_metadata(layer), ours)

    def both(self, docker: Callable[[], object], ours: Callable[[], object]) -> None:
        """Hold our answer against Docker's, where "there is none" is an answer too."""
        expected: object
        found: object
        try:
            expected = docker()
        except MissingError:
            expected = MissingError
        try:
            found = ours()
        except NotFoundError:
            found = MissingError
        assert found == expected

    @invariant()
    def the_tree_is_dockers(self) -> None:
        rows = ((namespace, name, value) for (namespace, name), value in self.docker.files.items())
        assert list(self.store.entries()) == sorted(rows)

    @invariant()
    def derived_rows_and_quarantine_are_right(self) -> None:
        if not isinstance(self.store, SQLMetadataStore):
            return
        expected = []
        for layer in sorted(LAYER_TEXTS):
            entries = self.docker.get_metadata(layer) if (LISTS, key(layer)) in self.docker.files else []
            expected += [(layer, *entry) for entry in entries or [] if entry[0] not in ("", "sha256:odd")]
        assert expected == database_rows(
            self.store, "SELECT diff_id, digest, source_repository, hmac FROM v2_metadata ORDER BY diff_id, position"
        )
        assert database_rows(self.store, "SELECT key, value FROM quarantine ORDER BY id") == self.docker.set_aside
        mapped = {name: value.decode() for (space, name), value in self.docker.files.items() if space == DIFF_IDS}
        view = "SELECT replace(digest, ':', '/'), diff_id FROM diff_id_by_digest"
        assert sorted(database_rows(self.store, view), key=str) == sorted(mapped.items(), key=str)


class FileMachine(V2Machine):
    def open(self) -> AnyStore:
        return SQLMetadataStore(self.folder / "layers.db", durability="normal")


class MemoryMachine(V2Machine):
    def open(self) -> AnyStore:
        return SQLMetadataStore(":memory:")


class DirectoryMachine(V2Machine):
    def open(self) -> AnyStore:
        return FSMetadataStore(self.folder / "distribution")


TestSQLFile = FileMachine.TestCase
TestSQLMemory = MemoryMachine.TestCase
TestFiles = DirectoryMachine.TestCase
EXAMPLES = settings().max_examples  # of the profile
TestSQLFile.settings = settings(max_examples=EXAMPLES // 2, stateful_step_count=25)
TestFiles.settings = settings(max_examples=EXAMPLES // 4, stateful_step_count=20)  # each write is synced twice
TestSQLMemory.settings = settings(stateful_step_count=40)


def test_postgresql(schemas: postgresql.Schemas):
    machine = postgresql.machine_on(schemas, V2Machine)
    run_state_machine_as_test(machine, settings=settings(max_examples=EXAMPLES // 3, stateful_step_count=25))
