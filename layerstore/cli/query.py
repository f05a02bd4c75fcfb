"""`query`: SQL of one's own, or a query that has a name, and the forms that its rows are printed in.

A table, Markdown, CSV, TSV, JSON or JSON lines: written as the rows come, in any number.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from layerstore.cli.options import PATH, Settings, shared
from layerstore.cli.output import columns as print_columns
from layerstore.cli.output import cut, fitting, json_text, print_json, printable, say, shortened
from layerstore.errors import InvalidInputError
from layerstore.sql.url import is_url
from layerstore.words import readable

if TYPE_CHECKING:
    from layerstore.sql.backend import Value
    from layerstore.sql.reading.search import Kind

Row = Sequence[Any]
_LONGEST = 1024 * 1024
_MEASURED = 1000  # rows that a table's widths are taken from
_MEASURED_CHARACTERS = 1_000_000  # or fewer, if they are long


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


def _texts(row: Row) -> list[str]:
    return ["" if value is None else str(readable(value)) for value in row]


def _table(columns: Sequence[str], rows: Iterator[Row], *, header: bool = True) -> Iterator[str]:
    """A column is as wide as the widest of the first thousand rows, to the right if they are numbers."""
    first, texts, length = [], [], 0
    for row in islice(rows, _MEASURED):
        first.append(row)
        texts.append([cut(printable(text)) for text in _texts(row)])
        length += sum(map(len, texts[-1]))
        if length > _MEASURED_CHARACTERS:
            break
    names = [printable(name) for name in columns]
    widths = fitting([max(map(len, column)) for column in zip(*([names] if header else []), *texts, strict=True)])
    right = [all(isinstance(v, int | float | None) for v in values) for values in zip(*first, strict=True)]
    right = right or [False] * len(names)

    def line(cells: Iterable[str]) -> str:
        aligned = (
            shortened(cell, width).rjust(width) if numeric else shortened(cell, width).ljust(width)
            for cell, width, numeric in zip(cells, widths, right, strict=True)
        )
        return "  ".join(aligned).rstrip() + "\n"

    if header:
        yield line(names)
        yield line("-" * width for width in widths)
    yield from map(line, texts)
    for row in rows:
        yield line(cut(printable(text)) for text in _texts(row))


def _markdown(columns: Sequence[str], rows: Iterator[Row], *, header: bool = True) -> Iterator[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |\n"

    if header:
        yield line(columns)
        yield line("---" for _ in columns)
    for row in rows:
        yield line(_texts(row))


def _csv(columns: Sequence[str], rows: Iterator[Row], *, header: bool = True) -> Iterator[str]:
    import csv

    written: list[str] = []
    writer = csv.writer(SimpleNamespace(write=written.append), lineterminator="\n")
    for row in chain([columns] if header else [], rows):
        writer.writerow(_shown(_texts(row)))
        yield written.pop()


def _tsv(columns: Sequence[str], rows: Iterator[Row], *, header: bool = True) -> Iterator[str]:
    for row in chain([columns] if header else [], rows):
        yield "\t".join(_shown([text.translate(_TSV_ESCAPES) for text in _texts(row)])) + "\n"


_TSV_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _shown(texts: list[str]) -> list[str]:
    # For a program every byte counts; a terminal is not to be steered by what is in a database.
    return list(map(printable, texts)) if sys.stdout.isatty() else texts


def _json_lines(columns: Sequence[str], rows: Iterator[Row], *, header: bool = True) -> Iterator[str]:
    names = _distinct(columns)
    for row in rows:
        yield json_text(dict(zip(names, map(_json_value, row), strict=True))) + "\n"


def _json(columns: Sequence[str], rows: Iterator[Row], *, header: bool = True) -> Iterator[str]:
    before = "[\n  "
    for line in _json_lines(columns, rows):
        yield before + line.rstrip("\n")
        before = ",\n  "
    yield "[]\n" if before == "[\n  " else "\n]\n"


def _json_value(value: Any) -> Any:
    # JSON has no infinite numbers.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else readable(value)


def _distinct(columns: Sequence[str]) -> list[str]:
    """Give each column a name of its own: of two that have the same, an object would keep one."""
    names: list[str] = []
    for column in columns:
        name, number = column, 2
        while name in names:
            name, number = f"{column}_{number}", number + 1
        names.append(name)
    return names


FORMATS: dict[str, Callable[..., Iterator[str]]] = {
    "table": _table,
    "markdown": _markdown,
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _json_lines,
}


def print_rows(columns: Sequence[str], rows: Iterable[Row], form: str, *, header: bool = True) -> None:
    """Print rows in one of `FORMATS`, with or without the names of the columns."""
    for piece in FORMATS[form](columns, iter(rows), header=header):
        click.echo(piece, nl=False)


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
@shared("json", "database")
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
    from layerstore.sql.query import given
    from layerstore.sql.query import query as ask

    is_server = is_url(settings.path)
    sql, parameters, defaults = _what(arguments, file, is_server=is_server)
    values = given(sql, parameters, defaults)
    if defaults is not None and isinstance(values, Mapping):
        values = _of_named(settings, values, defaults)
    with ask(settings.path, sql, values, timeout_s=timeout_s, explain=explain) as answer:
        if explain and form == "table":
            _show_plan(answer.rows, is_server=is_server)
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


def _of_named(settings: Settings, values: Mapping[str, Any], defaults: Mapping[str, Value]) -> dict[str, Any]:
    """Return a named query's values, with digests in full where their first digits were given, as `show` takes them.

    Text is refused for a parameter that is a number by default, such as `limit`.
    """
    kinds: dict[str, Kind] = {"digest": "digest", "diff_id": "layer", "v1_id": "v1-image"}
    full = dict(values)
    for name, value in values.items():
        if isinstance(defaults.get(name), int) and not isinstance(value, int):
            raise InvalidInputError(f"{name} must be a whole number, not {value!r}")
        if name in kinds and re.fullmatch(r"(?:sha256:)?[0-9a-f]{6,63}", str(value)):
            from layerstore.sql.reading.search import full_name

            with settings.reading() as store:
                full[name] = full_name(store, str(value), kinds[name]) or str(value)
    return full


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
        names = ("name", "question", "sql", "needed", "defaults")
        print_json([{name: getattr(one, name) for name in names} for one in QUESTIONS])
    elif form == "table":
        print_columns([(one.usage, one.question) for one in QUESTIONS])
    else:
        print_rows(("usage", "question", "sql"), ((one.usage, one.question, one.sql) for one in QUESTIONS), form)


def _show_plan(rows: Iterable[Row], *, is_server: bool) -> None:
    """Print the steps of a plan, SQLite's as a tree, and mark full scans."""
    from layerstore.sql.query import whole_reads
    from layerstore.sql.sqlite.statements import TABLES

    if is_server:
        lines = [(str(line), "Seq Scan on" in str(line)) for (line,) in rows]
    else:
        steps = [(number, parent, str(detail)) for number, parent, _, detail in rows]
        whole = whole_reads([detail for *_, detail in steps], list(TABLES))
        depth = {0: -1}
        for number, parent, _ in steps:
            depth[number] = depth.get(parent, -1) + 1
        lines = [(f"{'  ' * depth[number]}{detail}", detail in whole) for number, _, detail in steps]
    for line, is_whole in lines:
        say(f"{line}{'   <- full scan' if is_whole else ''}")
