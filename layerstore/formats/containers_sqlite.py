"""The file `blob-info-cache-v1.sqlite` of Podman, Skopeo, Buildah and CRI-O: its schema, copies and transactions.

If a program holds the file for over five seconds, even to read, Skopeo goes on without it and uploads everything. So it
is copied into memory to be read, and written in short transactions. Nothing that is there is changed but the time of a
location, to a later one. The journal mode stays as it is: a file in WAL mode cannot be read from a read-only mount. The
declared types matter: of a column of another type than TIMESTAMP, Skopeo reads no time, and finds nothing.
Source: containers/image, pkg/blobinfocache/sqlite/sqlite.go.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from itertools import islice
from typing import Any, Final

from layerstore.blobs import BlobRecord, time_text
from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.formats.facts import Fact, Written
from layerstore.paths import PERMISSION_DENIED, kind, status

NAME: Final = "blob-info-cache-v1.sqlite"
"""The file's name, which has the version of its schema: there is none inside."""
DOCKER: Final = "docker"
"""The transport of registries."""
COMPRESSORS: Final = {"gzip": "gzip", "zstd": "zstd", "bzip2": "bzip2", "Xz": "xz", "uncompressed": "uncompressed"}
"""How compressions are called there, and in a record."""
MAX_BYTES: Final = 1 << 30
"""Bytes of the largest file that is read: the copy is in memory. 100,000 layers take 80 MB."""

_PAIRS: Final = "DigestUncompressedPairs"
_COMPRESSIONS: Final = "DigestCompressors"
_LOCATIONS: Final = "KnownLocations"
_CONTENTS: Final = "DigestTOCUncompressedPairs"
_VARIANTS: Final = "DigestSpecificVariantCompressors"
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS DigestUncompressedPairs("
    "anyDigest TEXT PRIMARY KEY NOT NULL, uncompressedDigest TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS DigestUncompressedPairs_index_uncompressedDigest"
    " ON DigestUncompressedPairs(uncompressedDigest)",
    "CREATE TABLE IF NOT EXISTS DigestCompressors(digest TEXT PRIMARY KEY NOT NULL, compressor TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS KnownLocations("
    "transport TEXT NOT NULL, scope TEXT NOT NULL, digest TEXT NOT NULL, location TEXT NOT NULL,"
    " time TIMESTAMP NOT NULL, PRIMARY KEY (transport, scope, digest, location))",
    "CREATE TABLE IF NOT EXISTS DigestTOCUncompressedPairs("
    "tocDigest TEXT PRIMARY KEY NOT NULL, uncompressedDigest TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS DigestSpecificVariantCompressors("
    "digest TEXT PRIMARY KEY NOT NULL, specificVariantCompressor TEXT NOT NULL,"
    " specificVariantAnnotations BLOB NOT NULL)",
)
_SELECTS: Final = {
    _PAIRS: f"SELECT anyDigest, 'pair', uncompressedDigest, NULL, NULL, NULL FROM {_PAIRS}",
    _COMPRESSIONS: f"SELECT digest, 'compressor', compressor, NULL, NULL, NULL FROM {_COMPRESSIONS}",
    _LOCATIONS: f"SELECT digest, 'location', location, time, transport, scope FROM {_LOCATIONS}",
    _VARIANTS: "SELECT digest, 'variant', specificVariantCompressor, specificVariantAnnotations, NULL, NULL"
    f" FROM {_VARIANTS}",
}

_NAMES: Final = {ours: theirs for theirs, ours in COMPRESSORS.items()}
_EPOCH = datetime(1970, 1, 1)
_NS: Final = 1_000_000_000
_LATEST: Final = 2**63 - 1
_ZERO_TIME: Final = "0001-01-01 00:00:00+00:00"
"""What Go writes for no time: it is older than any."""
_match_time = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(?:Z|([+-]\d\d):(\d\d))?", re.ASCII
).fullmatch

_PAGES: Final = 20_000
"""Pages that are copied under one lock: 80 MB, in about a second."""
_BLOBS: Final = 2_000
"""How many are written in one transaction, which takes a third of a second."""
_PAUSE_S: Final = 0.05
"""Between two transactions: who waits for the lock polls."""
_TIMEOUT_S: Final = 30.0
_LONGEST_VALUE: Final = 1 << 24
_PRIVATE: Final = 0o600

_LOCKED: Final = "another program has it locked: try again when that has ended"
_DAMAGED: Final = "a damaged cache: nothing of it can be trusted: remove it, or use an older copy"
_WORDS: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: "cannot be written: check its permissions, those of its folder, and their mount",
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened: {PERMISSION_DENIED}; one in WAL mode also needs a folder to write in",
    sqlite3.SQLITE_PERM: f"cannot be opened: {PERMISSION_DENIED}",
    sqlite3.SQLITE_FULL: "no space is left: free some, then do it again",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FORMAT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}

