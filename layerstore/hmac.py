"""HMACs that tie an association to the credentials it was seen with, without keeping the credentials.

Pure functions. Neither a key nor a credential is ever stored, logged or put into an error.
Source: Docker's distribution/metadata/v2_metadata_service.go.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from layerstore import gojson
from layerstore.arguments import instance
from layerstore.records import V2Metadata

_is_hex = re.compile("(?:[0-9a-fA-F]{2})*").fullmatch


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Credentials for a registry, as `~/.docker/config.json` holds them. Its `repr` shows none of them.

    Source: Docker's `types.AuthConfig`.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


def compute_hmac_key(auth_config: AuthConfig | None) -> bytes | None:
    """Derive the HMAC key from credentials.

    Returns:
        The text `sha256:<hex>` of the credentials' JSON, as Go writes it with empty fields left out; `None`
        when there are no credentials. Empty credentials have a key: the digest of `{}`.

    Source: Docker's `ComputeV2MetadataHMACKey`.
    """
    if auth_config is None:
        return None
    instance(auth_config, AuthConfig, "credentials")
    fields = (
        ("username", auth_config.username),
        ("password", auth_config.password),
        ("auth", auth_config.auth),
        ("identitytoken", auth_config.identity_token),
        ("registrytoken", auth_config.registry_token),
    )
    for name, value in fields:
        instance(value, str, name)
    members = (f'"{name}":{gojson.quote(value)}' for name, value in fields if value)
    document = f"{{{','.join(members)}}}".encode()
    return f"sha256:{hashlib.sha256(document).hexdigest()}".encode()


def compute_hmac(key: bytes | None, metadata: V2Metadata) -> str:
    """Return the hex of HMAC-SHA256 over digest and source repository; `""` when the key is empty or `None`.

    Source: Docker's `ComputeV2MetadataHMAC`.
    """
    _check(key, metadata)
    return _mac(key, metadata).hex() if key else ""


def check_hmac(metadata: V2Metadata, key: bytes | None) -> bool:
    """Tell whether the association was seen with the credentials of `key`.

    True when HMAC and key are both empty, false when one of them is, false when the HMAC is not hex; otherwise the
    two are compared in constant time.

    Source: Docker's `CheckV2MetadataHMAC`.
    """
    _check(key, metadata)
    if not metadata.hmac or not key:
        return not metadata.hmac and not key
    if _is_hex(metadata.hmac) is None:
        return False
    return hmac.compare_digest(bytes.fromhex(metadata.hmac), _mac(key, metadata))


def _check(key: object, metadata: object) -> None:
    instance(metadata, V2Metadata, "an association")
    instance(key, (bytes, type(None)), "an HMAC key")


def _mac(key: bytes, metadata: V2Metadata) -> bytes:
    # Go hashes the bytes of its strings; what is not UTF-8 can have come in only as surrogate escapes.
    message = (metadata.digest + metadata.source_repository).encode("utf-8", "surrogatepass")
    return hmac.digest(key, message, "sha256")
