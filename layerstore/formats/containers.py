"""What Podman, Skopeo, Buildah and CRI-O know of layers: their cache, in SQLite or BoltDB, and their storage.

    /var/lib/containers/cache/blob-info-cache-v1.sqlite              the cache of root
    ~/.local/share/containers/cache/blob-info-cache-v1.sqlite        that of another user
    …/blob-info-cache-v1.boltdb                                      that of versions before 2024, which is not written
    /var/lib/containers/storage/<driver>-layers/layers.json          the layers that are unpacked on this host

If a program holds the cache for over five seconds, even to read, Skopeo goes on without it and uploads everything. So
it is copied into memory to be read, and written in short transactions. Nothing that is there is changed but the time of
a location, to a later one. The journal mode stays as it is: a file in WAL mode cannot be read from a read-only mount.
The declared types matter: of a column of another type than TIMESTAMP, Skopeo reads no time, and finds nothing.
Configurations of images are among the blobs: they are uncompressed, and no layer.

Source: containers/image: pkg/blobinfocache/sqlite/sqlite.go, boltdb/boltdb.go; containers/storage: layers.go.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final

import msgspec

from layerstore.blobs import BlobRecord, time_ns
from layerstore.digest import Digest
from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.formats import bbolt
from layerstore.formats.bbolt import text
from layerstore.formats.facts import Fact, Facts, Written, opened, uncertain, unreadable, why_no_digest, why_no_location
from layerstore.paths import PERMISSION_DENIED, kind, status
from layerstore.reports import Skipped
from layerstore.words import time_text

NAME: Final = "blob-info-cache-v1.sqlite"
"""The cache's name, which has the version of its schema: there is none inside."""
BOLT_NAME: Final = "blob-info-cache-v1.boltdb"
BUCKETS: Final = frozenset((b"knownLocations", b"uncompressedDigest", b"digestCompressor"))
"""Buckets of a cache in BoltDB, of which it has at least one."""
LAYERS_NAME: Final = "layers.json"
begins_layers: Final = re.compile(rb'\s*\[\s*\{\s*"id"\s*:\s*"').match
"""Tell `layers.json` by its first bytes."""
MAX_BYTES: Final = 1 << 30
"""Bytes of the largest cache that is read: the copy is in memory. 100,000 layers take 80 MB."""

_COMPRESSORS: Final = {"gzip": "gzip", "zstd": "zstd", "bzip2": "bzip2", "Xz": "xz", "uncompressed": "uncompressed"}
_STORAGE_COMPRESSIONS: Final = {1: "bzip2", 2: "gzip", 3: "xz", 4: "zstd"}
_CHUNKED: Final = "zstd:chunked"
# Under which annotations a manifest has the digest of a blob's table of contents.
_TOCS: Final = ("io.github.containers.zstd-chunked.manifest-checksum", "containerd.io/snapshot/stargz/toc.digest")

