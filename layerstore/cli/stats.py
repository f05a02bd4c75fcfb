"""`stats`: a store in numbers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from layerstore.cli.options import Settings, database_option, json_option, settings_argument
from layerstore.cli.output import columns, print_json, say
from layerstore.sql.url import is_url
from layerstore.words import counted, size, utc

if TYPE_CHECKING:
    from layerstore.sql.reading.totals import Stats

_BAR = 20


@click.command(epilog="\b\nExamples:\n  layerstore stats\n  layerstore --db builder.db stats --json")
@json_option
@database_option
@settings_argument
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
        columns(
            [
                (name, f"{layers:,}".rjust(width), "#" * max(1, round(layers / most * _BAR)))
                for name, layers in found.largest
            ],
            indent="    ",
        )
