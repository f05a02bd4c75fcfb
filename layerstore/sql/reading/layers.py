"""Layers, blobs and V1 images: all that a store knows of one, and a page of the newest layers.

Each goes through an index, and a page is bounded, so that it costs the same in a store of a million layers. Each raises
`StoreError` if the store fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from layerstore.blobs import decode
from layerstore.digest import DiffID, is_digest
from layerstore.errors import CorruptRecordError
from layerstore.keys import BLOBS, DIFF_IDS, V2_METADATA, digest_key
from layerstore.records import decode_list
from layerstore.sql.store import SQLMetadataStore

PAGE: Final = 50
LOOKED_THROUGH: Final = 10_000
"""How many layers a page of some of them looks at: some 50 ms. The next page goes on behind them."""
MOST: Final = 500
"""How many digests or V1 IDs of one layer are shown; Docker lets a layer have any number."""

ALL: Final = 2**62
"""A LIMIT that is none."""

Key = tuple[int, str]
"""Where a page ended: a time in nanoseconds, or 0 where the order is by name, and a name."""


@dataclass(frozen=True, slots=True)
class ListedLayer:
    """A layer in a list of many. Without associations, its own list cannot be read or is empty."""

    diff_id: str
    modified_at_ns: int
    associations: int
    repositories: int


@dataclass(frozen=True, slots=True)
class Layers:
    """A page of layers in order of time; `next` is where the following one begins, `None` behind the last."""

    layers: tuple[ListedLayer, ...]
    next: Key | None


@dataclass(frozen=True, slots=True)
class Association:
    """A row of a layer's list, and what its digest maps to, which Docker looks up by the digest.

    Attributes:
        diff_id: the layer.
        digest: the blob.
        source_repository: a repository that has it, empty if unknown.
        hmac: what ties it to credentials, empty if it was recorded without any.
        maps_to: the DiffID that the digest maps to, `None` if it maps to none.
        recorded_at_ns: when that mapping was last written, which every `add` of the digest does.
    """

    diff_id: str
    digest: str
    source_repository: str
    hmac: str
    maps_to: str | None
    recorded_at_ns: int | None


@dataclass(frozen=True, slots=True)
class LayerDigest:
    """A digest that maps to a layer, when that was last written, and in how many entries of the layer's list it is."""

    digest: str
    recorded_at_ns: int
    listed: int


@dataclass(frozen=True, slots=True)
class Location:
    """A repository in which another engine has seen a blob, and when last; `None` if that is not known."""

    source_repository: str
    seen_at_ns: int | None


