"""How answers look: lines for people, JSON for programs, a progress bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def printable(text: str) -> str:
    """Return text from a file or database without characters that would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fail(error: object, code: int) -> int:
    """Say in one line what went wrong; return the exit code."""
    click.echo(f"layerstore: {printable(str(error))}", err=True)
    return code


def print_warning(text: str) -> None:
    """Say in one line what the library warns of, as `fail` does; `--quiet` is for reports, not for this."""
    click.echo(f"layerstore: warning: {printable(text)}", err=True)


def say(text: str = "") -> None:
    """Print one line for people."""
    click.echo(printable(text))


def columns(rows: Iterable[Sequence[str]], *, indent: str = "") -> None:
    """Print rows with their columns aligned; the last one is never padded or cut."""
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo((indent + "  ".join(padded)).rstrip())


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return JSON in which every character that could steer a terminal is escaped, so that it reads the same."""
    import json
    import re

    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, default=str)
    return re.sub(r"[^\n -~]", lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def print_json(value: object) -> None:
    """Print one JSON document."""
    click.echo(json_text(value, indent=2))


def print_value(value: bytes) -> None:
    """Print bytes as they are; on a terminal, what would steer it is escaped."""
    if sys.stdout.isatty():
        lines = value.decode("utf-8", "backslashreplace").split("\n")
        click.echo("\n".join(map(printable, lines)), nl=False)
    else:
        sys.stdout.buffer.write(value)
    sys.stdout.flush()


def report_json(report: DataclassInstance) -> None:
    """Print a report's fields, and whether it is `ok`."""
    import dataclasses

    print_json({**dataclasses.asdict(report), "ok": getattr(report, "ok")})  # noqa: B009  # reports have it, dataclasses not


@contextmanager
def progress(label: str, *, quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show a bar on a terminal; in a pipe, or when it shall be quiet, show nothing and ask for no calls."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr, update_min_steps=1) as bar:
        bar_any: Any = bar

        def show(done: int, total: int | None) -> None:
            if done % 256 == 0 or done == total:
                bar_any.length = total or done
                bar_any.update(done - bar_any.pos)

        yield show
