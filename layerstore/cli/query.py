"""`query`: SQL of one's own, or a query that has a name."""

from __future__ import annotations

import os
import re
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
    from layerstore.sql.backend import Parameters, Value
    from layerstore.sql.reading.search import Kind

_LONGEST = 1024 * 1024


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of queries where the SQL stands."""
    from layerstore.sql.questions import QUESTIONS

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
@click.option("--no-header", is_flag=True, help="Leave out the names of the columns.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="How rows are printed.  [default: table]")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Stop the query after so long.",
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
    no_header: bool,
    form: str | None,
    timeout_s: float,
    as_json: bool,
) -> int:
    """Ask the database with SQL.

    Only reads. A PARAM is the value of the next `?`, or as NAME=VALUE of `:NAME`. Named queries also take the first
    digits of a digest. A BLOB that is text is shown as text, another one as x'…'. docs/sql.md has the names of tables
    and views.
    """
    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form}: give one of them")
    form = "json" if as_json else form or "table"
    if no_header and form in ("json", "jsonl"):
        raise click.UsageError(f"{form} has no header: leave out --no-header")
    if list_them:
        if arguments or file or explain:
            raise click.UsageError("--list takes no SQL, and goes with neither --file nor --explain")
        _list(form)
        return 0
    is_server = is_url(settings.path)
    sql, parameters, defaults = _what(arguments, file, is_server=is_server)
    from layerstore.sql.query import given
    from layerstore.sql.query import query as ask

    if defaults is not None:
        parameters = _in_full(settings, sql, parameters)
    values = given(sql, parameters, defaults)
    _check_numbers(values, defaults or {})
    with ask(settings.path, sql, values, timeout_s=timeout_s, explain=explain) as answer:
        if explain and form == "table":
            (_show_plan_of_server if is_server else _show_plan)(answer.rows)
        else:
            print_rows(answer.columns, answer.rows, form, header=not no_header)
    return 0


def _what(
    arguments: Sequence[str], file: str | None, *, is_server: bool
) -> tuple[str, Sequence[str], Mapping[str, Value] | None]:
    """Return the SQL, what was given for its parameters, and of a named query the defaults."""
    if file is not None:
        if arguments and (arguments[0].startswith("@") or " " in arguments[0].strip()):
            raise click.UsageError(f"--file and {arguments[0]!r}: give the SQL once")
        return _read(file), arguments, None
    from layerstore.sql.questions import QUESTIONS, question

    if not arguments:
        raise click.UsageError("give SQL, @NAME, - or --file; --list shows what has a name")
    first, *rest = arguments
    if first == "-":
        return _read("-"), rest, None
    if first.startswith("@"):
        found = question(first[1:])
        return found.on(server=is_server), rest, found.defaults
    if first.isidentifier() and first in (one.name for one in QUESTIONS):
        raise click.UsageError(f"{first} is no SQL: did you mean @{first}?")
    return first, rest, None


def _in_full(settings: Settings, sql: str, texts: Sequence[str]) -> list[str]:
    """Return a named query's values with digests in full where their first digits were given, as `show` takes them."""
    from layerstore.sql.query import names_in

    kinds: dict[str, Kind] = {"digest": "digest", "diff_id": "layer", "v1_id": "v1-image"}
    names = names_in(sql)
    full = []
    for at, text in enumerate(texts):
        name, equals, value = text.partition("=")
        if not (equals and name in names):
            name, value = names[at] if at < len(names) else "", text
        if name in kinds and re.fullmatch(r"(?:sha256:)?[0-9a-f]{6,63}", value):
            from layerstore.sql.reading.search import search

            with settings.reading() as store:
                found = [one.name for one in search(store, value) if one.kind == kinds[name]]
            if len(found) > 1:
                raise InvalidInputError(f"several begin with {value!r}: {', '.join(found[:5])}: give more digits")
            value = found[0] if found else value
        full.append(f"{name}={value}" if name else text)
    return full


def _check_numbers(values: Parameters, defaults: Mapping[str, Value]) -> None:
    """Refuse text for a parameter of a named query that is a number by default, such as `limit`."""
    for name, default in defaults.items():
        value = values[name] if isinstance(values, Mapping) else default
        if isinstance(default, int) and not isinstance(value, int):
            raise InvalidInputError(f"{name} must be a whole number, not {value!r}")


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
    from layerstore.sql.questions import QUESTIONS

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
    """Print PostgreSQL's plan, and mark full scans."""
    for (line,) in rows:
        say(f"{line}{'   <- full scan' if 'Seq Scan on' in str(line) else ''}")


def _show_plan(rows: Iterator[Sequence[object]]) -> None:
    """Print SQLite's steps as a tree, and mark full scans."""
    from layerstore.sql.query import whole_reads
    from layerstore.sql.sqlite.statements import TABLES

    steps = [(number, parent, str(detail)) for number, parent, _, detail in rows]
    whole = whole_reads([detail for *_, detail in steps], list(TABLES))
    depth: dict[object, int] = {0: -1}
    for number, parent, detail in steps:
        depth[number] = depth.get(parent, -1) + 1
        say(f"{'  ' * depth[number]}{detail}{'   <- full scan' if detail in whole else ''}")
