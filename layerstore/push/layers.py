"""What a store knows of a layer, and what a push would ask a registry about it: in which order, and why.

The choice itself is `layerstore.push.candidates`'s; this module reads the store, and gives each step its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from layerstore.arguments import several
from layerstore.blobs import BlobRecord, decode, merge
from layerstore.digest import DiffID
from layerstore.errors import CorruptRecordError
from layerstore.hmac import check_hmac
from layerstore.keys import BLOBS, V2_METADATA, digest_key
from layerstore.push.candidates import (
    PushAttempts,
    existence_candidates,
    mount_candidates,
    push_attempts,
    shared_components,
)
from layerstore.records import MAX_METADATA, V2Metadata, decode_list, digests_of
from layerstore.repository import Repository, canonical_domain, parse_normalized
from layerstore.store import Store, get_many
from layerstore.words import counted

_Known = tuple[dict[str, bytes], dict[str, list[str]], dict[str, dict[str, bytes]]]
"""Layers' lists by their keys, and by layer the digests that map to it, and what other engines know of its blobs."""

CHECK = "check"
"""Ask whether the target has a digest (`HEAD`)."""
MOUNT = "mount"
"""Ask to mount a digest into the target from another repository."""


@dataclass(frozen=True, slots=True)
class KnownLayer:
    """What a store has of one layer.

    Attributes:
        diff_id: the layer.
        entries: its associations, the oldest first: those of Docker's list, and in front of them places of gzip blobs
            that other engines know, up to 50 in all, as an export for Docker would have them.
        unlisted: digests that are the layer and are in none of its associations, sorted: other compressions of
            it, or such as the list has lost. Only a store that can look them up has any.
        unreadable: why its list cannot be read; `None` if it can, or if there is none.
        blobs: what other engines know of blobs that are the layer, by digest; without those on which sources disagree.
            A store that cannot look them up has those that are in the list.
    """

    diff_id: str
    entries: tuple[V2Metadata, ...] = ()
    unlisted: tuple[str, ...] = ()
    unreadable: str | None = None
    blobs: Mapping[str, BlobRecord] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a push asks the registry about a layer, if all before it were in vain.

    Attributes:
        action: `check` or `mount`.
        digest: the blob.
        source_repository: where it is known from; for a mount, where it is mounted from.
        reason: why it has this place.
    """

    action: str
    digest: str
    source_repository: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An association that a push does not ask about, by this action, and why."""

    action: str
    digest: str
    source_repository: str
    reason: str


@dataclass(frozen=True, slots=True)
class LayerCandidates:
    """What a push of a layer into a repository would ask the registry.

    Attributes:
        diff_id: the layer.
        target_repository: in canonical form.
        size: of the layer's files in bytes, uncompressed; `None` when unknown.
        attempts: how many questions a layer of this size is worth.
        first_checks: the digest that is looked for first, whichever repository it is known from; empty or one.
        mounts: what is mounted next, the best first.
        last_checks: digests that are looked for last, the best first.
        unlisted: digests that a push by Docker does not look for, as the layer's list has lost them; a tool that can
            use the layer in any compression may.
        steps: the same in one order, each with its reason.
        left_out: the associations that are not asked about, by each action, with the reason.
    """

    diff_id: str
    target_repository: str
    size: int | None
    attempts: PushAttempts
    first_checks: tuple[V2Metadata, ...]
    mounts: tuple[V2Metadata, ...]
    last_checks: tuple[V2Metadata, ...]
    unlisted: tuple[V2Metadata, ...]
    steps: tuple[Step, ...]
    left_out: tuple[LeftOut, ...]


def known_layers(store: Store, diff_ids: Iterable[str]) -> dict[str, KnownLayer]:
    """Return what a store has of each layer, those of which it has nothing included. One lookup.

    A store that has `known_layers` is asked for all of it in one statement. Another one is asked for the lists and for
    what other engines know of their digests, since Docker's directory leads from a digest to its layer and not back:
    then `unlisted` is empty.

    Raises:
        InvalidDigestError: one is not a DiffID.
        StoreError: the store failed.
    """
    wanted = list(dict.fromkeys(map(DiffID.parse, several(diff_ids, "DiffIDs"))))
    lookup: Callable[[list[DiffID]], _Known] | None = getattr(store, "known_layers", None)
    if lookup is not None:
        lists, digests, blobs = lookup(wanted)
    else:
        lists, digests = get_many(store, V2_METADATA, map(digest_key, wanted)), {}
        blobs = {diff_id: _blobs_of(store, lists.get(digest_key(diff_id), b"")) for diff_id in wanted}
    return {
        str(diff_id): _known_layer(
            str(diff_id), lists.get(digest_key(diff_id)), digests.get(diff_id, []), blobs.get(diff_id, {})
        )
        for diff_id in wanted
    }


