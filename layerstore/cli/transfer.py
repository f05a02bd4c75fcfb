"""`import`, `export`, `verify`, `diff`, `prune`: whole stores and directories."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from layerstore.cli.options import DIRECTORY, PATH, Settings, offer_drivers, shared
from layerstore.cli.output import is_typed, print_report, printable, progress, say

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@click.command(
    "import",
    epilog="""\b
Examples:
  layerstore import /var/lib/docker
  layerstore import --host
  layerstore import host-a.tar.gz host-b.tar.gz other.db
  ssh builder tar -C /var/lib/docker -c image/overlay2/distribution | layerstore import -
  layerstore import --on-conflict replace ./distribution""",
)
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1)
@click.option("--host", is_flag=True, help="Import everything that engines know on this machine, root's and your own.")
@click.option(
    "--on-conflict",
    type=click.Choice(["merge", "replace", "keep"]),
    default="merge",
    show_default=True,
    help="If both sides have an entry: merge by time, use the source's, or keep the store's.",
)
@click.option(
    "--force", is_flag=True, help="Also import sources without Docker's namespaces, and archives of over 8 GiB."
)
@click.option("--allow-empty", is_flag=True, help="Also accept sources without any entry.")
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be done.")
@shared("timeout", "quiet", "json", "database")
def import_(
    settings: Settings,
    /,
    *,
    paths: tuple[str, ...],
    host: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Import what container engines know of layers.

    Each PATH is one of: a `distribution` directory; a Docker data root, of which all image/*/distribution are imported,
    also those of remapped users; a tar archive of these (- reads it from standard input); another layerstore database;
    the cache of Podman, Skopeo, Buildah and CRI-O, or its folder; containerd's root; or
    containerd:SOCKET?namespace=NAME, a running containerd. All sources are read first, and then merged in their order,
    in one transaction.

    Invalid entries are quarantined. Exits with 1 if an entry was not imported, or if two values of one digest were
    found. A second import of the same changes nothing. A source without metadata is an error, and then no database is
    made. An empty directory called `distribution` is that of a fresh host, and no error.
    """
    from layerstore.transfer.importing import import_layers
    from layerstore.transfer.place import sources, sources_here

    if not (paths or host):
        raise click.UsageError("give a PATH, or --host")
    # Looked into before the database is made.
    if "-" in paths and is_typed(sys.stdin):
        raise click.UsageError("standard input is a terminal: pipe an archive into `layerstore import -`")
    found = [*sources(paths, force=force, allow_empty=options["allow_empty"]), *(sources_here() if host else ())]
    opened = settings.trying() if options["dry_run"] else settings.writing(create=True)
    with opened as store, progress("reading", quiet=quiet) as bar:
        report = import_layers(store, *found, progress=bar, **options)
    return print_report(report, as_json=as_json, quiet=quiet, store=settings.shown)


