"""`import`, `export`, `verify`, `diff`: whole stores and directories."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence, Sized
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
from layerstore.cli.output import print_json, printable, progress, report_json, say
from layerstore.paths import absolute

if TYPE_CHECKING:
    from layerstore import DiffReport, ExportReport, ImportReport, VerifyReport
    from layerstore.transfer.diffing import BlobDifference, LayerDifference
    from layerstore.transfer.importing import Skipped, SourceReport
    from layerstore.transfer.merging import OnConflict


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
    help="Where both sides have an entry: merge by time, take what comes in, or keep what is there.",
)
@click.option(
    "--force", is_flag=True, help="Import also what has none of Docker's namespaces, and archives of over 8 GiB."
)
@click.option("--allow-empty", is_flag=True, help="Import also from where there is nothing (for scripts).")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@quiet_option
@json_option
@database_option
@settings_argument
def import_(
    settings: Settings,
    *,
    paths: tuple[str, ...],
    host: bool,
    on_conflict: OnConflict,
    force: bool,
    allow_empty: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Import what container engines know of layers.

    Each PATH is a `distribution` directory; a Docker data root, of which all image/*/distribution are taken, also
    those of remapped users; a tar of any of them, - for one on standard input; another store's file; the cache of
    Podman, Skopeo, Buildah and CRI-O, or its folder; containerd's root; or containerd:SOCKET?namespace=NAME, a running
    containerd. They are read first, then merged in their order in one transaction.

    What cannot be what its namespace says goes to quarantine. Exits with 1 if anything was not taken, or two values
    of one digest were found. Importing the same again changes nothing. Where there is no metadata, that is an error,
    and no database is made; an empty directory called `distribution` is a fresh host's.
    """
    from layerstore.transfer.host import sources_here
    from layerstore.transfer.importing import import_layers
    from layerstore.transfer.place import sources

    if not (paths or host):
        raise click.UsageError("give a PATH, or --host")
    # Looked into before the database is made.
    found = [*sources(paths, force=force, allow_empty=allow_empty), *(sources_here() if host else ())]
    opened = settings.trying() if dry_run else settings.writing(create=True)
    with opened as store, progress("importing", quiet=quiet) as bar:
        report = import_layers(
            store, *found, on_conflict=on_conflict, allow_empty=allow_empty, dry_run=dry_run, progress=bar
        )
    if as_json:
        report_json(report)
    else:
        _say_import(report, settings.shown, quiet=quiet, dry_run=dry_run)
    return 0 if report.ok else 1


def _say_import(report: ImportReport, database: str, *, quiet: bool, dry_run: bool) -> None:
    for conflict in report.conflicts:
        place = f"{conflict.namespace}/{conflict.key}"
        say(f"conflict: {place}: kept {conflict.kept}, set aside {conflict.set_aside} (merging {conflict.source})")
    _say_rest(report.conflict_count, report.conflicts, "conflicts: `layerstore quarantine list`")
    for quarantined in report.quarantined:
        say(f"quarantined: {quarantined.path}: {quarantined.reason}")
    _say_rest(report.quarantined_count, report.quarantined, "quarantined: `layerstore quarantine list`")
    _say_skipped(report.skipped_count, report.skipped)
    if quiet:
        return
    for note in report.notes:
        say(f"note: {note.path}: {note.reason}")
    _say_rest(report.note_count, report.notes, "notes")
    for source in report.sources:
        say(f"{'would import' if dry_run else 'imported'} {source.source} into {database}: {_counted(source)}")
    if len(report.sources) != 1:
        say(f"in all: {_counted(report)}")
    for evicted in report.evictions:
        say(f"evicted: {evicted.associations} from the end of layer {evicted.diff_id} (merging {evicted.source})")
    if report.evicted:
        say(f"{report.evicted} associations fell off the end of merged lists")
    if report.temporary:
        say(f"{report.temporary} temporary files ignored")


def _say_skipped(count: int, named: Sequence[Skipped]) -> None:
    for skipped in named:
        say(f"skipped: {skipped.path}: {skipped.reason}")
    _say_rest(count, named, "skipped")


def _say_rest(count: int, named: Sized, what: str) -> None:
    if count > len(named):
        say(f"and {count - len(named)} more {what}")


