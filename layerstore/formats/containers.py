"""What Podman, Skopeo, Buildah and CRI-O know of layers: their cache, in SQLite or BoltDB, and their storage.

    /var/lib/containers/cache/blob-info-cache-v1.sqlite              the cache of root
    ~/.local/share/containers/cache/blob-info-cache-v1.sqlite        that of another user
    …/blob-info-cache-v1.boltdb                                      the cache of versions before 2024
    /var/lib/containers/storage/<driver>-layers/layers.json          the layers that are unpacked on this host

Only reading is here; `layerstore.formats.containers_sqlite` writes the cache. A cache in BoltDB is not written: the
programs of today do not read it. Configurations of images are among the blobs: they are uncompressed, and no layer.
Source: containers/image: pkg/blobinfocache/boltdb/boltdb.go; containers/storage: layers.go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import msgspec

from layerstore.blobs import BlobRecord
from layerstore.collection import Odd
from layerstore.digest import Digest
from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.formats import bbolt, containers_sqlite
from layerstore.formats.containers_sqlite import COMPRESSORS, DOCKER, time_ns
from layerstore.formats.facts import Facts, uncertain, unreadable, why_no_digest, why_no_location

BOLT_NAME: Final = "blob-info-cache-v1.boltdb"
"""Name of the cache's file of versions before 2024."""
BUCKETS: Final = frozenset((b"knownLocations", b"uncompressedDigest", b"digestCompressor"))
"""Buckets of a cache in BoltDB, of which it has at least one."""
LAYERS_NAME: Final = "layers.json"
"""Name of the file in a storage that has its layers."""
begins_layers: Final = re.compile(rb'\s*\[\s*\{\s*"id"\s*:\s*"').match
"""Tell such a file by its first bytes."""

_CHUNKED: Final = "zstd:chunked"
# Under which annotations a manifest has the digest of a blob's table of contents.
_TOCS: Final = ("io.github.containers.zstd-chunked.manifest-checksum", "containerd.io/snapshot/stargz/toc.digest")
_STORAGE_COMPRESSIONS: Final = {1: "bzip2", 2: "gzip", 3: "xz", 4: "zstd"}
_LOCK_WAIT_S: Final = 5.0

_decode_annotations = msgspec.json.Decoder(dict[str, str]).decode


def read_sqlite(path: str) -> Facts:
    """Read a cache in SQLite: all that it knows of a blob at once.

    Raises:
        TransferError: it cannot be read, is damaged, or is no such cache.
    """
    contents: dict[str, str] = {}
    waiting: list[_Blob] = []  # for what is known of tables of contents, which comes last
    for digest, rows in groupby(containers_sqlite.rows(path), itemgetter(0)):
        reason = why_no_digest(digest)
        if reason is not None:
            yield unreadable(str(digest), reason)
            continue
        blob = _Blob(Digest(digest))
        for _, what, value, *more in rows:
            if what == "contents":
                contents[digest] = value
            else:
                _add(blob, what, value, more)
        if blob.annotations:
            waiting.append(blob)
        else:
            yield from blob.found()
    yield from _with_contents(waiting, contents)


def read_bolt(base: str, *below: str) -> Facts:
    """Read a cache in BoltDB: all that it knows of a blob at once. Links are followed as `bbolt.read` does.

    Raises:
        TransferError: another program holds its lock for over 5 s; it cannot be read, is damaged, or is no such cache.
        FileNotFoundError: it is not there.
    """
    return read_file(bbolt.read(base, *below, wait_s=_LOCK_WAIT_S))


def read_file(file: bbolt.File) -> Facts:
    """Read a cache in BoltDB. Otherwise as `read_bolt`."""
    buckets = dict(file.root.buckets())
    if not buckets.keys() & BUCKETS:
        raise TransferError("not a cache of Podman or Skopeo: it has none of its buckets", file.name)
    empty = bbolt.Bucket(file, 0, (0, 0), bbolt.EMPTY_PAGE)
    blobs = _Blobs(file)
    for digest, diff_id in _pairs(file, buckets, empty):
        blobs[digest].pair(_text(diff_id))
    for digest, name in buckets.get(b"digestCompressor", empty).values().items():
        blobs[digest].compressor(_text(name))
    for digest, value in buckets.get(b"digestSpecificVariantCompressor", empty).values().items():
        name, _, annotations = value.partition(b"\0")
        blobs[digest].variant(_text(name), annotations)
    for transport, scopes in buckets.get(b"knownLocations", empty).buckets():
        for scope, digests in scopes.buckets():
            for digest, locations in digests.buckets():
                for location, seen in locations.values().items():
                    blobs[digest].location(_text(location), bbolt.time_ns(seen), _text(transport), _text(scope))
    contents = buckets.get(b"uncompressedDigestByTOC", empty).values()
    yield from _with_contents(blobs.values(), {_text(toc): _text(diff_id) for toc, diff_id in contents.items()})


