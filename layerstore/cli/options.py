"""Options that several commands share, where the database is, and what completion offers."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click import Context, Parameter
from click.shell_completion import CompletionItem

from layerstore.cli.output import set_no_trunc
from layerstore.errors import LayerstoreError, StoreOpenError
from layerstore.paths import absolute, kind, status
from layerstore.sql.url import is_url, shown

if TYPE_CHECKING:
    from layerstore import SQLMetadataStore

_Command = TypeVar("_Command", bound=Callable[..., Any])
_TIMEOUT_S = 30.0
NAMESPACES = ("blob-by-digest", "diffid-by-digest", "v1id", "v2metadata-by-diffid")


class _Path(click.Path):
    """A path that is not empty; what lies there is for the command to find out, and to name with its exit code 3."""

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> Any:
        if value == "":
            self.fail("an empty path: is a variable unset?", param, ctx)
        return value


PATH = _Path()
DIRECTORY = _Path(file_okay=False)
"""As `PATH`; completion offers directories only."""


class Settings:
    """What was said before or after the command's name."""

    def __init__(self) -> None:
        self.database: str | None = None
        self.timeout_s = _TIMEOUT_S

    @property
    def path(self) -> str:
        """The database: `--db`, else `LAYERSTORE_DB`, else the place for this user."""
        if self.database is not None:
            return self.database
        named = os.environ.get("LAYERSTORE_DB")
        if named == "":
            raise click.UsageError("LAYERSTORE_DB is empty: set it to the database's path, or unset it")
        return named or _default_path()

    @property
    def shown(self) -> str:
        """The database, as messages name it: without a password."""
        return shown(self.path)

    @property
    def place(self) -> str:
        """The database, for what works on archives too: a pipe or device is none, and would be read as one.

        Raises:
            StoreOpenError: it is neither a file nor a directory.
        """
        if is_url(self.path):
            return self.path
        path = absolute(self.path)
        with suppress(OSError):  # who opens it says what keeps it from being looked at
            found = status(path)
            if found is not None and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                raise StoreOpenError(f"{kind(found.st_mode)}, not a database file: give a file", path)
        return path

    def reading(self) -> SQLMetadataStore:
        """Open the database to read only; it must be there."""
        from layerstore import SQLMetadataStore

        return SQLMetadataStore(self.path, read_only=True)

    @contextmanager
    def changing(self, path: str | None) -> Iterator[str | SQLMetadataStore]:
        """Give what a command changes, the database or what PATH names: a file opened with the `--timeout`."""
        from layerstore import SQLMetadataStore
        from layerstore.sql.sqlite.recognition import is_database

        place = self.place if path is None else path
        if not (os.path.isfile(place) and os.path.getsize(place) and is_database(absolute(place))):
            yield place
            return
        with SQLMetadataStore(place, timeout_s=self.timeout_s) as store:
            yield store

    def writing(self, *, create: bool = False) -> SQLMetadataStore:
        """Open the database to write; with `create`, make it if it is not there."""
        from layerstore import SQLMetadataStore
        from layerstore.sql.sqlite.recognition import resolve

        path = None if is_url(self.path) else resolve(self.path)
        if not create and path is not None:
            with suppress(OSError):  # opening says what keeps it from being looked at
                if status(path) is None:
                    raise StoreOpenError("there is no such file: `layerstore import` makes one, or give --db", path)
        return SQLMetadataStore(self.path, timeout_s=self.timeout_s)

    def trying(self) -> SQLMetadataStore:
        """Open the database for what will be undone; an empty one in memory if it is not there."""
        from layerstore import SQLMetadataStore

        is_there = is_url(self.path) or os.path.exists(absolute(self.path))
        return SQLMetadataStore(self.path if is_there else ":memory:")


def _default_path() -> str:
    if os.geteuid() == 0:
        return "/var/lib/layerstore/layers.db"
    # A relative path is invalid there, and to be ignored. Source: XDG base directory specification.
    for state in (os.environ.get("XDG_STATE_HOME", ""), os.path.expanduser("~/.local/state")):
        if os.path.isabs(state):
            return os.path.join(state, "layerstore", "layers.db")
    raise click.UsageError("this user has no home directory: give --db, or set LAYERSTORE_DB")


