"""README and the pages of docs/: what they show is what happens, their links lead somewhere, their tables are right."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import pytest

from benchmarks.__main__ import command as benchmarks
from layerstore import cli, errors
from tests.cli.test_help import COMMANDS
from tests.docs.commands import PAGE as CLI
from tests.docs.commands import reference
from tests.docs.pages import PAGES, README, ROOT, blocks, rendered, section
from tests.support.counting import HOW_MUCH

DOCS = ROOT / "docs"
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
RUN = [page for page in PAGES if any(blocks(page, language) for language in ("console", "python", "sh", "sql"))]


def test_readme_is_short_and_names_every_page():
    text = README.read_text()

    assert len(text.splitlines()) <= 150
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []
    names = "library migrate repair prune sql push browser cli docker promises speed architecture"
    assert set(names.split()) <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_every_block_of_a_page_runs_and_prints_what_the_page_shows(page: Path, tmp_path: Path):
    """`python -m tests.docs.pages` writes it anew."""
    assert rendered(page, tmp_path) == page.read_text()


def test_the_page_of_the_command_is_what_the_command_says():
    assert CLI.read_text() == reference()
    headings = re.findall(r"^#+ (.+)$", reference(), re.MULTILINE)
    assert {" ".join(path) for path, _ in COMMANDS if path} <= set(headings)


def test_what_is_not_run_says_why():
    for page in PAGES:
        for line in re.findall(r"^<!-- not run.*$", page.read_text(), re.MULTILINE):
            assert re.fullmatch(r"<!-- not run: .{10,} -->", line), (page, line)


def test_screens_at_80_columns_show_what_newcomers_run():
    shown = "".join(block for page in PAGES for block in blocks(page, "console"))

    for name in ("show", "import", "candidates", "query", "stats"):
        assert f"$ layerstore {name}" in shown
    tables = [line for line in shown.splitlines() if re.match(r" {4}|\S+ {2,}\S", line)]
    assert len(tables) > 20
    assert [line for line in tables if len(line) > 80] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_and_picture_leads_to_a_file_of_the_repository(page: Path):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_option_that_a_page_names_exists(page: Path):
    known = {
        option
        for command in [*(command for _, command in COMMANDS), benchmarks]
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    others = {
        "--without-pip",
        "--python",
        "--help",
        "--ignore-freelist",
        "--store",
        "--input",
        *(f"--{one}" for one in HOW_MUCH),
    }

    assert set(re.findall(r"(?<=[` ])--[a-z][a-z-]*", page.read_text())) - others <= known


def test_every_command_is_named_in_readme():
    named = set(re.findall(r"`(\w+)`", section(README, "The command")))

    assert set(cli.COMMANDS) <= named


def test_the_differences_from_docker_name_tests_that_exist():
    rows = [row.split(" | ") for row in section(DOCS / "docker.md", "Differences").splitlines() if row[:2] == "| "][1:]

    assert len(rows) >= 15
    for row in rows:
        assert "::" in row[-1], row
        for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1]):
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (file, name)


def test_the_error_tree_is_the_one_of_the_code():
    (block,) = [block for block in blocks(DOCS / "library.md", "") if block.startswith("LayerstoreError")]
    shown = set(re.findall(r"\w+Error\b", block)) - {"KeyError", "ValueError", "TimeoutError", "ConnectionError"}

    assert shown == set(errors.__all__)
    for name in errors.__all__:
        assert inspect.isclass(getattr(errors, name))


def test_the_changelog_names_the_schema_of_this_code():
    from layerstore.sql.schema import HEAD

    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert f"Schema: {HEAD}" in newest
