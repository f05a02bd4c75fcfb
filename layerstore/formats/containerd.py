"""What containerd knows of blobs: the labels of its content, as its files have them, and BuildKit's.

    /var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db       containerd's own
                        io.containerd.content.v1.content/blobs/      the content that it is about
    <data root>/containerd/daemon/…                                  the same, of the containerd that dockerd starts
    <data root>/buildkit/containerdmeta.db, content/blobs/           BuildKit's in dockerd
    <buildkitd's root>/runc-<snapshotter>/containerdmeta.db, …       BuildKit's

    containerd.io/uncompressed                       the DiffID of a layer
    containerd.io/distribution.source.<host>         the repositories at a registry that have the blob, comma-separated

The registry's port is not in a label; it is recovered from the names of the images. A blob's compression is told by
its first bytes, as manifests exist that call zstd gzip. Reading through the socket of a running containerd is
`layerstore.formats.containerd_live`'s; what both read means the same, and that is here.
Source: containerd: core/metadata/buckets.go, core/remotes/docker/handler.go, core/unpack/unpacker.go.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from layerstore.blobs import BlobRecord
from layerstore.digest import Digest
from layerstore.errors import InvalidRepositoryError, TransferError
from layerstore.files import tree
from layerstore.formats import bbolt
from layerstore.formats.bbolt import text
from layerstore.formats.compression import compression_of
from layerstore.formats.facts import Facts, uncertain, unreadable, why_no_digest, why_no_location
from layerstore.repository import DEFAULT_DOMAIN, canonical_domain, parse_reference

UNCOMPRESSED: Final = "containerd.io/uncompressed"
SOURCE: Final = "containerd.io/distribution.source."
HEAD: Final = 8
"""How many of a blob's first bytes tell its compression."""

CHILD: Final = "containerd.io/gc.ref.content."
"""How the labels begin by which an index or manifest names what it refers to."""
_CONFIGS: Final = (f"{CHILD}config", f"{CHILD}0")  # containerd and Docker; BuildKit
_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot."
_match_layer = re.compile(rf"{re.escape(CHILD)}l\.(\d{{1,4}})", re.ASCII).fullmatch
_COMPRESSIONS: Final = ("gzip", "zstd", "bzip2", "xz")

# Below a root: where the metadata is, and the blobs.
_Layout = tuple[tuple[str, ...], tuple[str, ...]]
_CONTAINERD: Final[_Layout] = (
    ("io.containerd.metadata.v1.bolt", "meta.db"),
    ("io.containerd.content.v1.content", "blobs"),
)
_BUILDKIT: Final[_Layout] = (("containerdmeta.db",), ("content", "blobs"))


class Blob(NamedTuple):
    """A blob of one namespace, with its labels."""

    digest: str
    labels: dict[str, str]
    updated_at_ns: int | None


class MetaFile(NamedTuple):
    """A file of metadata: a directory that a person gave, and the ways down from it, on which no link is followed."""

    base: str
    file: tuple[str, ...]
    blobs: tuple[str, ...]
    socket: str
    """Where the daemon that may hold the file can be asked, in words; empty if it cannot be."""

    @property
    def path(self) -> str:
        return os.path.join(self.base, *self.file)


def files_below(root: str, names: Iterable[str]) -> list[MetaFile]:
    """Return the files of metadata of containerd and BuildKit in a root of theirs or Docker's with these names."""
    containerd = "containerd:SOCKET, such as containerd:/run/containerd/containerd.sock"
    docker = (
        "containerd:SOCKET?namespace=moby, such as containerd:/run/docker/containerd/containerd.sock?namespace=moby"
    )
    places: list[tuple[tuple[str, ...], _Layout, str]]
    places = [((), _CONTAINERD, containerd), (("containerd", "daemon"), _CONTAINERD, docker)]
    places += [((), _BUILDKIT, ""), (("buildkit",), _BUILDKIT, "")]
    places += [((worker,), _BUILDKIT, "") for worker in names if worker.startswith("runc-")]
    found = [MetaFile(root, (*below, *file), (*below, *blobs), socket) for below, (file, blobs), socket in places]
    return [file for file in found if os.path.lexists(file.path)]


