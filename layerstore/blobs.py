"""What other engines know of a blob: the entries of the namespace `blob-by-digest`.

containerd, Podman and the like know from which repositories a blob is available without its DiffID, with a time for
each, and they know its compression. Docker's lists hold neither. So there is one entry per digest, with a value of
compact JSON, absent fields left out:

    {"DiffID":"sha256:…","Compression":"gzip","Locations":[{"Repository":"localhost:5000/a","SeenAt":"2026-11-26T21:43:11Z"}]}

Merging is a union: it is commutative, associative and idempotent, so that stores come to rest in whichever order they
learn from each other. Rejected: an entry per digest and repository (the compression and DiffID would need another
place), and the later of two values (a store would forget what only the earlier one knows). No store is known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from datetime import datetime
from typing import Any, Final, Self

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from layerstore.digest import is_digest
from layerstore.errors import CorruptRecordError
from layerstore.keys import BLOBS
from layerstore.repository import why_not_canonical
from layerstore.words import time_text

COMPRESSIONS: Final = ("bzip2", "gzip", "uncompressed", "xz", "zstd")

_EPOCH = datetime(1970, 1, 1)
_EARLIEST, _LATEST = -(2**63), 2**63 - 1
_NS = 10**9
_is_time = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z"
).fullmatch


class BlobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one blob.

    The constructor checks nothing; `decode` does.

    Attributes:
        diff_id: DiffID of the layer that the blob is; `None` when no engine has verified one.
        compression: one of `COMPRESSIONS`; `None` when not known.
        variant: a special form of the compression, such as `zstd:chunked`; `None` when there is none or not known.
        annotations: what a manifest says of the blob in that form.
        toc: digest of its table of contents; `None` when not known.
        locations: canonical names of the repositories it is available from, each with the Unix time in nanoseconds when
            it was seen there last; `None` when that is not known, which counts as the oldest.
        conflicts: fields of which sources disagree, by their names in JSON, with all values, sorted. The attribute is
            then `None`. No export uses such a blob.
        extra: fields of later versions, by name, as JSON.
    """

    diff_id: str | None = None
    compression: str | None = None
    variant: str | None = None
    annotations: Mapping[str, str] = {}
    toc: str | None = None
    locations: Mapping[str, int | None] = {}
    conflicts: Mapping[str, tuple[str, ...]] = {}
    extra: Mapping[str, bytes] = {}

    @property
    def modified_at_ns(self) -> int:
        """Unix time in nanoseconds when the blob was seen last; 0 without any such time. An entry's time."""
        return max((seen for seen in self.locations.values() if seen is not None), default=0)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """All DiffIDs that an engine has verified: none, one, or in a conflict several."""
        return _values(self, "DiffID", "diff_id")

    def without(self, repositories: Container[str]) -> Self:
        """Return the record without these locations."""
        return replace(self, locations={name: at for name, at in self.locations.items() if name not in repositories})


class _Location(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    Repository: str
    SeenAt: str | UnsetType = UNSET


class _Document(msgspec.Struct, omit_defaults=True):
    """The value as JSON has it. The order of the fields is that in which they are written."""

    DiffID: str | UnsetType = UNSET
    Compression: str | UnsetType = UNSET
    Variant: str | UnsetType = UNSET
    Annotations: dict[str, str] | UnsetType = UNSET
    TOC: str | UnsetType = UNSET
    Locations: list[_Location] | UnsetType = UNSET
    Conflicts: dict[str, tuple[str, ...]] | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Document).decode
_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_FIELDS = frozenset(_Document.__struct_fields__)
# The fields of which two values cannot both be true, and the attributes that they are.
_EXCLUSIVE = {"DiffID": "diff_id", "Compression": "compression", "Variant": "variant", "TOC": "toc"}


def encode(record: BlobRecord) -> bytes:
    """Write a record in its one form: compact, fields in a fixed order, locations by name, unknown fields last.

    Nothing is checked, as the constructor's caller has.
    """
    document: dict[str, Any] = {
        "DiffID": record.diff_id,
        "Compression": record.compression,
        "Variant": record.variant,
        "Annotations": dict(sorted(record.annotations.items())),
        "TOC": record.toc,
        "Locations": [
            _Location(name, UNSET if seen is None else time_text(seen))
            for name, seen in sorted(record.locations.items())
        ],
        "Conflicts": {name: sorted(record.conflicts[name]) for name in _EXCLUSIVE if name in record.conflicts},
    }
    document = {name: value for name, value in document.items() if value}
    return _encode(document | {name: msgspec.Raw(raw) for name, raw in sorted(record.extra.items())})


def decode(value: bytes, key: str) -> BlobRecord:
    """Read a record.

    Strict: a name is read in its case alone; a repeated name, `null`, a type or digest that is wrong, a compression of
    another name, a repository that is not canonical, or a time that is not UTC is an error. An unknown field of the
    whole record is kept; one of a location is an error.

    Args:
        value: the entry's value, in any layout of JSON.
        key: the entry's key, for the error.

    Raises:
        CorruptRecordError: the value is no such record; the reason says why.
    """
    try:
        return read(value)
    except ValueError as error:
        raise CorruptRecordError(BLOBS, key, str(error)) from error


