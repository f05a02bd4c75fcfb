"""What other engines than Docker would ask a registry about a layer, if they knew what a store knows.

The rules themselves are `layerstore.push.candidates`'s. Docker's is `layerstore.push.layers.layer_candidates`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from layerstore.blobs import BlobRecord, merge
from layerstore.errors import InvalidInputError
from layerstore.push.candidates import containerd_choice, containers_candidates, shared_components
from layerstore.push.layers import CHECK, MOUNT, KnownLayer, Step
from layerstore.repository import canonical_domain, parse_normalized

ENGINES: Final = ("containerd", "containers")
"""`containers` stands for Podman, Skopeo, Buildah and CRI-O."""

_BEFORE_ALL: Final = -(1 << 62)


def engine_candidates(known: KnownLayer, target_repository: str, engine: str) -> tuple[Step, ...]:
    """Return what an engine would ask the registry about a layer, in its order, each with the reason.

    containerd asks for the one blob that it has, so there is a step for each blob that is the layer. Podman and Skopeo
    are taken to push the layer from their storage, and to allow what an OCI image allows. A place that only Docker's
    list has counts as older than all others.

    Args:
        known: what a store knows of the layer.
        target_repository: the repository that is pushed to; `busybox` is `docker.io/library/busybox`.
        engine: `containerd`, or `containers`.

    Raises:
        InvalidInputError: it is another engine.
        InvalidRepositoryError: `target_repository` is not a repository's name.
    """
    if engine not in ENGINES:
        raise InvalidInputError(f"engine is one of docker, {', '.join(ENGINES)}, not {engine!r}")
    blobs = _blobs(known)
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
    return sorted(digest for digest, blob in _blobs(known).items() if blob.compression is None)


def _blobs(known: KnownLayer) -> dict[str, BlobRecord]:
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
