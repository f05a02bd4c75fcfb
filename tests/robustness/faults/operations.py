"""What is done to a store under every fault, in this process or in a child that a limit or another user is set for."""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from layerstore import (
    DiffID,
    LayerstoreError,
    SQLMetadataStore,
    V1IDService,
    V2Metadata,
    V2MetadataService,
    export_directory,
    import_directory,
    verify,
)
from tests.conftest import sqlite_of
from tests.support.strategies import sha256

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "docker-20.10.24" / "distribution"
LAYER, BLOB, REPOSITORY = sha256(1), sha256(2), "localhost:5000/team/app"
LARGE = b"x" * 300_000

Operation = Callable[[SQLMetadataStore, Path], object]


@functools.cache
def source() -> SQLMetadataStore:
    """Return a store to import from. It is in a file, too: the limits of a test must come later."""
    store = SQLMetadataStore(":memory:")
    store.set_many(("n", f"imported/{number}", LARGE[:999]) for number in range(300))
    return store


READS: Mapping[str, Operation] = {
    "get": lambda store, _: store.get("n", "k"),
    "get_many": lambda store, _: store.get_many("n", ["k", "absent"]),
    "get_metadata": lambda store, _: V2MetadataService(store).get_metadata(LAYER),
    "get_diff_id": lambda store, _: V2MetadataService(store).get_diff_id(BLOB),
    "entries": lambda store, _: list(store.entries()),
    "verify": lambda store, _: verify(store).checked,
}
COPIES: Mapping[str, Operation] = {
    "export": lambda store, folder: export_directory(store, folder / "out").written,
    "backup": lambda store, folder: store.backup(folder / "copy.db"),
}
WRITES: Mapping[str, Operation] = {
    "set": lambda store, _: store.set("n", "new", LARGE),
    "set of a list": lambda store, _: store.set("v2metadata-by-diffid", "k", b"[" + b" " * len(LARGE) + b"]"),
    "set_many": lambda store, _: store.set_many(("n", f"new/{number}", LARGE[:999]) for number in range(300)),
    "add": lambda store, _: V2MetadataService(store).add(LAYER, V2Metadata(sha256(3), "r" * len(LARGE))),
    "V1 ID": lambda store, _: V1IDService(store).set("a" * 64, "registry", DiffID("odd:" + "x" * 80_000)),
    "quarantine": lambda store, _: store.quarantine("n", "k", LARGE, "reason"),
    "import": lambda store, _: import_directory(store, source()).added,
    "transaction": lambda store, _: in_a_transaction(store),
}


ALL: Mapping[str, Operation] = {**READS, **COPIES, **WRITES}


def in_a_transaction(store: SQLMetadataStore) -> None:
    """Write in two transactions inside each other; the first part is small."""
    with store.transaction():
        store.set("n", "small", b"")
        with store.transaction():
            store.set("n", "new", LARGE)


class Outcome(NamedTuple):
    """What came of an operation: the class of its error and what it says, or `None` and what it returned."""

    error: str | None
    said: str


def outcome(operation: Operation, store: SQLMetadataStore, folder: Path) -> Outcome:
    """Run an operation. What is no error of the tree goes through, and ends the test."""
    try:
        return Outcome(None, repr(operation(store, folder)))
    except LayerstoreError as error:
        return Outcome(type(error).__name__, str(error))


def opened(path: Path, **options: bool) -> SQLMetadataStore | Outcome:
    """Open a store, or say why it cannot be."""
    try:
        return SQLMetadataStore(path, **options)  # type: ignore[arg-type]  # `read_only` alone
    except LayerstoreError as error:
        return Outcome(type(error).__name__, str(error))


def fill(path: Path) -> list[tuple[str, str, bytes]]:
    """Make a store with an entry of each kind, and what a daemon wrote; return what it has."""
    with SQLMetadataStore(path) as store:
        import_directory(store, GOLDEN)
        V2MetadataService(store).add(LAYER, V2Metadata(BLOB, REPOSITORY))
        V1IDService(store).set("b" * 64, "registry", LAYER)
        store.set("n", "k", b"value")
        store.set("n", "large", LARGE)
        return list(store.entries())


def run_all(path: Path, folder: Path, operations: Mapping[str, Operation], **options: bool) -> dict[str, Outcome]:
    """Open the store anew for each operation, and do it."""
    found: dict[str, Outcome] = {}
    for name, operation in operations.items():
        store = opened(path, **options)
        if isinstance(store, Outcome):
            found[name] = store
            continue
        with store:
            found[name] = outcome(operation, store, folder)
    return found


def under(path: Path, folder: Path, begin: Callable[[], object], end: Callable[[], object]) -> dict[str, object]:
    """Write and copy between `begin` and `end`, always with the same store; tell what came of it, and what is left."""
    found: dict[str, object] = {}
    source()
    with SQLMetadataStore(path) as store:
        for name, operation in {**WRITES, **COPIES}.items():
            before = list(store.entries())
            sqlite_of(store).run("PRAGMA wal_checkpoint(TRUNCATE)")
            begin()
            try:
                found[name] = outcome(operation, store, folder)
                found[f"{name}: can be read"] = list(store.entries()) == before
            finally:
                end()
            found[f"{name}: left as it was"] = list(store.entries()) == before
            store.set("n", "after", name.encode())
            found[f"{name}: goes on"] = store.get("n", "after") == name.encode()
    return found


def limited(path: Path, folder: Path, room: int) -> dict[str, object]:
    """Write under a limit on the size of files."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return under(
        path,
        folder,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard)),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
    )


def forked(path: Path, folder: Path) -> dict[str, Outcome]:
    """Fork inside a transaction for each operation, and do it in the child.

    In a process without other threads: a child has locks that they held, and nobody who gives them back.
    """
    found: dict[str, Outcome] = {}
    with SQLMetadataStore(path) as store:
        for name, operation in ALL.items():
            with store.transaction():
                store.set("n", "parent's", repr(name).encode())
                found[name] = in_a_forked_child(lambda operation=operation: outcome(operation, store, folder))  # type: ignore[misc]
                assert store.get("n", "k") == b"value"
    return found


def in_a_forked_child(work: Callable[[], Outcome]) -> Outcome:
    """Work in a forked child, and return what came of it; what is no error of the tree is told, too."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found = work()
        except BaseException as error:
            found = Outcome(type(error).__name__, repr(error))
        os.write(writing, json.dumps([found.error, found.said[:800]]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = Outcome(*json.load(pipe))
    assert os.waitpid(pid, 0)[1] == 0
    return said


def main() -> None:
    """Do what the arguments say, after becoming the user that the first one gives, and print it as JSON."""
    user, what, path, folder, room = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
    SQLMetadataStore(":memory:").close()  # what is imported may lie where another user may not look
    import_directory(SQLMetadataStore(":memory:"), SQLMetadataStore(":memory:"))
    if user != os.geteuid():
        os.setgid(user)
        os.setuid(user)
    if what == "limited":
        found: object = limited(path, folder, int(room))
    elif what == "forked":
        found = forked(path, folder)
    else:
        found = run_all(path, folder, ALL, read_only=what == "read_only")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
