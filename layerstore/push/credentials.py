"""Credentials as Docker's client would send them with a push: to compute an HMAC key from, and for nothing else.

They are in no message, log or `repr`.
Source: docker/cli's cli/config, cli/config/credentials and cli/command/registry.go.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Final, NamedTuple

from layerstore import gojson
from layerstore.errors import TransferError
from layerstore.hmac import AuthConfig
from layerstore.paths import absolute, why_refused
from layerstore.repository import DEFAULT_DOMAIN
from layerstore.warnings import warn

DOCKER_HUB: Final = "https://index.docker.io/v1/"
"""Under which address the credentials of `docker.io` are kept."""
PROGRAM_TIMEOUT_S: Final = 30.0

_NOT_FOUND = "credentials not found in native keychain"
_TOKEN = "<token>"  # noqa: S105  # the user name that says that the secret is a token

_JSON_SPACE = b" \t\r\n"
_is_base64 = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?").fullmatch
# What Go's url.Parse takes, as far as a registry's host may be in it; control characters are nowhere.
_url = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^/?#\x00-\x20\x7f]*@)?"
    r"(?P<host>\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]*))?(?:[/?#][^\x00-\x1f\x7f]*)?"
).fullmatch
_AUTH = ("username", "password", "auth", "identitytoken", "registrytoken")
_Auth = dict[str, str]


class _Config(NamedTuple):
    """What of the client's configuration says which credentials are sent."""

    auths: dict[str, _Auth]
    helpers: dict[str, str]
    store: str


class _TellableError(ValueError):
    """What is wrong with a configuration, or what a credential program did wrong: never with a value in it."""


def docker_credentials(registry: str, *, config: str | os.PathLike[str] | None = None) -> AuthConfig:
    """Return the credentials that Docker's client would send with a push to a registry.

    They come from the client's configuration: from `auths`, whose key may also be a URL of the registry; or, where
    `credHelpers` or `credsStore` name one, from the program `docker-credential-<name>`. If that fails, a warning is
    logged, and what the file itself has is used, as the client does. The environment's `DOCKER_AUTH_CONFIG` is not
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
    decoded = {address: _auth_config(auth, path) for address, auth in loaded.auths.items()}
    known = decoded.get(server)
    if known is None:
        known = next((auth for address, auth in decoded.items() if server == _host(address)), AuthConfig())
    suffix = loaded.helpers.get(server, loaded.store)
    return _ask(suffix, server, known) if suffix else known


def _load(config: str | os.PathLike[str] | None) -> tuple[str, _Config]:
    default = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    path = default if config is None else absolute(config)
    if config is None or os.path.isdir(path):
        path = os.path.join(path, "config.json")
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        if config is not None or error.errno != errno.ENOENT:
            raise TransferError(f"Docker's configuration cannot be read: {why_refused(error)}", path) from error
        content = b""
    try:
        # An empty file is one without anything for Docker's client too.
        return path, _decode(content if content.strip(_JSON_SPACE) else b"{}")
    except ValueError as error:
        # What is said of JSON that is none may show a part of it.
        why = str(error) if isinstance(error, _TellableError) else "it is not JSON"
        raise TransferError(f"not a configuration of Docker's client: {why}", path) from None


def _decode(content: bytes) -> _Config:
    """Source: docker/cli's `ConfigFile.LoadFromReader`, and what Go's encoding/json does with its types."""
    auths: dict[str, _Auth] = {}
    helpers: dict[str, str] = {}
    store = ""
    for name, value in _members(gojson.parse_first(content), "it"):
        match gojson.field(name):
            # A map that comes twice has the entries of both; `null` empties it.
            case "auths":
                more = {
                    address: _strings(entry, _AUTH, "an entry of `auths`") for address, entry in _members(value, name)
                }
                auths = {} if value is None else {**auths, **more}
            case "credhelpers":
                named = {
                    address: _string("" if program is None else program, name)
                    for address, program in _members(value, name)
                }
                helpers = {} if value is None else {**helpers, **named}
            case "credsstore" if value is not None:
                store = _string(value, name)
    return _Config(auths, helpers, store)


def _members(value: object, what: str) -> list[tuple[str, object]]:
    if value is None:
        return []
    if not isinstance(value, gojson.Object):
        raise _TellableError(f"{what} is not an object")
    return value.members()


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _TellableError(f"{what} is not a string")
    return value


def _strings(value: object, names: Sequence[str], what: str) -> dict[str, str]:
    """Read the named fields of an object, empty where they are not there: `null` leaves a field as it is."""
    found = dict.fromkeys(names, "")
    for name, text in _members(value, what):
        folded = gojson.field(name)
        if folded in found and text is not None:
            found[folded] = _string(text, f"`{folded}` of {what}")
    return found


def _auth_config(auth: _Auth, path: str) -> AuthConfig:
    """Source: docker/cli's `LoadFromReader`, which clears `auth` after it has taken it apart."""
    username, password = auth["username"], auth["password"]
    if auth["auth"]:
        decoded = _base64(auth["auth"])
        username, colon, password = (decoded or b"").decode("utf-8", gojson.REPLACE).partition(":")
        if not username or not colon:
            raise TransferError("an `auth` in it is not the base64 of user:password", path)
        password = password.strip("\0")
    return AuthConfig(
        username=username,
        password=password,
        identity_token=auth["identitytoken"],
        registry_token=auth["registrytoken"],
    )


def _base64(text: str) -> bytes | None:
    """Decode base64, `None` if it is none.

    Source: Go's `base64.StdEncoding`. Line breaks do not count, padding does, and what the last digit has too much does
    not.
    """
    joined = text.translate({ord("\r"): None, ord("\n"): None})
    return base64.b64decode(joined) if _is_base64(joined) else None


def _host(address: str) -> str:
    """Return the host and port of an address. Source: docker/cli's `ConvertToHostname`."""
    match = _url(address) if "://" in address else None
    if match is None:
        return address.partition("/")[0]
    host, port = match["host"], match["port"]
    # As Go's `Hostname`, which has no brackets, and `JoinHostPort`, which puts them back.
    return f"{host}:{port}" if port else host.strip("[]")


def _why_not(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"it cannot be started ({error.strerror})"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not answer in {PROGRAM_TIMEOUT_S:.0f} s"
    return str(error) if isinstance(error, _TellableError) else "it did not answer in JSON"


def _ask(suffix: str, server: str, known: AuthConfig) -> AuthConfig:
    """Ask a credential program. Source: docker/cli's `nativeStore.Get`, docker-credential-helpers' `client.Get`."""
    program = f"docker-credential-{suffix}"
    try:
        if "/" in suffix:
            raise _TellableError("its name has a slash")  # one place says what is done instead
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
            raise _TellableError(f"it ended with {done.returncode}")
        answer = _strings(gojson.parse_first(done.stdout), ("username", "secret"), "the answer")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = _why_not(error)
        warn("no credentials for %s from %s: %s; going on as Docker does, without", server, program, why)
        return known
    username, secret = answer["username"], answer["secret"]
    if username == _TOKEN:
        return AuthConfig(identity_token=secret, registry_token=known.registry_token)
    return AuthConfig(username=username, password=secret, registry_token=known.registry_token)
