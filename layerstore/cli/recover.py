"""`recover`: a new database from what a damaged one still holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from layerstore.cli.options import PATH, json_option, quiet_option
from layerstore.cli.output import progress, report_json, say
from layerstore.sql.url import is_url, shown

if TYPE_CHECKING:
    from layerstore.transfer.recovering import RecoverReport


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
    """Make a new database of what a damaged one still holds.

    BROKEN is read page by page, with its write-ahead log, and is not changed; stop what uses it first, and copy it away
    together with its -wal. NEW must not be there. Exits with 1 if a page or a value could not be read.
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
    if as_json:
        report_json(report)
    else:
        _say(report, quiet=quiet)
    return 0 if report.ok else 1


def _say(report: RecoverReport, *, quiet: bool) -> None:
    for count, what in (
        (
            report.unreadable_pages,
            f"of {report.pages} pages could not be read whole: import again from where they came",
        ),
        (report.quarantined, "values cannot be what their namespace says: in quarantine"),
        (report.older, "older values of the same keys were found: in quarantine"),
    ):
        if count:
            say(f"{count} {what}")
    if not quiet:
        found = f"{report.recovered} entries, {report.kept_in_quarantine} of quarantine"
        say(f"recovered {report.path} to {report.new}: {found}")
