"""`serve`: the store in a browser."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from layerstore.cli.options import PATH, Settings, shared
from layerstore.cli.output import print_warning, say
from layerstore.errors import LayerstoreError
from layerstore.sql.url import is_url, shown
from layerstore.words import utc


@click.command(
    epilog="""\b
Examples:
  layerstore serve
  layerstore serve layers.db --open
  layerstore serve /var/lib/docker --port 0
  layerstore --db builder.db serve --no-verify"""
)
@click.argument("path", required=False, type=PATH)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Listen on this address. Everyone who reaches it can read everything.",
)
@click.option(
    "--port",
    metavar="NUMBER",
    type=click.IntRange(0, 65535),
    default=8001,
    show_default=True,
    help="Listen on this port; 0 takes any that is free.",
)
@click.option("--open", "open_it", is_flag=True, help="Open the page in the browser.")
@click.option("--no-verify", is_flag=True, help="Do not run `verify` in the background.")
@shared("database")
def serve(settings: Settings, /, *, path: str | None, host: str, port: int, open_it: bool, no_verify: bool) -> None:
    """Show the store in a browser.

    Shows the database, or PATH: a database file, or anything that `import` reads and a database on a server, which are
    imported into a temporary database. It only reads. Reload a page to see new writes. Prints the address, and
    stops at Ctrl-C. Needs the extra `web`: pip install 'layerstore[web]'.
    """
    try:
        from layerstore.web import guard, server
    except ModuleNotFoundError as error:
        raise LayerstoreError(
            f"`serve` needs Datasette ({error.name} is missing): pip install 'layerstore[web]'"
        ) from error
    if not guard.is_loopback(host):
        print_warning(
            f"everyone who reaches {host} can read everything in the store; without --host only this machine can"
        )
    with (
        _database(path or settings.path) as (database, source),
        server.shown(database, source=source, verify=not no_verify) as site,
    ):

        def ready(address: str) -> None:
            say(f"{address}  (Ctrl-C stops)")
            sys.stdout.flush()
            if open_it:
                _open(address)

        def give_up() -> None:
            if source is not None:
                shutil.rmtree(os.path.dirname(database), ignore_errors=True)

        server.serve(site, host, port, ready, give_up)


@contextmanager
def _database(path: str) -> Iterator[tuple[str, str | None]]:
    """Give a database file; what else there is, such as an archive or a server, is copied into a temporary one."""
    from layerstore import SQLMetadataStore, import_directory
    from layerstore.files import temporary
    from layerstore.transfer import place

    if place.is_database_file(path):
        yield path, None
        return

    with temporary.folder("layerstore-serve-") as folder:
        database = os.path.join(folder, "layers.db")
        begun_ns = time.time_ns()  # what is written from now on need not be in it
        with SQLMetadataStore(database) as store:
            import_directory(store, path, allow_empty=is_url(path))
        if is_url(path):
            say(f"shows a copy of {shown(path)} as it was at {utc(begun_ns)}: start again to see new writes")
        yield database, place.name(path)


def _open(address: str) -> None:
    import threading
    import webbrowser

    def run() -> None:
        if not webbrowser.open(address):
            print_warning(f"no browser could be started: open {address} in one")

    # Some browsers return only when they are closed.
    threading.Thread(target=run, daemon=True).start()