def _remember(context: Context, parameter: Parameter, value: Any) -> None:
    """Keep a value for the command, whether it was said before its name or after."""
    if value is not None:
        setattr(context.find_root().ensure_object(Settings), str(parameter.name), value)


database_option = click.option(
    "--db",
    "database",
    metavar="FILE",
    type=PATH,
    expose_value=False,
    callback=_remember,
    help="The database: a file, or a URL such as postgresql://host/name."
    " Default: LAYERSTORE_DB, else /var/lib/layerstore/layers.db for root and"
    " $XDG_STATE_HOME/layerstore/layers.db for a user.",
)
"""`--db`, which may stand before or after the command's name; the last one counts."""

_SHARED = {
    "json": (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option(
            "--no-trunc",
            is_flag=True,
            expose_value=False,
            callback=set_no_trunc,
            help="Print digests in full on a terminal, and tables wider than it.",
        ),
    ),
    "quiet": (click.option("-q", "--quiet", is_flag=True, help="Print nothing but findings and errors."),),
    "timeout": (
        click.option(
            "--timeout",
            "timeout_s",
            metavar="SECONDS",
            type=click.FloatRange(min=0),
            default=_TIMEOUT_S,
            show_default=True,
            expose_value=False,
            callback=_remember,
            help="Wait so long for other writers.",
        ),
    ),
    "database": (database_option, click.make_pass_decorator(Settings, ensure=True)),
}


def shared(*names: Literal["json", "quiet", "timeout", "database"]) -> Callable[[_Command], _Command]:
    """Add options that commands share, in this order; with `database` the command gets the settings."""

    def add(command: _Command) -> _Command:
        for name in reversed(names):
            for decorator in reversed(_SHARED[name]):
                command = decorator(command)  # type: ignore[assignment]  # click's give back what they take
        return command

    return add


def data_root_options(*, required: bool) -> Callable[[_Command], _Command]:
    """Add `--data-root` and `--driver`, which say where an image is looked for."""

    def add(command: _Command) -> _Command:
        command = click.option(
            "--driver",
            metavar="NAME",
            shell_complete=offer_drivers,
            help="Look at the images of this storage driver only. Needed if several drivers have the image.",
        )(command)
        return click.option(
            "--data-root",
            metavar="DIR",
            type=DIRECTORY,
            required=required,
            help="A Docker daemon's data root, such as /var/lib/docker. Only read.",
        )(command)

    return add


def offer_drivers(context: Context, _parameter: Parameter, incomplete: str) -> list[str]:
    """Offer the storage drivers of the data root that was given."""
    from layerstore.docker.dataroot import drivers

    root = context.params.get("data_root")
    try:
        names = sorted({one.name for one in drivers(root)}) if root else []
    except LayerstoreError:
        return []  # the command itself will say why
    return [name for name in names if name.startswith(incomplete)]


def offer_known(context: Context, _parameter: Parameter, incomplete: str) -> list[str]:
    """Offer repositories, or digests once hex digits are typed."""
    from layerstore.sql.reading.search import repositories, search

    try:
        with context.find_root().ensure_object(Settings).reading() as store:
            if not incomplete:
                return [one.source_repository for one in repositories(store).repositories]
            return [one.name for one in search(store, incomplete) if one.name.startswith(incomplete)]
    except LayerstoreError:
        return []  # without a database there is nothing to offer; the command itself will say why


def offer_namespaces(_context: Context, _parameter: Parameter, incomplete: str) -> list[str]:
    """Offer the namespaces that Docker and other engines have."""
    return [name for name in NAMESPACES if name.startswith(incomplete)]


def offer_revisions(_context: Context, _parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the revisions of the schema."""
    from layerstore.sql.migrate import history

    return [CompletionItem(one.revision, help=one.doc) for one in history() if one.revision.startswith(incomplete)]
