"""The error tree: everything that layerstore raises on purpose.

    LayerstoreError
    ├─ NotFoundError (KeyError)            namespace, key
    │  └─ ImageNotFoundError
    ├─ InvalidInputError (ValueError)
    │  ├─ InvalidKeyError
    │  ├─ InvalidDigestError
    │  ├─ InvalidV1IDError
    │  ├─ InvalidRepositoryError
    │  └─ QueryError
    ├─ CorruptRecordError                  namespace, key, reason
    ├─ StoreError                          path
    │  ├─ StoreOpenError
    │  ├─ StoreCorruptError
    │  ├─ StoreFullError
    │  ├─ StoreReadOnlyError
    │  ├─ StoreClosedError
    │  ├─ StoreBusyError (TimeoutError)
    │  ├─ StoreConnectionError (ConnectionError)
    │  ├─ QueryStoppedError (TimeoutError)
    │  └─ SchemaVersionError
    └─ TransferError                       path

Only `NotFoundError` may be read as "there is nothing": every other error says that the answer is not known.
Each class is also the built-in that fits, keeps its facts as attributes, and can be pickled, so that it crosses
a process boundary whole. Driver errors become these in `layerstore.sql.sqlite.errors`,
`layerstore.sql.postgresql.errors` and `layerstore.files.store`, nowhere else.
"""

from __future__ import annotations

__all__ = [
    "CorruptRecordError",
    "ImageNotFoundError",
    "InvalidDigestError",
    "InvalidInputError",
    "InvalidKeyError",
    "InvalidRepositoryError",
    "InvalidV1IDError",
    "LayerstoreError",
    "NotFoundError",
    "QueryError",
    "QueryStoppedError",
    "SchemaVersionError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreConnectionError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreOpenError",
    "StoreReadOnlyError",
    "TransferError",
]


def _what(namespace: str, key: str) -> str | None:
    """Return what an entry of Docker's is about, in the words of who looks it up; `None` for another entry."""
    if namespace == "v1id" and "," in key:
        registry, _, v1_id = key.rpartition(",")
        return f"V1 image {v1_id} at {registry}"
    noun = {"v2metadata-by-diffid": "layer", "diffid-by-digest": "digest"}.get(namespace)
    return f"{noun} {key.replace('/', ':', 1)}" if noun and "/" in key else None


def slash_hint(key: str) -> str:
    """Return what to add to an error about a key that was written as a digest, with a colon; nothing for another."""
    written = key.replace(":", "/", 1)
    return f"; a key is written with a slash: {written}" if key.startswith(("sha256:", "sha384:", "sha512:")) else ""


class LayerstoreError(Exception):
    """The root: `except LayerstoreError` catches every error that this package raises on purpose."""


class NotFoundError(LayerstoreError, KeyError):
    """There is no entry under this namespace and key.

    Attributes:
        namespace: the namespace that was asked.
        key: the key that it does not have.
    """

    def __init__(self, namespace: str, key: str) -> None:
        super().__init__(namespace, key)
        self.namespace = namespace
        self.key = key

    def __str__(self) -> str:
        entry = f"no entry {self.key!r} in namespace {self.namespace!r}"
        what = _what(self.namespace, self.key)
        return (f"nothing is known about {what} ({entry})" if what else entry) + slash_hint(self.key)


class ImageNotFoundError(NotFoundError):
    """A Docker data root has no image of this name or ID.

    Attributes:
        namespace: the path of the data root.
        key: the name that was looked for. The message may ask whether another one was meant.
    """

    def __init__(self, namespace: str, key: str, hint: str = "") -> None:
        super().__init__(namespace, key)
        if hint:
            self.args = (namespace, key, hint)  # by which it is made again in another process

    def __str__(self) -> str:
        hint = "".join(self.args[2:])
        return f"{self.namespace}: no image {self.key!r}{hint} (`docker image ls` lists them)"


class InvalidInputError(LayerstoreError, ValueError):
    """An argument is invalid; nothing was read or written."""


class InvalidKeyError(InvalidInputError):
    """A namespace or key that breaks the key rules (`layerstore.store.check_key`)."""


class InvalidDigestError(InvalidInputError):
    """A digest or DiffID that the OCI grammar does not allow."""


class InvalidV1IDError(InvalidInputError):
    """A V1 image ID that is not 64 lower-case hexadecimal digits."""


class InvalidRepositoryError(InvalidInputError):
    """A repository name that cannot be stored or compared."""


class QueryError(InvalidInputError):
    """SQL that cannot be run: it is wrong, would write, lacks a parameter's value, or needs more than a query may."""


class CorruptRecordError(LayerstoreError):
    """An entry exists, but its value is invalid for its namespace.

    Attributes:
        namespace: where the entry is.
        key: its key.
        reason: what is wrong with the value.
    """

    def __init__(self, namespace: str, key: str, reason: str) -> None:
        super().__init__(namespace, key, reason)
        self.namespace = namespace
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        entry = f"entry {self.key!r} in namespace {self.namespace!r}"
        what = _what(self.namespace, self.key)
        named = f"what is stored about {what} is unreadable ({entry})" if what else f"unreadable {entry}"
        return f"{named}: {self.reason}; `layerstore verify` lists all such entries"


class _PathError(LayerstoreError):
    """A message about a path, which the message names and the attribute holds."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message, path)
        self.path = path

    def __str__(self) -> str:
        message: str = self.args[0]
        return message if self.path is None else f"{self.path}: {message}"


class StoreError(_PathError):
    """The store itself failed: its file, its directory, or the medium below.

    Attributes:
        path: the database file or base directory, or the server's URL without a password; `None` for a store in memory.
    """


class StoreOpenError(StoreError):
    """The store cannot be opened: missing, not permitted, not one of ours, or no more the file that was opened."""


class StoreCorruptError(StoreError):
    """SQLite found the database file damaged."""


class StoreFullError(StoreError):
    """No space is left; all of the write was rolled back."""


class StoreReadOnlyError(StoreError):
    """A write to a store that can only be read."""


class StoreClosedError(StoreError):
    """The store was used after `close()`."""


class StoreBusyError(StoreError, TimeoutError):
    """Another writer held the store for longer than `timeout_s`; nothing was written, try again."""


class StoreConnectionError(StoreError, ConnectionError):
    """The connection to a database server was lost; whether the last write was kept is not known."""


class QueryStoppedError(StoreError, TimeoutError):
    """A query took longer than it may."""


class SchemaVersionError(StoreError):
    """The database has a schema that this version of layerstore does not work with."""


class TransferError(_PathError):
    """Something outside the store, to import, export, compare or plan with, cannot be read or written.

    Attributes:
        path: the file or directory that the message is about.
    """
