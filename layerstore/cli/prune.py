"""`prune`: removing entries that are no longer needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
    timeout_option,
)
from layerstore.cli.output import is_typed, print_report, say
from layerstore.cli.progress import progress

if TYPE_CHECKING:
    from layerstore import PruneReport


@click.command(
    epilog="""\b
Examples:
  layerstore prune --dry-run --keep-layers /var/lib/docker
  layerstore prune --keep-layers /var/lib/docker --to removed.tar
  layerstore prune --older-than 90d --vacuum
  layerstore prune --registry old.example.com --keep-newest 5
  layerstore prune --repository 'localhost:5000/nightly/*' --yes
  layerstore prune /var/lib/docker --keep-layers /var/lib/docker --temporary

\b
`layerstore import removed.tar` restores what was removed."""
)
@click.argument("path", type=PATH, required=False)
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be removed.")
@click.option(
    "--keep-layers", metavar="DIR", type=DIRECTORY, help="Keep entries of layers that exist in this data root."
)
@click.option("--older-than", metavar="AGE", help="Remove only older entries: 30d, 12h, or a date in UTC, 2026-01-31.")
@click.option(
    "--registry", metavar="HOST", multiple=True, help="Remove only associations of this registry. `*` is any text."
)
@click.option(
    "--repository", metavar="NAME", multiple=True, help="Remove only associations of this repository. `*` is any text."
)
@click.option("--keep-newest", metavar="N", type=click.IntRange(min=1), help="Keep each layer's newest N associations.")
@click.option("--to", metavar="FILE", type=PATH, help="Write what is removed to this new tar first.")
@click.option(
    "--temporary", is_flag=True, help="Also remove temporary files that interrupted writes left in a directory."
)
@click.option("--vacuum", is_flag=True, help="Return the free space of the database to the file system.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before removing, which a terminal does.")
@click.option("--force", is_flag=True, help="Also prune under a running daemon, and with a data root without layers.")
@timeout_option
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
    yes: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Remove entries that are no longer needed.

    From the database, or from PATH: a database file, or a directory that no daemon runs on. An entry is removed if it
    matches all criteria; of several --registry or --repository, one is enough.

    --keep-layers and --older-than judge lists, mappings and V1 IDs. The other three judge the associations in a list;
    with one of them mappings stay, as when Docker removes an association. A mapping also stays while a remaining list
    holds its digest. Unreadable entries stay: see verify.
    """
    from functools import partial

    from layerstore.transfer.pruning import prune as remove

    if not (keep_layers or older_than or registry or repository or keep_newest or temporary or vacuum):
        raise click.UsageError(
            "give a criterion: --keep-layers, --older-than, --registry, --repository, --keep-newest;"
            " or --temporary, --vacuum"
        )
    work = partial(
        remove,
        keep_layers=keep_layers,
        older_than=older_than,
        registry=registry,
        repository=repository,
        keep_newest=keep_newest,
        to=to,
        temporary=temporary,
        vacuum=vacuum,
        force=force,
    )
    place = settings.place if path is None else path
    if not (dry_run or yes) and is_typed(sys.stdin) and not _agreed(partial(work, place)):
        say("nothing was removed")
        return 1
    if dry_run:
        with progress("judging", quiet=quiet) as bar:
            report = work(place, dry_run=True, progress=bar)
    else:
        with settings.changing(path) as changed, progress("judging", quiet=quiet) as bar:
            report = work(changed, progress=bar)
    return print_report(report, as_json=as_json, quiet=quiet)


def _agreed(work: Callable[..., PruneReport]) -> bool:
    """Say what would be removed, and ask."""
    with progress("judging", quiet=False) as bar:
        report = work(dry_run=True, progress=bar)
    for line in report.lines():
        say(line)
    return report.is_empty or click.confirm("Remove them?", err=True)