_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS DigestUncompressedPairs(
    anyDigest TEXT PRIMARY KEY NOT NULL, uncompressedDigest TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS DigestUncompressedPairs_index_uncompressedDigest
    ON DigestUncompressedPairs(uncompressedDigest);
CREATE TABLE IF NOT EXISTS DigestCompressors(digest TEXT PRIMARY KEY NOT NULL, compressor TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS KnownLocations(
    transport TEXT NOT NULL, scope TEXT NOT NULL, digest TEXT NOT NULL, location TEXT NOT NULL,
    time TIMESTAMP NOT NULL, PRIMARY KEY (transport, scope, digest, location));
CREATE TABLE IF NOT EXISTS DigestTOCUncompressedPairs(
    tocDigest TEXT PRIMARY KEY NOT NULL, uncompressedDigest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS DigestSpecificVariantCompressors(
    digest TEXT PRIMARY KEY NOT NULL, specificVariantCompressor TEXT NOT NULL,
    specificVariantAnnotations BLOB NOT NULL);
COMMIT;
"""
_SELECT: Final = """
SELECT anyDigest, 'pair', uncompressedDigest, NULL, NULL, NULL FROM DigestUncompressedPairs
UNION ALL SELECT digest, 'compressor', compressor, NULL, NULL, NULL FROM DigestCompressors
UNION ALL SELECT digest, 'location', location, seen_at_ns(CAST(time AS BLOB)), transport, scope FROM KnownLocations
UNION ALL SELECT digest, 'variant', specificVariantCompressor, specificVariantAnnotations, NULL, NULL
    FROM DigestSpecificVariantCompressors
ORDER BY 1
"""
_SELECT_KNOWN: Final = """
SELECT (SELECT uncompressedDigest FROM DigestUncompressedPairs WHERE anyDigest = :digest),
    (SELECT compressor FROM DigestCompressors WHERE digest = :digest)
"""
# What is NULL is not known, and ignored as well: every column is NOT NULL.
_ADD: Final = (
    "INSERT OR IGNORE INTO DigestUncompressedPairs VALUES (:digest, :diff_id)",
    "INSERT OR IGNORE INTO DigestCompressors VALUES (:digest, :compressor)",
    "INSERT OR IGNORE INTO DigestTOCUncompressedPairs VALUES (:toc, :diff_id)",
    "INSERT OR IGNORE INTO DigestSpecificVariantCompressors VALUES (:digest, :variant, :annotations)",
)
# By the instant: as texts, times of two zones are not in order.
_ADD_LOCATION: Final = """
INSERT INTO KnownLocations VALUES ('docker', ?, ?, ?, ?)
ON CONFLICT (transport, scope, digest, location) DO UPDATE SET time = excluded.time
WHERE excluded.time <> time AND seen_at_ns(CAST(excluded.time AS BLOB)) > ifnull(seen_at_ns(CAST(time AS BLOB)), -9e99)
"""
# Views and virtual tables could run code of another program: of these names, a cache has none.
_IS_CACHE: Final = """
SELECT ifnull(min(type = 'table' AND rootpage > 0) AND max(name = 'KnownLocations'), 0) FROM sqlite_master
WHERE name COLLATE NOCASE IN ('KnownLocations', 'DigestUncompressedPairs', 'DigestCompressors',
    'DigestTOCUncompressedPairs', 'DigestSpecificVariantCompressors')
"""

_NAMES: Final = {ours: theirs for theirs, ours in _COMPRESSORS.items()}
_ZERO_TIME: Final = "0001-01-01 00:00:00+00:00"  # what Go writes for no time: older than any
_TIME: Final = r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?(\.\d{1,9})?(?:Z|([+-]\d\d):(\d\d))?"
_PAGES: Final = 20_000
"""Pages that are copied under one lock: 80 MB, in about a second."""
_BLOBS: Final = 2_000
"""How many are written in one transaction, which takes a third of a second."""
_PAUSE_S: Final = 0.05
"""Between two transactions: who waits for the lock polls."""
_TIMEOUT_S: Final = 30.0
_LONGEST_VALUE: Final = 1 << 24
_LOCKED: Final = "another program has it locked: try again when that has ended"
_DAMAGED: Final = "a damaged cache: nothing of it can be trusted: remove it, or use an older copy"
_NO_CACHE: Final = "not a cache of Podman or Skopeo: it has no table KnownLocations"
_WORDS: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_READONLY: "cannot be written: check its permissions, those of its folder, and their mount",
    sqlite3.SQLITE_CANTOPEN: f"cannot be opened: {PERMISSION_DENIED}; one in WAL mode also needs a folder to write in",
    sqlite3.SQLITE_FULL: "no space is left: free some, then do it again",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}

_Row = tuple[Any, str, Any, Any, Any, Any]
"""What a cache says of a blob, nothing of it checked: its digest; `pair` with the DiffID, `compressor` with its name,
`variant` with name and annotations, or `location` with name, time in ns, transport and scope."""


def is_cache(path: str) -> bool:
    """Tell whether an SQLite database is such a cache. Raises TransferError if it cannot be read."""
    with _mapping(path), _readable(path) as connection:
        return _is_cache(connection)


def read_sqlite(path: str) -> Facts:
    """Read a cache in SQLite: all that it knows of a blob at once. The file is not locked meanwhile.

    Raises:
        TransferError: it cannot be read, is damaged, or is no such cache.
    """
    with _mapping(path), _copied(path) as connection:
        contents = dict(connection.execute("SELECT tocDigest, uncompressedDigest FROM DigestTOCUncompressedPairs"))
        yield from _facts(connection.execute(_SELECT), contents)


def read_bolt(file: bbolt.File) -> Facts:
    """Read a cache in BoltDB: all that it knows of a blob at once.

    Raises:
        TransferError: it is damaged, or is no such cache.
    """
    if not file.root.buckets.keys() & BUCKETS:
        raise TransferError("not a cache of Podman or Skopeo: it has none of its buckets", file.name)
    rows = sorted(_bolt_rows(file), key=itemgetter(0))
    if reason := next(filter(None, (why_no_digest(row[0]) for row in rows)), None):
        raise file.damaged(reason)  # nothing in it has a checksum
    contents = file.root.below(b"uncompressedDigestByTOC").values
    yield from _facts(rows, {text(toc): text(diff_id) for toc, diff_id in contents.items()})


def read_layers(base: str, *below: str) -> Facts:
    """Read which blobs the layers of a storage were unpacked from, each with its DiffID and compression.

    A layer that was pulled in parts, by its table of contents, is left out: its blob was not verified.

    Raises:
        TransferError: it cannot be read, or is no such file.
        FileNotFoundError: it is not there.
    """
    with opened(base, *below) as (folder, name):
        content, _ = tree.read(folder, name)
    try:
        layers = msgspec.json.decode(content, type=list[_Layer])
    except (ValueError, RecursionError) as error:
        path = os.path.join(base, *below)
        raise TransferError(f"not the {LAYERS_NAME} of a storage of Podman or CRI-O: {error}", path) from error
    for layer in layers:
        if not layer.digest or not layer.diff_id or layer.toc:
            continue  # made on this host, or pulled in parts
        reason = why_no_digest(layer.digest) or why_no_digest(layer.diff_id)
        if reason is not None:
            yield unreadable(layer.id, reason)
            continue
        # 0 also stands where it is not known; but a blob that is the layer itself is not compressed.
        is_plain = layer.digest == layer.diff_id
        compression = "uncompressed" if is_plain else _STORAGE_COMPRESSIONS.get(layer.compression)
        yield Digest(layer.digest), BlobRecord(diff_id=layer.diff_id, compression=compression)


class _Layer(
    msgspec.Struct, rename={"digest": "compressed-diff-digest", "diff_id": "diff-digest", "toc": "toc-digest"}
):
    """A layer of a storage. Source: containers/storage's `Layer`."""

    id: str
    digest: str = ""
    diff_id: str = ""
    toc: str = ""
    compression: int = 0


def _facts(rows: Iterable[_Row], contents: dict[str, str]) -> Facts:
    """Yield all that is known of a blob at once: of rows by digest, and the DiffIDs of tables of contents."""
    used = set()
    for digest, some in groupby(rows, itemgetter(0)):
        reason = why_no_digest(digest)
        if reason is not None:
            yield unreadable(str(digest), reason)
            continue
        record, reasons = _record(some)
        for reason in reasons:
            yield unreadable(digest, reason)
        named = (record.annotations[name] for name in _TOCS if name in record.annotations)
        # Only if it is known to be of the same layer.
        toc = next((toc for toc in named if record.diff_id is not None and contents.get(toc) == record.diff_id), None)
        used.add(toc)
        if record != BlobRecord():
            yield Digest(digest), msgspec.structs.replace(record, toc=toc if why_no_digest(toc) is None else None)
    if left := len(contents.keys() - used):
        yield uncertain("tables of contents", f"left out, as they are of no blob that is known: {left}")


def _record(rows: Iterable[_Row]) -> tuple[BlobRecord, list[str]]:
    """Return what a cache says of one blob, and why some of that is left out."""
    fields: dict[str, Any] = {}
    locations: dict[str, int | None] = {}
    reasons: list[str | None] = []
    for _, what, value, detail, transport, scope in rows:
        if what == "pair":
            reasons.append(why_no_digest(value))
            fields["diff_id"] = None if reasons[-1] else value
        elif what == "compressor":
            # Before 2024, the variant stood here.
            fields["compression"] = "zstd" if value == _CHUNKED else _COMPRESSORS.get(value)
            reasons.append(None if fields["compression"] else f"an unknown compressor: {value!r}")
        elif what == "location":
            is_there = transport == "docker"
            reasons.append(why_no_location(value, scope) if is_there else f"of no registry, but {transport!r}")
            if reasons[-1] is None:
                locations[value] = detail
        elif value == _CHUNKED:
            try:
                fields |= {"annotations": msgspec.json.decode(detail, type=dict[str, str]), "variant": value}
            except (ValueError, TypeError, RecursionError) as error:
                reasons.append(f"annotations that cannot be read: {error}")
        else:
            reasons.append(f"an unknown variant of a compression: {value!r}")
    return BlobRecord(**fields, locations=locations), list(filter(None, reasons))


def _bolt_rows(file: bbolt.File) -> Iterator[_Row]:
    # Both directions of a pair are there, and must agree.
    backwards = file.root.below(b"digestByUncompressed").buckets
    pairs = {(digest, diff_id) for diff_id, digests in backwards.items() for digest in digests.values}
    for digest, diff_id in file.root.below(b"uncompressedDigest").values.items():
        if (digest, diff_id) not in pairs:
            raise file.damaged(f"the DiffID of {text(digest)} is not recorded in both directions")
        yield text(digest), "pair", text(diff_id), None, None, None
    for digest, name in file.root.below(b"digestCompressor").values.items():
        yield text(digest), "compressor", text(name), None, None, None
    for digest, variant in file.root.below(b"digestSpecificVariantCompressor").values.items():
        name, _, annotations = variant.partition(b"\0")
        yield text(digest), "variant", text(name), annotations, None, None
    for transport, scopes in file.root.below(b"knownLocations").buckets.items():
        for scope, digests in scopes.buckets.items():
            for digest, locations in digests.buckets.items():
                for name, seen in locations.values.items():
                    at_ns = bbolt.time_ns(seen)
                    yield text(digest), "location", text(name), at_ns, text(transport), text(scope)


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
    with _mapping(path), _writable(path, dry_run=dry_run) as connection:
        waiting = iter(facts)
        while some := list(islice(waiting, _BLOBS)):
            connection.execute("BEGIN IMMEDIATE")
            for digest, record in some:
                _add(connection, digest, record, written)
            connection.execute("COMMIT")  # an error closes the connection, which rolls back
            if not dry_run:
                time.sleep(_PAUSE_S)
    return written


def seen_at_ns(value: object) -> int | None:
    """Read a time as the cache has it, as Unix time in nanoseconds; `None` if it is none.

    Source: the formats of go-sqlite3; a text without a zone is in UTC.
    """
    match = re.fullmatch(_TIME, value, re.ASCII) if isinstance(value, str) else None
    if match is None:
        return None
    day, clock, seconds, fraction, hours, minutes = match.groups()
    zone_min = 0 if hours is None else int(hours) * 60 + int(hours[0] + minutes)
    try:
        found = time_ns(f"{day}T{clock}{seconds or ':00'}{fraction or ''}Z") - zone_min * 60 * 1_000_000_000
    except ValueError:
        return None  # such as the 31st of February
    return found if -(2**63) <= found < 2**63 else None


def _add(connection: sqlite3.Connection, digest: str, record: BlobRecord, written: Written) -> None:
    """Add what is known of a blob, in a transaction of the caller's, and count what becomes of it."""
    if record.conflicts:
        written.left_out["sources disagree about the blob"] += 1
        return
    compressor = _NAMES.get(record.compression or "")
    known = connection.execute(_SELECT_KNOWN, {"digest": digest}).fetchone()
    for name, theirs, ours in zip(("DiffID", "Compression"), known, (record.diff_id, compressor), strict=True):
        # Before 2024, the variant stood for the compression, of which it is one.
        if theirs is not None and ours is not None and theirs not in (ours, record.variant):
            written.differences.add(Skipped(digest, f"the target says {name} {theirs}, the store {ours}"))
            return
    if record.locations and compressor is None and known[1] is None:
        written.left_out["the compression, as it is not known: without it, Podman and Skopeo use no location"] += 1
    annotations = None
    if compressor is not None and record.annotations:
        annotations = json.dumps(dict(record.annotations), sort_keys=True, separators=(",", ":")).encode()
    values: dict[str, Any] = {"digest": digest, "diff_id": record.diff_id, "compressor": compressor, "toc": record.toc}
    values |= {"variant": record.variant, "annotations": annotations}
    changes = sum(connection.execute(statement, values).rowcount for statement in _ADD)
    for name, at_ns in record.locations.items():
        seen = _ZERO_TIME if at_ns is None else time_text(at_ns).replace("T", " ").replace("Z", "+00:00")
        changes += connection.execute(_ADD_LOCATION, (name.partition("/")[0], digest, name, seen)).rowcount
    written.added += bool(changes) and known == (None, None)
    written.updated += bool(changes) and known != (None, None)
    written.unchanged += not changes


def _open(path: str, mode: str) -> sqlite3.Connection:
    """Open a regular file, if one is there, as an SQLite database that may be hostile."""
    there = status(path)
    if there is not None and kind(there.st_mode) != "a file":
        raise TransferError(f"{kind(there.st_mode)}, not a cache of Podman or Skopeo", path)
    name = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return _connected(f"file:{name}?mode={mode}")


def _connected(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    # What is not UTF-8 is no digest and no name either; it must not end the reading.
    connection.text_factory = text
    connection.create_function("seen_at_ns", 1, lambda value: seen_at_ns(value and text(value)), deterministic=True)
    return connection


@contextmanager
def _readable(path: str) -> Iterator[sqlite3.Connection]:
    """Open a cache to be read. What a program that was killed left half written is undone, as its next reader would."""
    with closing(_open(path, "ro")) as connection:
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
        else:
            yield connection
            return
    with closing(_open(path, "rw")) as connection:
        yield connection


@contextmanager
def _copied(path: str) -> Iterator[sqlite3.Connection]:
    """Open a copy in memory, held against its indexes: in them, each digest and name stands once more."""
    if os.path.getsize(path) > MAX_BYTES:
        raise TransferError(f"a cache of over {MAX_BYTES >> 20} MiB: that is not read", path)

    def watch(code: int, remaining: int, total: int) -> None:
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # for as long as a connection waits
            raise TransferError(_LOCKED, path)

    with closing(_connected(":memory:")) as copy:
        with _readable(path) as connection:
            connection.backup(copy, pages=_PAGES, progress=watch)
        found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise TransferError(f"{_DAMAGED} ({found})", path)
        if not _is_cache(copy):
            raise TransferError(_NO_CACHE, path)
        copy.executescript(_SCHEMA)
        yield copy


@contextmanager
def _writable(path: str, *, dry_run: bool) -> Iterator[sqlite3.Connection]:
    """Open a cache to be written, or a copy of it in memory; made if it is not there, with what it lacks."""
    there = status(path)
    is_new = there is None or there.st_size == 0
    if dry_run:
        cache = closing(_connected(":memory:")) if is_new else _copied(path)
    else:
        if there is None:
            tree.make_base(os.path.dirname(path))
            with suppress(FileExistsError):  # Skopeo made it just now
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        cache = closing(_open(path, "rw"))
    with cache as connection:
        if not (is_new or _is_cache(connection)):
            raise TransferError(_NO_CACHE, path)
        connection.executescript(_SCHEMA)  # an older one lacks tables
        yield connection


def _is_cache(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_IS_CACHE).fetchone()[0])


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
