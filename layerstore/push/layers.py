"""What a store knows of a layer, and what a push by an engine would ask a registry about it: in which order, and why.

The choice itself is `layerstore.push.candidates`'s; this module reads the store, and gives each step its reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from layerstore.arguments import several
from layerstore.blobs import BlobRecord, decode, merge
from layerstore.digest import DiffID
from layerstore.errors import CorruptRecordError
from layerstore.hmac import check_hmac
from layerstore.keys import BLOBS, V2_METADATA, digest_key
from layerstore.push.candidates import (
    PushAttempts,
    containerd_choice,
    containers_candidates,
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

CHECK: Final = "check"
"""Ask whether the target has a digest (`HEAD`)."""
MOUNT: Final = "mount"
"""Ask to mount a digest into the target from another repository."""

_BEFORE_ALL: Final = -(1 << 62)


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
    found = {}
    for diff_id in map(str, wanted):
        value = lists.get(digest_key(diff_id))
        found[diff_id] = _known_layer(diff_id, value, digests.get(diff_id, []), blobs.get(diff_id, {}))
    return found


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
    """Return Docker's list of a layer with the places of its blobs in front, the oldest first, up to 50 in all.

    Docker's own entries stay as they are, and behind: it takes those for the newer ones.
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
    """Do the same as `layer_candidates` with what a store has of the layer."""
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
    newest_first = list(dict.fromkeys(reversed(entries)))
    ages = {entry: len(entries) - at for at, entry in enumerate(entries)}

    steps = [
        Step(action, one.digest, one.source_repository, _why_here(one, ages[one], target, hmac_key))
        for action, asked in ((CHECK, first), (MOUNT, mounts), (CHECK, last))
        for one in asked
    ]
    no_mounts = [
        LeftOut(MOUNT, one.digest, one.source_repository, _why_no_mount(one, target, attempts))
        for one in newest_first
        if one not in mounts
    ]
    checked = {entry.digest for entry in (*first, *last)}
    no_checks = [
        LeftOut(CHECK, one.digest, one.source_repository, _why_no_check(one, target, attempts, checked))
        for one in newest_first
        if one not in first and one not in last
    ]
    return LayerCandidates(
        diff_id=known.diff_id,
        target_repository=target.name,
        size=size,
        attempts=attempts,
        first_checks=tuple(first),
        mounts=tuple(mounts),
        last_checks=tuple(last),
        unlisted=tuple(map(V2Metadata, known.unlisted)),
        steps=tuple(steps),
        left_out=(*no_mounts, *no_checks),
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


def _why_here(entry: V2Metadata, age: int, target: Repository, hmac_key: bytes | None) -> str:
    """Return the three things by which associations are ordered, in their order, as words."""
    if check_hmac(entry, hmac_key):
        credentials = "the same credentials"
    else:
        credentials = "other credentials" if entry.hmac else "no HMAC, as of a pull"
    shared, parts = shared_components(entry.source_repository, target.name), target.name.count("/") + 1
    newest = "the newest" if age == 1 else f"number {age} from the newest"
    return f"{credentials}; {shared} of {parts} parts of the name in common; {newest}"


def _why_no_mount(entry: V2Metadata, target: Repository, attempts: PushAttempts) -> str:
    source, domain = entry.source_repository, canonical_domain(entry.source_repository)
    if not source:
        return "its repository is not known"
    if domain is None:
        return "the name is not canonical"
    if domain != target.domain:
        return f"another registry: {domain or '(none)'}, not {target.domain or '(none)'}"
    if source == target.name:
        return "it is the target itself"
    return f"beyond the limit of {counted(attempts.mounts, 'mount')} for its size"


def _why_no_check(entry: V2Metadata, target: Repository, attempts: PushAttempts, checked: set[str]) -> str:
    if entry.digest in checked:
        return "its digest is checked already, for a better association"
    if not attempts.other_repositories and entry.source_repository not in ("", target.name):
        return "not known from the target, and behind the first check that counts for its size"
    return f"beyond the limit of {counted(attempts.existence_checks, 'check')} for its size"


def engine_candidates(known: KnownLayer, target_repository: str, engine: str) -> tuple[Step, ...]:
    """Return what an engine would ask the registry about a layer, in its order, each with the reason.

    containerd asks for the one blob that it has, so there is a step for each blob that is the layer. Podman and Skopeo
    are taken to push the layer from their storage, and to allow what an OCI image allows. A place that only Docker's
    list has counts as older than all others.

    Args:
        known: what a store knows of the layer.
        target_repository: the repository that is pushed to; `busybox` is `docker.io/library/busybox`.
        engine: `containerd`, or `containers`, which stands for Podman, Skopeo, Buildah and CRI-O.
    """
    blobs = _all_blobs(known)
    if engine == "containerd":
        return tuple(_containerd(blobs, target_repository))
    found = containers_candidates(blobs, target_repository, asked=known.diff_id, diff_id=known.diff_id)
    return tuple(
        Step(MOUNT, one.digest, one.source_repository, f"{blobs[one.digest].compression}, by when it was seen")
        if one.source_repository
        else Step(CHECK, one.digest, "", f"{blobs[one.digest].compression}, not known from this registry")
        for one in found
    )


def unused(known: KnownLayer, engine: str) -> list[str]:
    """Return the blobs that are the layer, and that Podman and Skopeo never use as their compression is not known."""
    if engine != "containers":
        return []
    return sorted(digest for digest, blob in _all_blobs(known).items() if blob.compression is None)


def _all_blobs(known: KnownLayer) -> dict[str, BlobRecord]:
    """Return what Docker's list and other engines know of each blob that is the layer."""
    listed: defaultdict[str, dict[str, int | None]] = defaultdict(dict)
    for age, entry in enumerate(known.entries):
        if canonical_domain(entry.source_repository):
            listed[entry.digest][entry.source_repository] = _BEFORE_ALL + age
    found = {digest: BlobRecord() for digest in known.unlisted} | dict(known.blobs)
    for digest, locations in listed.items():
        found[digest] = merge(found.get(digest, BlobRecord()), BlobRecord(locations=locations))
    return found


def _containerd(blobs: dict[str, BlobRecord], target_repository: str) -> Iterator[Step]:
    target = parse_normalized(target_repository)
    for digest, blob in sorted(blobs.items()):
        there = [name.partition("/") for name in blob.locations]
        names = sorted({path for domain, _, path in there if domain == target.domain}, key=str.encode)
        choice = containerd_choice(names, target.path)
        if choice is not None:
            shared, parts = shared_components(choice, target.path), len(target.path.split("/"))
            reason = f"the only try; {shared} of {parts} parts of the path in common; the last of such names"
            yield Step(MOUNT, digest, f"{target.domain}/{choice}", reason)
