"""`import`, `export`, `verify`, `diff`: whole stores and directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from layerstore.cli.options import Settings, database_option, json_option, quiet_option, settings_argument
from layerstore.cli.output import columns, printable, progress, report_json, say

if TYPE_CHECKING:
    from layerstore import DiffReport, ImportReport, VerifyReport
    from layerstore.transfer.merging import OnConflict


@click.command(
    "import",
    epilog="""\b
Examples:
  layerstore import /var/lib/docker
  layerstore import /var/lib/docker/image/overlay2/distribution
  layerstore import --on-conflict replace ./distribution""",
)
@click.argument("path", type=click.Path())
@click.option(
    "--on-conflict",
    type=click.Choice(["merge", "replace", "keep"]),
    default="merge",
    show_default=True,
    help="Where both sides have an entry: merge by time, take what comes in, or keep what is there.",
)
@quiet_option
@json_option
@database_option
@settings_argument
def import_(settings: Settings, path: str, on_conflict: OnConflict, quiet: bool, as_json: bool) -> int:
    """Take Docker's metadata into the store.

    PATH is a `distribution` directory, or a Docker data root: then all its image/*/distribution are taken.

    What cannot be what its namespace says goes to quarantine. Exits with 1 if anything was not taken, or two
    values of one digest were found. Importing the same again changes nothing.
    """
    from layerstore import import_directory

    with settings.writing(create=True) as store, progress("importing", quiet=quiet) as bar:
        report = import_directory(store, path, on_conflict=on_conflict, progress=bar)
    if as_json:
        report_json(report)
    else:
        _say_import(report, settings.path, quiet=quiet)
    return 0 if report.ok else 1


def _say_import(report: ImportReport, database: str, *, quiet: bool) -> None:
    for conflict in report.conflicts:
        say(f"conflict: {conflict.namespace}/{conflict.key}: kept {conflict.kept}, set aside {conflict.set_aside}")
    for quarantined in report.quarantined:
        say(f"quarantined: {quarantined.path}: {quarantined.reason}")
    for skipped in report.skipped:
        say(f"skipped: {skipped.path}: {skipped.reason}")
    if quiet:
        return
    for source in report.sources:
        say(f"imported {source} into {database}")
    counts = {
        "read": report.read,
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "evicted": report.evicted,
        "temporary files ignored": report.temporary,
    }
    say(", ".join(f"{count} {what}" for what, count in counts.items() if count or what in ("read", "added")))


@click.command(
    epilog="""\b
Examples:
  layerstore export ./distribution
  layerstore export --dry-run --delete /var/lib/docker/image/overlay2/distribution"""
)
@click.argument("path", type=click.Path())
@click.option("--delete", is_flag=True, help="Remove files that the store does not have.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@quiet_option
@json_option
@database_option
@settings_argument
def export(settings: Settings, path: str, *, delete: bool, dry_run: bool, quiet: bool, as_json: bool) -> None:
    """Write the store as Docker's directory.

    A Docker daemon takes PATH for its own `distribution` directory. Stop the daemon first if it is its
    directory. Each file is whole or absent at every moment; files that are right
    already are not touched.
    """
    from layerstore import export_directory

    with settings.reading() as store, progress("exporting", quiet=quiet) as bar:
        report = export_directory(store, path, delete=delete, dry_run=dry_run, progress=bar)
    if as_json:
        report_json(report)
    elif not quiet:
        say(f"{'would export' if dry_run else 'exported'} {settings.path} to {report.path}")
        counts = {
            "written": report.written,
            "unchanged": report.unchanged,
            "deleted": report.deleted,
            "left that the store does not have": report.extra,
        }
        say(", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "written"))


@click.command(
    epilog="""\b
Examples:
  layerstore verify
  layerstore verify /var/lib/docker/image/overlay2/distribution
  layerstore verify --repair"""
)
@click.argument("path", type=click.Path(), required=False)
@click.option("--repair", is_flag=True, help="Mend what can be derived, move what cannot be read to quarantine.")
@quiet_option
@json_option
@database_option
@settings_argument
def verify(settings: Settings, path: str | None, repair: bool, quiet: bool, as_json: bool) -> int:
    """Check a store, and mend it.

    Checks the database, or the database file or directory PATH. Exits with 1 if there is an error or a warning
    that was not mended. What Docker does by itself is only info.
    """
    from layerstore import verify as check

    with progress("checking", quiet=quiet) as bar:
        report = check(path or settings.path, repair=repair, progress=bar)
    if as_json:
        report_json(report)
    else:
        _say_verify(report, quiet=quiet)
    return 0 if report.ok else 1


def _say_verify(report: VerifyReport, *, quiet: bool) -> None:
    for found in report.findings:
        if quiet and found.severity == "info":
            continue
        mended = f", {found.repaired} mended" if found.repaired else ""
        say(f"{found.severity}: {found.message} ({found.kind}): {found.count}{mended}")
        for example in found.examples:
            say(f"  {example}")
        if found.count > len(found.examples):
            say(f"  and {found.count - len(found.examples)} more")
        if found.repaired < found.count:
            say(f"  remedy: {found.remedy}")
    if not quiet:
        say(f"checked {report.checked} entries of {report.path}: {'ok' if report.ok else 'not ok'}")


@click.command(
    epilog="""\b
Examples:
  layerstore diff /var/lib/docker/image/overlay2/distribution
  layerstore diff old.db ./distribution"""
)
@click.argument("left", type=click.Path())
@click.argument("right", type=click.Path(), required=False)
@quiet_option
@json_option
@database_option
@settings_argument
def diff(settings: Settings, left: str, right: str | None, quiet: bool, as_json: bool) -> int:
    """Compare two stores.

    LEFT and RIGHT are database files or directories; given one, the database is compared with it. Exits with 1
    if they differ. Times of modification are counted, but are no difference.
    """
    from layerstore import diff as compare

    report = compare(settings.path, left) if right is None else compare(left, right)
    if as_json:
        report_json(report)
    else:
        _say_diff(report, quiet=quiet)
    return 0 if report.ok else 1


def _say_diff(report: DiffReport, *, quiet: bool) -> None:
    if not report.ok:
        columns(
            [
                *(("only in left", printable(f"{e.namespace}/{e.key}")) for e in report.only_left),
                *(("only in right", printable(f"{e.namespace}/{e.key}")) for e in report.only_right),
                *(("differs", printable(f"{e.namespace}/{e.key}")) for e in report.differing),
            ]
        )
    if not quiet:
        times = f", {report.times_differ} of them modified at other times" if report.times_differ else ""
        say(f"left {report.left}, right {report.right}: {report.equal} entries are equal{times}")
