"""`stats`, `backup`, `recover`, `schema`: the database as such, and its file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from layerstore.cli.options import PATH, Settings, offer_revisions, shared
from layerstore.cli.output import columns, print_json, print_report, progress, say
from layerstore.paths import absolute
from layerstore.sql.url import is_url, shown
from layerstore.words import counted, size, utc

if TYPE_CHECKING:
    from layerstore.sql.reading.totals import Stats

_BAR = 20


@click.command(epilog="\b\nExamples:\n  layerstore stats\n  layerstore --db builder.db stats --json")
@shared("json", "database")
def stats(settings: Settings, as_json: bool) -> None:
    """Show how much the database holds.

    Prints the numbers of layers, digests, repositories and registries, the times of the oldest and newest list, the
    size of the file and of Docker's directory with the same entries, and the ten largest repositories. It reads every
    index once, which takes some seconds for a million layers.
    """
    from layerstore.sql.reading.totals import stats as count

    with settings.reading() as store:
        found = count(store)
    if as_json:
        document = dataclasses.asdict(found)
        document["directory"]["bytes"] = found.directory.bytes
        document["largest"] = [{"source_repository": name, "layers": layers} for name, layers in found.largest]
        print_json(document)
    else:
        _show(found)


def _show(found: Stats) -> None:
    directory = found.directory
    say(f"{found.path}")
    ours = found.file_bytes + found.wal_bytes
    ratio = f" ({ours / directory.bytes:.0%} of the directory)" if found.layers else ""
    columns(
        [
            ("layers", f"{found.layers:,} in {counted(found.associations, 'association')}"),
            ("digests", f"{found.digests:,}"),
            ("repositories", f"{found.repositories:,} in {counted(found.registries, 'registry', 'registries')}"),
            ("V1 IDs", f"{found.v1_ids:,}"),
            ("other engines", f"{found.blobs:,} blobs in {found.locations:,} locations"),
            ("oldest list", utc(found.oldest_ns)),
            ("newest list", utc(found.newest_ns)),
            (
                ("tables", f"{size(found.file_bytes)}{ratio}")
                if is_url(found.path)
                else ("file", f"{size(found.file_bytes)}, and {size(found.wal_bytes)} of write-ahead log{ratio}")
            ),
            (
                "as a directory",
                f"{size(directory.bytes)} in {counted(directory.files, 'file')}"
                f" and {counted(directory.directories, 'directory', 'directories')}",
            ),
            ("quarantine", f"{found.quarantined:,}"),
        ],
        indent="  ",
    )
    if found.largest:
        say("  the largest repositories, by layers:")
        most = found.largest[0][1]
        width = len(f"{most:,}")
        rows = [(name, f"{of:,}".rjust(width), "#" * max(1, round(of / most * _BAR))) for name, of in found.largest]
        columns(rows, indent="    ")


@click.command(
    epilog="""\b
Examples:
  layerstore backup layers-2026-11-24.db
  layerstore --db layers-2026-11-24.db verify"""
)
@click.argument("path", type=PATH)
@shared("quiet", "json", "database")
def backup(settings: Settings, path: str, quiet: bool, as_json: bool) -> None:
    """Copy the store to a new file.

    The copy has the store as it is at this moment, while others write. It is one file, has mode 0600, and can also be
    read where nothing can be written.
    """
    with settings.reading() as store:
        written = store.backup(path)
    if as_json:
        print_json({"path": absolute(path), "bytes": written})
    elif not quiet:
        say(f"copied {settings.shown} to {absolute(path)}: {written} bytes")


@click.command(
    epilog="""\b
Examples:
  layerstore recover layers.db recovered.db
  layerstore --db recovered.db verify --repair
  layerstore --db recovered.db import /var/lib/docker"""
)
@click.argument("path", metavar="BROKEN", type=PATH)
@click.argument("new", metavar="NEW", type=PATH)
@shared("quiet", "json")
def recover(path: str, new: str, quiet: bool, as_json: bool) -> int:
    """Make a new database from a damaged one.

    Reads BROKEN page by page, with its write-ahead log, and does not change it. First stop what uses it, and copy it
    with its -wal. NEW must not exist. Exits with 1 if a page or a value could not be read.
    """
    from layerstore.errors import InvalidInputError
    from layerstore.transfer.recovering import recover as make

    if is_url(path) or is_url(new):
        raise InvalidInputError(
            f"{shown(path if is_url(path) else new)}: `recover` is for files: a server's database is checked by"
            " `pg_amcheck`, and restored from a backup"
        )
    with progress("recovering", quiet=quiet) as bar:
        report = make(path, new, progress=bar)
    return print_report(report, as_json=as_json, quiet=quiet)


@click.group()
def schema() -> None:
    """Show or change the revision of the database's schema.

    A command that writes upgrades an older file by itself. To read it only, upgrade it first. A database on a
    server is upgraded only by `layerstore schema upgrade`.
    """


@schema.command(epilog="\b\nExample:\n  layerstore schema current")
@shared("json", "database")
def current(settings: Settings, as_json: bool) -> None:
    """Print the revision of the database.

    Also the one that this version of layerstore works with, if it is another one.
    """
    from layerstore.sql.revision import revision_of
    from layerstore.sql.schema import HEAD

    found = revision_of(settings.path)
    if as_json:
        path = settings.shown if is_url(settings.path) else absolute(settings.path)
        print_json({"path": path, "revision": found, "head": HEAD})
    else:
        say(f"{found or 'empty'}{'' if found == HEAD else f' (this version of layerstore works with {HEAD})'}")


@schema.command(epilog="\b\nExample:\n  layerstore schema upgrade")
@click.argument("revision", default="head", shell_complete=offer_revisions)
@shared("database")
def upgrade(settings: Settings, revision: str) -> None:
    """Upgrade the database to a revision.

    By default to the newest, in one transaction.
    """
    _move(settings, revision)


@schema.command(epilog="\b\nExample:\n  layerstore schema downgrade 0001")
@click.argument("revision", shell_complete=offer_revisions)
@shared("database")
def downgrade(settings: Settings, revision: str) -> None:
    """Downgrade the database to a revision.

    For an older version of layerstore, in one transaction.
    """
    _move(settings, revision)


@schema.command(epilog="\b\nExample:\n  layerstore schema history")
@shared("json")
def history(as_json: bool) -> None:
    """List all revisions, the oldest first."""
    from layerstore.sql.migrate import history as all_revisions

    found = all_revisions()
    if as_json:
        print_json([revision._asdict() for revision in found])
    else:
        columns([(revision.revision, revision.doc) for revision in found])


def _move(settings: Settings, revision: str) -> None:
    from layerstore.sql.revision import move_to

    before, after = move_to(settings.path, revision)
    say(f"{settings.shown}: {before}" + (" already" if before == after else f" -> {after}"))