def _counted(counts: ImportReport | SourceReport) -> str:
    named = {"read": counts.read, "added": counts.added, "updated": counts.updated, "unchanged": counts.unchanged}
    return ", ".join(f"{count} {what}" for what, count in named.items() if count or what in ("read", "added"))


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
@click.option("--driver", metavar="NAME", help="The storage driver, with --data-root: overlay2, vfs, ...")
@click.option(
    "--tar",
    "as_tar",
    is_flag=True,
    help="Write PATH as a tar archive, compressed if it ends in .gz, .bz2 or .xz; - is standard output.",
)
@click.option("--overwrite", is_flag=True, help="With --tar: replace the archive if it exists.")
@click.option(
    "--on-conflict",
    type=click.Choice(["merge", "replace", "keep"]),
    help="Where both sides have an entry: merge by time, take the store's, or keep the directory's.  [default: merge]",
)
@click.option("--delete", is_flag=True, help="Remove files that the store does not have. Needs --on-conflict replace.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--force", is_flag=True, help="Replace and delete also in the directory of a running daemon.")
@click.option(
    "--assume-compression",
    type=click.Choice(["gzip"]),
    help="Take layers whose compression is not known for gzip. If one is not, a push publishes a wrong manifest.",
)
@click.option(
    "--all-namespaces", is_flag=True, help="Write `blob-by-digest` into the directory too; Docker ignores it."
)
@click.option("--image", "images", metavar="NAME", multiple=True, help="For containerd: only content of this image.")
@click.option("--to", metavar="REPOSITORY", help="For containerd: only the name that a push there will choose.")
@quiet_option
@json_option
@database_option
@settings_argument
def export(
    settings: Settings,
    *,
    path: str | None,
    data_root: str | None,
    driver: str | None,
    as_tar: bool,
    overwrite: bool,
    on_conflict: OnConflict | None,
    delete: bool,
    dry_run: bool,
    force: bool,
    assume_compression: str | None,
    all_namespaces: bool,
    images: tuple[str, ...],
    to: str | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Write what the store knows for an engine.

    TARGET is a directory that a Docker daemon can use, as is DIR/image/NAME/distribution; a cache of Podman, Skopeo,
    Buildah and CRI-O, blob-info-cache-v1.sqlite; containerd:SOCKET?namespace=NAME, a running containerd; or another
    database. What the target has is merged with what the store has, as import does: nothing that it knows is lost. To
    mirror the store in a directory instead, use --on-conflict replace --delete.

    A daemon may run on the directory, but for --on-conflict replace. Each file is complete or absent at every moment;
    files that are right already are not touched. Exits with 1 if an entry was not written, or two values of one digest
    were found.
    """
    target = _target(path, data_root, driver)
    if as_tar and data_root is not None:
        raise click.UsageError("--tar goes with PATH, not with --data-root")
    if as_tar or target == "-":
        if delete or dry_run or on_conflict is not None:
            raise click.UsageError("--on-conflict, --delete and --dry-run go with a directory, not with a tar")
        return _export_tar(settings, target, overwrite=overwrite, quiet=quiet, as_json=as_json)
    if overwrite:
        raise click.UsageError("--overwrite goes with --tar")
    if delete and on_conflict != "replace":
        raise click.UsageError("--delete needs --on-conflict replace: a merge removes nothing")
    from layerstore import export_layers

    with settings.reading() as store, progress("exporting", quiet=quiet) as bar:
        report = export_layers(
            store,
            target,
            on_conflict=on_conflict or "merge",
            delete=delete,
            dry_run=dry_run,
            force=force,
            assume_compression=assume_compression,
            all_namespaces=all_namespaces,
            images=images,
            to=to,
            progress=bar,
        )
    if as_json:
        print_json({**dataclasses.asdict(report), "written": report.written, "ok": report.ok})
    else:
        _say_export(report, settings.shown, quiet=quiet)
    return 0 if report.ok else 1


def _say_export(report: ExportReport, database: str, *, quiet: bool) -> None:
    for conflict in report.conflicts:
        say(f"conflict: {conflict.namespace}/{conflict.key}: {conflict.kept} stays, not {conflict.set_aside}")
    _say_rest(report.conflict_count, report.conflicts, "conflicts")
    _say_skipped(report.skipped_count, report.skipped)
    if quiet:
        return
    for deleted in report.deleted_paths:
        say(f"{'would delete' if report.dry_run else 'deleted'} {deleted}")
    _say_rest(report.deleted, report.deleted_paths, "deleted")
    if report.quarantine is not None:
        say(f"moved {report.quarantined} to {report.quarantine}")
    say(f"{'would export' if report.dry_run else 'exported'} {database} to {report.path}")
    counts = {
        "kept": report.kept,
        "unchanged": report.unchanged,
        "deleted": report.deleted,
        "left that the store does not have": report.extra,
    }
    others = [f"{count} {what}" for what, count in counts.items() if count]
    say(", ".join([_written(report), *others]))
    for reason, count in sorted(report.left_out.items()):
        say(f"left out: {count}: {reason}")
    if report.evicted:
        say(f"{report.evicted} associations were evicted from merged lists (a list keeps 50)")


def _written(report: ExportReport) -> str:
    counts = {"added": report.added, "merged": report.merged, "replaced": report.replaced}
    kinds = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{report.written} written" + (f" ({kinds})" if report.added != report.written else "")


def _target(path: str | None, data_root: str | None, driver: str | None) -> str:
    if (path is None) == (data_root is None):
        raise click.UsageError("give either PATH, or --data-root and --driver")
    if (data_root is None) != (driver is None):
        raise click.UsageError("--data-root and --driver go together")
    if path is not None:
        return path
    assert data_root is not None
    assert driver is not None
    if "/" in driver or driver in ("", ".", ".."):
        raise click.UsageError(f"not the name of a storage driver: {driver!r}")
    from layerstore.docker.dataroot import distribution_of

    return distribution_of(data_root, driver)


def _export_tar(settings: Settings, target: str, *, overwrite: bool, quiet: bool, as_json: bool) -> int:
    from layerstore.transfer.exporting import export_archive, export_tar
    from layerstore.transfer.merging import Examples

    if target == "-" and sys.stdout.isatty():
        raise click.UsageError("an archive is not written to a terminal: give a file, or use a pipe")
    skipped: Examples[Skipped] = Examples()
    with settings.reading() as store, progress("exporting", quiet=quiet) as bar:
        if target == "-":
            export_tar(store, sys.stdout.buffer, skipped=skipped, progress=bar)
            sys.stdout.buffer.flush()
            for one in skipped.first:
                click.echo(f"layerstore: skipped: {printable(one.path)}: {one.reason}", err=True)
            return 1 if skipped.count else 0
        written = export_archive(store, target, overwrite=overwrite, skipped=skipped, progress=bar)
    if as_json:
        report = {"path": absolute(target), "written": written, "ok": not skipped.count}
        if skipped.count:
            report["skipped"] = [dataclasses.asdict(one) for one in skipped.first]
            report["skipped_count"] = skipped.count
        print_json(report)
    else:
        _say_skipped(skipped.count, skipped.first)
        if not quiet:
            say(f"exported {settings.shown} to {absolute(target)}: {written} written")
    return 1 if skipped.count else 0


@click.command(
    epilog="""\b
Examples:
  layerstore verify
  layerstore verify /var/lib/docker/image/overlay2/distribution
  layerstore verify --repair"""
)
@click.argument("path", type=PATH, required=False)
@click.option("--repair", is_flag=True, help="Mend what can be derived, move what cannot be read to quarantine.")
@click.option(
    "--force", is_flag=True, help="Check also a directory without Docker's namespaces; repair also under a daemon."
)
@quiet_option
@json_option
@database_option
@settings_argument
def verify(settings: Settings, *, path: str | None, repair: bool, force: bool, quiet: bool, as_json: bool) -> int:
    """Check a store, and mend it.

    Checks the database, or PATH: a database file, a directory, or a tar (to look only). Exits with 1 if there
    is an error or a warning
    that was not mended. What Docker does by itself is only info.
    """
    from layerstore import verify as check

    with progress("checking", quiet=quiet) as bar:
        report = check(path or settings.place, repair=repair, force=force, progress=bar)
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
        if found.examples and found.count > len(found.examples):
            say(f"  and {found.count - len(found.examples)} more")
        if found.repaired < found.count:
            say(f"  remedy: {found.remedy}")
    if report.quarantine is not None:
        say(f"moved to {report.quarantine}")
    if not quiet:
        say(f"checked {report.checked} entries of {report.path}: {'ok' if report.ok else 'not ok'}")


@click.command(
    epilog="""\b
Examples:
  layerstore diff /var/lib/docker/image/overlay2/distribution
  layerstore diff yesterday.tar.gz ./distribution"""
)
@click.argument("left", type=PATH)
@click.argument("right", type=PATH, required=False)
@click.option("--force", is_flag=True, help="Compare also a directory that has none of Docker's namespaces.")
@quiet_option
@json_option
@database_option
@settings_argument
def diff(settings: Settings, *, left: str, right: str | None, force: bool, quiet: bool, as_json: bool) -> int:
    """Compare two stores.

    LEFT and RIGHT are database files, directories or tars, - for one on standard input; given one, the database
    is compared with it. Exits with 1
    if they differ. Times of modification are counted, but are no difference.
    """
    from layerstore import diff as compare

    report = compare(*((settings.place, left) if right is None else (left, right)), force=force)
    if as_json:
        report_json(report)
    else:
        _say_diff(report, quiet=quiet)
    return 0 if report.ok else 1


def _say_sides(difference: LayerDifference | BlobDifference) -> None:
    for one in difference.only_left:
        say(f"  only in left: {one}")
    for one in difference.only_right:
        say(f"  only in right: {one}")


def _say_diff(report: DiffReport, *, quiet: bool) -> None:
    for layer in report.layers:
        say(f"layer {layer.diff_id}")
        _say_sides(layer)
        if layer.reordered:
            say("  what both have is in another order")
    for blob in report.blobs:
        say(f"blob {blob.digest}")
        _say_sides(blob)
    told = {("v2metadata-by-diffid", layer.diff_id.replace(":", "/", 1)) for layer in report.layers}
    told |= {("blob-by-digest", blob.digest.replace(":", "/", 1)) for blob in report.blobs}
    for what, entries in (
        ("only in left", report.only_left),
        ("only in right", report.only_right),
        ("differs", report.differing),
    ):
        for entry in entries:
            if (entry.namespace, entry.key) not in told:
                say(f"{what}: {entry.namespace}/{entry.key}")
    if not quiet:
        times = f", {report.times_differ} of them modified at other times" if report.times_differ else ""
        say(f"left {report.left}, right {report.right}: {report.equal} entries are equal{times}")
