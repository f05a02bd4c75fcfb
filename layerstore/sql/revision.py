"""The schema's revision of a database, in a file or on a server, and moving it."""

from __future__ import annotations

from layerstore.paths import absolute
from layerstore.sql.sqlite import opening as file
from layerstore.sql.url import is_url


def revision_of(path_or_url: str) -> str | None:
    """Return the schema's revision; `None` of an empty database. Nothing is changed.

    Raises:
        StoreOpenError: the database is missing, or not one of ours.
    """
    if is_url(path_or_url):
        from layerstore.sql.postgresql import opening as server

        return server.revision(path_or_url)
    return file.revision(absolute(path_or_url))


def move_to(path_or_url: str, wanted: str) -> tuple[str, str]:
    """Bring a schema to a revision, up or down; return the revisions before and after.

    Raises:
        StoreOpenError: the database is missing, empty, or not one of ours.
        InvalidInputError: there is no such revision, or this database never had it.
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the database is as it was.
    """
    if is_url(path_or_url):
        from layerstore.sql.postgresql import opening as server

        return server.move_to(path_or_url, wanted)
    return file.move_to(absolute(path_or_url), wanted)
