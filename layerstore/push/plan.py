"""What a push of an image by a Docker daemon would do, layer by layer, as far as the metadata tells.

Nothing is asked of a registry. What is not in the metadata cannot be known: a blob that the registry has lost, one
that somebody else has pushed, a repository that may not be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from layerstore.arguments import tuples
from layerstore.digest import is_digest
from layerstore.errors import InvalidInputError
from layerstore.push.layers import KnownLayer, LayerCandidates, candidates_of, known_layers
from layerstore.records import V2Metadata
from layerstore.repository import parse_normalized, parse_reference
from layerstore.store import Store

EXISTS: Final = "exists"
MOUNT: Final = "mount"
UPLOAD: Final = "upload"


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """What a push would do with one layer.

    Attributes:
        diff_id: the layer.
        size: of its files in bytes, uncompressed: an upload is compressed, and mostly smaller.
        action: `exists`, `mount` or `upload`.
        digest: the blob that is found or mounted; `None` for an upload.
        source_repository: the repository that it is mounted from, in canonical form; else `None`.
        reason: why.
    """

    diff_id: str
    size: int
    action: str
    digest: str | None
    source_repository: str | None
    reason: str

    @property
    def status(self) -> str:
        """What the daemon prints of the layer when it is done."""
        if self.action == MOUNT and self.source_repository is not None:
            return f"Mounted from {parse_reference(self.source_repository).path}"
        return "Layer already exists" if self.action == EXISTS else "Pushed"


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push would do.

    Attributes:
        target_repository: in canonical form.
        layers: the lowest first; one that the image has twice is pushed once.
    """

    target_repository: str
    layers: tuple[PlannedLayer, ...]

    def total(self, action: str) -> tuple[int, int]:
        """Return how many layers an action is for, and their bytes."""
        sizes = [layer.size for layer in self.layers if layer.action == action]
        return len(sizes), sum(sizes)


def plan_push(
    store: Store,
    layers: Sequence[tuple[str, int]],
    target_repository: str,
    *,
    hmac_key: bytes | None = None,
) -> PushPlan:
    """Tell what a push of layers into a repository would do. One lookup in the store.

    A layer exists if one of the digests that Docker looks for is known to be in the target. Docker looks for one
    digest first, then tries to mount, and then looks for as many more as the layer's size is worth: so a layer that
    the target has may still be mounted, or uploaded, when its best-known digest is another one.

    Args:
        store: what the daemon knows; any object with `get` will do.
        layers: DiffIDs and sizes of an image, as `Image.diff_ids` and `layer_sizes` have them.
        target_repository: the repository that is pushed to; `busybox` is `docker.io/library/busybox`.
        hmac_key: of the credentials that the client sends. Docker has one also without credentials.

    Raises:
        InvalidDigestError: one is not a DiffID.
        InvalidInputError: a layer has two sizes.
        InvalidRepositoryError: `target_repository` is not a repository's name.
        StoreError: the store failed.

    Source: Docker's `v2PushDescriptor.Upload`.
    """
    target = parse_normalized(target_repository).name
    sizes: dict[str, int] = {}
    for diff_id, size in tuples(layers, 2, "layers"):
        if sizes.setdefault(diff_id, size) != size:
            raise InvalidInputError(f"layer {diff_id} has two sizes: {sizes[diff_id]} and {size}")
    known = known_layers(store, sizes)
    return PushPlan(target, tuple(_plan_layer(known[one], size, target, hmac_key) for one, size in sizes.items()))


def _plan_layer(known: KnownLayer, size: int, target: str, hmac_key: bytes | None) -> PlannedLayer:
    candidates = candidates_of(known, target, hmac_key=hmac_key, size=size)
    in_target = {entry.digest for entry in known.entries if entry.source_repository == target}

    def exists(entry: V2Metadata) -> bool:
        return entry.digest in in_target and is_digest(entry.digest)

    for entry in filter(exists, candidates.first_checks):
        return PlannedLayer(known.diff_id, size, EXISTS, entry.digest, None, "known to be in the target")
    # Docker cannot ask for a digest that is none, and goes on with the next one.
    for entry in (entry for entry in candidates.mounts if is_digest(entry.digest)):
        reason = _why_mounted(candidates, len(in_target))
        return PlannedLayer(known.diff_id, size, MOUNT, entry.digest, entry.source_repository, reason)
    for entry in filter(exists, candidates.last_checks):
        reason = "known to be in the target; it is looked for after another digest"
        return PlannedLayer(known.diff_id, size, EXISTS, entry.digest, None, reason)
    return PlannedLayer(known.diff_id, size, UPLOAD, None, None, _why_uploaded(known, target, len(in_target)))


def _why_mounted(candidates: LayerCandidates, in_target: int) -> str:
    tried = len(candidates.mounts)
    reason = f"the best of {tried} that are tried" if tried > 1 else "the one candidate that is tried"
    if in_target:
        reason += "; the target is known to have it too, but as a digest that is looked for later"
    return reason


def _why_uploaded(known: KnownLayer, target: str, in_target: int) -> str:
    if known.unreadable is not None:
        return f"its list cannot be read ({known.unreadable}): the daemon begins it anew"
    if in_target:
        return "the target is known to have it, but not as a digest that is looked for"
    if known.entries:
        return f"nothing known to be in {target}, and nothing to mount at its registry"
    if known.unlisted:
        return "its list is gone; a digest of it is known, but not where from"
    return "nothing is known of it"