def merge(one: BlobRecord, other: BlobRecord) -> BlobRecord:
    """Return what both know. The order of the arguments does not matter, and merging again changes nothing.

    Locations are united, each with the later time. Of a field that one side knows, that; of two different DiffIDs,
    compressions, variants or TOCs all are kept as a conflict. Annotations are united; of two values of one annotation
    or of one unknown field, the greater bytes stay.
    """
    if one == other:
        return one
    locations = dict(one.locations)
    for name, seen in other.locations.items():
        known = locations.get(name)
        locations[name] = seen if known is None else known if seen is None else max(known, seen)
    fields: dict[str, Any] = {}
    conflicts: dict[str, tuple[str, ...]] = {}
    for name, attribute in _EXCLUSIVE.items():
        values = sorted({value for side in (one, other) for value in _values(side, name, attribute)})
        if len(values) > 1:
            conflicts[name] = tuple(values)
        elif values:
            fields[attribute] = values[0]
    return BlobRecord(
        annotations=_greater(one.annotations, other.annotations),
        locations=locations,
        conflicts=conflicts,
        extra=_greater(one.extra, other.extra),
        **fields,
    )


def _values(record: BlobRecord, name: str, attribute: str) -> tuple[str, ...]:
    value: str | None = getattr(record, attribute)
    return record.conflicts.get(name, ()) if value is None else (value,)


def _greater(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    # Text is compared by its code points, which is the order of its UTF-8 bytes.
    return {name: max(side[name] for side in (one, other) if name in side) for name in one.keys() | other.keys()}


def time_ns(text: str) -> int:
    """Return Unix time in nanoseconds; a ValueError if it is no such time, or not between the years 1677 and 2262."""
    if _is_time(text) is None:
        raise ValueError(f"not a time in UTC: {_shown(text)}")
    since = datetime.fromisoformat(text[:19]) - _EPOCH
    time_ns = (since.days * 86_400 + since.seconds) * _NS + int(text[20:-1].ljust(9, "0"))
    if not _EARLIEST <= time_ns <= _LATEST:
        raise ValueError(f"a time that 64 bits of nanoseconds cannot hold: {text}")
    return time_ns


def read(value: bytes) -> BlobRecord:
    """Do the same as `decode`, or raise a ValueError that says why not."""
    try:
        document = _decode(value)
        # Nothing is repeated or unknown in what is written like this again.
        extra = {} if _encode(document) == value else _unknown_fields(value)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise ValueError(str(error) if value else "it is empty") from error
    return BlobRecord(
        diff_id=_checked("DiffID", document.DiffID),
        compression=_checked("Compression", document.Compression),
        variant=_checked("Variant", document.Variant),
        annotations=document.Annotations or {},
        toc=_checked("TOC", document.TOC),
        locations=_locations(document.Locations or ()),
        conflicts=_conflicts(document),
        extra=extra,
    )


def _unknown_fields(value: bytes) -> dict[str, bytes]:
    """Return the fields of a record that this version does not know, by name, as JSON."""
    # A number may have any size.
    json.loads(value.decode(), object_pairs_hook=_refuse_repeated, parse_int=str, parse_float=str)
    fields = _decode_fields(value)
    return {name: msgspec.json.format(bytes(raw), indent=-1) for name, raw in fields.items() if name not in _FIELDS}


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is repeated")


def _locations(found: list[_Location] | tuple[()]) -> dict[str, int | None]:
    locations: dict[str, int | None] = {}
    for location in found:
        name, seen = location.Repository, location.SeenAt
        reason = why_not_canonical(name) if name else "a location without a repository"
        if reason is not None:
            raise ValueError(reason)
        locations[name] = None if seen is UNSET else time_ns(seen)
    if len(locations) != len(found):
        raise ValueError("a repository is there twice")
    return locations


def _conflicts(document: _Document) -> dict[str, tuple[str, ...]]:
    found = document.Conflicts or {}
    for name, values in found.items():
        if name not in _EXCLUSIVE:
            raise ValueError(f"there is no conflict of {name}")
        if len(values) < 2 or list(values) != sorted(set(values)):
            raise ValueError(f"a conflict of {name} has two values or more, sorted")
        if getattr(document, name) is not UNSET:
            raise ValueError(f"{name} is there beside a conflict of {name}")
        for value in values:
            _checked(name, value)
    return found


def _checked(name: str, value: str | UnsetType) -> str | None:
    """Return the value of an exclusive field, `None` if it is absent; a ValueError if it cannot be one."""
    if value is UNSET:
        return None
    if name in ("DiffID", "TOC") and not is_digest(value):
        raise ValueError(f"{name} is not a digest: {_shown(value)}")
    if name == "Compression" and value not in COMPRESSIONS:
        raise ValueError(f"{name} is one of {', '.join(COMPRESSIONS)}, not {_shown(value)}")
    if not value:
        raise ValueError(f"{name} is empty")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")
