"""docs/cli.md, made from what the command says of itself."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click

from tests.support.command import every_command

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
_INTRODUCTION = """\
# The command

`python -m tests.docs.pages` makes this page from `layerstore --help`.

## Which database

A command works on the database that `--db FILE` names, before or after the command's name. Without `--db` it is the one
that `LAYERSTORE_DB` names. Without that it is `/var/lib/layerstore/layers.db` for root. For a user it is
`$XDG_STATE_HOME/layerstore/layers.db`, or `~/.local/state/layerstore/layers.db` if `XDG_STATE_HOME` is not set.

So `layerstore` and `sudo layerstore` use different databases. Reading `/var/lib/docker` needs root. To import it into a
database of your own, let root read and layerstore write:
`sudo tar -C /var/lib/docker -c image | layerstore import -`

## What it prints

On a terminal digests have 12 digits, as Docker's have, and tables fit the width of the terminal. `--no-trunc` prints
both in full. In a pipe they are always in full. Commands that print a table or a report have `--json`, with times in
nanoseconds and as ISO 8601 text. Long work shows its progress on a terminal, and nothing in a pipe.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | findings, or not found |
| 2 | wrong usage |
| 3 | bad input or store |
| 130 | interrupted |
"""


def reference() -> str:
    """Return the page."""
    return _INTRODUCTION + "".join(_command(tuple(path.split()), command) for path, command in every_command() if path)


def _command(path: tuple[str, ...], command: click.Command) -> str:
    names = ["-h", "--help"]  # which click keeps for a command
    context = click.Context(command, info_name="layerstore " + " ".join(path), help_option_names=names)
    said = inspect.cleandoc(command.help or "")
    usage = " ".join(command.collect_usage_pieces(context))
    text = f"\n{'#' * (len(path) + 1)} {' '.join(path)}\n\n`layerstore {' '.join(path)} {usage}`\n\n{said}\n"
    rows = [
        f"| `{_named(option)}` | {_said(option)} |"
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]
    if rows:
        text += "\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"
    examples = re.search(r"Examples?:\n(.*?)(?:\n\n|$)", inspect.cleandoc(command.epilog or ""), re.DOTALL)
    if examples:
        text += (
            "\n<!-- not run: hosts, files and databases of yours -->\n```sh\n"
            + inspect.cleandoc(examples[1])
            + "\n```\n"
        )
    return text


def _named(option: click.Option) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return names + " " + "\\|".join(option.type.choices)
    return f"{names} {option.metavar or option.type.name.upper()}"


def _said(option: click.Option) -> str:
    said = (option.help or "").replace("|", "\\|")
    shown = option.show_default and option.default is not None and not option.is_flag
    return f"{said} Default: `{option.default}`." if shown else said
