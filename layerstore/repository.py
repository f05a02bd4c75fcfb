"""Repository names: how a name that people type becomes the canonical one, and which names are canonical.

    busybox                     ->  docker.io/library/busybox
    index.docker.io/team/app    ->  docker.io/team/app
    localhost:5000/team/app     ->  localhost:5000/team/app

Nothing here knows metadata or stores, and no name is looked up anywhere. The grammar is that of the distribution
project's reference specification, with IPv6 hosts; what Docker reads its own way is told at each function.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from layerstore.digest import is_digest
from layerstore.errors import InvalidRepositoryError
from layerstore.warnings import warn

DEFAULT_DOMAIN: Final = "docker.io"
MAX_PATH_LENGTH: Final = 255
"""Characters that a path may have. Source: distribution's `RepositoryNameTotalLengthMax`."""

_KEPT_NAMES: Final = 4096
"""Names of which it is kept in memory that they are canonical."""
_KEPT_LENGTH: Final = 1024
"""Characters of the longest name that is kept."""
_WARNINGS: Final = 100
"""Names that are warned of, so that neither the log nor memory fills when every name is another wrong one."""

found_canonical: set[str] = set()
"""Names that `warn_if_not_canonical` has found to be canonical: it need not be asked again."""
_warned: set[str] = set()

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_DIGEST_ALGORITHMS = ("sha256:", "sha384:", "sha512:")

# Labels and path components are written as runs of alphanumerics with separators between them. The specification's
# own form for a label, a first and a last character around anything, is the same language and backtracks.
_LABEL = "[a-zA-Z0-9]+(?:-+[a-zA-Z0-9]+)*"
_COMPONENT = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
# `fullmatch` is a must: `$` would let a newline pass. So is ASCII: Go's \w is.
_reference = re.compile(
    rf"(?:(?P<domain>(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?)/)?"
    rf"(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?P<tag>:\w[\w.-]{0,127})?"
    r"(?:@(?P<digest>[^@]+))?",
    re.ASCII,
).fullmatch
_is_identifier = re.compile("[a-f0-9]{64}").fullmatch


class Repository(NamedTuple):
    """A repository, by its canonical name in two parts."""

    domain: str
    """Registry host and port, in the letter case given: `docker.io`, `localhost:5000`, `[fc00::1]:5000`. Empty when
    the first part of the name looks like a host and can only be a path component, as in `my_host.example/app`."""
    path: str
    """Name within the registry: `library/busybox`."""

    @property
    def name(self) -> str:
        """The canonical name: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    @property
    def familiar_name(self) -> str:
        """The name without what people leave out: `busybox`. Source: distribution's `reference.FamiliarName`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in rest else rest


class Reference(NamedTuple):
    """An image's name in its parts; what is not there is empty."""

    name: str
    tag: str
    digest: str


def split_reference(text: str) -> Reference:
    """Take `name:tag@digest` apart. No part is checked, and none filled in.

    Source: the order of distribution's `reference.ReferenceRegexp`.
    """
    rest, _, digest = text.partition("@")
    name, colon, tag = rest.rpartition(":")
    # A colon before the last slash is that of a registry's port.
    return Reference(rest, "", digest) if not colon or "/" in tag else Reference(name, tag, digest)


def parse_normalized(name: str) -> Repository:
    """Take a repository's name as people type it, and fill in what they leave out.

    A first part is the registry's host when it has a dot or a colon, is `localhost`, or has upper-case letters;
    without one the host is `docker.io`. There a name of one component is under `library/`. A name that is canonical
    already is taken as it is.

    Raises:
        InvalidRepositoryError: the name is not text, breaks the grammar, has a path of more than 255 characters, has
            a tag or digest, or is 64 hex digits, which would be an image's ID. The message says which.

    Source: distribution's `reference.ParseNormalizedNamed`; the grammar in the documentation of its package.
    Differs: a tag or digest is an error. Docker 20.10 has an older grammar: no IPv6 hosts, no host known by its
    upper-case letters alone, and 255 characters for host and path together.
    """
    match = _match(name)
    if match is None or match["tag"] or match["digest"] or len(match["path"]) > MAX_PATH_LENGTH:
        raise _invalid(name, match)
    return Repository(match["domain"] or "", match["path"])


def parse_reference(text: str) -> Repository:
    """Take an image's name as people type it, and return its repository: a tag or digest is checked, and dropped.

    Raises:
        InvalidRepositoryError: as `canonical_repository`.
    """
    match = _match(text)
    if match is None or len(match["path"]) > MAX_PATH_LENGTH or not _is_registered(match["digest"]):
        raise _invalid(text, match)
    return Repository(match["domain"] or "", match["path"])