def _blobs_of(store: Store, value: bytes) -> dict[str, bytes]:
    digests = {digest_key(digest): digest for digest in digests_of(value)}
    return {digests[key]: found for key, found in get_many(store, BLOBS, digests).items()}


def _known_layer(diff_id: str, value: bytes | None, digests: list[str], blobs: Mapping[str, bytes]) -> KnownLayer:
    unreadable = None
    entries: list[V2Metadata] = []
    try:
        entries = decode_list(value) if value is not None else []
    except ValueError as error:
        unreadable = str(error)
    known = {digest: _blob(diff_id, digest, found) for digest, found in blobs.items()}
    agreed = {digest: blob for digest, blob in known.items() if blob is not None}
    if unreadable is None:
        entries = filled(entries, [(digest, one) for digest, one in agreed.items() if why_not_for_docker(one) is None])
    unlisted = {*digests, *agreed} - {entry.digest for entry in entries}
    return KnownLayer(diff_id, tuple(entries), tuple(sorted(unlisted)), unreadable, agreed)


def _blob(diff_id: str, digest: str, value: bytes) -> BlobRecord | None:
    """Return what is known of a blob of this layer; `None` if that cannot be read, or sources disagree."""
    try:
        blob = merge(decode(value, digest_key(digest)), BlobRecord(diff_id=diff_id))
    except CorruptRecordError:
        return None
    return None if blob.conflicts else blob


def why_not_for_docker(blob: BlobRecord) -> str | None:
    """Say why Docker must not learn of a blob from other engines, or return `None`.

    Docker calls every blob that it lists gzip, in the manifest of a push: another one would make a wrong manifest.
    Source: tried with Docker 28.5.2, which lists zstd layers and calls them `…diff.tar.gzip`.
    """
    if blob.conflicts:
        return f"sources disagree about the {' and '.join(blob.conflicts)}"
    if blob.diff_id is None:
        return "no engine has verified which layer it is"
    if blob.compression is None:
        return "its compression is not known"
    return None if blob.compression == "gzip" else f"Docker's directory is for gzip, and it is {blob.compression}"


def filled(own: Sequence[V2Metadata], blobs: Iterable[tuple[str, BlobRecord]]) -> list[V2Metadata]:
    """Return a layer's list with the places of its blobs in front, the oldest first, up to 50 in all.

    Docker's own entries stay as they are, and behind: it takes those for the newer ones.

    Args:
        own: Docker's list.
        blobs: digests that are the layer, and what other engines know of them.
    """
    known = {(entry.digest, entry.source_repository) for entry in own}
    places = sorted(
        (seen is not None, seen or 0, name, digest)
        for digest, blob in blobs
        for name, seen in blob.locations.items()
        if (digest, name) not in known
    )
    room = max(0, MAX_METADATA - len(own))
    newest = places[max(0, len(places) - room) :] if room else []
    return [*(V2Metadata(digest, name) for _, _, name, digest in newest), *own]


def layer_candidates(
    store: Store, diff_id: str, target_repository: str, *, hmac_key: bytes | None = None, size: int | None = None
) -> LayerCandidates:
    """Return what a push of a layer into a repository would ask the registry, in order. One lookup in the store.

    Of a layer that is not known there is nothing to ask: all lists are empty.

    Args:
        store: what is known; any object with `get` will do.
        diff_id: the layer.
        target_repository: the repository that is pushed to; `busybox` is `docker.io/library/busybox`.
        hmac_key: by `compute_hmac_key`. Docker has one also without credentials: that of an empty `AuthConfig`.
        size: as for `push_attempts`.

    Raises:
        InvalidDigestError: `diff_id` is not a DiffID.
        InvalidRepositoryError: `target_repository` is not a repository's name.
        CorruptRecordError: the layer's list cannot be read. Docker then asks nothing and uploads.
        StoreError: the store failed.

    Source: Docker's `v2PushDescriptor.Upload`.
    """
    known = known_layers(store, [diff_id])[diff_id]
    if known.unreadable is not None:
        raise CorruptRecordError(V2_METADATA, digest_key(diff_id), known.unreadable)
    return candidates_of(known, target_repository, hmac_key=hmac_key, size=size)


