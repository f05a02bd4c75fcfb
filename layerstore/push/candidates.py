"""What a push reads the metadata for: from where a blob can be mounted, which blobs may be there already, and how
many tries a layer is worth.

Pure functions on lists of metadata: nothing is read from a store, asked of a registry, or removed.
Source: Docker's distribution/push_v2.go; for other engines, what each function names.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import takewhile
from operator import eq
from typing import Final, NamedTuple

from layerstore.arguments import instance, several
from layerstore.blobs import BlobRecord
from layerstore.hmac import check_hmac
from layerstore.records import V2Metadata
from layerstore.repository import canonical_domain, parse_normalized

SMALL_LAYER_MAX_BYTES: Final = 100 * 1024
"""Source: Docker's `smallLayerMaximumSize`."""
MIDDLE_LAYER_MAX_BYTES: Final = 10 * 1024 * 1024
"""Source: Docker's `middleLayerMaximumSize`."""
_CONTAINERS_ATTEMPTS: Final = 5
"""Source: containers/image's `replacementAttempts`."""
_CONTAINERS_LOOKS: Final = 2
"""Source: containers/image's `replacementUnknownLocationAttempts`."""
_LATEST: Final = 2**63


class PushAttempts(NamedTuple):
    """How often a push asks the registry about one layer before it uploads it."""

    mounts: int
    """Mounts from other repositories: the `limit` of `mount_candidates`."""
    existence_checks: int
    """Digests looked for in the target, all together: the `limit` of `existence_candidates`, less those checked."""
    other_repositories: bool
    """Whether digests known from other repositories are looked for: `check_other_repositories`."""


def push_attempts(size: int | None) -> PushAttempts:
    """Weigh the upload of a layer against the round trips that may save it.

    Docker first makes one check with digests of any repository, for any size; then the mounts; then the checks
    that are left.

    Args:
        size: of the files that the layer adds, uncompressed, in bytes: what Docker's layerdb has in the file `size`.
            `None` when it cannot be told, which counts as middle-sized.

    Returns:
        Above 10 MiB 4 mounts and 3 checks, with digests of other repositories too; above 100 KiB 3 mounts and 1
        check, otherwise 1 and 1, both with the target's own digests only.

    Source: Docker's `getMaxMountAndExistenceCheckAttempts`.
    """
    instance(size, (int, type(None)), "a size")
    if size is not None and size > MIDDLE_LAYER_MAX_BYTES:
        return PushAttempts(mounts=4, existence_checks=3, other_repositories=True)
    if size is None or size > SMALL_LAYER_MAX_BYTES:
        return PushAttempts(mounts=3, existence_checks=1, other_repositories=False)
    return PushAttempts(mounts=1, existence_checks=1, other_repositories=False)


def mount_candidates(
    metadata: Iterable[V2Metadata],
    target_repository: str,
    *,
    hmac_key: bytes | None = None,
    limit: int | None = None,
) -> list[V2Metadata]:
    """Choose the associations from which a layer's blob may be mounted into a repository, the best first.

    These are the ones of other repositories at the target's registry. One whose repository is empty, unreadable or
    not in canonical form is left out. Associations seen with the same credentials come first; among equals those
    that share more leading components with the target, the host counted; among equals the newest. A digest comes as
    often as it is known.

    Args:
        metadata: a layer's associations, the oldest first, as `V2MetadataService.get_metadata` returns them.
        target_repository: the repository that is pushed to; `busybox` is `docker.io/library/busybox`.
        hmac_key: by `compute_hmac_key`; `None` or empty without credentials: then an empty HMAC is one that matches.
        limit: candidates to return at most; `None` or below zero for all.

    Returns:
        A new list, empty when there is no candidate.

    Raises:
        InvalidRepositoryError: `target_repository` is not a repository's name, or has a tag or digest.

    Source: Docker's `getRepositoryMountCandidates`.
    """
    target = parse_normalized(target_repository)
    candidates = [
        entry
        for entry in _checked(metadata)
        if canonical_domain(entry.source_repository) == target.domain and entry.source_repository != target.name
    ]
    ordered = _by_likeness_and_age(candidates, target.name, hmac_key)
    return ordered if limit is None or limit < 0 else ordered[:limit]


