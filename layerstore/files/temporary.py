"""Temporary folders: made where `TMPDIR` says, removed whatever ends the work, and named when there is no room."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from layerstore.errors import StoreFullError, TransferError
from layerstore.paths import why_refused
from layerstore.words import no_temporary

_MODE = 0o700


@contextmanager
def folder(prefix: str) -> Iterator[str]:
    """Make a folder for temporary data, 0700; when the body is over, it and what is in it are gone.

    Raises:
        TransferError: it cannot be made.
        StoreFullError: a database in it has no room.
    """
    with ExitStack() as stack:
        try:
            parent = tempfile.gettempdir()
            path = stack.enter_context(folder_in(parent, prefix))
        except OSError as error:
            raise cannot_write(error) from error
        try:
            yield path
        except StoreFullError as error:
            if error.path is not None and error.path.startswith(f"{path}/"):
                raise StoreFullError(no_temporary("no space is left"), parent) from error
            raise


@contextmanager
def folder_in(parent: str, prefix: str) -> Iterator[str]:
    """Make a folder in another one, 0700, and remove it behind the body.

    Raises:
        OSError: it cannot be made.
    """
    # The name is known before there is anything to remove, so that an interrupt at any moment leaves nothing.
    path = os.path.join(parent, prefix + secrets.token_hex(8))
    try:
        os.mkdir(path, _MODE)
        yield path
    finally:
        _remove(path)


def _remove(path: str) -> None:
    try:
        shutil.rmtree(path, ignore_errors=True)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # an interrupt came while it was being removed
        raise


def cannot_write(error: OSError) -> TransferError:
    """Return the error for temporary data that the system refused to write where `TMPDIR` says."""
    try:
        place = tempfile.gettempdir()
    except OSError:  # none of the places that Python tries can be written
        place = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # named, not used
    return TransferError(no_temporary(why_refused(error)), place)
