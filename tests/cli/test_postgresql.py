"""Every command on a database on a server: the same words and the same answers as on a file."""

from __future__ import annotations

import json
import re
import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import (
    AuthConfig,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    compute_hmac_key,
    import_directory,
)
from tests.conftest import assert_sound, database_rows
from tests.docker.conftest import FIRST, SECOND, DataRoot, data_root
from tests.support.command import BAD, DONE, FOUND, GOLDEN, GOLDEN_FILES, Run
from tests.support.postgresql import Server, drop_schema, new_schema
from tests.support.strategies import sha256
from tests.web.conftest import serving

__all__ = ["data_root"]

SECRET = "s3cr3t-w0rd"
LAYER = "sha256:15a6e8a8ae10"
ANSWERS = (
    ("show", LAYER, "--json"),
    ("show", "localhost:5000/team1", "--json"),
    ("list", "--json"),
    ("candidates", LAYER, "localhost:5000/new/app", "--json"),
    ("query", "@repositories", "--json"),
    ("query", "@registry", "localhost:5000", "--json"),
    ("query", "@layer", LAYER, "--json"),
    ("query", "@places", LAYER, "--json"),
    ("query", "SELECT * FROM v2_metadata ORDER BY diff_id, digest, source_repository, hmac", "--format", "csv"),
    ("query", "SELECT * FROM diff_id_by_digest ORDER BY digest", "--format", "csv"),
    ("query", "SELECT diff_id FROM diff_id_by_digest WHERE digest = ?", "sha256:" + "0" * 64, "--json"),
    ("verify", "--json"),
    ("diff", str(GOLDEN), "--json"),
    ("schema", "current", "--json"),
    ("schema", "history"),
    ("quarantine", "list", "--json"),
    ("prune", "--registry", "localhost:5000", "--dry-run"),
    ("get", "n", "absent"),
    ("delete", "n", "absent"),
)


@pytest.fixture
def url(postgresql_url: str) -> str:
    """With a password, which the server does not ask for."""
    return f"{postgresql_url}&password={SECRET}"


@pytest.fixture
def served(run: Run, url: str, imported: Path) -> str:
    assert imported.exists()
    assert run("--db", url, "import", GOLDEN).code == DONE
    return url


def said(text: str, place: str) -> str:
    """Return what a command has said, with one word for where the store is."""
    return text.replace(place, "STORE")


@pytest.fixture(scope="module")
def asked(postgresql_server: Server) -> Iterator[str]:
    """The same for all commands that only ask."""
    name = new_schema(postgresql_server)
    url = postgresql_server.url(name)
    with SQLMetadataStore(url) as store:
        import_directory(store, GOLDEN)
        there = list(store.entries())
    yield f"{url}&password={SECRET}"
    with SQLMetadataStore(url) as store:
        assert list(store.entries()) == there
        assert_sound(store)
    drop_schema(postgresql_server, name)


@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_a_command_answers_as_on_a_file(run: Run, asked: str, imported: Path, arguments: tuple[str, ...]):
    on_file = run("--db", imported, *arguments)
    on_server = run("--db", asked, *arguments)

    shown = asked.replace(f"&password={SECRET}", "")
    assert (on_server.code, said(on_server.out, shown)) == (on_file.code, said(on_file.out, str(imported)))
    assert said(on_server.err, shown) == said(on_file.err, str(imported))


def test_what_goes_in_comes_out_byte_for_byte(run: Run, served: str, tmp_path: Path):
    assert run("--db", served, "export", tmp_path / "out").code == DONE

    files = {path.relative_to(GOLDEN): path for path in GOLDEN.rglob("*") if path.is_file()}
    assert len(files) == GOLDEN_FILES
    for name, path in files.items():
        assert (tmp_path / "out" / name).read_bytes() == path.read_bytes()


def test_a_store_moves_to_a_file_and_back(run: Run, served: str, tmp_path: Path):
    copy = tmp_path / "copy.db"
    assert run("--db", copy, "import", served).code == DONE
    with SQLMetadataStore(copy) as file, SQLMetadataStore(served) as server:
        rows = "SELECT namespace, key, modified_at_ns FROM metadata ORDER BY namespace, key"
        assert list(file.entries()) == list(server.entries())
        assert sorted(database_rows(file, rows)) == sorted(database_rows(server, rows))

    assert run("--db", served, "prune", "--registry", "localhost:5000", "--yes").code == DONE
    assert run("diff", served, copy).code == FOUND
    assert run("--db", served, "import", copy).code == DONE
    assert run("diff", served, copy).code == DONE


def test_values_are_written_set_aside_and_put_back(run: Run, served: str):
    key = f"sha256/{1:064x}"
    assert run("--db", served, "set", "v2metadata-by-diffid", key, "--force", stdin=b"no list").code == DONE
    assert run("--db", served, "verify").code == FOUND
    assert run("--db", served, "verify", "--repair").code == DONE
    [aside] = run("--db", served, "quarantine", "list", "--json").json
    assert run("--db", served, "quarantine", "show", aside["number"]).raw == b"no list"
    assert run("--db", served, "quarantine", "drop", aside["number"]).code == DONE
    assert run("--db", served, "quarantine", "list", "--json").json == []
    assert run("--db", served, "set", "n", "k", stdin=b"value").code == DONE
    assert run("--db", served, "get", "n", "k").raw == b"value"
    assert run("--db", served, "delete", "n", "k").code == DONE


