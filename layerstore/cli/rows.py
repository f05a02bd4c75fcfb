"""Rows of any query as a table, CSV, TSV, JSON or JSON lines: written as they come, whatever their number."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import click

from layerstore.cli.output import json_text, printable

Row = Sequence[Any]
_MEASURED = 1000  # rows that a table's widths are taken from
_MEASURED_CHARACTERS = 1_000_000  # or fewer, if they are long


def readable(value: Any) -> Any:
    """Return a value without bytes: a BLOB is its text, or `x'…'` in hex if it is none.

    Text is UTF-8 without control characters other than the ends of lines and tabs.
    """
    if not isinstance(value, bytes):
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"x'{value.hex()}'"
    is_text = all(character >= " " or character in "\t\n\r" for character in text) and "\x7f" not in text
    return text if is_text else f"x'{value.hex()}'"


def _texts(row: Row) -> list[str]:
    return ["" if value is None else str(readable(value)) for value in row]


def _table(columns: Sequence[str], rows: Iterator[Row]) -> Iterator[str]:
    """A column is as wide as the widest of the first thousand rows, to the right if they are numbers."""
    first, texts, length = [], [], 0
    for row in islice(rows, _MEASURED):
        first.append(row)
        texts.append([printable(text) for text in _texts(row)])
        length += sum(map(len, texts[-1]))
        if length > _MEASURED_CHARACTERS:
            break
    names = [printable(name) for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    right = [all(isinstance(v, int | float | None) for v in values) for values in zip(*first, strict=True)]
    right = right or [False] * len(names)

    def line(cells: Iterable[str]) -> str:
        aligned = (
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(cells, widths, right, strict=True)
        )
        return "  ".join(aligned).rstrip() + "\n"

    yield line(names)
    yield line("-" * width for width in widths)
    yield from map(line, texts)
    for row in rows:
        yield line(printable(text) for text in _texts(row))


class _Written:
    """What the csv module writes to, a line at a time."""

    line = ""

    def write(self, line: str) -> None:
        self.line = line


def _csv(columns: Sequence[str], rows: Iterator[Row]) -> Iterator[str]:
    written = _Written()
    writer = csv.writer(written, lineterminator="\n")
    for row in chain([columns], rows):
        writer.writerow(_shown(_texts(row)))
        yield written.line


def _tsv(columns: Sequence[str], rows: Iterator[Row]) -> Iterator[str]:
    for row in chain([columns], rows):
        yield "\t".join(_shown([text.translate(_TSV_ESCAPES) for text in _texts(row)])) + "\n"


_TSV_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _shown(texts: list[str]) -> list[str]:
    # For a program every byte counts; a terminal is not to be steered by what is in a database.
    return list(map(printable, texts)) if sys.stdout.isatty() else texts


def _json_lines(columns: Sequence[str], rows: Iterator[Row]) -> Iterator[str]:
    names = _distinct(columns)
    for row in rows:
        yield json_text(dict(zip(names, map(_json_value, row), strict=True))) + "\n"


def _json(columns: Sequence[str], rows: Iterator[Row]) -> Iterator[str]:
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


FORMATS: dict[str, Callable[[Sequence[str], Iterator[Row]], Iterator[str]]] = {
    "table": _table,
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _json_lines,
}


def print_rows(columns: Sequence[str], rows: Iterable[Row], form: str) -> None:
    """Print rows in one of `FORMATS`."""
    for piece in FORMATS[form](columns, iter(rows)):
        click.echo(piece, nl=False)
