"""`prune`: taking out what a store need not know any more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from layerstore.cli.options import (
    DIRECTORY,
    PATH,
    Settings,
    database_option,
    json_option,
    quiet_option,
    settings_argument,
)
from layerstore.cli.output import progress, report_json, say

if TYPE_CHECKING:
    from layerstore import PruneReport


@click.command(
    epilog="""\b
Examples:
  layerstore prune --dry-run --keep-layers /var/lib/docker
  layerstore prune --keep-layers /var/lib/docker --to gone.tar
  layerstore prune --older-than 90d --vacuum
  layerstore prune --registry old.example.com --keep-newest 5
  layerstore prune /var/lib/docker --keep-layers /var/lib/docker --temporary

\b
What went comes back with `layerstore import gone.tar`."""
)
@click.argument("path", type=PATH, required=False)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--keep-layers", metavar="DIR", type=DIRECTORY, help="Keep what is of a layer in this Docker data root.")
@click.option("--older-than", metavar="AGE", help="Keep what is younger: 30d, 12h, or a date in UTC, 2026-01-31.")
@click.option("--registry", metavar="HOST", multiple=True, help="Keep associations of other registries.")
@click.option("--repository", metavar="NAME", multiple=True, help="Keep associations of other repositories.")
@click.option("--keep-newest", metavar="N", type=click.IntRange(min=1), help="Keep each layer's newest N associations.")
@click.option("--to", metavar="FILE", type=PATH, help="Write what goes to this new tar first.")
@click.option("--temporary", is_flag=True, help="Remove also what broken writes left behind in a directory.")
@click.option("--vacuum", is_flag=True, help="Give the free space of the database back to the file system.")
@click.option("--force", is_flag=True, help="Also under a running daemon, and by a data root without layers.")
@quiet_option
@json_option
@database_option
@settings_argument
def prune(
    settings: Settings,
    *,
    path: str | None,
    dry_run: bool,
    keep_layers: str | None,
    older_than: str | None,
    registry: tuple[str, ...],
    repository: tuple[str, ...],
    keep_newest: int | None,
    to: str | None,
    temporary: bool,
    vacuum: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Take out what the store need not know any more.

    From the database, or from PATH: a database file, or a directory that no daemon runs on. What all given
    criteria say may go goes; of several --registry or --repository, any one counts.

    --keep-layers and --older-than judge lists, mappings and V1 IDs. The other three judge the associations in a list;
    with one of them mappings stay, as when Docker forgets an association. A mapping also stays while a list that
    stays holds its digest. What cannot be read is left alone: see verify.
    """
    from layerstore.transfer.pruning import prune as take_out

    if not (keep_layers or older_than or registry or repository or keep_newest or temporary or vacuum):
        raise click.UsageError("give a criterion: --keep-layers, --older-than, --registry, --repository, --keep-newest")
    with progress("judging", quiet=quiet) as bar:
        report = take_out(
            path or settings.place,
            keep_layers=keep_layers,
            older_than=older_than,
            registry=registry,
            repository=repository,
            keep_newest=keep_newest,
            to=to,
            temporary=temporary,
            vacuum=vacuum,
            dry_run=dry_run,
            force=force,
            progress=bar,
        )
    if as_json:
        report_json(report)
    elif not quiet:
        _say(report)


def _say(report: PruneReport) -> None:
    if report.dry_run:
        for example in report.examples:
            say(f"would take out {example}")
        more = report.lists + report.shortened + report.mappings + report.v1_ids + report.blobs - len(report.examples)
        if more > 0:
            say(f"and {more} more")
    counts = {
        "lists": report.lists,
        "lists shortened": report.shortened,
        "associations": report.associations,
        "mappings": report.mappings,
        "V1 IDs": report.v1_ids,
        "blobs": report.blobs,
        "locations of blobs": report.locations,
        "temporary files": report.temporary,
    }
    went = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"
    say(f"{'would prune' if report.dry_run else 'pruned'} {report.path}: {went} of {report.checked} entries")
    if report.unreadable:
        say(f"{report.unreadable} that cannot be read left alone: `layerstore verify` shows them")
    if report.changed:
        say(f"{report.changed} that changed meanwhile left alone")
    if report.archive is not None:
        say(f"what went is in {report.archive}: `layerstore import` takes it back")
    if not (report.dry_run or os.path.isdir(report.path)) and went != "nothing":
        say("an export merges, so that a directory keeps what was removed here. To remove it there, too:")
        say("  layerstore export --on-conflict replace --delete DIR")
    if report.free_bytes and not report.dry_run:
        say(f"{report.free_bytes} bytes of the file are free for later writes: --vacuum gives them back")