def file_at(path: str) -> MetaFile:
    """Return a file of metadata that a person gave, with the content that is where its engine has it."""
    folder, name = os.path.split(path)
    above, below = os.path.split(folder)
    if (below, name) == _CONTAINERD[0]:
        return MetaFile(above, *_CONTAINERD, "")
    return MetaFile(folder, (name,), _BUILDKIT[1], "")


def read(file: MetaFile) -> Facts:
    """Read all namespaces of a file of metadata. The content need not be there, but then no compression is known.

    Raises:
        TransferError: a daemon holds the file (`bbolt.is_in_use` tells), it cannot be read, is damaged, or is no such
            file.
        FileNotFoundError: it is not there.
    """
    metadata = bbolt.read(file.base, *file.file)
    if not (metadata.root.buckets or metadata.root.values):
        return  # BuildKit has made it, and built nothing yet
    if b"v1" not in metadata.root.buckets:
        raise TransferError("not containerd's metadata: it has no bucket v1", metadata.name)
    with ExitStack() as stack:
        try:
            blobs = stack.enter_context(tree.directory(file.base, file.blobs))
        except FileNotFoundError:
            blobs = -1  # no directory below it can be opened
        except OSError as error:
            raise TransferError(tree.why_unreadable(error), os.path.join(file.base, *file.blobs)) from error
        yield from facts_of(metadata, lambda digest: _head(blobs, digest))


def facts_of(file: bbolt.File, head: Callable[[str], bytes | None]) -> Facts:
    """Yield what the labels of all namespaces in a file of metadata say.

    Args:
        file: what is read.
        head: as `facts`.

    Raises:
        TransferError: it is damaged.
    """
    for namespace, bucket in file.root.below(b"v1").buckets.items():
        names = map(text, bucket.below(b"images").buckets)
        yield from facts(text(namespace), names, _blobs(file, bucket), head)


def facts(namespace: str, images: Iterable[str], blobs: Iterable[Blob], head: Callable[[str], bytes | None]) -> Facts:
    """Yield what the labels of one namespace say, all of a blob at once.

    Args:
        namespace: for what is left out.
        images: names of its images, which have the ports of registries.
        blobs: its blobs with their labels.
        head: returns the first bytes of a blob; `None` if the content is not there.
    """
    known = list(blobs)
    ports = _Ports(images)
    configs = {blob.labels[key] for blob in known for key in _CONFIGS if key in blob.labels}
    broken = _broken_chains(known)
    for blob in known:
        diff_id = blob.labels.get(UNCOMPRESSED)
        locations: dict[str, int | None] = {}
        reasons = [] if diff_id is None else [why_no_digest(diff_id), broken.get(blob.digest)]
        if any(reasons):
            diff_id = None
        for key, value in blob.labels.items():
            if key.startswith(SOURCE):
                for name in ports.locations(key.removeprefix(SOURCE), value):
                    reason = why_no_location(name)
                    if reason is None:
                        locations[name] = blob.updated_at_ns
                    reasons.append(reason)
        for reason in filter(None, reasons):
            yield unreadable(f"{namespace}/{blob.digest}", reason)
        if diff_id is None and not locations:
            continue
        # A manifest is not compressed, and no engine asks for that.
        is_manifest = any(key.startswith(CHILD) for key in blob.labels)
        is_plain = blob.digest == diff_id or blob.digest in configs
        compression = None if is_manifest else _compression(head(blob.digest), is_plain=is_plain)
        yield Digest(blob.digest), BlobRecord(diff_id=diff_id, compression=compression, locations=locations)
    yield from ports.notes(namespace)


def hostname(domain: str) -> str:
    """Return a registry's host as a label has it: without port and brackets. Source: Go's `url.Hostname`."""
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