def test_the_numbers_are_those_of_the_file_but_its_size(run: Run, served: str, imported: Path):
    for one in (
        (on_file := run("--db", imported, "stats", "--json").json),
        run("--db", served, "stats", "--json").json,
    ):
        for name in ("path", "file_bytes", "wal_bytes"):
            one.pop(name)
        assert one == on_file
    assert "write-ahead" not in run("--db", served, "stats").out


def test_a_query_only_reads(run: Run, served: str):
    for statement in ("DELETE FROM metadata", "WITH d AS (DELETE FROM metadata RETURNING 1) SELECT * FROM d"):
        assert run("--db", served, "query", statement).code == BAD
    assert "full scan" in run("--db", served, "query", "--explain", "SELECT * FROM v2_metadata").out
    assert len(run("--db", served, "list", "--json").json) > 80


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (("backup", "/nowhere/copy.db"), "pg_dump"),
        (("recover", "postgresql:///layers", "/nowhere/new.db"), "pg_amcheck"),
        (("schema", "downgrade", "0002"), "0003"),
    ],
)
def test_what_a_server_cannot_do_names_what_to_use(run: Run, served: str, arguments: tuple[str, ...], instead: str):
    done = run("--db", served, *arguments)

    assert done.code in (BAD, 2)
    assert instead in done.err


def test_no_command_says_the_password(run: Run, served: str, tmp_path: Path):
    commands = [*ANSWERS, ("stats",), ("stats", "--json"), ("export", str(tmp_path / "out")), ("import", str(GOLDEN))]
    commands += [("get", "", ""), ("query", "nonsense"), ("backup", "/nowhere/x"), ("recover", "y"), ("prune",)]
    broken = served.replace("host=", "host=/nowhere/")
    for db in (served, broken, f"{served}&nonsense=1"):
        for arguments in commands:
            done = run("--db", db, *arguments)
            assert SECRET not in done.out + done.err, arguments


def test_what_postgresql_alone_cannot_hold_is_quarantined_and_counted(run: Run, served: str, tmp_path: Path):
    source = tmp_path / "source.db"
    with SQLMetadataStore(source) as store:
        store.set("v2metadata-by-diffid", f"sha256/{1:064x}", b'[{"Digest":"a:b","SourceRepository":"r\\u0000"}]')
        store.set("n", "fine", b"")

    done = run("--db", served, "import", source, "--json")
    assert done.code == FOUND
    assert (done.json["added"], done.json["unchanged"], done.json["quarantined_count"]) == (1, 0, 1)
    [aside] = run("--db", served, "quarantine", "list", "--json").json
    assert "NUL" in aside["reason"]


def test_a_dry_run_counts_beside_what_the_server_has_and_writes_nothing(run: Run, served: str, tmp_path: Path):
    source = tmp_path / "source.db"
    with SQLMetadataStore(served) as store:
        there = list(store.entries())
    with SQLMetadataStore(source) as store:
        store.set_many([*there, ("n", "new", b"")])

    done = run("--db", served, "import", source, "--dry-run", "--json")

    assert done.code == DONE
    assert (done.json["added"], done.json["unchanged"]) == (1, len(there))
    with SQLMetadataStore(served) as store:
        assert list(store.entries()) == there


def test_a_plan_mounts_what_the_server_knows(
    run: Run, url: str, data_root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no credentials"))
    image = data_root.image(["team/app:1.0"], [(FIRST, 5), (SECOND, 200_000)])
    with SQLMetadataStore(url) as store:
        v2 = V2MetadataService(store)
        key = compute_hmac_key(AuthConfig())
        v2.tag_and_add(FIRST, key, V2Metadata(sha256(1), "localhost:5000/team/base"))
        v2.tag_and_add(SECOND, key, V2Metadata(sha256(2), "localhost:5000/team/app"))

    line = ("plan", image, "localhost:5000/team/app", "--data-root", data_root.path, "--json")
    found = run("--db", url, *line)

    assert found.code == DONE
    assert [(layer["diff_id"], layer["action"], layer["source_repository"]) for layer in found.json["layers"]] == [
        (FIRST, "mount", "localhost:5000/team/base"),
        (SECOND, "exists", None),
    ]
    assert SECRET not in found.out + found.err


def test_serve_shows_a_copy_and_says_from_when(served: str):
    """Somebody's writes from then on are not in it, and its end leaves neither the copy nor a session."""
    before = set(Path(tempfile.gettempdir()).glob("layerstore-serve-*"))
    said: list[str] = []
    with serving(served, said=said) as (process, address):
        with SQLMetadataStore(served) as store:
            V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2), "localhost:5000/later/app"))
        with urllib.request.urlopen(f"{address}store/metadata.json?_shape=array&_size=max", timeout=30) as answer:
            shown = {(row["namespace"], row["key"]) for row in json.load(answer)}
        assert len(shown) > 80
        assert ("v2metadata-by-diffid", sha256(1).replace(":", "/")) not in shown
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0

    assert re.match(r"shows a copy of postgresql:\S+ as it was at \d{4}-\d\d-\d\d \S+ UTC: start again", said[0]), said
    assert SECRET not in said[0]
    assert set(Path(tempfile.gettempdir()).glob("layerstore-serve-*")) == before
