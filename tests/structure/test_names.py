"""The public names: fixed by DESIGN, sorted, all there, and the same to a type checker as at run time."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import get_args, get_type_hints

import pytest
from sqlalchemy import Engine

import layerstore
from layerstore import errors
from tests.structure.source import MODULES, PACKAGE, ROOT

FIXED = {
    *("Store", "SQLMetadataStore", "FSMetadataStore", "V1IDService", "V2MetadataService", "V2Metadata"),
    *("Digest", "DiffID", "AuthConfig", "compute_hmac", "check_hmac", "compute_hmac_key"),
    *("mount_candidates", "existence_candidates", "push_attempts"),
    *("import_directory", "export_directory", "verify", "diff"),
    *("ImportReport", "ExportReport", "VerifyReport", "DiffReport"),
}


def names_for_type_checkers() -> list[str]:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    names = []
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name} is not re-exported: write `as {alias.name}`"
            names.append(alias.name)
    return names


def test_all_is_sorted_and_what_a_type_checker_sees():
    dunder, *names = layerstore.__all__

    assert dunder == "__version__"
    assert names == sorted(names)
    assert names == sorted(set(names_for_type_checkers()))
    assert len(names) == len(names_for_type_checkers())


def test_the_fixed_names_are_all_public():
    assert set(layerstore.__all__) >= FIXED
    assert set(layerstore.__all__) >= set(errors.__all__)


@pytest.mark.parametrize("name", layerstore.__all__)
def test_a_public_name_is_there_and_documented(name: str):
    value = getattr(layerstore, name)

    assert name in dir(layerstore)
    if name == "schema":
        assert value.tables["v2_metadata"].columns["diff_id"] is not None
    elif name != "__version__":
        assert value.__name__ == name
        assert inspect.getdoc(value)


# Those that a module imports for its types alone are not in it at run time.
NAMES = {
    name: value
    for module in MODULES
    if not module.endswith("__main__")
    for name, value in vars(import_module(module)).items()
    if not name.startswith("_")
}


def types_in(annotation: object) -> Iterator[type]:
    """Yield the classes of this package and of SQLAlchemy that an annotation is made of."""
    if isinstance(annotation, type) and annotation.__module__.startswith(("layerstore.", "sqlalchemy.")):
        yield annotation
    for part in get_args(annotation):
        yield from types_in(part)


def annotations_of(value: object) -> dict[str, object]:
    """Return the types of a public function, class or method, by their names."""
    value = getattr(value, "__wrapped__", value)
    value = value.fget if isinstance(value, property) else value
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return {}
    return get_type_hints(value, localns={"Engine": Engine, **NAMES, **vars(sys.modules[value.__module__])})


def test_every_type_that_a_public_function_takes_or_gives_can_be_imported():
    missing = set()
    for name in set(layerstore.__all__) - {"Engine", "__version__", "schema"}:
        value = getattr(layerstore, name)
        members = [value]
        if inspect.isclass(value):
            members += [one for called, one in vars(value).items() if not called.startswith("_")]
        for member in members:
            kinds = {kind.__name__ for one in annotations_of(member).values() for kind in types_in(one)}
            missing |= {f"{name}: {kind}" for kind in kinds - set(layerstore.__all__)}

    assert missing == set()


def below(kind: type[Exception]) -> Iterator[type[Exception]]:
    """Yield a class and all that are derived from it."""
    yield kind
    for one in kind.__subclasses__():
        yield from below(one)


def test_the_tree_of_errors_is_complete_and_exported_wherever_one_is_defined():
    for module in MODULES:
        if not module.endswith("__main__"):
            import_module(module)
    defined = {kind for kind in below(errors.LayerstoreError) if kind.__module__.startswith("layerstore.")}
    public = {kind.__name__ for kind in defined if not kind.__name__.startswith("_")}

    assert public == set(errors.__all__)
    assert public <= set(layerstore.__all__)
    assert errors.__all__ == sorted(errors.__all__)
    assert all(getattr(layerstore, name) is getattr(errors, name) for name in public)
    assert {kind.__module__ for kind in defined} == {errors.__name__}
    for name in public:
        assert re.search(rf"\b{name}\b", errors.__doc__ or ""), f"{name} is not drawn in the tree"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = layerstore.absent


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_one_documented_noun_of_450_lines_at_most(module: str):
    text = MODULES[module].read_text()

    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 450


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_test_module_says_what_it_shows(path: object):
    text = (ROOT / str(path)).read_text()

    assert text == "" or ast.get_docstring(ast.parse(text))


def test_functions_of_the_public_classes_are_documented():
    missing = [
        f"{name}.{method}"
        for name in ("SQLMetadataStore", "FSMetadataStore", "V1IDService", "V2MetadataService", "Digest", "Store")
        for method, value in vars(getattr(layerstore, name)).items()
        if not method.startswith("_") and callable(value) and not inspect.getdoc(value)
    ]

    assert missing == []


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_a_program_without_logging_gets_no_warnings_of_ours(tmp_path):
    """Python's last resort would print them on standard error."""
    program = f"""
from layerstore import FSMetadataStore, V2Metadata, V2MetadataService
store = FSMetadataStore({str(tmp_path / "distribution")!r})
layer = "sha256:" + "0" * 64
store.set("v2metadata-by-diffid", layer.replace(":", "/"), b"{{")
V2MetadataService(store).add(layer, V2Metadata(layer))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("", "")


def test_no_sql_has_a_parameter_with_a_number():
    """Python 3.12.0 to 3.12.3 take `?1` for a name, and warn where a sequence has its value (python/cpython#117995)."""
    texts = [
        (name, node.value)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [name for name, text in texts if re.search(r"(?<![\w)\]])\?[1-9]", text) and "`?1`" not in text] == []
