"""Rows of any query as a table, Markdown, CSV, TSV, JSON or JSON lines: written as they come, in any number."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import click

from layerstore.cli.output import cut, fitting, json_text, printable, shortened
from layerstore.words import readable

Row = Sequence[Any]
_MEASURED = 1000  # rows that a table's widths are taken from
_MEASURED_CHARACTERS = 1_000_000  # or fewer, if they are long


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


class _Written:
    """What the csv module writes to, a line at a time."""

    line = ""

    def write(self, line: str) -> None:
        self.line = line


def _csv(columns: Sequence[str], rows: Iterator[Row], *, header: bool = True) -> Iterator[str]:
    written = _Written()
    writer = csv.writer(written, lineterminator="\n")
    for row in chain([columns] if header else [], rows):
        writer.writerow(_shown(_texts(row)))
        yield written.line


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