Row = tuple[Any, str, Any, Any, Any, Any]
"""Digest; `pair` with the DiffID, `compressor` with its name, `variant` with name and annotations, or `location` with
name, time, transport and scope."""


def is_cache(path: str) -> bool:
    """Tell whether an SQLite database is such a cache. Raises TransferError if it cannot be read."""
    with _mapping(path), closing(_readable(path)) as connection:
        return _LOCATIONS in _tables(connection)


def rows(path: str) -> Iterator[Row]:
    """Yield all that a cache has, those of one digest behind each other. The file is not locked any more.

    Raises:
        TransferError: it cannot be read, is damaged, or is no such cache.
    """
    with _mapping(path), closing(_copied(path)) as connection:
        tables = _tables(connection)
        union = " UNION ALL ".join(_SELECTS[name] for name in _SELECTS if name in tables)
        yield from connection.execute(f"{union} ORDER BY 1")
        if _CONTENTS in tables:
            contents = connection.execute(f"SELECT tocDigest, uncompressedDigest FROM {_CONTENTS}")
            yield from ((toc, "contents", diff_id, None, None, None) for toc, diff_id in contents)


def write(path: str, facts: Iterable[Fact], *, dry_run: bool = False) -> Written:
    """Write what is known of blobs into a cache, which Podman and Skopeo may use at the same time.

    What the cache knows stays. Of a blob of which it knows another DiffID or compression nothing is written; of a
    location only a later time is. A new file has the mode 0600, in a folder of 0700. Each transaction is short: what
    was committed before an error stays, and doing it again completes it.

    Args:
        path: the file; it need not be there.
        facts: all that is known of each blob, once. A blob with conflicts is left out.
        dry_run: change a copy in memory, and nothing else.

    Raises:
        TransferError: it is something else than a cache, or cannot be written.
    """
    written = Written()
    with _mapping(path), closing(_for_writing(path, dry_run=dry_run)) as connection:
        waiting = iter(facts)
        while some := list(islice(waiting, _BLOBS)):
            connection.execute("BEGIN IMMEDIATE")
            try:
                for digest, record in some:
                    _add(connection, digest, record, written)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if not dry_run:
                time.sleep(_PAUSE_S)
    return written


def time_ns(text: object) -> int | None:
    """Read a time as the cache has it, as Unix time in nanoseconds; `None` if it is none.

    Source: the formats of go-sqlite3; a text without a zone is in UTC.
    """
    match = _match_time(text) if isinstance(text, str) else None
    if match is None:
        return None
    day, clock, fraction, hours, minutes = match.groups()
    try:
        since = datetime.fromisoformat(f"{day} {clock}") - _EPOCH
    except ValueError:
        return None  # such as the 31st of February
    zone = 0 if hours is None else int(hours) * 60 + int(hours[0] + minutes)
    seconds = since.days * 86_400 + since.seconds - zone * 60
    found = seconds * _NS + int((fraction or "").ljust(9, "0"))
    return found if -_LATEST <= found <= _LATEST else None


def _add(connection: sqlite3.Connection, digest: str, record: BlobRecord, written: Written) -> None:
    """Add what is known of a blob, in a transaction of the caller's, and count what becomes of it."""
    if record.conflicts:
        written.left_out["sources disagree about the blob"] += 1
        return
    compressor = _NAMES.get(record.compression or "")
    diff_id = _one(connection, f"SELECT uncompressedDigest FROM {_PAIRS} WHERE anyDigest = ?", digest)
    known = _one(connection, f"SELECT compressor FROM {_COMPRESSIONS} WHERE digest = ?", digest)
    for name, theirs, ours in (("DiffID", diff_id, record.diff_id), ("Compression", known, compressor)):
        # Before 2024, the variant stood for the compression, of which it is one.
        if theirs is not None and ours is not None and theirs not in (ours, record.variant):
            written.differs(digest, f"the target says {name} {theirs}, the store {ours}")
            return
    changes = 0
    if record.diff_id is not None:
        changes += _insert(connection, _PAIRS, digest, record.diff_id)
    if compressor is not None:
        changes += _insert(connection, _COMPRESSIONS, digest, compressor)
        if record.variant is not None and record.annotations:
            annotations = json.dumps(dict(record.annotations), sort_keys=True, separators=(",", ":"))
            changes += _insert(connection, _VARIANTS, digest, record.variant, annotations.encode())
    if record.toc is not None and record.diff_id is not None:
        changes += _insert(connection, _CONTENTS, record.toc, record.diff_id)
    changes += _add_locations(connection, digest, record.locations.items())
    if record.locations and compressor is None and known is None:
        written.left_out["the compression, as it is not known: without it, Podman and Skopeo use no location"] += 1
    if diff_id is not None or known is not None:
        written.updated += bool(changes)
    else:
        written.added += bool(changes)
    written.unchanged += not changes


