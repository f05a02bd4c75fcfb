"""A running containerd, asked and told by its socket: `containerd:SOCKET?namespace=NAME`.

Labels are what `layerstore.formats.containerd` reads. They live as long as the content: `docker rmi` forgets them, and
one of content that is not there cannot be set. So the moment to write them is between the load, build or pull of an
image and its push. A push tries one repository only, by containerd's own rule, and a dead name more in a label can be
the one that is tried: therefore only few names are written, on layers and configurations, and with a target the one
that will be tried. A manifest's label would be taken for where an image was pulled from.
Source: containerd: api/services/{content,images,namespaces}/v1; core/remotes/docker/pusher.go; pkg/labels/validate.go.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl

from layerstore.blobs import BlobRecord
from layerstore.errors import InvalidInputError, TransferError
from layerstore.formats import containerd, grpc
from layerstore.formats.containerd import CHILD, HEAD, SOURCE, UNCOMPRESSED, Blob, hostname
from layerstore.formats.facts import Fact, Facts, Written, why_no_digest
from layerstore.formats.grpc import CallError, Channel, Message, MessageError, field
from layerstore.paths import absolute
from layerstore.push.candidates import containerd_choice, shared_components
from layerstore.repository import Repository, canonical_repository, parse_normalized, split_reference

SCHEME: Final = "containerd:"
MAX_NAMES: Final = 8
"""Names of one registry that are written into the label of a blob: a push tries one."""
ROOM: Final = 256
"""Bytes of a label that stay free: into a full one, containerd itself writes no new name."""

_NOT_THERE: Final = "the content is not there"
_MAX_LABEL: Final = 4096
_NEVER: Final = -(1 << 64)
_NAMESPACE: Final = "containerd-namespace"
_CONTENT: Final = "/containerd.services.content.v1.Content"
_SOCKETS: Final = "/run/containerd/containerd.sock, or /run/docker/containerd/containerd.sock of a dockerd's own"
_match_namespace = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", re.ASCII).fullmatch


class Socket(NamedTuple):
    """A running containerd, and which namespaces of it are meant: none stands for all."""

    path: str
    namespaces: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `containerd:SOCKET?namespace=NAME`; the part from `?` on may be missing, or name several.

        Raises:
            InvalidInputError: it is something else; the message says what.
        """
        path, _, query = text.removeprefix(SCHEME).partition("?")
        if not text.startswith(SCHEME) or not path:
            raise InvalidInputError(f"not {SCHEME}SOCKET: {text!r}: the socket is {_SOCKETS}")
        found = parse_qsl(query, keep_blank_values=True)
        for name, value in found:
            if name != "namespace" or len(value) > 76 or _match_namespace(value) is None:
                raise InvalidInputError(f"{name}={value} is not ?namespace=NAME of containerd, such as moby: {text!r}")
        if query and not found:
            raise InvalidInputError(f"not ?namespace=NAME: {text!r}")
        return cls(absolute(path), tuple(dict.fromkeys(value for _, value in found)))

    @property
    def name(self) -> str:
        """What reports call it."""
        query = "&".join(f"namespace={name}" for name in self.namespaces)
        return f"{SCHEME}{self.path}{'?' if query else ''}{query}"


def read(socket: Socket) -> Facts:
    """Read all namespaces of a running containerd, or those that are named.

    Raises:
        TransferError: no daemon answers, the answer cannot be read, a namespace is not there, or the package `h2` is
            missing.
    """
    with _asking(socket) as channel:
        for namespace in _namespaces(channel, socket):
            service = _Namespace(channel, namespace)
            yield from containerd.facts(namespace, service.images(), service.blobs(), service.head)


