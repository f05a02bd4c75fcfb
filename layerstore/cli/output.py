"""How answers look: lines, tables and the progress of long work for people, JSON for programs."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import click

from layerstore.warnings import phases
from layerstore.words import duration

if TYPE_CHECKING:
    from layerstore.reports import Report

_ZEROS = re.compile("\0{8,}")
_DIGEST = re.compile(r"(?<![0-9A-Za-z/,_-])(?:sha256:)?([0-9a-f]{12})[0-9a-f]{52}(?![0-9A-Za-z])")
_NARROWEST = 12
"""Characters that a column keeps on a narrow terminal."""
_WRAPPED = 24
"""Characters that a column that wraps keeps."""
_NO_TRUNC = "layerstore.no_trunc"
_BETWEEN_S = 0.1
_STEADY_S = 3.0
"""Before so much time has passed, and a twentieth of the work, no time left is shown."""
_STEADY_PART = 20


def printable(text: str) -> str:
    """Return text from a file or database without characters that would steer a terminal; zero bytes as a number."""
    if text.isprintable():
        return text
    text = _ZEROS.sub(lambda run: f"[{len(run[0])} zero bytes]", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def fail(error: object, code: int) -> int:
    """Say in one line what went wrong; return the exit code."""
    click.echo(f"layerstore: {printable(str(error))}", err=True)
    return code


def print_warning(text: str) -> None:
    """Say in one line what the library warns of, as `fail` does; `--quiet` is for reports, not for this."""
    click.echo(f"layerstore: warning: {printable(text)}", err=True)


def is_typed(stream: IO[str] | None) -> bool:
    """Tell whether standard input or output is a terminal; whoever started this may have closed it."""
    return stream is not None and stream.isatty()


def set_no_trunc(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Remember `--no-trunc`."""
    context.meta[_NO_TRUNC] = context.meta.get(_NO_TRUNC, False) or value


def is_cut() -> bool:
    """Tell whether digests are short and tables fit: on a terminal, unless `--no-trunc` was given."""
    context = click.get_current_context(silent=True)
    return is_typed(sys.stdout) and not (context is not None and context.meta.get(_NO_TRUNC, False))


def cut(text: str) -> str:
    """Return text with the 12 first digits of each digest and V1 ID in it, where `is_cut`."""
    return _DIGEST.sub(r"\1", text) if is_cut() else text


def say(text: str = "") -> None:
    """Print one line for people."""
    click.echo(cut(printable(text)))


def columns(rows: Iterable[Sequence[str]], *, indent: str = "") -> None:
    """Print rows with their columns aligned; on a terminal the last one wraps, and the others are cut to fit."""
    import textwrap

    texts = [[cut(printable(cell)) for cell in row] for row in rows]
    widths = fitting([max(map(len, column)) for column in zip(*texts, strict=True)], len(indent), wraps=True)
    for *row, last in texts:
        cells = [shortened(cell, width).ljust(width) for cell, width in zip(row, widths, strict=False)]
        first, *rest = textwrap.wrap(last, widths[-1]) if len(last) > widths[-1] else [last]
        before = "".join(f"{cell}  " for cell in cells)
        click.echo((indent + before + first).rstrip())
        for more in rest:
            click.echo(indent + " " * len(before) + more)


def fitting(widths: Sequence[int], indent: int = 0, *, wraps: bool = False) -> list[int]:
    """Return the widths of columns, two blanks apart, narrowed until a terminal holds them.

    The widest ones are narrowed; but first the last one, if it wraps.
    """
    fitted = list(widths)
    if not is_cut():
        return fitted
    import shutil

    room = shutil.get_terminal_size().columns - indent - 2 * (len(fitted) - 1)
    if wraps:
        fitted[-1] = max(min(fitted[-1], _WRAPPED), fitted[-1] - max(0, sum(fitted) - room))
    while sum(fitted) > room and max(fitted) > _NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def shortened(text: str, width: int) -> str:
    """Return text that a column of this width holds, its end left out if it must be."""
    return text if len(text) <= width else text[: width - 1] + "…"


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return JSON in which every character that could steer a terminal is escaped, so that it reads the same.

    Bytes are text in it.
    """
    import json

    def plain(part: object) -> str:
        return part.decode("utf-8", "backslashreplace") if isinstance(part, bytes) else str(part)

    is_ascii = not sys.stdout.encoding.lower().startswith("utf")
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii, default=plain)
    return re.sub(r"[^\n -~]", lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def print_json(value: object) -> None:
    """Print one JSON document, with each time in nanoseconds as ISO text too."""
    from layerstore.reports import with_iso_times

    click.echo(json_text(with_iso_times(value), indent=2))


def print_value(value: bytes) -> None:
    """Print bytes as they are; on a terminal, what would steer it is escaped."""
    if sys.stdout.isatty():
        lines = value.decode("utf-8", "backslashreplace").split("\n")
        click.echo("\n".join(map(printable, lines)), nl=False)
    else:
        sys.stdout.buffer.write(value)
    sys.stdout.flush()


def print_report(report: Report, *, as_json: bool, quiet: bool = False, store: str = "") -> int:
    """Print a report; return the exit code: 1 if it is not `ok`."""
    if as_json:
        from layerstore.reports import document

        print_json(document(report))
    else:
        for line in report.lines(quiet=quiet, store=store):
            say(line)
    return 0 if report.ok else 1


class _Line:
    """One line on standard error, drawn again and again."""

    def __init__(self, label: str) -> None:
        self._phase = label
        self._began = self._drawn = time.monotonic()
        self._done = 0
        self._total: int | None = None

    def begin(self, phase: str) -> None:
        """Begin a phase."""
        self._phase, self._began, self._done, self._total = phase, time.monotonic(), 0, None
        self._draw()

    def show(self, done: int, total: int | None) -> None:
        """Say how far it is: the callback of the library."""
        self._done, self._total = done, total
        now = time.monotonic()
        if now - self._drawn >= _BETWEEN_S or done == total:
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        import shutil

        text = self._phase
        if self._total is None:
            text += f": {self._done:,}" if self._done else ""
        else:
            text += f": {self._done:,} of {self._total:,}"
            elapsed = time.monotonic() - self._began
            is_steady = elapsed >= _STEADY_S and self._done * _STEADY_PART >= self._total
            if is_steady and self._done < self._total:
                text += f", {duration(elapsed * (self._total - self._done) / self._done)} left"
        click.echo(f"\r{printable(text)[: shutil.get_terminal_size().columns - 1]}\033[K", nl=False, err=True)


@contextmanager
def progress(label: str, *, quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show a line on a terminal; in a pipe, or when it shall be quiet, show nothing and ask for no calls."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    line = _Line(label)
    phases.append(line.begin)
    try:
        yield line.show
    finally:
        phases.remove(line.begin)
        click.echo("\r\033[K", nl=False, err=True)  # leave the line to what is printed next
