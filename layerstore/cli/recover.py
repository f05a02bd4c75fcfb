"""`recover`: a new database from a damaged one."""

from __future__ import annotations

import click

from layerstore.cli.options import PATH, json_option, quiet_option
from layerstore.cli.output import print_report
from layerstore.cli.progress import progress
from layerstore.sql.url import is_url, shown


@click.command(
    epilog="""\b
Examples:
  layerstore recover layers.db recovered.db
  layerstore --db recovered.db verify --repair
  layerstore --db recovered.db import /var/lib/docker"""
)
@click.argument("path", metavar="BROKEN", type=PATH)
@click.argument("new", metavar="NEW", type=PATH)
@quiet_option
@json_option
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
