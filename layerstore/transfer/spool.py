"""Any number of small records that work in two passes keeps between them, in a file of their own once they are many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from layerstore.files.temporary import cannot_write

_IN_MEMORY = 1 << 20
_LENGTH = 8


class Spool:
    """Tuples of text, bytes and numbers, in the order in which they were added.

    The file has no name and goes with the process; it lies where `tempfile` puts such files (`TMPDIR`).
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # closed by `close`
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

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _at: TracebackType | None) -> None:
        self.close()