def write(
    socket: Socket,
    facts: Iterable[Fact],
    *,
    images: Sequence[str] = (),
    target: str | None = None,
    dry_run: bool = False,
) -> Written:
    """Write from which repositories blobs are available into the labels of the content that is there.

    What stands in a label stays; containerd has no other way to write one than as a whole, so a name that a pull adds
    at the same moment can be lost. Doing it again changes nothing.

    Args:
        socket: with exactly one namespace.
        facts: all that is known of each blob, once. One with conflicts is left out.
        images: names of images of which alone the layers and configurations are labelled; none stands for all.
        target: the repository that will be pushed to: then of each blob the one name is written that the push will
            try, if any that is known would be.
        dry_run: only count.

    Raises:
        InvalidInputError: not exactly one namespace.
        InvalidRepositoryError: the target is not a repository's name.
        TransferError: as `read`; or an image is not there.
    """
    wanted = None if target is None else parse_normalized(target)
    if len(socket.namespaces) != 1:
        raise InvalidInputError(f"give one namespace to write into, such as {SCHEME}{socket.path}?namespace=moby")
    written = Written()
    with _asking(socket) as channel:
        [namespace] = _namespaces(channel, socket)
        service = _Namespace(channel, namespace)
        blobs = {blob.digest: blob for blob in service.blobs()}
        known = service.images() if images else {}
        leaves = _leaves(blobs, [service.target(name, known) for name in images] if images else None)
        for digest, record in facts:
            reason = _why_not(digest, record, blobs, leaves)
            if reason is not None:
                written.left_out[reason] += 1
                continue
            changed = _Changes(blobs[digest].labels, record, wanted)
            if changed.labels and not dry_run:
                changed = service.change(digest, record, wanted)
            written.left_out.update(changed.left_out)
            is_known = any(key.startswith(SOURCE) for key in blobs[digest].labels)
            written.added += bool(changed.labels) and not is_known
            written.updated += bool(changed.labels) and is_known
            written.unchanged += not changed.labels
    return written


class _Changes:
    """What a blob's labels lack of what is known of it.

    Attributes:
        labels: the labels to set, with their whole values.
        left_out: why names were left out, for each registry.
    """

    def __init__(self, labels: Mapping[str, str], record: BlobRecord, target: Repository | None) -> None:
        self.labels: dict[str, str] = {}
        self.left_out: list[str] = []
        by_host: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for location, seen_at_ns in record.locations.items():
            domain, _, path = location.partition("/")
            if target is None or (domain == target.domain and path != target.path):
                by_host[hostname(domain)].append((_NEVER if seen_at_ns is None else seen_at_ns, path))
        for host, places in by_host.items():
            key = SOURCE + host
            there = [name for name in labels.get(key, "").split(",") if name]
            # A name is known at two ports once.
            known = list(dict.fromkeys(path for _, path in sorted(places, reverse=True)))
            names = self._newest(known, there) if target is None else self._tried(known, there, target.path)
            value = self._with_room(key, there, names)
            if len(value) > len(there):
                self.labels[key] = ",".join(value)

    def _newest(self, known: list[str], there: list[str]) -> list[str]:
        if len(known) > MAX_NAMES:
            self.left_out.append(f"names beyond the newest {MAX_NAMES} of a blob at one registry")
        return [name for name in known[:MAX_NAMES] if name not in there]

    def _tried(self, known: list[str], there: list[str], target: str) -> list[str]:
        """Return a name that a push would try, if it would not try a known one already: the most alike, the newest."""
        if containerd_choice(there, target) in known:
            return []
        known = sorted(known, key=lambda name: -shared_components(name, target))  # stable: the newest first
        found = [name for name in known if containerd_choice(_sorted([*there, name]), target) == name]
        if not found:
            self.left_out.append(
                "a push would try a name that is there already, and that is not known to have the blob"
            )
        return found[:1]

    def _with_room(self, key: str, there: list[str], names: list[str]) -> list[str]:
        value = there
        for name in names:
            longer = _sorted([*value, name])
            if len(key) + len(",".join(longer)) > _MAX_LABEL - ROOM:
                self.left_out.append("the label is full")
                break
            value = longer
        return value


def _sorted(names: list[str]) -> list[str]:
    return sorted(names, key=str.encode)  # as containerd sorts them


def _why_not(digest: str, record: BlobRecord, blobs: Mapping[str, Blob], leaves: set[str]) -> str | None:
    if record.conflicts:
        return "sources disagree about the blob"
    if digest not in blobs:
        return _NOT_THERE
    if digest not in leaves:
        return "not a layer or configuration of a chosen image"
    return None if record.locations else "no repository is known to have it"


def _leaves(blobs: Mapping[str, Blob], roots: Sequence[str] | None) -> set[str]:
    """Return the layers and configurations: of all images, or of those with these manifests or indexes.

    Labels of indexes and manifests name what they refer to; layers and configurations have none of that kind.
    """
    children = {
        blob.digest: [value for key, value in blob.labels.items() if key.startswith(CHILD)] for blob in blobs.values()
    }
    if roots is None:
        found = {digest for digest, blob in blobs.items() if UNCOMPRESSED in blob.labels}
        found.update(child for some in children.values() for child in some)
    else:
        found, todo = set(), list(roots)
        while todo:
            digest = todo.pop()
            if digest not in found:
                found.add(digest)
                todo += children.get(digest, ())
        found -= set(roots)
    return {digest for digest in found if digest in blobs and not children[digest]}


