"""Digests and DiffIDs of the V2 protocol: which blob is which layer, and who has it. Knows only `Store`.

Two entries make an association: the list of a DiffID holds it, and the digest maps back to the DiffID.
Source: Docker's distribution/metadata/v2_metadata_service.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NoReturn, cast

import msgspec

from layerstore.arguments import a_store, instance, several, tuples
from layerstore.digest import DiffID, Digest, are_sha256, is_sha256, match_digest
from layerstore.errors import (
    CorruptRecordError,
    InvalidInputError,
    InvalidRepositoryError,
    LayerstoreError,
    NotFoundError,
)
from layerstore.hmac import compute_hmac
from layerstore.keys import BLOBS, DIFF_IDS, MAX_SEGMENT, V2_METADATA, check_key, digest_key, is_utf8, key_digest
from layerstore.records import MAX_METADATA, V2Metadata, decode_diff_id, decode_list, encode_list
from layerstore.repository import found_canonical, warn_if_not_canonical
from layerstore.store import Address, Change, SetAside, Store, Write, changing, get_many
from layerstore.warnings import warn


class V2MetadataService:
    """Keep associations between layers, blobs and repositories.

    On a store with `transaction()` each method is atomic; on `FSMetadataStore` the threads of one process take
    turns, and a crash may leave one half of an `add`, as with Docker. `V2MetadataService(None)` knows nothing:
    looking up raises, writing does nothing.

    Source: Docker's `V2MetadataService`.
    """

    def __init__(self, store: Store | None) -> None:
        if store is not None:
            a_store(store)
        self._store = cast("Store", _NoStore()) if store is None else store
        self._change = None if store is None else changing(store)

    def get_metadata(self, diff_id: str) -> list[V2Metadata]:
        """Return a layer's associations, the oldest first. One read of the store.

        Raises:
            NotFoundError: the store has no list for this layer.
            CorruptRecordError: the list cannot be read.
            InvalidDigestError: `diff_id` is not a DiffID.
            LayerstoreError: the service has no store.
            StoreError: the store failed.

        Source: Docker's `GetMetadata`.
        """
        DiffID.check(diff_id)
        key = diff_id.replace(":", "/", 1)
        return _read_list(key, self._store.get(V2_METADATA, key))

    def get_diff_id(self, digest: str) -> DiffID:
        """Return the layer that a blob is. One read of the store.

        Raises:
            NotFoundError: the store has no layer for this digest.
            CorruptRecordError: the value is empty or not a DiffID.
            InvalidDigestError: `digest` is not a digest.
            LayerstoreError: the service has no store.
            StoreError: the store failed.

        Source: Docker's `GetDiffID`.
        Differs: Docker returns an empty or malformed value as it is.
        """
        # Written out, as a call costs here as much as a twentieth of the lookup.
        if not isinstance(digest, str) or match_digest(digest) is None:
            Digest.check(digest)  # says why not
        key = digest.replace(":", "/", 1)
        value = self._store.get(DIFF_IDS, key)
        return DiffID(value, "ascii") if is_sha256(value) else _read_diff_id(key, value)

    def get_metadata_many(self, diff_ids: Iterable[str]) -> dict[str, list[V2Metadata]]:
        """Return the associations of many layers, each under its DiffID as given; layers without a list are left out.

        Raises: as `get_metadata`, but for NotFoundError.
        """
        keys = _keys(diff_ids, DiffID)
        values = get_many(self._store, V2_METADATA, keys)
        return {keys[key]: _read_list(key, value) for key, value in values.items()}

    def get_diff_ids(self, digests: Iterable[str]) -> dict[str, DiffID]:
        """Return the layers of many blobs, each under its digest as given; unknown digests are left out.

        Raises: as `get_diff_id`, but for NotFoundError.
        """
        keys = _keys(digests, Digest)
        values = get_many(self._store, DIFF_IDS, keys)
        texts = b"\n".join(values.values()).decode("utf-8", "backslashreplace").split("\n")
        if len(texts) == len(values) and are_sha256(texts):
            return dict(zip(map(keys.__getitem__, values), map(DiffID, texts), strict=True))
        return {keys[key]: _read_diff_id(key, value) for key, value in values.items()}

    def layers(self) -> Iterator[DiffID]:
        """Yield the layers that have a list, by DiffID. Reads all lists, of a database in one snapshot.

        Raises:
            LayerstoreError: the service has no store, or one that cannot list its entries.
            StoreError: the store failed.
        """
        for key, _ in self._lists():
            yield DiffID(key_digest(key))

    def repositories(self) -> Iterator[str]:
        """Yield the names of the repositories that the lists name, sorted. Reads all lists before the first name.

        Of a large database, `store.engine` answers faster: `SELECT source_repository FROM repositories`.

        Raises:
            CorruptRecordError: a list cannot be read.
            LayerstoreError: the service has no store, or one that cannot list its entries.
            StoreError: the store failed.
        """
        found = {entry.source_repository for key, value in self._lists() for entry in _read_list(key, value)}
        yield from sorted(found - {""})

    def _lists(self) -> Iterator[tuple[str, bytes]]:
        """Yield key and value of the lists of layers."""
        entries: Callable[[str], Iterable[tuple[str, str, bytes]]] | None = getattr(self._store, "entries", None)
        if entries is None:
            raise LayerstoreError(f"{type(self._store).__name__} cannot list its entries: it has no method `entries`")
        return ((key, value) for _, key, value in entries(V2_METADATA) if key_digest(key) is not None)

    def add(self, diff_id: str, metadata: V2Metadata) -> None:
        """Record that a layer is this blob, and which repository has it.

        The association becomes the newest of the layer's list; an equal one is moved. The list keeps the newest
        50; the digests of older ones still resolve. The digest maps to this layer from now on; where it was
        another layer's a warning is logged. A list that is absent is begun; one that is not JSON is begun anew,
        its old bytes are moved to quarantine if the store has one, and a warning is logged. So is one of a repository
        whose name is not canonical (`canonical_repository`), once for a name: no push will mount from it.

        One transaction on a store that has them; other writers wait.

        Raises:
            InvalidDigestError: `diff_id` or the association's digest is not a digest.
            InvalidKeyError: one of them, of an algorithm of its own, is over 239 bytes.
            InvalidRepositoryError: the repository's name cannot be UTF-8.
            InvalidInputError: the HMAC cannot be UTF-8.
            StoreError: the store failed; nothing was written (on files: perhaps the list).

        Source: Docker's `Add`.
        Differs: Docker takes any error while reading for an empty list, and loses what was there.
        """
        if self._change is None:
            return
        layer, blob = _places(diff_id, metadata)
        mapped = diff_id.encode()
        known: bytes | None = None

        def add(found: dict[Address, bytes]) -> Change:
            nonlocal known
            known = found.get(blob)
            aside: list[SetAside] = []
            entries = _list_or_nothing(layer, found.get(layer), aside)
            _append(entries, metadata)
            return Change((Write(*layer, encode_list(entries), entries), Write(*blob, mapped)), aside)

        done = self._change((layer, blob), add)
        if done.aside:
            self._warn_of_unreadable(done)
        if known is not None and known != mapped:
            _warn_of_another_layer(metadata.digest, known, diff_id)

    def add_many(self, associations: Iterable[tuple[str, V2Metadata]], *, hmac_key: bytes | None = None) -> None:
        """`add` many associations, in their order, such as the layers of an image that was pulled or pushed.

        One transaction on a store that has them: all are recorded, or none; other writers wait for all of it. On
        other stores they are added one by one, and the first ones stay when the store fails.

        Args:
            associations: DiffIDs, each with an association.
            hmac_key: tags each association, as `tag_and_add` does; `None` takes them as they are.

        Raises: as `add`; for what is wrong with any of them before anything is written.
        """
        if self._change is None:
            return
        pairs = list(tuples(associations, 2, "associations"))
        if hmac_key is not None:
            pairs = [(diff_id, _tagged(metadata, hmac_key)) for diff_id, metadata in pairs]
        places = [_places(diff_id, metadata) for diff_id, metadata in pairs]
        addresses = list(dict.fromkeys(chain.from_iterable(places)))
        moved: list[tuple[str, bytes, str]] = []

        def add(found: dict[Address, bytes]) -> Change:
            moved.clear()
            aside: list[SetAside] = []
            lists: dict[Address, list[V2Metadata]] = {}
            mapped = dict(found)
            for (layer, blob), (diff_id, metadata) in zip(places, pairs, strict=True):
                if layer not in lists:
                    lists[layer] = _list_or_nothing(layer, found.get(layer), aside)
                _append(lists[layer], metadata)
                before, mapped[blob] = mapped.get(blob), diff_id.encode()
                if before is not None and before != mapped[blob]:
                    moved.append((metadata.digest, before, diff_id))
            writes = []
            for address in addresses:
                listed = lists.get(address)
                writes.append(Write(*address, mapped[address] if listed is None else encode_list(listed), listed))
            return Change(writes, aside)

        if addresses:
            self._warn_of_unreadable(self._change(addresses, add))
        for digest, before, diff_id in moved:
            _warn_of_another_layer(digest, before, diff_id)

    def tag_and_add(self, diff_id: str, hmac_key: bytes | None, metadata: V2Metadata) -> None:
        """Set the association's HMAC by `hmac_key` (`""` without one), then `add` it.

        Raises: as `add`.

        Source: Docker's `TagAndAdd`.
        """
        self.add(diff_id, _tagged(metadata, hmac_key))

    def remove(self, metadata: V2Metadata) -> None:
        """Forget one association, found through the layer that its digest maps to now.

        The list loses all entries equal to `metadata`, and is deleted when none is left, also if it had none; the
        digest still resolves. What other engines know (`blob-by-digest`) loses the repository too, unless the list
        has it with another HMAC; if they alone knew of it, that is no error. A list that is not JSON is deleted, its
        bytes are moved to quarantine if the store has one, and a warning is logged.

        One transaction on a store that has them; other writers wait.

        Raises:
            NotFoundError: the digest maps to no layer, or that layer has no list; and no other engine knew of it there.
            CorruptRecordError: what the digest maps to is not a DiffID.
            InvalidDigestError: the association's digest is not a digest.
            StoreError: the store failed; nothing was written.

        Source: Docker's `Remove`.
        """
        if self._change is None:
            return
        instance(metadata, V2Metadata, "an association")
        Digest.check(metadata.digest)
        key = digest_key(metadata.digest)
        blob, others = (DIFF_IDS, key), (BLOBS, key)

        def find(found: dict[Address, bytes]) -> Change:
            if blob not in found:
                return remove(found, None)
            layer = (V2_METADATA, digest_key(_read_diff_id(key, found[blob])))
            return Change(more=(layer,), then=lambda found: remove(found, layer))

        def remove(found: dict[Address, bytes], layer: Address | None) -> Change:
            forgotten = _forgotten(others, found.get(others), metadata.source_repository)
            if layer is None or layer not in found:
                if not forgotten:
                    raise NotFoundError(*(layer or blob))
                return Change(forgotten)
            aside: list[SetAside] = []
            entries = _list_or_nothing(layer, found[layer], aside)
            entries = [entry for entry in entries if entry != metadata]
            ours = Write(*layer, encode_list(entries), entries) if entries else Write(*layer, None)
            place = (metadata.digest, metadata.source_repository)
            is_still_listed = place in [(entry.digest, entry.source_repository) for entry in entries]
            return Change((ours, *(() if is_still_listed else forgotten)), aside)

        self._warn_of_unreadable(self._change((blob, others), find))

    def _warn_of_unreadable(self, change: Change) -> None:
        kept = hasattr(self._store, "quarantine")
        for _, key, value, reason in change.aside:
            warn(
                "unreadable list of layer %s (%s): begun anew; its %d bytes %s",
                key_digest(key),
                reason,
                len(value),
                "are in quarantine" if kept else "are lost, as this store has no quarantine",
            )


def _list_or_nothing(layer: Address, value: bytes | None, aside: list[SetAside]) -> list[V2Metadata]:
    """Return the list that a write starts from; what cannot be read is to be set aside."""
    if value is None:
        return []
    try:
        return decode_list(value)
    except ValueError as error:
        aside.append(SetAside(*layer, value, str(error)))
        return []


def _forgotten(address: Address, value: bytes | None, repository: str) -> tuple[Write, ...]:
    """Return what other engines know of a blob without a repository; nothing to write if they do not know that."""
    from layerstore.blobs import BlobRecord, decode, encode  # an `add` need not wait for it

    try:
        known = BlobRecord() if value is None else decode(value, address[1])
    except CorruptRecordError:
        return ()  # `verify` tells of it
    if repository not in known.locations:
        return ()
    rest = known.without([repository])
    kept = None if rest == BlobRecord() else encode(rest)
    return (Write(*address, kept, modified_at_ns=rest.modified_at_ns),)


def _append(entries: list[V2Metadata], metadata: V2Metadata) -> None:
    """Make an association the newest of a list."""
    if metadata in entries:
        entries[:] = [entry for entry in entries if entry != metadata]
    entries.append(metadata)
    if len(entries) > MAX_METADATA:
        del entries[:-MAX_METADATA]


def _warn_of_another_layer(digest: str, known: bytes, diff_id: str) -> None:
    warn(
        "digest %s was layer %s and is layer %s from now on",
        digest,
        known.decode("utf-8", "backslashreplace") or "(empty)",
        diff_id,
    )


class _NoStore:
    """What `V2MetadataService(None)` looks up in."""

    def __getattr__(self, _name: str) -> NoReturn:
        raise LayerstoreError("this V2MetadataService has no store")


def _tagged(metadata: V2Metadata, hmac_key: bytes | None) -> V2Metadata:
    instance(metadata, V2Metadata, "an association")
    return msgspec.structs.replace(metadata, hmac=compute_hmac(hmac_key, metadata))


def _places(diff_id: str, metadata: V2Metadata) -> tuple[Address, Address]:
    """Return where an association is kept: in its layer's list, and in its digest's mapping.

    Raises: as `V2MetadataService.add`, for what is wrong with it.
    """
    if type(metadata) is not V2Metadata:
        instance(metadata, V2Metadata, "an association")
    digest, repository = metadata.digest, metadata.source_repository
    # Written out, as in `get_diff_id`.
    if not isinstance(diff_id, str) or match_digest(diff_id) is None:
        DiffID.check(diff_id)
    if not isinstance(digest, str) or match_digest(digest) is None:
        Digest.check(digest)
    if metadata.hmac != "":
        _check_text("HMAC", metadata.hmac, InvalidInputError)
    if not isinstance(repository, str) or repository not in found_canonical:
        _check_text("source repository", repository, InvalidRepositoryError)
        warn_if_not_canonical(repository)
    layer, blob = (V2_METADATA, diff_id.replace(":", "/", 1)), (DIFF_IDS, digest.replace(":", "/", 1))
    if len(diff_id) + len(digest) > MAX_SEGMENT:  # no two of SHA-256 are
        check_key(*layer)
        check_key(*blob)
    return layer, blob


def _check_text(field: str, value: object, error: type[InvalidInputError]) -> None:
    if not isinstance(value, str):
        raise error(f"the {field} must be text, not {type(value).__name__}")
    if not (value.isascii() or is_utf8(value)):
        raise error(f"the {field} {value!r} cannot be written as UTF-8")


def _keys(digests: Iterable[str], kind: type[Digest]) -> dict[str, str]:
    """Return the digests by their keys.

    Raises:
        InvalidDigestError: one of them is none.
    """
    texts = list(several(digests, f"{kind.__name__}s"))
    if not (all(isinstance(text, str) for text in texts) and are_sha256(texts)):
        for text in texts:
            kind.check(text)
    return dict(zip("\n".join(texts).replace(":", "/").split("\n"), texts, strict=True)) if texts else {}


def _read_list(key: str, value: bytes) -> list[V2Metadata]:
    try:
        return decode_list(value)
    except ValueError as error:
        raise CorruptRecordError(V2_METADATA, key, str(error)) from error


def _read_diff_id(key: str, value: bytes) -> DiffID:
    try:
        return decode_diff_id(value)
    except ValueError as error:
        raise CorruptRecordError(DIFF_IDS, key, str(error)) from error
