"""What README.md shows is what happens."""

import inspect
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest

from benchmarks.__main__ import command as benchmarks
from layerstore import cli, errors
from tests.support.counting import HOW_MUCH

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
HOME = "/home/you/layerstore"


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for its_language, block in fenced if its_language == language]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERSTORE_DB", "sample.db")
    return tmp_path


def examples() -> list[tuple[str, str]]:
    (block,) = blocks("console")
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def answer(line: str) -> str:
    program, *arguments = shlex.split(line)
    if program == "sqlite3":
        # The machine may not have the program; the SQL and its answer are what README claims.
        _, file, query = arguments
        connection = sqlite3.connect(file)
        try:
            rows = connection.execute(query).fetchall()
        finally:
            connection.close()
        return "".join("  ".join(map(str, row)) + "\n" for row in rows)
    assert program == "layerstore"
    run = subprocess.run([sys.executable, "-m", "layerstore", *arguments], capture_output=True, text=True, check=True)
    return run.stdout


def test_the_screen_of_output_is_real(checkout: Path):
    for line, shown in examples():
        assert answer(line).replace(str(checkout), HOME) == shown, line


@pytest.mark.parametrize("program", blocks("python"))
def test_each_library_example_runs_and_prints_what_is_said(checkout: Path, program: str):
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"prints `{run.stdout.strip()}`" in README
    assert run.stdout


def commands() -> set[str]:
    return set(cli.command.commands)


def test_every_command_is_in_the_table_and_every_command_in_the_table_exists():
    section = README.split("## The command\n")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    documented = {name.split()[0] for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    assert documented == commands()


def test_every_option_in_readme_exists():
    known = {
        option
        for command in [cli.command, benchmarks, *cli.command.commands.values()]
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    others = {"--without-pip", "--python", "--help", "--ignore-freelist", *(f"--{option}" for option in HOW_MUCH)}
    assert set(re.findall(r"(?<=[` ])--[a-z][a-z-]*", README)) - others <= known


def test_the_differences_from_docker_name_tests_that_exist():
    section = README.split("## Differences from Docker\n")[1].split("\n## ")[0]
    rows = [row.split(" | ") for row in section.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 15
    for row in rows:
        for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1]):
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (file, name)
        assert "::" in row[-1], row


def test_the_error_tree_is_the_one_of_the_code():
    block = next(block for block in blocks("") if block.startswith("LayerstoreError"))
    shown = set(re.findall(r"\w+Error\b", block)) - {"KeyError", "ValueError", "TimeoutError"}
    assert shown == set(errors.__all__)
    for name in errors.__all__:
        assert inspect.isclass(getattr(errors, name))


def test_the_changelog_names_the_schema_of_this_code():
    from layerstore.sql.schema import HEAD

    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert f"Schema: {HEAD}" in newest
