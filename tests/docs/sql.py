"""What docs/sql.md says: the names with their columns, the lookups, the examples with their answers."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from layerstore import SQLMetadataStore, import_directory

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "docker-20.10.24" / "distribution"
SECTION = (ROOT / "docs" / "sql.md").read_text()
_CELL = r"((?:[^|\\]|\\\|)*)"

NAMES = {
    name: re.findall(r"`(\w+)`", columns)
    for name, columns in re.findall(rf"^\| `(\w+)` \| {_CELL} \|$", SECTION, re.MULTILINE)
}
LOOKUPS = {
    question: sql.replace("\\|", "|")
    for question, sql in re.findall(rf"^\| {_CELL} \| `{_CELL}` \|$", SECTION, re.MULTILINE)
    if sql.startswith("SELECT")
}
ANSWERS = dict(re.findall(r"^```sql\n(.*?)\n```\n\n```\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL))
VIEWS_ASKED = re.findall(r"^`(\w+)`: .*\?", SECTION, re.MULTILINE)
(DELETED,) = re.findall(r"`layerstore delete (\S+)\s+(\S+)`", SECTION)


def asked_for(sql: str) -> list[str]:
    """Return what each `?` of a lookup stands for: a column, the `prefix` of a name, or a `day`."""
    return [
        "prefix" if before.endswith("GLOB ") else "day" if "strftime" in before else re.split(r"[ .]", before)[-3]
        for before in sql.split("?")[:-1]
    ]


def fixture_database(folder: Path) -> Path:
    """Make the database that the page's answers come from: the directory of a daemon, its files a minute apart."""
    tree = shutil.copytree(GOLDEN, folder / "distribution")
    for number, path in enumerate(sorted(path for path in tree.rglob("*") if path.is_file())):
        os.utime(path, (1_714_564_800 + 60 * number,) * 2)
    with SQLMetadataStore(folder / "fixture.db") as store:
        import_directory(store, tree)
    return folder / "fixture.db"
