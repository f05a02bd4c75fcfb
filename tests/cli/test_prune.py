"""The command `prune`: what it says, as JSON too, and how it ends."""

from __future__ import annotations

from pathlib import Path

from layerstore import SQLMetadataStore
from tests.support.command import BAD, DONE, FOUND, USAGE, Run, assert_one_line_error
from tests.support.entries import LISTS, layer_key
from tests.transfer.prune.conftest import OLD, OURS, a_list, fill, make_layerdb, mapping, places


def fill_database(path: Path, layers: int = 3) -> None:
    with SQLMetadataStore(path) as store:
        for layer in range(1, layers + 1):
            fill(store, [a_list(layer, (layer + 1000, OLD), (layer + 1000, OURS)), mapping(layer + 1000, layer)])


def test_it_says_what_it_would_remove_and_removes_it_and_an_import_restores_it(
    run: Run, database: Path, tmp_path: Path
):
    fill_database(database)
    root = make_layerdb(tmp_path / "docker", [1])

    dry = run("prune", "--dry-run", "--keep-layers", root)
    assert (dry.code, dry.err) == (DONE, "")
    assert dry.out.splitlines() == [
        f"would remove {LISTS}/{layer_key(2)}",
        f"would remove {LISTS}/{layer_key(3)}",
        f"would remove diffid-by-digest/{layer_key(1002)}",
        f"would remove diffid-by-digest/{layer_key(1003)}",
        f"would prune {database}: 2 lists, 4 associations, 2 mappings of 6 entries",
    ]

    wet = run("prune", "--keep-layers", root, "--to", tmp_path / "gone.tar")
    assert wet.out.splitlines()[:2] == [
        f"pruned {database}: 2 lists, 4 associations, 2 mappings of 6 entries",
        f"the removed entries are in {tmp_path / 'gone.tar'}: `layerstore import` restores them",
    ]
    assert run("import", tmp_path / "gone.tar").code == DONE
    assert run("verify").code == DONE
    with SQLMetadataStore(database) as store:
        assert len(places(store)) == 6


def test_of_many_it_shows_a_few(run: Run, database: Path):
    fill_database(database, 30)

    said = run("prune", "-n", "--repository", OLD).out.splitlines()

    assert len(said) == 22
    assert said[20] == "and 10 more"
    assert said[21] == f"would prune {database}: 30 lists shortened, 30 associations of 60 entries"


def test_as_json_it_has_every_field(run: Run, database: Path):
    fill_database(database)

    report = run("prune", "--json", "--keep-newest", 1, "--vacuum").json

    assert {**report, "examples": len(report["examples"])} == {
        "path": str(database),
        "checked": 6,
        "lists": 0,
        "shortened": 3,
        "associations": 3,
        "mappings": 0,
        "v1_ids": 0,
        "blobs": 0,
        "locations": 0,
        "unreadable": 0,
        "changed": 0,
        "temporary": 0,
        "examples": 3,
        "archive": None,
        "free_bytes": 0,
        "vacuumed": True,
        "unknown": [],
        "is_empty": False,
        "dry_run": False,
        "ok": True,
    }


def test_quiet_it_says_nothing(run: Run, database: Path):
    fill_database(database)

    assert run("prune", "-q", "--older-than", "1d").raw == b""


def test_what_was_left_alone_is_said(run: Run, database: Path):
    fill_database(database, 1)
    with SQLMetadataStore(database) as store:
        store.set(LISTS, layer_key(7), b"[")

    said = run("prune", "--registry", "old.example.com").out

    assert "kept 1 unreadable entry: see `layerstore verify`" in said
    run("verify", "--repair")


def test_space_that_is_left_is_said(run: Run, database: Path):
    fill_database(database, 300)

    assert "of the file are free for later writes: --vacuum" in run("prune", "--older-than", "1d").out
    assert "--vacuum" not in run("prune", "--vacuum").out


def test_it_prints_the_command_that_mirrors_and_that_command_does(run: Run, database: Path, tmp_path: Path):
    """A merge brings back what was pruned."""
    fill_database(database)
    target = tmp_path / "distribution"
    run("export", target)

    assert "export" not in run("prune", "--dry-run", "--older-than", "1d").out
    said = run("prune", "--older-than", "1d").out.splitlines()
    assert "export" not in run("prune", "--older-than", "1d").out

    assert run("diff", target).code == FOUND
    (command,) = [line.strip() for line in said if line.startswith("  layerstore export ")]
    done = run(*command.replace("DIR", str(target)).split()[1:])
    assert (done.code, run("diff", target).code) == (DONE, DONE)


def test_a_directory_is_pruned_by_its_path(run: Run, tmp_path: Path):
    root = make_layerdb(tmp_path / "docker", [1])
    base = root / "image" / "overlay2" / "distribution" / LISTS / "sha256"
    base.mkdir(parents=True)
    (base / ".tmp-left1").touch()
    record = a_list(2, (1, OLD))
    (base / record.key.removeprefix("sha256/")).write_bytes(record.value)

    said = run("prune", root, "--keep-layers", root, "--temporary")

    assert said.out == f"pruned {root}: 1 list, 1 association, 1 temporary file of 1 entry\n"
    assert list(base.iterdir()) == []


def test_without_a_criterion_it_is_wrong_usage(run: Run, database: Path):
    fill_database(database)

    assert run("prune").code == USAGE
    assert run("prune", "--dry-run").code == USAGE
    assert run("prune", "--keep-newest", "0").code == USAGE


def test_what_is_not_known_is_an_error_in_one_line(run: Run, database: Path, tmp_path: Path):
    fill_database(database)

    for arguments in (["--keep-layers", tmp_path], ["--older-than", "soon"], ["--repository", "A:b"]):
        refused = run("prune", *arguments)
        assert refused.code == BAD
        assert_one_line_error(refused)
    assert run("--db", tmp_path / "missing.db", "prune", "--older-than", "1d").code == BAD
