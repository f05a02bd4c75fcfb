"""Plain English wherever users read: README and docs, help, messages, docstrings of public names, pages.

Each phrase is one that readers did not understand, or understood only at the second reading.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import layerstore
from tests.cli.test_help import COMMANDS
from tests.docs.pages import ROOT

RIDDLES = re.compile(
    r"""
    can \s be \s had | cannot \s be \s what | \b a \s (?:row|file) \s an? \s | closed \s to \s questions
    | gives \s it \s back | takes? \s (?:it \s)? (?:in|back) \b | taken \s in \b | taking \s in \b
    | \b go(?:es)? \s to \s quarantine | \b (?:is|was|were) \s (?:not \s)? taken \b (?! \s off)
    | \b (?:happens|back|comes|written) \s whole \b
    | \b (?:fell|falls) \s (?:out|off) \b | without \s thinking | (?:may|would) \s go \b (?! \s on)
    | \b goes \s (?:to|from) \b
    | need \s not \s know | \b tak(?:e|es|en|ing) \s out \b | took \s out
    | reads? \s whole | reads? \s (?:all|everything) \s of | die \s of \s it | no \s room \s for
    | \b mend(?:s|ed|ing)? \b | at \s whatever | \b let(?:s|ting)? \s go \b | all \s the \s same | in \s its \s stead
    | \b (?:meanwhile|somebody|nobody|whoever|whatever) \b | \b by \s now \b | \b from \s where \b
    | \b whole \s or \s (?:absent|not) \b | \b empty \s if \s it \s is \s not \b | \b of \s one's \s own \b
    | \b 1 \s (?:layers|entries|registries|repositories|associations) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "migrations/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "layerstore" / "web" / "templates").glob("*.html")),
]
MODULES = sorted((ROOT / "layerstore").rglob("*.py"))


def riddles(text: str) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", text)  # code, and the names of tests
    return [" ".join(text[max(0, match.start() - 30) : match.end() + 30].split()) for match in RIDDLES.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_riddles(page: Path):
    assert riddles(page.read_text()) == []


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) or "layerstore" for path, _ in COMMANDS])
def test_no_help_has_riddles(path: tuple[str, ...], command: click.Command):
    said = [command.help or "", *(option.help or "" for option in command.params if isinstance(option, click.Option))]

    assert riddles("\n".join(said)) == [], path


def messages(module: Path) -> Iterator[str]:
    """Yield a module's texts that are not docstrings: what it may say at run time."""
    tree = ast.parse(module.read_text())
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_no_message_is_a_riddle(module: Path):
    assert [riddle for message in messages(module) for riddle in riddles(message)] == []


@pytest.mark.parametrize("name", sorted(set(layerstore.__all__) - {"__version__", "schema"}))
def test_no_docstring_of_a_public_name_is_a_riddle(name: str):
    value = getattr(layerstore, name)
    members = {name: value}
    if inspect.isclass(value) and value.__module__.startswith("layerstore."):
        members |= {called: one for called, one in vars(value).items() if not called.startswith("_")}
    found = {called: riddles(inspect.getdoc(one) or "") for called, one in members.items()}

    assert {called: said for called, said in found.items() if said} == {}
