"""`schema`: the database's revision, and moving it."""

from __future__ import annotations

import click

from layerstore.cli import offers
from layerstore.cli.options import Settings, database_option, json_option, settings_argument
from layerstore.cli.output import columns, print_json, say
from layerstore.paths import absolute


@click.group()
def schema() -> None:
    """Show or change the revision of the database's schema.

    A command that writes upgrades an older file by itself. To read it only, upgrade it first.
    """


@schema.command(epilog="\b\nExample:\n  layerstore schema current")
@json_option
@database_option
@settings_argument
def current(settings: Settings, as_json: bool) -> None:
    """Print the revision of the database.

    Also the one that this version of layerstore works with, if it is another one.
    """
    from layerstore.sql.schema import HEAD
    from layerstore.sql.sqlite.opening import revision

    path = absolute(settings.path)
    found = revision(path)
    if as_json:
        print_json({"path": path, "revision": found, "head": HEAD})
    else:
        say(f"{found or 'empty'}{'' if found == HEAD else f' (this version of layerstore works with {HEAD})'}")


@schema.command(epilog="\b\nExample:\n  layerstore schema upgrade")
@click.argument("revision", default="head", shell_complete=offers.revisions)
@database_option
@settings_argument
def upgrade(settings: Settings, revision: str) -> None:
    """Upgrade the database to a revision.

    By default to the newest, in one transaction.
    """
    _move(settings, revision)


@schema.command(epilog="\b\nExample:\n  layerstore schema downgrade 0001")
@click.argument("revision", shell_complete=offers.revisions)
@database_option
@settings_argument
def downgrade(settings: Settings, revision: str) -> None:
    """Downgrade the database to a revision.

    For an older version of layerstore, in one transaction.
    """
    _move(settings, revision)


@schema.command(epilog="\b\nExample:\n  layerstore schema history")
@json_option
def history(as_json: bool) -> None:
    """List all revisions, the oldest first."""
    from layerstore.sql.migrate import history as revisions

    found = revisions()
    if as_json:
        print_json([revision._asdict() for revision in found])
    else:
        columns([(revision.revision, revision.doc) for revision in found])


def _move(settings: Settings, revision: str) -> None:
    from layerstore.sql.sqlite.opening import move_to

    before, after = move_to(absolute(settings.path), revision)
    say(f"{settings.path}: {before}" + (" already" if before == after else f" -> {after}"))