def existence_candidates(
    metadata: Iterable[V2Metadata],
    target_repository: str,
    *,
    hmac_key: bytes | None = None,
    check_other_repositories: bool = True,
    checked: Iterable[str] = (),
    limit: int | None = None,
) -> list[V2Metadata]:
    """Choose the digests that are worth looking for in a repository before a layer is uploaded, the best first.

    The order is that of `mount_candidates`; each digest comes once, with the best of its associations. Any
    repository will do, of another registry or malformed too: the same content often has the same digest.

    Args:
        metadata: a layer's associations, the oldest first, as `V2MetadataService.get_metadata` returns them.
        target_repository: the repository that is pushed to; `busybox` is `docker.io/library/busybox`.
        hmac_key: by `compute_hmac_key`; `None` or empty without credentials: then an empty HMAC is one that matches.
        check_other_repositories: if false, only the target's associations and those without a repository.
        checked: digests that were looked for already, and are left out; they do not count for `limit`.
        limit: candidates to return at most, none if it is zero or below; `None` for all.

    Returns:
        A new list, empty when there is no candidate.

    Raises:
        InvalidRepositoryError: `target_repository` is not a repository's name, or has a tag or digest.

    Source: Docker's `layerAlreadyExists`, up to its first request.
    """
    target = parse_normalized(target_repository)
    done = frozenset(several(checked, "checked digests"))
    candidates = [
        entry
        for entry in _checked(metadata)
        if (check_other_repositories or entry.source_repository in ("", target.name)) and entry.digest not in done
    ]
    best: dict[str, V2Metadata] = {}
    for entry in _by_likeness_and_age(candidates, target.name, hmac_key):
        best.setdefault(entry.digest, entry)
    return list(best.values())[: None if limit is None else max(limit, 0)]


def containers_candidates(
    blobs: Mapping[str, BlobRecord],
    target_repository: str,
    *,
    asked: str,
    diff_id: str | None = None,
    compressions: Container[str] = ("gzip", "uncompressed", "zstd"),
) -> list[V2Metadata]:
    """Choose what Podman, Skopeo or Buildah would ask a registry about a blob that the target does not have, in order.

    A blob of unknown compression is never used. The asked one comes first, the layer without compression last, the
    others by when they were seen, the newest first. There are at most five. Where fewer are known to be at the target's
    registry, up to two blobs that are known from other registries alone, or from none, fill up: they are looked for in
    the target, and have an empty repository here.

    Args:
        blobs: what is known of the blobs of one layer, by digest.
        target_repository: where the push goes.
        asked: digest of the blob that is pushed; the DiffID, where the layer is compressed by the push.
        diff_id: of the layer; `None` if it is not known, or the manifest must not change: then only `asked` counts.
        compressions: what the manifest's type allows; those of an OCI image by default.

    Source: containers/image: pkg/blobinfocache/internal/prioritize/prioritize.go.
    """
    domain = parse_normalized(target_repository).domain
    known: list[tuple[int, int, str, str]] = []
    elsewhere: list[tuple[int, str]] = []
    for digest, blob in blobs.items():
        if blob.compression not in compressions or (digest != asked and diff_id is None):
            continue
        rank = 0 if digest == asked else 2 if digest == diff_id else 1
        here = {name: seen for name, seen in blob.locations.items() if canonical_domain(name) == domain}
        known += [(rank, _LATEST if seen is None else -seen, digest, name) for name, seen in here.items()]
        if not here:
            elsewhere.append((rank, digest))
    found = [V2Metadata(digest, name) for _, _, digest, name in sorted(known)[:_CONTAINERS_ATTEMPTS]]
    room = min(_CONTAINERS_LOOKS, _CONTAINERS_ATTEMPTS - len(found))
    return found + [V2Metadata(digest) for _, digest in sorted(elsewhere)[:room]]


def shared_components(name: str, target: str) -> int:
    """Return how many leading components two names have in common."""
    return sum(1 for _ in takewhile(bool, map(eq, name.split("/"), target.split("/"))))


def containerd_choice(repositories: Iterable[str], target: str) -> str | None:
    """Return the one repository from which containerd would try to mount a blob, `None` if it would try none.

    It is the one that shares the most leading components with the target; among equals the last one, and names are
    sorted in a label. So dockerd with containerd's store, nerdctl and ctr do; Docker with graph drivers does not. The
    names are those in the label of the target's host, in its order; they and the target are without the host.

    Source: containerd's `selectRepositoryMountCandidate`.
    """
    found, most = None, 0
    for repository in repositories:
        shared = shared_components(repository, target)
        if repository and repository != target and shared >= most:
            found, most = repository, shared
    return found


def _checked(metadata: Iterable[V2Metadata]) -> Iterator[V2Metadata]:
    for entry in several(metadata, "associations"):
        instance(entry, V2Metadata, "an association")
        yield entry


def _by_likeness_and_age(candidates: list[V2Metadata], target: str, hmac_key: bytes | None) -> list[V2Metadata]:
    """Source: Docker's `sortV2MetadataByLikenessAndAge`."""

    def rank(entry: V2Metadata) -> tuple[bool, int]:
        # Raw text on purpose, as in Docker: a tag stays in its component, a malformed name counts too.
        return not check_hmac(entry, hmac_key), -shared_components(entry.source_repository, target)

    ordered = candidates[::-1]
    ordered.sort(key=rank)  # stable: equals stay the newest first
    return ordered
