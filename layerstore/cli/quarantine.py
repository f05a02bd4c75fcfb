"""`quarantine`: what was set aside: list it, restore it, drop it."""

from __future__ import annotations

import dataclasses

import click

from layerstore.cli.options import DIRECTORY, Settings, shared
from layerstore.cli.output import columns, fail, print_json, print_value, say
from layerstore.errors import NotFoundError
from layerstore.words import utc


class _Numbers(click.Group):
    """Commands that take numbers, and say so of one that is not there."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except NotFoundError as error:
            return fail(f"no number {error.key} in quarantine: `layerstore quarantine list` shows them", 1)


@click.group(cls=_Numbers)
def quarantine() -> None:
    """List, restore or drop what was set aside.

    An import, a repair or a write sets aside values that it cannot read, or that are in conflict. They are kept until
    you drop them.
    """


@quarantine.command(
    "list",
    epilog="""\b
Examples:
  layerstore quarantine list
  layerstore quarantine list /var/lib/docker/image/overlay2/distribution""",
)
@click.argument("directory", type=DIRECTORY, required=False)
@shared("json", "database")
def list_(settings: Settings, directory: str | None, as_json: bool) -> None:
    """List what was set aside.

    Number, time, bytes, place and reason. With DIRECTORY, which is a `distribution` directory, the files that exports
    and repairs moved to DIRECTORY.quarantine.
    """
    if directory is not None:
        _list_files(directory, as_json=as_json)
        return
    with settings.reading() as store:
        found = store.quarantined()
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return

    columns(
        [
            (str(one.number), utc(one.quarantined_at_ns), str(len(one.value)), f"{one.namespace}/{one.key}", one.reason)
            for one in found
        ]
    )


def _list_files(directory: str, *, as_json: bool) -> None:
    from layerstore.files.store import quarantined_files

    found = quarantined_files(directory)
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        columns([(utc(one.modified_at_ns), str(one.bytes), one.path) for one in found])


@quarantine.command(epilog="\b\nExample:\n  layerstore quarantine show 3")
@click.argument("number", type=int)
@shared("database")
def show(settings: Settings, number: int) -> None:
    """Print a value that was set aside.

    Its bytes as they are; on a terminal, control characters are escaped. Exits with 1 if there is none.
    """
    from layerstore.sql.quarantine import one_quarantined

    with settings.reading() as store:
        value = one_quarantined(store, number).value
    print_value(value)


@quarantine.command(epilog="\b\nExample:\n  layerstore quarantine restore 3")
@click.argument("number", type=int)
@click.option("--force", is_flag=True, help="Restore the value even if it is invalid for its namespace.")
@shared("timeout", "database")
def restore(settings: Settings, number: int, force: bool) -> None:
    """Put a value back where it was.

    What is in its place moves to quarantine. Exits with 1 if there is no such number.
    """
    from layerstore.sql.quarantine import restore_quarantined

    with settings.writing() as store:
        found = restore_quarantined(store, number, force=force)
    say(f"restored {found.namespace}/{found.key}")


@quarantine.command(epilog="\b\nExamples:\n  layerstore quarantine drop 3 4\n  layerstore quarantine drop --all")
@click.argument("numbers", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Drop all values.")
@shared("timeout", "database")
def drop(settings: Settings, numbers: tuple[int, ...], everything: bool) -> None:
    """Remove values for good.

    All that are named, or none of them. Exits with 1 if one of them is not there.
    """
    from layerstore.sql.quarantine import drop_quarantined

    if bool(numbers) == everything:
        raise click.UsageError("give numbers, or --all")
    with settings.writing() as store, store.transaction():
        dropped = drop_quarantined(store, [one.number for one in store.quarantined()] if everything else numbers)
    say(f"{len(dropped)} dropped")
