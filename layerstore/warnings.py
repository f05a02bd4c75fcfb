"""Warnings of the library: they go to the logger `layerstore`, or to whoever asks for them, as the command does."""

from __future__ import annotations

from collections.abc import Callable

listener: Callable[[str], None] | None = None
"""Gets each warning in the logger's stead."""


def warn(text: str, *values: object) -> None:
    """Warn of something, formatted as `logging` does."""
    if listener is not None:
        listener(text % values)
        return
    import logging  # noqa: PLC0415  # takes as long as a lookup; most processes warn of nothing

    logger = logging.getLogger("layerstore")
    if not logger.handlers:
        # A program that has not set up logging does not get this library's warnings on its standard error.
        logger.addHandler(logging.NullHandler())
    logger.warning(text, *values)