def read_layers(base: str, *below: str) -> Facts:
    """Read which blobs the layers of a storage were unpacked from, each with its DiffID and compression.

    A layer that was pulled in parts, by its table of contents, is left out: its blob was not verified.

    Raises:
        TransferError: it cannot be read, or is no such file.
        FileNotFoundError: it is not there.
    """
    path = os.path.join(base, *below)
    if not below:
        base, name = os.path.split(os.path.realpath(base))
        below = (name,)
    try:
        with tree.directory(base, below[:-1]) as here:
            content, _ = tree.read(here, below[-1])
        layers = msgspec.json.decode(content, type=list[_Layer])
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    except (ValueError, RecursionError) as error:
        raise TransferError(f"not the {LAYERS_NAME} of a storage of Podman or CRI-O: {error}", path) from error
    for layer in layers:
        if not layer.digest or not layer.diff_id or layer.toc:
            continue  # made on this host, or pulled in parts
        reason = why_no_digest(layer.digest) or why_no_digest(layer.diff_id)
        if reason is not None:
            yield unreadable(layer.id, reason)
        else:
            yield Digest(layer.digest), BlobRecord(diff_id=layer.diff_id, compression=layer.compressed_by)


class _Layer(
    msgspec.Struct, rename={"digest": "compressed-diff-digest", "diff_id": "diff-digest", "toc": "toc-digest"}
):
    """A layer of a storage. Source: containers/storage's `Layer`."""

    id: str
    digest: str = ""
    diff_id: str = ""
    toc: str = ""
    compression: int = 0

    @property
    def compressed_by(self) -> str | None:
        # 0 also stands where it is not known; but a blob that is the layer itself is not compressed.
        return "uncompressed" if self.digest == self.diff_id else _STORAGE_COMPRESSIONS.get(self.compression)


class _Blob:
    """What a cache says of one blob, checked as it is added."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.diff_id: str | None = None
        self.annotations: dict[str, str] = {}
        self._compression: str | None = None
        self._variant: str | None = None
        self._locations: dict[str, int | None] = {}
        self._odd: list[Odd] = []

    def pair(self, diff_id: Any) -> None:
        reason = why_no_digest(diff_id)
        if reason is None:
            self.diff_id = diff_id
        else:
            self._leave_out(reason)

    def compressor(self, name: Any) -> None:
        # Before 2024, the variant stood here.
        self._compression = "zstd" if name == _CHUNKED else COMPRESSORS.get(name)
        if self._compression is None:
            self._leave_out(f"an unknown compressor: {name!r}")

    def variant(self, name: Any, annotations: Any) -> None:
        try:
            found = _decode_annotations(annotations)
        except (ValueError, TypeError, RecursionError) as error:
            self._leave_out(f"annotations that cannot be read: {error}")
            return
        if name == _CHUNKED:
            self._variant, self.annotations = name, found
        else:
            self._leave_out(f"an unknown variant of a compression: {name!r}")

    def location(self, name: Any, seen_at_ns: int | None, transport: Any, scope: Any) -> None:
        reason = why_no_location(name, scope) if transport == DOCKER else f"of no registry, but {transport!r}"
        if reason is None:
            self._locations[name] = seen_at_ns
        else:
            self._leave_out(reason)

    def found(self, toc: str | None = None) -> Facts:
        """Yield what was left out, and then the rest."""
        yield from self._odd
        record = BlobRecord(
            diff_id=self.diff_id,
            compression=self._compression,
            variant=self._variant,
            annotations=self.annotations,
            toc=toc,
            locations=self._locations,
        )
        if record != _NOTHING:
            yield self.digest, record

    def _leave_out(self, reason: str) -> None:
        self._odd.append(unreadable(self.digest, reason))


_NOTHING = BlobRecord()


class _Blobs(dict[bytes, _Blob]):
    """The blobs of a cache in BoltDB, each made when it is first asked for."""

    def __init__(self, file: bbolt.File) -> None:
        super().__init__()
        self._file = file

    def __missing__(self, digest: bytes) -> _Blob:
        reason = why_no_digest(_text(digest))
        if reason is not None:
            raise self._file.damaged(reason)
        blob = self[digest] = _Blob(Digest(_text(digest)))
        return blob


def _pairs(file: bbolt.File, buckets: dict[bytes, bbolt.Bucket], empty: bbolt.Bucket) -> Iterator[tuple[bytes, bytes]]:
    """Yield digest and DiffID of blobs. Both directions are there; without a checksum, they must agree."""
    backwards = {
        (digest, diff_id)
        for diff_id, digests in buckets.get(b"digestByUncompressed", empty).buckets()
        for digest, _ in digests.items()
    }
    for digest, diff_id in buckets.get(b"uncompressedDigest", empty).values().items():
        if (digest, diff_id) not in backwards:
            raise file.damaged(f"the DiffID of {_text(digest)} is not recorded in both directions")
        yield digest, diff_id


def _add(blob: _Blob, what: str, value: Any, more: list[Any]) -> None:
    if what == "pair":
        blob.pair(value)
    elif what == "compressor":
        blob.compressor(value)
    elif what == "variant":
        blob.variant(value, more[0])
    else:
        blob.location(value, time_ns(more[0]), *more[1:])


def _with_contents(blobs: Iterable[_Blob], contents: dict[str, str]) -> Facts:
    """Yield what is known of blobs, each with its table of contents, if that is known to be of the same layer."""
    used = set()
    for blob in blobs:
        named = (blob.annotations[name] for name in _TOCS if name in blob.annotations)
        toc = next((toc for toc in named if blob.diff_id is not None and contents.get(toc) == blob.diff_id), None)
        used.add(toc)
        yield from blob.found(toc if why_no_digest(toc) is None else None)
    left = len(contents.keys() - used)
    if left:
        yield uncertain("tables of contents", f"left out, as they are of no blob that is known: {left}")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
