"""Digests: text of the form `algorithm:encoded` that went through one trusted door, `Digest.parse`.

Nothing here knows stores. The grammar is that of the OCI image specification, "Descriptors", section "Digests".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Self

from layerstore.errors import InvalidDigestError

_HEX_DIGITS = b"0123456789abcdef"
_SHA256_LENGTH = 71
_HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}

# One pattern decides; which rule was broken is worked out only for the message. The look-ahead keeps the three
# algorithms with a fixed length out of the general form. `fullmatch` is a must: `$` would let a newline pass.
match_digest = re.compile(
    r"sha256:[0-9a-f]{64}"
    r"|sha512:[0-9a-f]{128}"
    r"|sha384:[0-9a-f]{96}"
    r"|(?!sha(?:256|384|512):)[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+"
).fullmatch


def is_digest(text: str) -> bool:
    """Tell whether `text` is a digest by the OCI grammar, of the right length where the algorithm fixes one."""
    return match_digest(text) is not None


def is_sha256(text: bytes) -> bool:
    """Tell whether bytes are a digest of SHA-256, as nearly all are; for the price of half a pattern."""
    # Without the hex digits, nothing but the beginning is left.
    return len(text) == _SHA256_LENGTH and text.startswith(b"sha256:") and text.translate(None, _HEX_DIGITS) == b"sh:"


def are_sha256(texts: Sequence[str]) -> bool:
    """Tell whether all texts are digests of SHA-256, as `is_sha256` does for one."""
    if not all(len(text) == _SHA256_LENGTH and text.startswith("sha256:") for text in texts):
        return False
    # What is left without the hex digits is the beginning of each alone, then there was nothing else behind it.
    return "".join(texts).encode("utf-8", "surrogatepass").translate(None, _HEX_DIGITS) == b"sh:" * len(texts)


class Digest(str):
    """The digest of a compressed blob in a registry, as text: `sha256:4ac2…`.

    A `str` in every way; the constructor trusts its argument, `parse` does not.
    Source: OCI image-spec, descriptor.md, "Digests".
    """

    __slots__ = ()
    _noun: ClassVar = "digest"

    @property
    def algorithm(self) -> str:
        """The part before the first colon: `sha256`. Empty when there is no colon."""
        head, colon, _ = self.partition(":")
        return head if colon else ""

    @property
    def encoded(self) -> str:
        """The part behind the first colon: the hexadecimal digits, for the algorithms in use."""
        return self.partition(":")[2]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take `text` as a digest, if it is one to the last character.

        Args:
            text: `algorithm:encoded`; for sha256, sha384 and sha512 exactly 64, 96 or 128 lower-case hex digits.

        Returns:
            The same text as this class.

        Raises:
            InvalidDigestError: the grammar, the length or the type is wrong; the message says which.

        Source: OCI image-spec, descriptor.md, "Digests"; Docker's `digest.Validate`.
        Differs: Docker's `digest.Hex()` panics on text without a colon; this raises.
        """
        cls.check(text)
        return cls(text)

    @classmethod
    def check(cls, text: str) -> None:
        """Refuse what `parse` refuses, without making an object of the rest: most lookups need none.

        Raises:
            InvalidDigestError: as `parse`.
        """
        if not isinstance(text, str) or match_digest(text) is None:
            raise InvalidDigestError(f"not a valid {cls._noun}: {text!r}: {_why_not(text)}")


class DiffID(Digest):
    """The digest of a layer's uncompressed tar archive.

    Source: OCI image-spec, config.md, "Layer DiffID".
    """

    __slots__ = ()
    _noun: ClassVar = "DiffID"


def _why_not(text: object) -> str:
    if not isinstance(text, str):
        return f"text is needed, not {type(text).__name__}"
    algorithm, colon, encoded = text.partition(":")
    if not colon:
        return "it has no colon; the form is algorithm:encoded, such as sha256:<64 hex digits>"
    length = _HEX_LENGTHS.get(algorithm)
    if length is not None and len(encoded) != length:
        return f"{algorithm} needs {length} hex digits, here are {len(encoded)} characters"
    if length is not None:
        return f"{algorithm} is written in lower-case hex digits"
    return "the OCI grammar is [a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+"