@dataclass(frozen=True, slots=True)
class KnownBlob:
    """What other engines know of a blob.

    Attributes:
        digest: the blob.
        diff_id: the layer that it is; `None` if no engine has verified one, or sources disagree.
        compression: `gzip`, `zstd`, `bzip2`, `xz` or `uncompressed`; `None` if not known, or sources disagree.
        conflicts: on what sources disagree, each with all values.
        locations: the last seen first.
    """

    digest: str
    diff_id: str | None
    compression: str | None
    conflicts: tuple[tuple[str, tuple[str, ...]], ...]
    locations: tuple[Location, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        diff_id: the layer.
        modified_at_ns: when its list was last written; `None` without one.
        unreadable: why its list cannot be read; `None` if it can, or if there is none.
        associations: its list, the newest first.
        digests: what maps to it, the last written first.
        v1_ids: registry and V1 ID of images that are it.
        blobs: what other engines know of blobs that are it, by digest.
    """

    diff_id: str
    modified_at_ns: int | None
    unreadable: str | None
    associations: tuple[Association, ...]
    digests: tuple[LayerDigest, ...]
    v1_ids: tuple[tuple[str, str], ...]
    blobs: tuple[KnownBlob, ...] = ()


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob: the layer that its digest maps to, every list that holds it, and what other engines know of it."""

    digest: str
    diff_id: str | None
    associations: tuple[Association, ...]
    known: KnownBlob | None = None


@dataclass(frozen=True, slots=True)
class V1Image:
    """A V1 image ID: the layer that it is at each registry."""

    v1_id: str
    layers: tuple[tuple[str, str], ...]


_LISTS = f"FROM metadata WHERE namespace = '{V2_METADATA}'"
_DIFF_ID = "CAST(replace(l.key, '/', ':') AS TEXT)"
_COUNTED = f"""
    SELECT {_DIFF_ID}, CAST(l.modified_at_ns AS BIGINT) AS modified_at_ns,
      (SELECT count(*) FROM v2_metadata WHERE diff_id = {_DIFF_ID}),
      (SELECT count(DISTINCT source_repository) FROM v2_metadata
        WHERE diff_id = {_DIFF_ID} AND source_repository <> '')
"""
# '0' is the character after '/'.
_OF_REGISTRY = f"""
    EXISTS (SELECT 1 FROM v2_metadata WHERE diff_id = {_DIFF_ID}
      AND source_repository >= :registry || '/' AND source_repository < :registry || '0')
"""
_WITH_PART = f"""
    (instr({_DIFF_ID}, :part) > 0 OR EXISTS (SELECT 1 FROM v2_metadata WHERE diff_id = {_DIFF_ID}
      AND (instr(source_repository, :part) > 0 OR instr(digest, :part) > 0)))
"""


def newest_layers(
    store: SQLMetadataStore,
    *,
    registry: str | None = None,
    part: str = "",
    oldest_first: bool = False,
    after: Key | None = None,
) -> Layers:
    """Return the layers whose lists were written last, or those whose lists were not written for the longest time.

    To choose some of them, those of a registry, or those of whose DiffID, digests or repositories one contains a text,
    it looks through 10,000 layers at most, so that a page may have fewer than `PAGE`, or none, and still a next one.
    """
    conditions = [condition for condition, wanted in ((_OF_REGISTRY, registry), (_WITH_PART, part)) if wanted]
    values: dict[str, object] = {"size": PAGE + 1, "registry": registry, "part": part}
    values["most"] = LOOKED_THROUGH if conditions else PAGE + 1
    direction, behind = ("", ">") if oldest_first else ("DESC", "<")
    inner = f"SELECT key, modified_at_ns {_LISTS}"
    if after is not None:
        inner += f" AND (modified_at_ns, key) {behind} (:time, :key)"
        values |= {"time": after[0], "key": digest_key(after[1])}
    inner += f" ORDER BY modified_at_ns {direction}, key {direction}"
    chosen = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    with store.transaction(deferred=True):
        rows = store._run(f"{_COUNTED} FROM ({inner} LIMIT :most) l {chosen} LIMIT :size", values)
        last: list[tuple[str, int]] = []
        if conditions and len(rows) <= PAGE:
            last = store._run(f"{inner} LIMIT 1 OFFSET :most", {**values, "most": LOOKED_THROUGH - 1})
    found = tuple(ListedLayer(*row) for row in rows if is_digest(row[0]))
    if len(rows) > PAGE:
        return Layers(found[:PAGE], (rows[PAGE - 1][1], rows[PAGE - 1][0]))
    return Layers(found, next(((at_ns, key.replace("/", ":", 1)) for key, at_ns in last), None))


_ASSOCIATIONS = f"""
    SELECT v.diff_id, v.digest, v.source_repository, v.hmac,
      (SELECT diff_id FROM diff_id_by_digest WHERE digest = v.digest),
      (SELECT CAST(modified_at_ns AS BIGINT) FROM metadata WHERE namespace = '{DIFF_IDS}'
        AND key = CAST(replace(v.digest, ':', '/') AS TEXT))
    FROM v2_metadata v WHERE v.{{column}} = :value ORDER BY v.diff_id, v.position DESC
"""
_DIGESTS = f"""
    SELECT d.digest, CAST(m.modified_at_ns AS BIGINT) AS modified_at_ns,
      (SELECT count(*) FROM v2_metadata v WHERE v.digest = d.digest AND v.diff_id = d.diff_id)
    FROM diff_id_by_digest d JOIN metadata m ON m.namespace = '{DIFF_IDS}'
      AND m.key = CAST(replace(d.digest, ':', '/') AS TEXT)
    WHERE d.diff_id = :diff_id ORDER BY m.modified_at_ns DESC, d.digest LIMIT :most
"""
_V1_IDS = "SELECT registry, v1_id FROM v1_ids WHERE diff_id = :diff_id ORDER BY registry, v1_id LIMIT :most"


def layer(store: SQLMetadataStore, diff_id: str, *, most: int | None = MOST) -> Layer | None:
    """Return all about a layer, with so many of its digests and V1 IDs, or `None` if nothing is known of it."""
    if not is_digest(diff_id):
        return None
    with store.transaction(deferred=True):
        values = {"diff_id": diff_id, "most": ALL if most is None else most}
        found = Layer(
            diff_id,
            *_list_of(store, diff_id),
            _associations(store, "diff_id", diff_id),
            tuple(LayerDigest(*row) for row in store._run(_DIGESTS, values)),
            tuple(store._run(_V1_IDS, values)),
            _blobs_of(store, DiffID(diff_id)),
        )
    known = found.modified_at_ns is not None or found.digests or found.v1_ids or found.blobs
    return found if known else None


def blob(store: SQLMetadataStore, digest: str) -> Blob | None:
    """Return all about a blob, or `None` if nothing is known of it."""
    with store.transaction(deferred=True):
        mapped = store._run("SELECT diff_id FROM diff_id_by_digest WHERE digest = :digest", {"digest": digest})
        associations = _associations(store, "digest", digest)
        values = store.get_many(BLOBS, [digest_key(digest)]) if is_digest(digest) else {}
    diff_id = mapped[0][0] if mapped else None
    known = next((_known(digest, value) for value in values.values()), None)
    return Blob(digest, diff_id, associations, known) if diff_id is not None or associations or known else None


def _blobs_of(store: SQLMetadataStore, diff_id: DiffID) -> tuple[KnownBlob, ...]:
    found = store.known_layers([diff_id]).blobs.get(diff_id, {})
    known = [_known(digest, value) for digest, value in sorted(found.items())]
    return tuple(one for one in known if one is not None)


def _known(digest: str, value: bytes) -> KnownBlob | None:
    """Return what other engines know of a blob, or `None` if it cannot be read."""
    try:
        found = decode(value, digest_key(digest))
    except CorruptRecordError:
        return None
    places = sorted(found.locations.items(), key=lambda place: (-1 if place[1] is None else place[1], place[0]))
    return KnownBlob(
        digest,
        found.diff_id,
        found.compression,
        tuple(found.conflicts.items()),
        tuple(Location(*place) for place in reversed(places)),
    )


def v1_image(store: SQLMetadataStore, v1_id: str) -> V1Image | None:
    """Return which layer a V1 image is, or `None` if that is not known."""
    layers = store._run("SELECT registry, diff_id FROM v1_ids WHERE v1_id = :v1_id ORDER BY registry", {"v1_id": v1_id})
    return V1Image(v1_id, tuple(layers)) if layers else None


def _associations(store: SQLMetadataStore, column: str, value: str) -> tuple[Association, ...]:
    rows = store._run(_ASSOCIATIONS.format(column=column), {"value": value})
    return tuple(Association(*row) for row in rows)


def _list_of(store: SQLMetadataStore, diff_id: str) -> tuple[int | None, str | None]:
    """Return when a layer's list was written, and why it cannot be read if it cannot."""
    found = store._backend.get_record(V2_METADATA, digest_key(diff_id))
    if found is None:
        return None, None
    try:
        decode_list(found.value)
    except ValueError as error:
        return found.modified_at_ns, str(error)
    return found.modified_at_ns, None