def canonical_repository(name: str) -> str:
    """Return the name of a repository as Docker records it: `docker.io/library/busybox` for `busybox`.

    What people leave out is filled in, `index.docker.io` becomes `docker.io`, and a tag or digest is dropped. A name
    that is canonical already is returned as it is. Only under such a name is an association found as a place to mount
    a layer from.

    Args:
        name: such as `busybox`, `team/app:1.0`, `localhost:5000/team/app@sha256:…`.

    Raises:
        InvalidRepositoryError: it is not text, empty, has a scheme (`https://…`), upper case, spaces, or a tag or
            digest that cannot be one, or is an image's ID. The message says which.

    Source: distribution's `reference.ParseNormalizedNamed` and `reference.TrimNamed`.
    """
    return parse_reference(name).name


def why_not_canonical(name: str) -> str | None:
    """Say why a source repository is not canonical, and what would be; `None` when it is, or is empty: not known."""
    return _kept_why_not(name) if len(name) <= _KEPT_LENGTH else _kept_why_not.__wrapped__(name)


@lru_cache(maxsize=_KEPT_NAMES)
def _kept_why_not(name: str) -> str | None:
    try:
        canonical = canonical_repository(name) if name else name
    except InvalidRepositoryError as error:
        return str(error)
    return None if canonical == name else f"{name!r} is not canonical: record {canonical!r}"


def warn_if_not_canonical(name: str) -> None:
    """Log a warning of a source repository that no push would mount from: once for a name, of 100 names at most."""
    if name in found_canonical or name in _warned or len(_warned) >= _WARNINGS:
        return
    reason = why_not_canonical(name)
    kept = name[:_KEPT_LENGTH]
    if reason is None:
        if len(found_canonical) < _KEPT_NAMES and kept == name:
            found_canonical.add(name)
        return
    if kept in _warned:
        return
    _warned.add(kept)
    warn("no push will mount layers from this source repository: %s", reason[:_KEPT_LENGTH])


def canonical_domain(name: str) -> str | None:
    """Return the registry host of a name that is canonical, as the metadata's source repositories are; or `None`.

    Not canonical are `busybox`, `docker.io/busybox`, what breaks the grammar, and an empty name. A tag or digest behind
    it is allowed, as by Docker, which never writes one.

    Source: distribution's `reference.ParseNamed` and `reference.Domain`.
    """
    if _normalized(name) != name:
        return None
    match = _reference(name)
    if match is None or len(match["path"]) > MAX_PATH_LENGTH or not _is_registered(match["digest"]):
        return None
    return match["domain"] or ""


def _match(name: object) -> re.Match[str] | None:
    return _reference(_normalized(name)) if isinstance(name, str) and _is_identifier(name) is None else None


def _normalized(name: str) -> str:
    """Put host and `library/` before a name where they are left out. The name need not be a valid one."""
    first, slash, rest = name.partition("/")
    if not slash:
        return f"{DEFAULT_DOMAIN}/{_OFFICIAL}{name}"
    if first == _LEGACY_DOMAIN:
        first = DEFAULT_DOMAIN
    elif first != "localhost" and "." not in first and ":" not in first and first == first.lower():
        return f"{DEFAULT_DOMAIN}/{name}"
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return f"{first}/{rest}"


def _is_registered(digest: str | None) -> bool:
    """Tell whether a reference's digest is absent or one that Docker can check."""
    return digest is None or (digest.startswith(_DIGEST_ALGORITHMS) and is_digest(digest))


def _invalid(name: object, match: re.Match[str] | None) -> InvalidRepositoryError:
    return InvalidRepositoryError(f"not a repository name: {name!r}: {_why_not(name, match)}")


def _why_not(name: object, match: re.Match[str] | None) -> str:
    if not isinstance(name, str):
        return f"text is needed, not {type(name).__name__}"
    if _is_identifier(name):
        return "64 hex digits are an image's ID; put the registry's host before a repository of that name"
    if match is not None and len(match["path"]) > MAX_PATH_LENGTH:
        return f"its path has {len(match['path'])} characters, {MAX_PATH_LENGTH} are allowed"
    if match is not None:
        return "it has a tag or digest; give the repository alone"
    if _reference(_normalized(name.lower())) is not None:
        return "only the host may have upper-case letters"
    scheme = "leave out the scheme; " if "://" in name else ""
    return (
        f"{scheme}the form is [host[:port]/]component[/component]…, each component of lower-case letters and digits"
        " with single '.', '_', '__' or dashes between them"
    )
