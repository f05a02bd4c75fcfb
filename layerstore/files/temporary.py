"""Temporary folders and records, kept where `TMPDIR` says; and files that get their name when they are whole."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import msgspec

from layerstore.errors import StoreFullError, TransferError
from layerstore.files import tree
from layerstore.paths import why_refused
from layerstore.words import no_temporary

_MODE = 0o700
_FILE_MODE = 0o600
_WORKING_DIRECTORY = -100  # AT_FDCWD
_IN_MEMORY_BYTES = 1 << 20
_LENGTH = 8


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


@contextmanager
def whole_file(target: str, *, overwrite: bool = False) -> Iterator[str]:
    """Make an empty file for the body to fill, 0600; synced, it gets its name behind the body.

    Args:
        target: the name.
        overwrite: replace a file that has it.

    Raises:
        FileExistsError: somebody has the name by then.
        OSError: it cannot be made, synced or renamed.
    """
    path = f"{target}.tmp-{secrets.token_hex(8)}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
        os.chmod(path, _FILE_MODE)  # whatever the umask
        yield path
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if overwrite:
            os.rename(path, target)
        else:
            _rename_to_new(path, target)
        tree.sync_directory(os.path.dirname(target))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _rename_to_new(old: str, new: str) -> None:
    """Rename a file to a name that nobody has, which `os.rename` cannot.

    Not by a hard link and the removal of the first name: killed in between, the file would have two names, and a
    database that has two is refused. Where the system lacks the call, it is done in two steps: killed in between, an
    empty file is left.
    """
    try:
        return tree.rename(_WORKING_DIRECTORY, old, new, tree.NO_REPLACE)
    except OSError as error:
        if error.errno not in tree.LACKING:
            raise
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    try:
        return os.rename(old, new)
    except BaseException:
        if os.path.exists(old):  # an interrupt may come right behind the rename
            os.unlink(new)
        raise


def cannot_write(error: OSError) -> TransferError:
    """Return the error for temporary data that the system refused to write where `TMPDIR` says."""
    try:
        place = tempfile.gettempdir()
    except OSError:  # none of the places that Python tries can be written
        place = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  # named, not used
    return TransferError(no_temporary(why_refused(error)), place)


class Spool:
    """Any number of tuples of text, bytes and numbers, in the order in which they were added; many of them in a file.

    The file has no name and goes with the process; it lies where `tempfile` puts such files (`TMPDIR`).
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115  # closed by `close`
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, *fields: object) -> None:
        """Append one tuple.

        Raises:
            TransferError: the file cannot be written.
        """
        encoded = msgspec.msgpack.encode(fields)
        try:
            self._file.write(len(encoded).to_bytes(_LENGTH))
            self._file.write(encoded)
        except OSError as error:
            raise cannot_write(error) from error
        self._count += 1

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield what was added so far, from the beginning; nothing may be added meanwhile.

        Raises:
            TransferError: what was added last cannot be written.
        """
        try:
            self._file.seek(0)
        except OSError as error:
            raise cannot_write(error) from error
        for _ in range(self._count):
            length = int.from_bytes(self._file.read(_LENGTH))
            yield tuple(msgspec.msgpack.decode(self._file.read(length)))

    def close(self) -> None:
        """Give the room back."""
        with suppress(OSError):  # what cannot be written any more is of no use either
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
