"""The file and its views answer in the SQLite of Debian 11 and RHEL 9: the same rows, by the same indexes.

`.ci/sqlite 3.34 FOLDER` makes that SQLite, and `LAYERSTORE_OLD_SQLITE=FOLDER` says where it is.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from layerstore.blobs import BlobRecord, encode
from layerstore.keys import BLOBS
from layerstore.sql.questions import QUESTIONS
from tests.conftest import sqlite_of
from tests.docs.sql import ANSWERS, LOOKUPS, ROOT, asked_for, fixture_database
from tests.support.strategies import sha256

FOLDER = os.environ.get("LAYERSTORE_OLD_SQLITE", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="no SQLite 3.34: make it with `.ci/sqlite 3.34 FOLDER`, then set LAYERSTORE_OLD_SQLITE=FOLDER"
)

# What is run there: a bare connection, as any program's is.
PROGRAM = """
import json, sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
queries = json.load(sys.stdin)
print(json.dumps([sqlite3.sqlite_version, [connection.execute(*query).fetchall() for query in queries]]))
"""


def there(*arguments: object, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": FOLDER, "LAYERSTORE_OLD_SQLITE": ""},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def queries(database: Path) -> list[tuple[str, object]]:
    """Return every documented query with values that find something, and the whole of each view."""
    with SQLMetadataStore(database) as store:
        layer, digest, repository = sqlite_of(store).run(
            "SELECT diff_id, digest, source_repository FROM v2_metadata LIMIT 1"
        )[0]
        store.set("v1id", f"registry1,{'a' * 64}", layer.encode())
        store.set("diffid-by-digest", sha256(7).replace(":", "/"), layer.encode())
        blob = BlobRecord(diff_id=layer, compression="gzip", locations={repository: 1})
        store.set(BLOBS, digest.replace(":", "/"), encode(blob))
        store.quarantine("n", "k", b"", "reason")
    values = {
        "diff_id": layer,
        "digest": digest,
        "source_repository": repository,
        "registry": "registry1",
        "v1_id": "a" * 64,
        "namespace": "n",
        "key": "k",
        "prefix": "localhost:5000/*",
        "day": "2024-05-01",
    }
    views = (
        "layers",
        "repositories",
        "registries",
        "shared_layers",
        "unlisted_digests",
        "diff_id_by_digest",
        "v1_ids",
        "places",
    )
    return [
        *((sql, [values[name] for name in asked_for(sql)]) for sql in LOOKUPS.values()),
        *((sql, []) for sql in ANSWERS),
        *((one.sql, {**one.defaults, **{name: values[name] for name in one.needed}}) for one in QUESTIONS),
        *((f"SELECT * FROM {view} ORDER BY 1, 2", []) for view in views),
    ]


def test_every_documented_query_and_view_gives_the_same_rows(tmp_path: Path):
    database = fixture_database(tmp_path)
    asked = queries(database)
    version, found = json.loads(there("-c", PROGRAM, database, stdin=json.dumps(asked)))

    assert version.startswith("3.34.")
    connection = sqlite3.connect(database)
    here = [[list(row) for row in connection.execute(*query)] for query in asked]  # type: ignore[arg-type]
    connection.close()
    assert found == here
    # The digest is in a list, and the registry of the V1 ID has no repository.
    assert sum(map(bool, found)) >= len(asked) - 2


def test_suites_pass_there():
    """Plans, answers, upgrades and writes of the package itself."""
    suites = ["tests/docs/test_sql.py", "tests/sql/test_plans.py", "tests/golden"]
    assert " passed" in there("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *suites)