class _Ports:
    """What the names of images say about the ports of registries, and where they say nothing."""

    def __init__(self, images: Iterable[str]) -> None:
        self._exact: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._by_host: defaultdict[str, set[str]] = defaultdict(set)
        self._notes: dict[str, str] = {}
        for image in images:
            with suppress(InvalidRepositoryError):  # an image may have any name
                domain, path = parse_reference(image)[:2]
                self._exact[hostname(domain), path].add(domain)
                self._by_host[hostname(domain)].add(domain)

    def locations(self, host: str, value: str) -> Iterator[str]:
        """Yield the repositories of a label: the host as its key has it, and its value."""
        for path in filter(None, value.split(",")):
            for domain in self._domains(host, path):
                yield f"{domain}/{path}"

    def notes(self, namespace: str) -> Facts:
        """Yield what was not certain, once for each registry."""
        for host, reason in self._notes.items():
            yield uncertain(f"{namespace}/{host}", reason)

    def _domains(self, host: str, path: str) -> Sequence[str]:
        # containerd itself cuts the port off; dockerd's graph drivers keep it. An address of IPv6 has several colons.
        if host == DEFAULT_DOMAIN or host.count(":") == 1 or "]:" in host:
            return [host]
        exact = sorted(self._exact[host, path])
        if len(exact) > 1:
            self._notes[host] = f"images of one name are at several ports: all ports are used: {', '.join(exact)}"
        if exact:
            return exact
        known = sorted(self._by_host[host])
        if len(known) == 1:
            if known[0] != host:
                self._notes[host] = (
                    f"containerd does not keep ports: the only one in the names of images is used: {known[0]}"
                )
            return known
        domain = f"[{host}]" if ":" in host else host
        unknown = "containerd does not keep ports, and no name of an image has this one"
        if canonical_domain(f"{domain}/name") is None:
            self._notes[host] = f"left out: {unknown}; without it, the name is not a registry's"
            return []
        self._notes[host] = f"{unknown}: recorded without a port"
        return [domain]


def _broken_chains(blobs: Iterable[Blob]) -> dict[str, str]:
    """Return the layers whose DiffIDs together are not those of their image's snapshot, with the reason.

    A manifest's labels name its layers and its configuration, and the label of that the snapshot, whose name is a
    digest over the DiffIDs. Damaged files of metadata, in which nothing has a checksum, are found out by that.
    Source: image-spec, config.md, "Layer ChainID".
    """
    labels = {blob.digest: blob.labels for blob in blobs}
    broken: dict[str, str] = {}
    for own in labels.values():
        found = {int(match[1]): digest for key, digest in own.items() if (match := _match_layer(key))}
        layers = [found[number] for number in sorted(found)]
        config = labels.get(own.get(_CONFIGS[0], ""), {})
        chains = {value for key, value in config.items() if key.startswith(_SNAPSHOT)}
        diff_ids = [labels.get(layer, {}).get(UNCOMPRESSED) for layer in layers]
        if len(chains) == 1 and diff_ids and _chain_id(diff_ids) not in (None, *chains):
            reason = "left out: the DiffIDs of an image's layers are not those of its snapshot"
            broken |= dict.fromkeys(layers, reason)
    return broken


def _chain_id(diff_ids: Sequence[str | None]) -> str | None:
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        if chain is None or diff_id is None:
            return None
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain


def _compression(head: bytes | None, *, is_plain: bool) -> str | None:
    """Return the compression of a blob that begins so; of one without any, only if it is known to be plain."""
    if head is None:
        return None
    found = compression_of(head)
    if found is not None:
        return found.what if found.what in _COMPRESSIONS else None
    return "uncompressed" if is_plain else None


def _blobs(file: bbolt.File, namespace: bbolt.Bucket) -> Iterator[Blob]:
    for digest, blob in namespace.below(b"content", b"blob").buckets.items():
        reason = why_no_digest(text(digest))
        if reason is not None:
            raise file.damaged(reason)
        labels = {text(name): text(label) for name, label in blob.below(b"labels").values.items()}
        yield Blob(text(digest), labels, bbolt.time_ns(blob.values.get(b"updatedat", b"")))


def _head(blobs: int, digest: str) -> bytes | None:
    """Return the first bytes of a blob below an open directory; `None` if it is not there, or not to be read."""
    algorithm, _, encoded = digest.partition(":")
    try:
        folder = tree.open_below(blobs, (algorithm,))
        try:
            descriptor = os.open(encoded, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        with open(descriptor, "rb", buffering=0) as blob:
            return blob.read(HEAD)
    except OSError:
        return None
