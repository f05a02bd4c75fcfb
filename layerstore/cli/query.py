"""`query`: SQL of one's own, or a query that has a name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from layerstore.cli.options import PATH, Settings, database_option, json_option, settings_argument
from layerstore.cli.output import columns as print_columns
from layerstore.cli.output import print_json, say
from layerstore.cli.rows import FORMATS, print_rows
from layerstore.errors import InvalidInputError
from layerstore.sql.url import is_url

if TYPE_CHECKING:
    from layerstore.sql.query.answer import Value

_LONGEST = 1024 * 1024


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of queries where the SQL stands."""
    from layerstore.sql.query.questions import QUESTIONS

    if context.params.get("arguments") or context.params.get("file"):
        return []
    return [
        CompletionItem(f"@{one.name}", help=one.question)
        for one in QUESTIONS
        if f"@{one.name}".startswith(incomplete or "@")
    ]


@click.command(
    epilog="""\b
Examples:
  layerstore query "SELECT * FROM repositories WHERE source_repository = ?" localhost:5000/team/app
  layerstore query "SELECT * FROM v2_metadata WHERE digest = :digest" digest=sha256:203a…
  layerstore query --list
  layerstore query @repositories like='localhost:5000/*' limit=20
  layerstore query --explain @newest
  layerstore query --format csv --file report.sql > report.csv
  echo "SELECT count(*) FROM v2_metadata" | layerstore query -"""
)
@click.argument("arguments", nargs=-1, metavar="SQL|@NAME|- [PARAM...]", shell_complete=_complete)
@click.option("--file", metavar="FILE", type=PATH, help="Read the SQL from a file; - is standard input.")
@click.option("--list", "list_them", is_flag=True, help="List the queries that have a name, with their questions.")
@click.option("--explain", is_flag=True, help="Show the query plan, and mark full scans.")
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), default="table", show_default=True, help="How rows look."
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Stop the query when SQLite has worked on it for so long.",
)
@json_option
@database_option
@settings_argument
def query(  # noqa: PLR0917  # click gives them by name
    settings: Settings,
    arguments: tuple[str, ...],
    file: str | None,
    list_them: bool,
    explain: bool,
    form: str,
    timeout_s: float,
    as_json: bool,
) -> int:
    """Ask the database with SQL.

    Reads only, whatever the SQL says. A PARAM is the value of the next `?`, or as NAME=VALUE of `:NAME`. A BLOB that is
    text is shown as text, another one as x'…'. The names of tables and views are in the README.
    """
    if as_json:
        form = "json"
    if list_them:
        if arguments or file:
            raise click.UsageError("--list takes no SQL")
        _list(form)
        return 0
    is_server = is_url(settings.path)
    sql, parameters, defaults = _what(arguments, file, is_server=is_server)
    from layerstore.sql.query.parameters import given
    from layerstore.sql.query.query import ask

    values = given(sql, parameters, defaults)
    with ask(settings.path, sql, values, timeout_s=timeout_s, explain=explain) as answer:
        if explain and form == "table":
            (_show_plan_of_server if is_server else _show_plan)(answer.rows)
        else:
            print_rows(answer.columns, answer.rows, form)
    return 0


def _what(
    arguments: Sequence[str], file: str | None, *, is_server: bool
) -> tuple[str, Sequence[str], Mapping[str, Value]]:
    """Return the SQL, what was said for its parameters, and what they are if nothing was said."""
    if file is not None:
        return _read(file), arguments, {}
    if not arguments:
        raise click.UsageError("give SQL, @NAME, - or --file; --list shows what has a name")
    first, *rest = arguments
    if first == "-":
        return _read("-"), rest, {}
    if first.startswith("@"):
        from layerstore.sql.query.questions import question

        found = question(first[1:])
        return found.on(server=is_server), rest, found.defaults
    return first, rest, {}


def _read(file: str) -> str:
    name = "standard input" if file == "-" else file
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(_LONGEST + 1)
        else:
            # A pipe into which nobody writes ends at once, and does not hold this up.
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
            with open(descriptor, "rb") as stream:
                raw = stream.read(_LONGEST + 1)
        if len(raw) > _LONGEST:
            raise InvalidInputError(f"{name} is longer than {_LONGEST} bytes, which is the limit for SQL")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name} is no UTF-8 text: byte {error.start}") from error


def _list(form: str) -> None:
    from layerstore.sql.query.questions import QUESTIONS

    if form == "json":
        print_json(
            [
                {
                    "name": one.name,
                    "question": one.question,
                    "sql": one.sql,
                    "needed": one.needed,
                    "defaults": dict(one.defaults),
                }
                for one in QUESTIONS
            ]
        )
    elif form == "table":
        print_columns([(one.usage, one.question) for one in QUESTIONS])
    else:
        print_rows(("usage", "question", "sql"), ((one.usage, one.question, one.sql) for one in QUESTIONS), form)


def _show_plan_of_server(rows: Iterator[Sequence[object]]) -> None:
    """Print PostgreSQL's plan, and mark what reads a table from end to end."""
    for (line,) in rows:
        say(f"{line}{'   <- reads all of it' if 'Seq Scan on' in str(line) else ''}")


def _show_plan(rows: Iterator[Sequence[object]]) -> None:
    """Print SQLite's steps as the tree that they are, and mark what reads a table from end to end."""
    from layerstore.sql.query.plans import whole_reads
    from layerstore.sql.sqlite.statements import TABLES

    steps = [(number, parent, str(detail)) for number, parent, _, detail in rows]
    whole = whole_reads([detail for *_, detail in steps], list(TABLES))
    depth: dict[object, int] = {0: -1}
    for number, parent, detail in steps:
        depth[number] = depth.get(parent, -1) + 1
        say(f"{'  ' * depth[number]}{detail}{'   <- reads all of it' if detail in whole else ''}")
