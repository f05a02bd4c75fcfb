"""Nothing is removed or mended under a running daemon, unless it is forced; everything else may be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, export_directory, verify
from tests.support.command import BAD, DONE, FOUND, Run, assert_one_line_error
from tests.support.daemons import Lock
from tests.support.entries import LISTS, entries, files_of, layer_key, write_file

MIRROR = ("--on-conflict", "replace", "--delete")


@pytest.fixture
def busy(root: Path, lock: Lock) -> Path:
    """A metadata directory under a daemon, with an entry that no store has and one that cannot be read."""
    lock(root / "volumes" / "metadata.db")
    base = root / "image" / "overlay2" / "distribution"
    write_file(base, LISTS, layer_key(1), b"")
    write_file(base, "n", "extra", b"extra")
    return base


@pytest.fixture
def one_list(database: Path) -> Path:
    with SQLMetadataStore(database) as store:
        store.set(LISTS, layer_key(2), entries(3))
    return database


def test_an_export_that_replaces_is_refused_and_obeys_force(busy: Path, one_list: Path, run: Run):
    before = files_of(busy)

    refused = run("export", "--on-conflict", "replace", busy)
    assert refused.code == BAD
    assert_one_line_error(refused, busy, "--force")
    assert files_of(busy) == before

    forced = run("export", "--on-conflict", "replace", "--force", busy)
    assert forced.code == DONE
    assert files_of(busy).keys() == {*before, f"{LISTS}/{layer_key(2)}"}
    assert one_list.exists()


def test_export_with_delete_is_refused_and_obeys_force(busy: Path, one_list: Path, run: Run):
    before = files_of(busy)

    refused = run("export", *MIRROR, busy)
    assert refused.code == BAD
    assert_one_line_error(refused, busy, "--force")
    assert files_of(busy) == before

    forced = run("export", *MIRROR, "--force", "--json", busy)
    assert (forced.code, forced.json["deleted"]) == (DONE, 2)
    assert set(files_of(busy)) == {f"{LISTS}/{layer_key(2)}"}
    assert one_list.exists()


def test_export_with_delete_into_a_data_root_is_refused(busy: Path, one_list: Path, run: Run):
    before = files_of(busy)

    refused = run("export", *MIRROR, "--data-root", busy.parents[2], "--driver", "overlay2")

    assert refused.code == BAD
    assert_one_line_error(refused, busy, "--force")
    assert files_of(busy) == before
    assert one_list.exists()


@pytest.mark.parametrize(
    "options", [(), (*MIRROR, "--dry-run"), ("--dry-run",), ("--on-conflict", "keep")], ids=" ".join
)
def test_an_export_that_removes_nothing_is_not_refused(options: tuple[str, ...], busy: Path, one_list: Path, run: Run):
    before = files_of(busy)

    assert run("export", *options, busy).code == DONE

    assert files_of(busy).items() >= before.items()
    assert one_list.exists()


@pytest.mark.parametrize("place", ["distribution", "data root"])
def test_repair_is_refused_and_obeys_force(place: str, busy: Path, database: Path, run: Run):
    path = busy if place == "distribution" else busy.parents[2]
    before = files_of(busy.parent)

    refused = run("verify", "--repair", path)
    assert refused.code == BAD
    assert_one_line_error(refused, busy, "--force")
    assert files_of(busy.parent) == before

    assert run("verify", "--repair", "--force", path).code == DONE
    assert set(files_of(busy)) == {"n/extra"}
    assert not database.exists()


def test_looking_is_not_refused(busy: Path, run: Run):
    before = files_of(busy)

    assert run("verify", busy).code == FOUND
    assert run("import", busy).code == FOUND
    assert run("diff", busy).code == FOUND

    assert files_of(busy) == before


def test_the_library_refuses_too_and_names_the_directory(busy: Path, sql_file: SQLMetadataStore):
    before = files_of(busy)

    for work in (lambda: export_directory(sql_file, busy, on_conflict="replace"), lambda: verify(busy, repair=True)):
        with pytest.raises(TransferError, match="daemon") as raised:
            work()
        assert raised.value.path == str(busy)
    assert files_of(busy) == before


def test_a_data_root_beside_the_daemons_is_not_refused(busy: Path, one_list: Path, run: Run):
    other = busy.parents[3] / "docker-b" / "image" / "overlay2" / "distribution"
    write_file(other, "n", "extra", b"extra")
    write_file(other, LISTS, layer_key(1), b"")

    assert run("verify", "--repair", other).code == DONE
    assert run("export", *MIRROR, other).code == DONE
    assert set(files_of(other)) == {f"{LISTS}/{layer_key(2)}"}
    assert one_list.exists()
