"""The three namespaces of Docker's: how their values are written, read and checked.

A V2 list and a DiffID's text are bytes here; which store holds them, and when, is not known.
Source: Docker's distribution/metadata: v1_id_service.go, v2_metadata_service.go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from layerstore.digest import DiffID, are_sha256, is_digest, is_sha256
from layerstore.errors import InvalidV1IDError
from layerstore.keys import BLOBS, DIFF_IDS, V1_IDS, V2_METADATA, key_digest, why_not_a_key, why_not_a_namespace

MAX_METADATA: Final = 50
"""Entries that a layer's list keeps, the newest ones. Source: Docker's `maxMetadata`."""

_EARLIEST, _LATEST = -(2**63), 2**63 - 1
NO_DIGEST: Final = "the key is not the digest of a layer or blob"

_is_v1_id = re.compile("[0-9a-f]{64}").fullmatch


class V2Metadata(
    msgspec.Struct,
    frozen=True,
    gc=False,
    forbid_unknown_fields=True,
    rename={"digest": "Digest", "source_repository": "SourceRepository", "hmac": "HMAC"},
):
    """One association: a blob's digest and a repository that has it.

    The constructor checks nothing, as what a daemon wrote must be representable; `V2MetadataService.add` does.

    Attributes:
        digest: of the compressed blob.
        source_repository: canonical name, such as `docker.io/library/busybox`; empty when unknown.
        hmac: 64 hex digits that tie the two to the credentials they were seen with; empty when there were none.

    Source: Docker's `V2Metadata`.
    """

    digest: str
    source_repository: str = ""
    hmac: str = ""


Association = tuple[str, int, str, str, str]
"""One row of a V2 list: DiffID, position from 1 on, digest, source repository, HMAC."""


def as_text(value: object) -> str:
    """Write a subclass of `str`, such as `Digest`, as the text that it is: msgspec asks about each other type."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"this must be text, not {type(value).__name__}")


as_json = msgspec.json.Encoder(enc_hook=as_text).encode
"""Write any JSON; a subclass of `str` as the text that it is."""
_decode = msgspec.json.Decoder(list[V2Metadata]).decode
# What msgspec writes otherwise than Go: these three, whatever needs a backslash, and two line separators, which begin
# with the last of these bytes. Looked for one by one, as a pattern takes twenty times as long; and as numbers: where it
# is given bytes to look for, Python makes an error first.
_OTHERWISE_IN_GO = b"\\<>&\xe2"
_FIELDS = {"digest": "digest", "sourcerepository": "source_repository", "hmac": "hmac"}


def encode_list(entries: Sequence[V2Metadata]) -> bytes:
    """Write a V2 list as Go's `json.Marshal` does: compact, every field present, `<`, `>` and `&` escaped."""
    try:
        fast = as_json(entries)
    except UnicodeEncodeError:
        fast = b"\\"
    if not any(map(fast.__contains__, _OTHERWISE_IN_GO)):
        return fast
    from layerstore.gojson import quote  # seldom needed; it and the next ones compile patterns

    members = (
        f'{{"Digest":{quote(e.digest)},"SourceRepository":{quote(e.source_repository)},"HMAC":{quote(e.hmac)}}}'
        for e in entries
    )
    return f"[{','.join(members)}]".encode()


def decode_list(value: bytes) -> list[V2Metadata]:
    """Read a V2 list as Go's `json.Unmarshal` does.

    Unknown fields are ignored, names match in any case, the last of a repeated field wins, `null` is an empty
    list, an absent field is empty.

    Raises:
        ValueError: Go's decoder would refuse it too; the message says why.
    """
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # msgspec is strict on purpose: what it takes it reads as Go does, for the rest there is the slow way.
        return _decode_as_go(value)


def digests_of(value: bytes) -> set[str]:
    """Return the digests in a V2 list; of one that cannot be read, none."""
    try:
        return {entry.digest for entry in decode_list(value)}
    except ValueError:
        return set()