@click.command(
    epilog="""\b
Examples:
  layerstore export ./distribution
  layerstore export --data-root /var/lib/docker --driver overlay2
  layerstore export /var/lib/containers/cache/blob-info-cache-v1.sqlite
  layerstore export containerd:/run/containerd/containerd.sock?namespace=moby --to localhost:5000/team/app
  layerstore export --dry-run --on-conflict replace --delete /var/lib/docker/image/overlay2/distribution
  layerstore export --tar - | ssh builder tar -C /var/lib/docker/image/overlay2 -x"""
)
@click.argument("path", metavar="[TARGET]", type=PATH, required=False)
@click.option("--data-root", metavar="DIR", type=DIRECTORY, help="Write below this Docker data root.")
@click.option(
    "--driver",
    metavar="NAME",
    shell_complete=offer_drivers,
    help="The storage driver, with --data-root. Not needed if the data root has one only.",
)
@click.option(
    "--tar",
    "as_tar",
    is_flag=True,
    help="Write TARGET as a tar archive, compressed if it ends in .gz, .bz2 or .xz; - is standard output.",
)
@click.option("--overwrite", is_flag=True, help="With --tar: replace the archive if it exists.")
@click.option(
    "--on-conflict",
    type=click.Choice(["merge", "replace", "keep"]),
    help="If both sides have an entry: merge by time, use the store's, or keep the target's.  [default: merge]",
)
@click.option("--delete", is_flag=True, help="Remove files that the store does not have. Needs --on-conflict replace.")
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be done.")
@click.option("--new-driver", is_flag=True, help="Accept a --driver that the data root does not have yet.")
@click.option("--force", is_flag=True, help="Also replace and delete files of a running daemon.")
@click.option(
    "--assume-compression",
    type=click.Choice(["gzip"]),
    help="Take layers of unknown compression for gzip. If one is not, a push publishes a wrong manifest.",
)
@click.option(
    "--all-namespaces", is_flag=True, help="Also write `blob-by-digest` into the directory; Docker ignores it."
)
@click.option("--image", "images", metavar="NAME", multiple=True, help="For containerd: only content of this image.")
@click.option("--to", metavar="REPOSITORY", help="For containerd: only the name that a push there will choose.")
@shared("quiet", "json", "database")
def export(
    settings: Settings,
    /,
    *,
    path: str | None,
    data_root: str | None,
    driver: str | None,
    new_driver: bool,
    as_tar: bool,
    overwrite: bool,
    on_conflict: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Write what the store knows for an engine.

    TARGET is a directory that a Docker daemon can use, as is DIR/image/NAME/distribution; a cache of Podman, Skopeo,
    Buildah and CRI-O, blob-info-cache-v1.sqlite; containerd:SOCKET?namespace=NAME, a running containerd; or another
    database. What the target has is merged with what the store has, as import does: nothing that it knows is lost. To
    mirror the store in a directory instead, use --on-conflict replace --delete.

    A daemon may run on the directory, except for --on-conflict replace. Each file is complete or absent at every
    moment, and files that are right already are not touched. Exits with 1 if an entry was not written, or if two values
    of one digest were found.
    """
    target = _target(path, data_root, driver, is_new=new_driver, is_tar=as_tar)
    if as_tar and data_root is not None:
        raise click.UsageError("--tar goes with TARGET, not with --data-root")
    if as_tar or target == "-":
        if options["delete"] or options["dry_run"] or on_conflict is not None:
            raise click.UsageError("--on-conflict, --delete and --dry-run go with a directory, not with a tar")
        return _export_tar(settings, target, overwrite=overwrite, quiet=quiet, as_json=as_json)
    if overwrite:
        raise click.UsageError("--overwrite goes with --tar")
    if options["delete"] and on_conflict != "replace":
        raise click.UsageError("--delete needs --on-conflict replace: a merge removes nothing")
    from layerstore import export_layers

    options["on_conflict"] = on_conflict or "merge"
    with settings.reading() as store, progress("exporting", quiet=quiet) as bar:
        report = export_layers(store, target, progress=bar, **options)
    return print_report(report, as_json=as_json, quiet=quiet, store=settings.shown)


def _target(path: str | None, data_root: str | None, driver: str | None, *, is_new: bool, is_tar: bool) -> str:
    if (path is None) == (data_root is None):
        raise click.UsageError("give either TARGET, or --data-root")
    if path is not None:
        if driver is not None:
            raise click.UsageError("--driver goes with --data-root")
        if not is_tar and path.endswith(_ARCHIVES) and not os.path.lexists(path):
            raise click.UsageError(
                f"{path} would be a directory: give --tar for an archive, or make the directory first"
            )
        return path
    assert data_root is not None
    if driver is not None and ("/" in driver or driver in ("", ".", "..")):
        raise click.UsageError(f"not the name of a storage driver: {driver!r}")
    from layerstore.docker.dataroot import chosen_driver, distribution_of

    return distribution_of(data_root, chosen_driver(data_root, driver, is_new=is_new))


def _export_tar(settings: Settings, target: str, *, overwrite: bool, quiet: bool, as_json: bool) -> int:
    from layerstore.transfer.exporting import export_archive, export_tar

    if target == "-" and is_typed(sys.stdout):
        raise click.UsageError("an archive is not written to a terminal: give a file, or use a pipe")
    with settings.reading() as store, progress("exporting", quiet=quiet) as bar:
        if target != "-":
            report = export_archive(store, target, overwrite=overwrite, progress=bar)
            return print_report(report, as_json=as_json, quiet=quiet, store=settings.shown)
        report = export_tar(store, sys.stdout.buffer, progress=bar)
        sys.stdout.buffer.flush()
    for line in report.lines(quiet=True):
        click.echo(f"layerstore: {printable(line)}", err=True)
    return 0 if report.ok else 1


@click.command(
    epilog="""\b
Examples:
  layerstore verify
  layerstore verify /var/lib/docker/image/overlay2/distribution
  layerstore verify --repair"""
)
@click.argument("path", type=PATH, required=False)
@click.option("--repair", is_flag=True, help="Rebuild derived data, and quarantine unreadable entries.")
@click.option(
    "--force", is_flag=True, help="Also check a directory without Docker's namespaces; also repair under a daemon."
)
@shared("timeout", "quiet", "json", "database")
def verify(settings: Settings, *, path: str | None, repair: bool, force: bool, quiet: bool, as_json: bool) -> int:
    """Check a store, and repair it.

    Checks the database, or PATH: a database file, a directory, or a tar archive (which cannot be repaired). Exits with
    1 if there is an error or a warning that was not repaired. What Docker does by itself is only info.
    """
    from layerstore import verify as check

    if repair:
        with settings.changing(path) as place, progress("checking", quiet=quiet) as bar:
            report = check(place, repair=True, force=force, progress=bar)
    else:
        with progress("checking", quiet=quiet) as bar:
            report = check(settings.place if path is None else path, force=force, progress=bar)
    return print_report(report, as_json=as_json, quiet=quiet)


@click.command(
    epilog="""\b
Examples:
  layerstore diff /var/lib/docker/image/overlay2/distribution
  layerstore diff yesterday.tar.gz ./distribution"""
)
@click.argument("left", type=PATH)
@click.argument("right", type=PATH, required=False)
@click.option("--force", is_flag=True, help="Also compare a directory without Docker's namespaces.")
@shared("quiet", "json", "database")
def diff(settings: Settings, *, left: str, right: str | None, force: bool, quiet: bool, as_json: bool) -> int:
    """Compare two stores.

    LEFT and RIGHT are database files, directories or tar archives (- reads one from standard input). If you give one,
    the database is compared with it. Exits with 1 if they differ. Different times of modification are counted, but are
    no difference.
    """
    from layerstore import diff as compare

    report = compare(*((settings.place, left) if right is None else (left, right)), force=force)
    return print_report(report, as_json=as_json, quiet=quiet)


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
@shared("timeout", "quiet", "json", "database")
def prune(
    settings: Settings, /, *, path: str | None, dry_run: bool, yes: bool, quiet: bool, as_json: bool, **criteria: Any
) -> int:
    """Remove entries that are no longer needed.

    From the database, or from PATH: a database file, or a directory that no daemon runs on. An entry is removed if it
    matches all criteria; of several --registry or --repository, one is enough.

    --keep-layers and --older-than judge lists, mappings and V1 IDs. The other three judge the associations in a list;
    with one of them mappings stay, as when Docker removes an association. A mapping also stays while a remaining list
    holds its digest. Unreadable entries stay: see verify.
    """
    from layerstore.transfer.pruning import prune as remove

    if not any(value for name, value in criteria.items() if name not in ("to", "force")):
        raise click.UsageError(
            "give a criterion: --keep-layers, --older-than, --registry, --repository, --keep-newest;"
            " or --temporary, --vacuum"
        )
    place = settings.place if path is None else path
    asks = not (dry_run or yes) and is_typed(sys.stdin)
    if dry_run or asks:
        with progress("judging", quiet=quiet and dry_run) as bar:
            report = remove(place, dry_run=True, progress=bar, **criteria)
    if asks:
        for line in report.lines():
            say(line)
        if not (report.is_empty or click.confirm("Remove them?", err=True)):
            say("nothing was removed")
            return 1
    if not dry_run:
        with settings.changing(path) as changed, progress("judging", quiet=quiet) as bar:
            report = remove(changed, progress=bar, **criteria)
    return print_report(report, as_json=as_json, quiet=quiet)
