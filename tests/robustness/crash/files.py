"""The writers of files that are killed: what each begins with, what it does, and what is there afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerstore import FSMetadataStore, SQLMetadataStore, V2MetadataService, export_directory, verify
from tests.robustness.crash.content import ALL, Content, association, fill
from tests.robustness.crash.databases import run, some_layers
from tests.robustness.crash.process import Acknowledge
from tests.support.entries import LISTS, MAPPINGS, files_of, layer_key, write_file
from tests.support.strategies import sha256


def files_below(home: Path) -> Content:
    """Return the bytes of the entries of a directory; a file left by a write that did not end is none."""
    return {path: file.value for path, file in entries_of(home / "distribution").items()}


def entries_of(base: Path) -> dict[str, Any]:
    if not base.exists():
        return {}
    return {path: file for path, file in files_of(base).items() if "/.tmp-" not in f"/{path}"}


def older_files(home: Path) -> None:
    store = FSMetadataStore(home / "distribution")
    fill(store, 6)


def add_to_files(home: Path, acknowledge: Acknowledge) -> None:
    """Add, which writes two files: a list and a mapping."""
    v2 = V2MetadataService(FSMetadataStore(home / "distribution"))
    for step in range(1, 4):
        v2.add(sha256(step), association(20 + step))
        acknowledge(step)


def mended_files(home: Path) -> Content:
    """Return the files, after a repair has mapped what half an `add` left unmapped: nothing else may be wrong."""
    if (home / "distribution").exists():
        kinds = {found.kind for found in verify(home / "distribution").findings}
        assert kinds <= {"unmapped", "temporary"}
    return files_below(home)


def set_files(home: Path, acknowledge: Acknowledge) -> None:
    """Set new values and old ones, in directories that are there and in new ones, and delete one."""
    store = FSMetadataStore(home / "distribution")
    sets = [
        (LISTS, layer_key(0), b"new " * 3000),
        ("new", "deep/er/key", b"value"),
        ("new", "deep/key", b""),
        (LISTS, layer_key(1), b"[]"),
    ]
    for step, entry in enumerate(sets, 1):
        store.set(*entry)
        acknowledge(step)
    if (home / "distribution" / MAPPINGS / layer_key(1001)).exists():
        store.delete(MAPPINGS, layer_key(1001))
    acknowledge(len(sets) + 1)


def make_files(home: Path, acknowledge: Acknowledge) -> None:
    """Set in a base directory that is made for it."""
    FSMetadataStore(home / "distribution").set(MAPPINGS, layer_key(1), sha256(1).encode())
    acknowledge(1)
    FSMetadataStore(home / "distribution").set(MAPPINGS, layer_key(2), sha256(2).encode())
    acknowledge(2)


def export(home: Path, acknowledge: Acknowledge) -> None:
    with SQLMetadataStore(home / "layers.db", read_only=True) as store:
        export_directory(store, home / "distribution", on_conflict="replace", delete=True)
        acknowledge(1)


def merge(home: Path, acknowledge: Acknowledge) -> None:
    """Export into what a host knows, which loses nothing of it."""
    with SQLMetadataStore(home / "layers.db", read_only=True) as store:
        export_directory(store, home / "distribution")
        acknowledge(1)


def a_store_alone(home: Path) -> None:
    some_layers(home)


def exported(home: Path) -> Content:
    """Return bytes, mode and time of each file."""
    return entries_of(home / "distribution")


def an_older_archive(home: Path) -> None:
    some_layers(home)
    run(home, "export", "--tar", str(home / "layers.tar"))
    with SQLMetadataStore(home / "layers.db") as store:
        fill(store, 16)


def export_tar(home: Path, acknowledge: Acknowledge) -> None:
    run(home, "export", "--tar", "--overwrite", str(home / "layers.tar"))
    acknowledge(1)


def archive(home: Path) -> Content:
    path = home / "layers.tar"
    return {ALL: path.read_bytes() if path.exists() else None}


def a_damaged_directory(home: Path) -> None:
    older_files(home)
    for number in range(3):
        write_file(home / "distribution", LISTS, layer_key(40 + number), b"[{%d" % number)
    write_file(home / "distribution", MAPPINGS, layer_key(1003), b"")
    (home / "distribution" / MAPPINGS / layer_key(1004)).unlink()


def repair_files(home: Path, acknowledge: Acknowledge) -> None:
    verify(home / "distribution", repair=True)
    acknowledge(1)


def kept_files(home: Path) -> Content:
    """Return which values are anywhere: in their place, or in a quarantine beside the directory."""
    found: dict[Any, Any] = dict.fromkeys(files_below(home).items(), True)
    for aside in home.glob("distribution.quarantine/*"):
        found.update(dict.fromkeys(((path, file.value) for path, file in entries_of(aside).items()), True))
    return found