def associations(key: str, value: bytes) -> list[Association]:
    """Read a V2 list as the rows that are derived from it; an entry whose digest is none has no row.

    Raises:
        ValueError: the key is no digest, or as `decode_list`.
    """
    diff_id = key_digest(key)
    if diff_id is None:
        raise ValueError(NO_DIGEST)
    entries = decode_list(value)
    wanted = entries if are_sha256([entry.digest for entry in entries]) else [e for e in entries if is_digest(e.digest)]
    return [(diff_id, at, entry.digest, entry.source_repository, entry.hmac) for at, entry in enumerate(wanted, 1)]


def _decode_as_go(value: bytes) -> list[V2Metadata]:
    from layerstore import gojson

    document = gojson.parse(value)
    if document is None:
        return []
    if type(document) is not list:
        raise ValueError("a JSON array is needed")
    return [_association(element) for element in document]


def _association(element: object) -> V2Metadata:
    from layerstore import gojson

    fields = {"digest": ""}
    if element is None:
        return V2Metadata(**fields)
    if not isinstance(element, gojson.Object):
        # A ValueError, as the bytes are wrong, not the caller's argument.
        raise ValueError("the array holds something that is not an object")  # noqa: TRY004
    for name, value in element.members():
        field = _FIELDS.get(gojson.field(name))
        if field is None or value is None:
            continue
        if type(value) is not str:
            raise ValueError(f"the field {name!r} is not a string")
        fields[field] = value
    return V2Metadata(**fields)


def storable_time(time_ns: int) -> int:
    """Return a time in nanoseconds as near as 64 bits can have it: they end in the years 1677 and 2262."""
    return time_ns if _EARLIEST <= time_ns <= _LATEST else max(_EARLIEST, min(time_ns, _LATEST))


def decode_diff_id(value: bytes) -> DiffID:
    """Read a DiffID's text.

    Raises:
        ValueError: it is empty, as after a power cut, or not a digest.
    """
    if is_sha256(value):
        return DiffID(value, "ascii")
    text = value.decode("utf-8", "backslashreplace")
    if is_digest(text):
        return DiffID(text)
    if not value:
        raise ValueError("it is empty")
    raise ValueError(f"not a DiffID: {text if len(text) <= 100 else text[:100] + '…'!r}")


def are_mappings(rows: Sequence[tuple[str, str, bytes, int]]) -> bool:
    """Tell whether all entries map one SHA-256 digest to another, as nearly all mappings do; `why_unreadable` of each
    is then `None`, for a fifth of the price."""
    if not all(row[0] == DIFF_IDS and is_sha256(row[2]) for row in rows):
        return False
    keys = [row[1] for row in rows]
    return ":" not in "".join(keys) and are_sha256([key.replace("/", ":", 1) for key in keys])


def v1_key(v1_id: str, registry: str) -> str:
    """Return the key of a V1 image ID at a registry.

    Raises:
        InvalidV1IDError: it is not 64 lower-case hex digits.

    Source: Docker's `v1.ValidateID`.
    """
    if not isinstance(v1_id, str) or _is_v1_id(v1_id) is None:
        raise InvalidV1IDError(f"not a V1 image ID: {v1_id!r}: 64 lower-case hex digits are needed")
    if not isinstance(registry, str):
        raise InvalidV1IDError(f"a registry is text, not {type(registry).__name__}: {registry!r}")
    return f"{registry},{v1_id}"


def why_unreadable(namespace: str, key: str, value: bytes) -> str | None:
    """Say why an entry is invalid for its namespace, or return `None` if it is valid.

    A namespace that is neither Docker's nor `blob-by-digest` may hold anything.
    """
    if namespace == V1_IDS:
        _, comma, v1_id = key.rpartition(",")
        if not comma or _is_v1_id(v1_id) is None:
            return "the key is not <registry>,<64 hex digits>"
    elif namespace in (V2_METADATA, DIFF_IDS, BLOBS):
        if key_digest(key) is None:
            return NO_DIGEST
    else:
        return None
    try:
        if namespace == BLOBS:
            from layerstore import blobs

            blobs.read(value)
        elif namespace == V2_METADATA:
            decode_list(value)
        else:
            decode_diff_id(value)
    except ValueError as error:
        return str(error)
    return None


def why_unfit(namespace: str, key: str, value: bytes) -> str | None:
    """Say why an entry cannot stay where it is, or return `None`."""
    return why_not_a_namespace(namespace) or why_not_a_key(key) or why_unreadable(namespace, key, value)
