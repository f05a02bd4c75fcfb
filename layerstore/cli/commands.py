"""Which commands there are. Each is loaded when it runs, so that `--help` and completion wait for none of them.

Source: click.palletsprojects.com, "Complex Applications", "Lazily Loading Subcommands".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

import click

COMMANDS: Final = {
    "import": ("transfer", "import_", "Import what container engines know of layers."),
    "export": ("transfer", "export", "Write what the store knows for an engine."),
    "verify": ("transfer", "verify", "Check a store, and repair it."),
    "diff": ("transfer", "diff", "Compare two stores."),
    "show": ("show", "show", "Show what is known about a layer, blob, repository or image."),
    "query": ("query", "query", "Ask the database with SQL."),
    "stats": ("stats", "stats", "Show how much the database holds."),
    "serve": ("serve", "serve", "Show the store in a browser."),
    "candidates": ("push", "candidates", "Explain from which repositories a push would mount a layer."),
    "plan": ("push", "plan", "Predict a push of an image, layer by layer."),
    "list": ("entries", "list_", "List entries."),
    "get": ("entries", "get", "Print an entry."),
    "set": ("entries", "set_", "Store an entry."),
    "delete": ("entries", "delete", "Remove an entry."),
    "quarantine": ("quarantine", "quarantine", "List, restore or drop what was set aside."),
    "prune": ("prune", "prune", "Remove entries that are no longer needed."),
    "backup": ("backup", "backup", "Copy the store to a new file."),
    "recover": ("recover", "recover", "Make a new database from a damaged one."),
    "schema": ("schema", "schema", "Show or change the revision of the database's schema."),
    "completion": ("completion", "completion", "Print a completion script."),
}
"""By name: the module below `layerstore.cli`, the command's name in it, and what `--help` says of it."""


class _Loaded(Mapping[str, click.Command]):
    """The commands by name; one is loaded when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(import_module(f"layerstore.cli.{module}"), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(click.Group):
    """A group of the commands in the table, in its order."""

    def __init__(self, name: str | None = None, **attributes: object) -> None:
        super().__init__(name, **attributes)  # type: ignore[arg-type]  # what the decorator has collected
        self.commands = _Loaded()  # type: ignore[assignment]  # click adds to it for who decorates, which we do not

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the table says of each command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, _, said) in COMMANDS.items()])
