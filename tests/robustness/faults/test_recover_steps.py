"""What docs/repair.md says to do when the database is damaged leads to a store that has everything, both ways."""

from __future__ import annotations

import functools
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import NotFoundError, SQLMetadataStore, V2Metadata, V2MetadataService, diff
from layerstore.transfer.recovering import recover
from tests.conftest import OpenSQL
from tests.robustness.faults.damaged import PAGE, fill, held_by, noise, rows
from tests.support.command import BAD, GOLDEN, Run, database, run, run_process
from tests.support.counting import Counted
from tests.support.strategies import sha256

__all__ = ["database", "run", "run_process"]  # fixtures of the command's tests

LIBRARY = os.environ.get("LAYERSTORE_RECOVERING_SQLITE", "")


def sqlite3_program(*arguments: object, stdin: bytes = b"") -> bytes:
    """Run `sqlite3`, with the library that can recover if there is one; return what it printed."""
    environment = {**os.environ, "LD_LIBRARY_PATH": LIBRARY} if LIBRARY else None
    done = subprocess.run(
        ["sqlite3", *map(str, arguments)], input=stdin, capture_output=True, check=False, env=environment
    )
    return done.stdout


@functools.cache
def recovers() -> bool:
    """Tell whether `sqlite3` can recover; many are built without what it needs."""
    if shutil.which("sqlite3") is None:
        return False
    return b"INSERT" in sqlite3_program(stdin=b"CREATE TABLE t (x); INSERT INTO t VALUES (1);\n.recover\n")


def recover_by_sqlite3(broken: Path, found: Path) -> None:
    """Do the first half of what the page says of `sqlite3`."""
    if not recovers():
        assert not LIBRARY, f"sqlite3 cannot recover with the library of {LIBRARY}"
        pytest.skip("no sqlite3 that recovers: `.ci/sqlite 3.40 FOLDER`, then set LAYERSTORE_RECOVERING_SQLITE=FOLDER")
    sqlite3_program(found, stdin=sqlite3_program(broken, ".recover --ignore-freelist"))


@pytest.fixture(params=["layerstore recover", "sqlite3 .recover"])
def recovery(request: pytest.FixtureRequest, run_process: Run) -> Callable[[Path, Path], None]:
    """Both ways that the page gives for its second step."""

    def by_layerstore(broken: Path, new: Path) -> None:
        result = run_process("recover", broken, new)
        assert result.code == 1
        assert "pages could not be read in full" in result.out

    def by_sqlite3(broken: Path, new: Path) -> None:
        found = new.with_name("found.db")
        recover_by_sqlite3(broken, found)
        assert run_process("recover", found, new).code in (0, 1)

    return by_layerstore if request.param == "layerstore recover" else by_sqlite3


def test_what_sqlite3_does_not_know_the_table_of_comes_out_of_its_lost_and_found(
    broken: Path, tmp_path: Path, open_sql: OpenSQL, counted: Counted
):
    """The schema is noise: every row is in `lost_and_found`. What was deleted stays so."""
    everything = fill(broken)
    deleted = [place for place in everything if place[0] == "v1id" or place[1] == "long/011"]
    with SQLMetadataStore(broken) as store:
        for place in deleted:
            store.delete(*place)
        quarantined = rows(store, "SELECT namespace, key, value, reason, quarantined_at_ns FROM quarantine")
    with open(broken, "r+b") as file:
        file.seek(100)  # behind the header, where the schema's tree has its root
        file.write(random.Random(1).randbytes(PAGE - 100))
    counted("faults")

    recover_by_sqlite3(broken, tmp_path / "found.db")
    recover(tmp_path / "found.db", tmp_path / "new.db")

    with closing(sqlite3.connect(tmp_path / "found.db")) as connection:
        assert [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")] == ["lost_and_found"]
    new = open_sql(tmp_path / "new.db")
    found = {(record.namespace, record.key): record for record in new._records()}
    assert found == {place: record for place, record in everything.items() if place not in deleted}
    assert rows(new, "SELECT namespace, key, value, reason, quarantined_at_ns FROM quarantine") == quarantined


@pytest.mark.parametrize("seed", [1, 2])
def test_the_steps_of_the_readme_lead_to_a_store_that_has_everything(
    recovery: Callable[[Path, Path], None], seed: int, run_process: Run, tmp_path: Path, counted: Counted
):
    """Noise in some pages, then exactly what the page says; what the pages lost comes from where it came before."""
    layers = tmp_path / "state" / "layers.db"
    assert run_process("--db", layers, "import", GOLDEN).code == 0
    assert run_process("--db", layers, "set", "n", "k", "mine").code == 0
    count = layers.stat().st_size // PAGE
    luck = random.Random(seed)
    pages = luck.sample(range(2, count + 1), 12)
    noise(layers, pages, luck)
    counted("faults", len(pages))
    found = run_process("--db", layers, "verify")
    assert found.code in (1, BAD)

    (tmp_path / "elsewhere").mkdir()
    subprocess.run(["cp", "-a", layers, tmp_path / "elsewhere"], check=True)
    new = tmp_path / "state" / "new.db"
    recovery(layers, new)
    assert run_process("--db", new, "verify", "--repair").code in (0, 1)
    assert run_process("--db", new, "import", GOLDEN).code in (0, 1)
    for name in layers.parent.glob("layers.db*"):
        name.unlink()
    new.rename(layers)

    assert run_process("--db", layers, "verify").code == 0
    with SQLMetadataStore(layers) as store:
        differences = diff(store, GOLDEN)
        assert (differences.only_right, differences.differing) == ((), ())
        try:
            assert store.get("n", "k") == b"mine"
        except NotFoundError:
            assert {("n", "k")} & held_by(tmp_path / "elsewhere" / "layers.db")[0] == set()
        V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2)))


def test_the_page_has_these_steps():
    text = (Path(__file__).parents[3] / "docs" / "repair.md").read_text()
    steps = " ".join(text.partition("## When the database is damaged")[2].partition("\n## ")[0].split())

    places = [
        steps.find(step)
        for step in (
            "cp -a layers.db layers.db-wal elsewhere/",
            "layerstore recover layers.db new.db",
            "sqlite3 layers.db '.recover --ignore-freelist' | sqlite3 found.db",
            "layerstore recover found.db new.db",
            "layerstore --db new.db verify --repair",
            "layerstore --db new.db import",
            "mv new.db layers.db",
        )
    ]
    assert -1 not in places
    assert places == sorted(places)
