"""Imports run one way only, what is SQLite's stays under `sql/`, and what needs no SQLAlchemy does not load it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.structure.source import MODULES, ROOT, imports

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([\w/]+)`", cell)


def table(heading: str) -> list[tuple[str, str]]:
    """Return the two columns of a table of the page, below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", section, re.MULTILINE)
    assert rows
    return rows


# From top to bottom, by the first name below the package.
LAYERS = [set(names_in(floor)) for floor, _ in table("The map")]
LAYERS[0].add("__main__")
FOLDERS = {folder.strip("`/").replace("/", "."): names_in(modules) for folder, modules in table("Inside the folders")}
SERVICES = ["layerstore.v1", "layerstore.v2", "layerstore.hmac"]
WHAT_SERVICES_KNOW = {
    "arguments",
    "blobs",
    "digest",
    "errors",
    "gojson",
    "hmac",
    "keys",
    "records",
    "repository",
    "store",
    "warnings",
}
DATABASE = {"sqlalchemy", "alembic", "sqlite3", "aiosqlite", "psycopg"}
INNER = sorted(set(MODULES) - {"layerstore"})


def rank(module: str) -> int:
    name = module.split(".")[1]
    found = [number for number, layer in enumerate(LAYERS) if name in layer]
    assert found, f"{module} has no place in the order of imports: give it one, here and in the design"
    return found[0]


@pytest.mark.parametrize("module", INNER)
def test_imports_run_from_top_to_bottom(module: str):
    upwards = [
        f"line {found.line}: {found.module}"
        for found in imports(MODULES[module])
        if found.module.startswith("layerstore.") and rank(found.module) < rank(module)
    ]

    assert upwards == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_from_left_to_right_inside_a_folder(folder: str):
    """In the row of the page, which names every module."""
    here = f"layerstore.{folder}."
    order = {f"{here}{module}": place for place, module in enumerate(FOLDERS[folder])}
    there = {module for module, path in MODULES.items() if module.startswith(here) and path.name != "__init__.py"}
    assert set(order) == {module for module in there if "." not in module.removeprefix(here)}
    backwards = [
        f"{module}, line {found.line}: {found.module}"
        for module in order
        for found in imports(MODULES[module])
        if order.get(found.module, len(order)) < order[module] and not found.for_types_only
    ]

    assert backwards == []


def test_every_folder_is_on_the_page():
    modules = [module.split(".")[1:-1] for module, path in MODULES.items() if path.name != "__init__.py"]

    assert {".".join(folder) for folder in modules if folder} == set(FOLDERS)


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {
            found.module for found in imports(MODULES[module]) if found.module in MODULES and not found.for_types_only
        }
        - {module, "layerstore"}
        for module in INNER
    }

    assert len(list(TopologicalSorter(graph).static_order())) >= len(INNER)


@pytest.mark.parametrize("module", SERVICES)
def test_the_services_know_only_store(module: str):
    known = {found.module.split(".")[1] for found in imports(MODULES[module]) if found.module.startswith("layerstore.")}

    assert known
    assert known <= WHAT_SERVICES_KNOW


@pytest.mark.parametrize("module", INNER)
def test_databases_are_imported_under_sql_only(module: str):
    """But for the driver of the cache that Podman keeps in SQLite."""
    found = {found.module.partition(".")[0] for found in imports(MODULES[module])} & DATABASE
    if module == "layerstore.formats.containers":
        found -= {"sqlite3"}

    assert found == set() or module.startswith("layerstore.sql.")
    assert "sqlite3" not in found or module.startswith("layerstore.sql.sqlite.")
    assert "psycopg" not in found or module.startswith("layerstore.sql.postgresql.")


@pytest.mark.parametrize("module", [module for module in INNER if module.startswith("layerstore.transfer.")])
def test_no_work_between_collections_asks_for_a_stores_class(module: str):
    asked = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass", "type")
        if "MetadataStore" in ast.unparse(node)
    ]

    assert asked == []


@pytest.mark.parametrize("module", INNER)
def test_alembic_is_imported_by_the_migrations_alone_and_late(module: str):
    """It takes half a second: at the top of no module."""
    found = [found for found in imports(MODULES[module]) if found.module.partition(".")[0] == "alembic"]

    assert found == [] or module == "layerstore.sql.migrate"
    lines = MODULES[module].read_text().splitlines()
    assert all(lines[each.line - 1].startswith("    ") for each in found)


@pytest.mark.parametrize("module", INNER)
def test_datasette_is_imported_by_the_pages_alone(module: str):
    found = {found.module.partition(".")[0] for found in imports(MODULES[module])} & {"datasette", "uvicorn"}

    assert found == set() or module.startswith("layerstore.web.")


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the first names of the modules that are loaded afterwards."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


HEAVY = {"sqlalchemy", "alembic", "sqlite3", "rich", "click", "datasette", "uvicorn"}


@pytest.mark.parametrize(
    "code",
    [
        "import layerstore",
        "import layerstore; dir(layerstore)",
        "from layerstore import Digest, DiffID, LayerstoreError, NotFoundError, StoreError, Store",
        "from layerstore import FSMetadataStore, V1IDService, V2Metadata, V2MetadataService",
        "from layerstore import AuthConfig, compute_hmac, compute_hmac_key, check_hmac",
        "from layerstore import mount_candidates, existence_candidates, push_attempts",
    ],
)
def test_what_needs_no_database_loads_none(code: str):
    assert loaded_by(code) & HEAVY == set()


WITH_A_STORE = (
    "from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService\nstore = SQLMetadataStore(':memory:')\n"
)
ADD = "V2MetadataService(store).add(layer := 'sha256:' + '1' * 64, V2Metadata(layer, 'localhost:5000/a'))\n"


@pytest.mark.parametrize(
    "code",
    [
        "store.set('n', 'k', b'')\nstore.get('n', 'k')",
        ADD,
        f"{ADD}V2MetadataService(store).get_metadata(layer)\nV2MetadataService(store).get_diff_ids([layer])",
        f"{ADD}V2MetadataService(store).remove(V2Metadata(layer, 'localhost:5000/a'))",
        "with store.transaction(): store.set('n', 'k', b'')\nlist(store.entries())",
    ],
)
def test_a_first_write_and_lookup_load_sqlite_and_no_sqlalchemy(code: str):
    """Making the database included. Importing SQLAlchemy takes five times as long as all the rest."""
    assert loaded_by(WITH_A_STORE + code) & HEAVY == {"sqlite3"}


def test_the_engine_loads_sqlalchemy_and_not_alembic():
    """The control of the test above: SQLAlchemy is there when somebody asks for it."""
    assert loaded_by(f"{WITH_A_STORE}store.engine") & HEAVY == {"sqlalchemy", "sqlite3"}


@pytest.mark.parametrize("module", INNER)
def test_sqlalchemy_is_imported_late_but_by_what_is_core(module: str):
    found = {found.line for found in imports(MODULES[module]) if found.module.partition(".")[0] == "sqlalchemy"}
    lines = MODULES[module].read_text().splitlines()

    assert all(lines[line - 1].startswith("    ") for line in found) or module in (
        "layerstore.sql.tables",
        "layerstore.sql.sqlite.core",
        "layerstore.sql.postgresql.schema",
    )
