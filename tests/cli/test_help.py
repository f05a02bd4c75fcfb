"""What `--help` says: every command explains itself, shows examples, and has a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from layerstore import __version__
from layerstore.cli import COMMANDS as TABLE
from layerstore.cli import command as root
from tests.support.command import DONE, USAGE, Run, every_command

COMMANDS = [(tuple(path.split()), command) for path, command in every_command()]
LEAVES = [(path, command) for path, command in COMMANDS if not isinstance(command, click.Group)]
OPTIONS = sorted({name for _, command in COMMANDS for option in command.params for name in option.opts if "-" in name})


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) or "layerstore" for path, _ in COMMANDS])
def test_every_command_says_what_it_does(run: Run, path: tuple[str, ...], command: click.Command):
    assert command.help
    first, _, _ = command.help.partition("\n")
    assert first.endswith(".")
    assert first[0].isupper()

    for option in ("--help", "-h"):
        result = run(*path, option)
        assert (result.code, result.err) == (DONE, "")
        assert " ".join(first.split()) in " ".join(result.out.split())


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_command_shows_examples_of_itself(run: Run, path: tuple[str, ...], command: click.Command):
    assert command.epilog
    assert "Example" in command.epilog
    shown = run(*path, "--help").out
    assert f"\n    layerstore {' '.join(path)}" in shown or f"\n  layerstore {' '.join(path)}" in shown
    for line in shown.splitlines():
        assert len(line) <= 110


def test_the_examples_name_only_commands_and_options_that_there_are():
    known = {path for path, _ in COMMANDS}
    for path, command in COMMANDS:
        examples = (command.epilog or "").splitlines()
        for words in (line.split() for line in examples if line.lstrip().startswith("layerstore ")):
            named = words[3:] if words[1] == "--db" else words[1:]
            assert any(tuple(named[:length]) in known for length in (1, 2)), (path, words)
            assert {word for word in words if word.startswith("--")} <= set(OPTIONS), (path, words)


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) or "layerstore" for path, _ in COMMANDS])
def test_every_option_is_explained(path: tuple[str, ...], command: click.Command):
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, (path, option.name)


def _test_sources() -> str:
    return "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_used_by_a_test(option: str):
    assert f'"{option}"' in _test_sources()


@pytest.mark.parametrize("path", [path for path, _ in LEAVES], ids=" ".join)
def test_every_command_is_used_by_a_test(path: tuple[str, ...]):
    words = ", ".join(f'"{word}"' for word in path)
    assert words in _test_sources()


def test_the_version_is_the_librarys(run: Run):
    assert run("--version").out == f"layerstore, version {__version__}\n"


def test_the_exit_codes_are_explained(run: Run):
    assert "Exit codes: 0 done; 1 findings, or not found; 2 wrong usage; 3 bad input or store." in run("--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["list", "--unknown"],
        ["get", "one-argument"],
        ["import"],
        ["import", "--on-conflict", "newest", "x"],
        ["completion", "tcsh"],
        ["list", "a", "b"],
        ["schema", "downgrade"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_says_how_to_go_on(run: Run, database: Path, arguments: list[str]):
    result = run(*arguments)

    assert (result.code, result.raw) == (USAGE, b"")
    assert "Error: " in result.err
    assert "--help" in result.err
    assert "Traceback" not in result.err
    assert not database.exists()


@pytest.mark.parametrize("name", TABLE)
def test_the_table_says_of_a_command_what_it_says_itself(name: str):
    loaded = root.get_command(click.Context(root), name)

    assert loaded is not None
    assert loaded.name == name
    assert loaded.get_short_help_str(200) == TABLE[name][2]


def test_help_loads_no_command():
    code = (
        "import sys; sys.argv = ['layerstore', '--help']\nfrom layerstore import cli\n"
        "try: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(done.stderr.split())
    assert {f"layerstore.cli.{module}" for module, _, _ in TABLE.values()} & loaded == set()
    assert {"layerstore.cli.options", "click"} <= loaded