def candidates_of(
    known: KnownLayer, target_repository: str, *, hmac_key: bytes | None = None, size: int | None = None
) -> LayerCandidates:
    """Do the same as `layer_candidates` with what a store has of the layer.

    Raises:
        InvalidRepositoryError: `target_repository` is not a repository's name.
    """
    target = parse_normalized(target_repository)
    attempts = push_attempts(size)
    entries = known.entries
    first = existence_candidates(entries, target.name, hmac_key=hmac_key, limit=1)
    mounts = mount_candidates(entries, target.name, hmac_key=hmac_key, limit=attempts.mounts)
    last = existence_candidates(
        entries,
        target.name,
        hmac_key=hmac_key,
        check_other_repositories=attempts.other_repositories,
        checked=[entry.digest for entry in first],
        limit=attempts.existence_checks - len(first),
    )
    rank = _Rank(entries, target, hmac_key)
    steps = [
        *(Step(CHECK, entry.digest, entry.source_repository, rank.reason(entry)) for entry in first),
        *(Step(MOUNT, entry.digest, entry.source_repository, rank.reason(entry)) for entry in mounts),
        *(Step(CHECK, entry.digest, entry.source_repository, rank.reason(entry)) for entry in last),
    ]
    newest_first = list(dict.fromkeys(reversed(entries)))
    left_out = [
        *_no_mounts(newest_first, target, mounts, attempts),
        *_no_checks(newest_first, target, [*first, *last], attempts),
    ]
    return LayerCandidates(
        known.diff_id,
        target.name,
        size,
        attempts,
        tuple(first),
        tuple(mounts),
        tuple(last),
        tuple(map(V2Metadata, known.unlisted)),
        tuple(steps),
        tuple(left_out),
    )


def document(found: LayerCandidates) -> dict[str, Any]:
    """Return the same as a JSON document has it."""
    return {
        "diff_id": found.diff_id,
        "target_repository": found.target_repository,
        "size": found.size,
        "attempts": found.attempts._asdict(),
        "steps": [asdict(step) for step in found.steps],
        "left_out": [asdict(one) for one in found.left_out],
        "unlisted": [entry.digest for entry in found.unlisted],
    }


class _Rank:
    """The three things by which associations are ordered, in their order, as words."""

    def __init__(self, entries: tuple[V2Metadata, ...], target: Repository, hmac_key: bytes | None) -> None:
        self._ages = {entry: len(entries) - at for at, entry in enumerate(entries)}
        self._target = target.name
        self._key = hmac_key

    def reason(self, entry: V2Metadata) -> str:
        if check_hmac(entry, self._key):
            credentials = "the same credentials"
        else:
            credentials = "other credentials" if entry.hmac else "no HMAC, as of a pull"
        shared = shared_components(entry.source_repository, self._target)
        age = self._ages[entry]
        return (
            f"{credentials}; {shared} of {self._target.count('/') + 1} parts of the name in common;"
            f" {'the newest' if age == 1 else f'number {age} from the newest'}"
        )


def _no_mounts(
    entries: list[V2Metadata], target: Repository, mounts: list[V2Metadata], attempts: PushAttempts
) -> Iterable[LeftOut]:
    for entry in entries:
        if entry in mounts:
            continue
        source = entry.source_repository
        domain = canonical_domain(source)
        if not source:
            reason = "its repository is not known"
        elif domain is None:
            reason = "the name is not canonical"
        elif domain != target.domain:
            reason = f"another registry: {domain or '(none)'}, not {target.domain or '(none)'}"
        elif source == target.name:
            reason = "it is the target itself"
        else:
            reason = f"beyond the limit of {counted(attempts.mounts, 'mount')} for its size"
        yield LeftOut(MOUNT, entry.digest, source, reason)


def _no_checks(
    entries: list[V2Metadata], target: Repository, checks: list[V2Metadata], attempts: PushAttempts
) -> Iterable[LeftOut]:
    digests = {entry.digest for entry in checks}
    for entry in entries:
        if entry in checks:
            continue
        source = entry.source_repository
        if entry.digest in digests:
            reason = "its digest is checked already, for a better association"
        elif not attempts.other_repositories and source not in ("", target.name):
            reason = "not known from the target, and behind the first check that counts for its size"
        else:
            reason = f"beyond the limit of {counted(attempts.existence_checks, 'check')} for its size"
        yield LeftOut(CHECK, entry.digest, source, reason)
