"""What long work shows on a terminal: the phase, how much is done, and how long it still takes once that is known."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from layerstore.cli.output import printable
from layerstore.words import duration

_BETWEEN_S = 0.1
_STEADY_S = 3.0
"""Before so much time has passed, and a twentieth of the work, no time left is shown."""
_STEADY_PART = 20


class _Line(logging.Handler):
    """One line on standard error, drawn again and again; the library's log names the phases."""

    def __init__(self, label: str) -> None:
        super().__init__(logging.INFO)
        self._phase = label
        self._began = self._drawn = time.monotonic()
        self._done, self._total = 0, None

    _total: int | None

    def emit(self, record: logging.LogRecord) -> None:
        """Begin a phase: what the library logs as information."""
        if record.levelno == logging.INFO:
            self._phase, self._began, self._done, self._total = record.getMessage(), time.monotonic(), 0, None
            self._draw()

    def show(self, done: int, total: int | None) -> None:
        """Say how far it is: the callback of the library."""
        self._done, self._total = done, total
        now = time.monotonic()
        if now - self._drawn >= _BETWEEN_S or done == total:
            self._drawn = now
            self._draw()

    def clear(self) -> None:
        """Leave the line to what is printed next."""
        click.echo("\r\033[K", nl=False, err=True)

    def _draw(self) -> None:
        text = self._phase
        if self._total is not None:
            text += f": {self._done:,} of {self._total:,}{self._left()}"
        elif self._done:
            text += f": {self._done:,}"
        click.echo(f"\r{printable(text)[: shutil.get_terminal_size().columns - 1]}\033[K", nl=False, err=True)

    def _left(self) -> str:
        assert self._total is not None
        elapsed = time.monotonic() - self._began
        if elapsed < _STEADY_S or self._done * _STEADY_PART < self._total or self._done >= self._total:
            return ""
        return f", {duration(elapsed * (self._total - self._done) / self._done)} left"


@contextmanager
def progress(label: str, *, quiet: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show a line on a terminal; in a pipe, or when it shall be quiet, show nothing and ask for no calls."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    line = _Line(label)
    logger = logging.getLogger("layerstore")
    before = logger.level
    logger.addHandler(line)
    logger.setLevel(logging.INFO)
    try:
        yield line.show
    finally:
        logger.removeHandler(line)
        logger.setLevel(before)
        line.clear()