def _add_locations(connection: sqlite3.Connection, digest: str, locations: Iterable[tuple[str, int | None]]) -> int:
    """Add the repositories of a blob, or a later time of one; return how many rows that changed."""
    changes = 0
    for location, seen_at_ns in locations:
        place = (DOCKER, location.partition("/")[0], digest, location)
        text = _ZERO_TIME if seen_at_ns is None else _time_text(seen_at_ns)
        if _insert(connection, _LOCATIONS, *place, text):
            changes += 1
            continue
        where = "transport = ? AND scope = ? AND digest = ? AND location = ?"
        theirs = time_ns(_one(connection, f"SELECT time FROM {_LOCATIONS} WHERE {where}", *place))
        # By the instant: as texts, times of two zones are not in order.
        if seen_at_ns is not None and (theirs is None or theirs < seen_at_ns):
            connection.execute(f"UPDATE {_LOCATIONS} SET time = ? WHERE {where}", (text, *place))
            changes += 1
    return changes


def _one(connection: sqlite3.Connection, query: str, *values: str) -> Any:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]


def _insert(connection: sqlite3.Connection, table: str, *values: str | bytes) -> int:
    marks = ", ".join("?" * len(values))
    return connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values).rowcount


def _time_text(time_ns: int) -> str:
    return time_text(time_ns).replace("T", " ").replace("Z", "+00:00")


def _open(path: str, mode: str) -> sqlite3.Connection:
    """Open a regular file, if one is there, as an SQLite database that may be hostile."""
    there = status(path)
    if there is not None and kind(there.st_mode) != "a file":
        raise TransferError(f"{kind(there.st_mode)}, not a cache of Podman or Skopeo", path)
    name = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return _guarded(sqlite3.connect(f"file:{name}?mode={mode}", uri=True, timeout=_TIMEOUT_S, isolation_level=None))


def _readable(path: str) -> sqlite3.Connection:
    """Open a cache to be read. What a program that was killed left half written is undone, as its next reader would."""
    connection = _open(path, "ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        return _open(path, "rw")
    except BaseException:
        connection.close()
        raise
    return connection


def _guarded(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    # What is not UTF-8 is no digest and no name either; it must not end the reading.
    connection.text_factory = lambda value: value.decode("utf-8", "backslashreplace")
    return connection


def _copied(path: str) -> sqlite3.Connection:
    """Return a copy of a cache in memory, held against its indexes: in them, each digest and name stands once more."""
    if os.path.getsize(path) > MAX_BYTES:
        raise TransferError(f"a cache of over {MAX_BYTES >> 20} MiB: that is not read", path)
    copy = _guarded(sqlite3.connect(":memory:", isolation_level=None))
    until = time.monotonic() + _TIMEOUT_S

    def watch(code: int, remaining: int, total: int) -> None:
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > until:
            raise TransferError(_LOCKED, path)

    try:
        with closing(_readable(path)) as connection:
            connection.backup(copy, pages=_PAGES, progress=watch, sleep=0.05)
        _check(copy, path)
    except BaseException:
        copy.close()
        raise
    return copy


def _for_writing(path: str, *, dry_run: bool) -> sqlite3.Connection:
    """Open a cache to be written, or a copy of it in memory; made if it is not there, with what it lacks."""
    there = status(path)
    is_new = there is None or there.st_size == 0
    if dry_run:
        connection = _guarded(sqlite3.connect(":memory:", isolation_level=None)) if is_new else _copied(path)
    else:
        if there is None:
            tree.make_base(os.path.dirname(path))
            with suppress(FileExistsError):  # Skopeo made it just now
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE))
        connection = _open(path, "rw")
    try:
        tables = _tables(connection)
        if not is_new:
            _refuse_other(tables, path)
        if not {_PAIRS, _COMPRESSIONS, _LOCATIONS, _CONTENTS, _VARIANTS} <= tables:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(copy: sqlite3.Connection, path: str) -> None:
    """Refuse what is damaged, or no cache."""
    found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise TransferError(f"{_DAMAGED} ({found})", path)
    _refuse_other(_tables(copy), path)


def _refuse_other(tables: set[str], path: str) -> None:
    if _LOCATIONS not in tables:
        raise TransferError(f"not a cache of Podman or Skopeo: it has no table {_LOCATIONS}", path)


def _tables(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the tables, without views and virtual tables, which could run code of another program."""
    return {
        name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0")
    }


@contextmanager
def _mapping(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        words = _WORDS.get(code, f"cannot be read or written as a cache of Podman or Skopeo: {error}")
        raise TransferError(words, path) from error
    except UnicodeDecodeError as error:
        # The driver cannot tell what SQLite says, as it names a table or column whose name is not UTF-8.
        raise TransferError(_DAMAGED, path) from error
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
