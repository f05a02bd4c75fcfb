"""Credentials as Docker's client would send them with a push: to compute an HMAC key from, and for nothing else.

They are in no message, log or `repr`.
Source: docker/cli's cli/config, cli/config/credentials and cli/command/registry.go.
"""

from __future__ import annotations

import base64
import binascii
import errno
import logging
import os
import subprocess
from typing import Final
from urllib.parse import urlsplit

import msgspec

from layerstore.errors import TransferError
from layerstore.hmac import AuthConfig
from layerstore.repository import DEFAULT_DOMAIN

DOCKER_HUB: Final = "https://index.docker.io/v1/"
"""Under which address the credentials of `docker.io` are kept."""
PROGRAM_TIMEOUT_S: Final = 30.0

_NOT_FOUND = "credentials not found in native keychain"
_TOKEN = "<token>"  # noqa: S105  # the user name that says that the secret is a token

_log = logging.getLogger("layerstore")


class _Auth(msgspec.Struct):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _Config(msgspec.Struct, rename={"creds_store": "credsStore", "cred_helpers": "credHelpers"}):
    auths: dict[str, _Auth] | None = None
    creds_store: str | None = None
    cred_helpers: dict[str, str] | None = None


class _Answer(msgspec.Struct, rename={"username": "Username", "secret": "Secret"}):
    username: str = ""
    secret: str = ""


def docker_credentials(registry: str, *, config: str | os.PathLike[str] | None = None) -> AuthConfig:
    """Return the credentials that Docker's client would send with a push to a registry.

    They come from the client's configuration: from `auths`, whose key may also be a URL of the registry; or, where
    `credHelpers` or `credsStore` name one, from the program `docker-credential-<name>`. If that fails, a warning is
    logged, and what the file itself has is taken, as the client does. The environment's `DOCKER_AUTH_CONFIG` is not
    looked at.

    Args:
        registry: host and port, as in `Repository.domain`; the one of `docker.io` is looked up as Docker's client does.
        config: the file `config.json` or its directory. By default `$DOCKER_CONFIG` or `~/.docker`; there it may be
            absent.

    Returns:
        Empty credentials when there are none: the client sends those too, and the daemon makes a key of them.

    Raises:
        TransferError: the file is not there although it was named, cannot be read, or is not what it should be.

    Source: docker/cli's `ResolveAuthConfig`, `ConfigFile.GetAuthConfig`, `decodeAuth`.
    """
    path, loaded = _load(config)
    server = DOCKER_HUB if registry == DEFAULT_DOMAIN else registry
    decoded = {address: _auth_config(auth, path) for address, auth in (loaded.auths or {}).items()}
    known = decoded.get(server)
    if known is None:
        known = next((auth for address, auth in decoded.items() if server == _host(address)), AuthConfig())
    suffix = (loaded.cred_helpers or {}).get(server, loaded.creds_store)
    return _ask(suffix, server, known) if suffix else known


def _load(config: str | os.PathLike[str] | None) -> tuple[str, _Config]:
    named = config is not None
    path = os.path.abspath(os.fspath(config)) if config is not None else _default_directory()
    if not named or os.path.isdir(path):
        path = os.path.join(path, "config.json")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        if not named and error.errno == errno.ENOENT:
            return path, _Config()
        raise TransferError(f"Docker's configuration cannot be read: {error.strerror}", path) from error
    if not content.strip():
        return path, _Config()  # as Docker's client takes it
    try:
        return path, msgspec.json.decode(content, type=_Config)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names the place and the type, never the value; what Python says of bytes is not passed on.
        why = str(error) if isinstance(error, msgspec.DecodeError) else "it is not JSON"
        raise TransferError(f"not a configuration of Docker's client: {why}", path) from None


def _default_directory() -> str:
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def _auth_config(auth: _Auth, path: str) -> AuthConfig:
    """Source: docker/cli's `LoadFromReader`, which clears `auth` after it has taken it apart."""
    username, password = auth.username, auth.password
    if auth.auth:
        try:
            username, colon, password = base64.b64decode(auth.auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            username = colon = ""
        if not username or not colon:
            raise TransferError("an `auth` in it is not the base64 of user:password", path) from None
        password = password.strip("\0")
    return AuthConfig(
        username=username, password=password, identity_token=auth.identitytoken, registry_token=auth.registrytoken
    )


def _host(address: str) -> str:
    """Return the host and port of an address. Source: docker/cli's `ConvertToHostname`."""
    if "://" in address:
        try:
            netloc = urlsplit(address).netloc.rpartition("@")[2]
        except ValueError:
            netloc = ""
        if netloc:
            return netloc
    return address.partition("/")[0]


class _ProgramError(ValueError):
    """What a credential program did wrong, without anything that it said."""


def _why_not(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"it cannot be started ({error.strerror})"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not answer in {PROGRAM_TIMEOUT_S:.0f} s"
    return str(error) if isinstance(error, _ProgramError) else "it did not answer in JSON"


def _ask(suffix: str, server: str, known: AuthConfig) -> AuthConfig:
    """Ask a credential program. Source: docker/cli's `nativeStore.Get`, docker-credential-helpers' `client.Get`."""
    program = f"docker-credential-{suffix}"
    try:
        if "/" in suffix:
            raise _ProgramError("its name has a slash")  # one place says what is done instead
        done = subprocess.run(  # noqa: S603  # the user's own configuration names the program
            [program, "get"],
            input=server.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0 and done.stdout.decode(errors="replace").strip() == _NOT_FOUND:
            return AuthConfig(registry_token=known.registry_token)
        if done.returncode != 0:
            raise _ProgramError(f"it ended with {done.returncode}")
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        why = _why_not(error)
        _log.warning("no credentials for %s from %s: %s; going on as Docker does, without", server, program, why)
        return known
    if answer.username == _TOKEN:
        return AuthConfig(identity_token=answer.secret, registry_token=known.registry_token)
    return AuthConfig(username=answer.username, password=answer.secret, registry_token=known.registry_token)