class _Namespace:
    """The calls that ask one namespace of a daemon."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._headers = ((_NAMESPACE, name),)
        self.name = name

    def blobs(self) -> Iterator[Blob]:
        """Yield all blobs with their labels."""
        for message in self._channel.stream(f"{_CONTENT}/List", b"", self._headers):
            yield from map(_blob, Message(message).messages(1))

    def change(self, digest: str, record: BlobRecord, target: Repository | None) -> _Changes:
        """Set what the labels of a blob lack, as they are now: a list may be minutes old."""
        try:
            message = self._channel.call(f"{_CONTENT}/Info", field(1, digest), self._headers)
            changes = _Changes(_blob(Message(Message(message).data(1))).labels, record, target)
            for key, value in changes.labels.items():
                info = field(1, digest) + field(5, field(1, key) + field(2, value))
                mask = field(1, f"labels.{key}")
                self._channel.call(f"{_CONTENT}/Update", field(1, info) + field(2, mask), self._headers)
        except CallError as error:
            if error.status != grpc.NOT_FOUND:
                raise
            changes = _Changes({}, BlobRecord(), target)
            changes.left_out.append(_NOT_THERE)
        return changes

    def head(self, digest: str) -> bytes | None:
        """Return the first bytes of a blob; `None` if it is shorter, or gone."""
        try:
            messages = list(self._channel.stream(f"{_CONTENT}/Read", field(1, digest) + field(3, HEAD), self._headers))
        except CallError as error:
            if error.status in (grpc.NOT_FOUND, grpc.OUT_OF_RANGE):
                return None
            raise
        return b"".join(Message(message).data(2) for message in messages)[:HEAD]

    def images(self) -> dict[str, str]:
        """Return the names of the images, each with the digest of its manifest or index."""
        message = self._channel.call("/containerd.services.images.v1.Images/List", b"", self._headers)
        return {image.text(1): Message(image.data(3)).text(2) for image in Message(message).messages(1)}

    def target(self, name: str, images: Mapping[str, str]) -> str:
        """Return the digest of an image's manifest or index. Raises TransferError if it is not there."""
        reference = split_reference(name)
        tag = "" if reference.digest else f":{reference.tag or 'latest'}"
        full = f"{canonical_repository(name)}{tag}{'@' if reference.digest else ''}{reference.digest}"
        found = images.get(name, images.get(full))
        if found is None:
            what = f"no image {name!r} in the namespace {self.name}: `ctr -n {self.name} image ls` lists them"
            raise TransferError(what, self._channel.path)
        return found


def _namespaces(channel: Channel, socket: Socket) -> list[str]:
    """Return the namespaces that are meant. Raises TransferError if one is not there."""
    message = channel.call("/containerd.services.namespaces.v1.Namespaces/List", b"")
    there = sorted(found.text(1) for found in Message(message).messages(1))
    if "" in there:
        raise MessageError("a namespace without a name")
    for name in socket.namespaces:
        if name not in there:
            what = f"it has no namespace {name!r}, but {', '.join(there) or 'none'}: nothing was stored under it yet"
            raise TransferError(what, socket.name)
    return list(socket.namespaces) or there


def _blob(info: Message) -> Blob:
    labels = {label.text(1): label.text(2) for label in info.messages(5)}
    reason = why_no_digest(info.text(1))
    if reason is not None:
        raise MessageError(reason)
    # containerd 1.6 does not send when a blob was updated.
    return Blob(info.text(1), labels, _time_ns(info.data(4)) or _time_ns(info.data(3)))


def _time_ns(encoded: bytes) -> int | None:
    timestamp = Message(encoded)
    found = timestamp.integer(1) * 1_000_000_000 + timestamp.integer(2)
    return found if found and abs(found) < 1 << 63 else None


@contextmanager
def _asking(socket: Socket) -> Iterator[Channel]:
    """Open a connection; what a daemon refuses meanwhile, or what is no message, are errors of ours."""
    with closing(Channel(socket.path)) as channel:
        try:
            yield channel
        except CallError as error:
            refused = f"containerd refuses that: {error} (gRPC status {error.status})"
            raise TransferError(refused, channel.path) from error
        except MessageError as error:
            raise channel.broken(str(error)) from error
