"""Options that several commands share, and where the database is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from layerstore import SQLMetadataStore

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Settings:
    """What was said before or after the command's name."""

    def __init__(self) -> None:
        self.database: str | None = None

    @property
    def path(self) -> str:
        """The database: `--db`, else `LAYERSTORE_DB`, else the place for this user."""
        return self.database or os.environ.get("LAYERSTORE_DB") or _default_path()

    def reading(self) -> SQLMetadataStore:
        """Open the database to read only; it must be there."""
        from layerstore import SQLMetadataStore

        return SQLMetadataStore(self.path, read_only=True)

    def writing(self, *, create: bool = False) -> SQLMetadataStore:
        """Open the database to write; with `create`, make it if it is not there."""
        from layerstore import SQLMetadataStore, StoreOpenError

        if not create and not os.path.exists(self.path):
            raise StoreOpenError("there is no such file: `layerstore import` makes one, or give --db", self.path)
        return SQLMetadataStore(self.path)


def _default_path() -> str:
    if os.geteuid() == 0:
        return "/var/lib/layerstore/layers.db"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "layerstore", "layers.db")


def _remember(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.find_root().ensure_object(Settings).database = value


def database_option(command: _Command) -> _Command:
    """Add `--db`, which may stand before or after the command's name; the last one counts."""
    return click.option(
        "--db",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=_remember,
        help="The database. Default: LAYERSTORE_DB, else /var/lib/layerstore/layers.db for root and"
        " $XDG_STATE_HOME/layerstore/layers.db for a user.",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but findings and errors.")
settings_argument = click.make_pass_decorator(Settings, ensure=True)


def data_root_options(*, required: bool) -> Callable[[_Command], _Command]:
    """Add `--data-root` and `--driver`, which say where an image is looked for."""

    def add(command: _Command) -> _Command:
        command = click.option(
            "--driver",
            metavar="NAME",
            help="Look at the images of this storage driver only; needed when several have the name.",
        )(command)
        return click.option(
            "--data-root",
            metavar="DIR",
            type=click.Path(file_okay=False),
            required=required,
            help="Where a Docker daemon keeps its images, such as /var/lib/docker. Only read.",
        )(command)

    return add
