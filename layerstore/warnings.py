"""Warnings of the library: they go to the logger `layerstore`, or to whoever asks for them, as the command does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

listeners: list[Callable[[str], None]] = []
"""Who is told what the body of `told_to` warns of; a program has none."""
phases: list[Callable[[str], None]] = []
"""Who is told which part of long work begins: the command's line of progress."""


@contextmanager
def told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Give the warnings of the body to a function, and not to the logger."""
    listeners.append(listener)
    try:
        yield
    finally:
        listeners.remove(listener)


def tell(text: str, *values: object) -> None:
    """Tell a person who waits what is going on; a program, which has no listener, is told nothing."""
    if listeners:
        listeners[-1](text % values)


def inform(phase: str) -> None:
    """Tell which part of long work begins; a program finds it in its log, as information."""
    if phases:
        phases[-1](phase)
        return
    import logging  # noqa: PLC0415  # takes as long as a lookup; most processes log nothing

    logging.getLogger("layerstore").info(phase)


def warn(text: str, *values: object) -> None:
    """Warn of something, formatted as `logging` does."""
    if listeners:
        listeners[-1](text % values)
        return
    import logging  # noqa: PLC0415  # as above

    logger = logging.getLogger("layerstore")
    if not logger.handlers:
        # A program that has not set up logging does not get this library's warnings on its standard error.
        logger.addHandler(logging.NullHandler())
    logger.warning(text, *values)
