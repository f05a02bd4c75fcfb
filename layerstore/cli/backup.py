"""`backup`: one consistent file, made while others write."""

from __future__ import annotations

import click

from layerstore.cli.options import PATH, Settings, database_option, json_option, quiet_option, settings_argument
from layerstore.cli.output import print_json, say
from layerstore.paths import absolute


@click.command(
    epilog="""\b
Examples:
  layerstore backup layers-2026-11-24.db
  layerstore --db layers-2026-11-24.db verify"""
)
@click.argument("path", type=PATH)
@quiet_option
@json_option
@database_option
@settings_argument
def backup(settings: Settings, path: str, quiet: bool, as_json: bool) -> None:
    """Copy the store to a new file.

    The copy has the store as it is at this moment, while others write. It is one file, has mode 0600, and can also be
    read where nothing can be written.
    """
    with settings.reading() as store:
        size = store.backup(path)
    if as_json:
        print_json({"path": absolute(path), "bytes": size})
    elif not quiet:
        say(f"copied {settings.shown} to {absolute(path)}: {size} bytes")
