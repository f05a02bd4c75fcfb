"""What stands before every page: who may ask, that asking is all they can do, and what a browser may load."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

METHODS: Final = ("GET", "HEAD")
TOOLS: Final = frozenset(
    f"/-/{name}" for name in ("allow-debug", "auth-token", "logout", "messages", "patterns", "permissions")
)
"""Datasette's tools that sign somebody in, or try things out. Nobody signs in here."""

# No page has a script, and nothing comes from elsewhere.
HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
        b" frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)

_is_csv: ContextVar[bool] = ContextVar("_is_csv", default=False)
_failures: ContextVar[list[str] | None] = ContextVar("failures", default=None)


def is_csv() -> bool:
    """Tell whether a CSV file is asked for, in which a value stands and not a link to it."""
    return _is_csv.get()


def note_failure(error: Exception) -> None:
    """Note that SQL failed which the request that is being answered asked for."""
    noted = _failures.get()
    if noted is not None:
        noted.append(str(error))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address; of names, `localhost` alone is known to be so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Answer:
    """What goes back, with our headers; where Datasette sends a CSV of SQL that failed, an empty line, an error."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._refused = False
        self.failures: list[str] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if self.failures and message["status"] == 200 and _is_plain_text(message):
                await self.refuse(400, f"the SQL failed: {self.failures[0]}")
            else:
                await self._send({**message, "headers": [*message.get("headers", []), *HEADERS]})
        elif not self._refused:
            await self._send(message)

    async def refuse(self, status: int, reason: str) -> None:
        self._refused = True
        headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
        if status == 405:
            headers.append((b"allow", ", ".join(METHODS).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": f"{reason}\n".encode()})


def _is_plain_text(start: MutableMapping[str, Any]) -> bool:
    """Tell whether an answer is neither HTML nor JSON; Datasette's CSV calls itself `text/plain` or `text/csv`."""
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return any(kind.startswith((b"text/plain", b"text/csv")) for kind in kinds)


class Guard:
    """An ASGI application around Datasette's."""

    def __init__(self, app: App, host: str) -> None:
        self._app = app
        # A page elsewhere can have its own name lead to this machine (DNS rebinding): the browser then says that name.
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()} if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused, and hand on the rest."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        answer = _Answer(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await answer.refuse(*refusal)
            return
        tokens = _failures.set(answer.failures), _is_csv.set(scope["path"].endswith(".csv"))
        try:
            await self._app(scope, receive, answer.send)
        finally:
            _failures.reset(tokens[0])
            _is_csv.reset(tokens[1])

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if self._names is not None:
            hosts = _headers(scope, b"host")
            if len(hosts) != 1 or _name(hosts[0]) not in self._names:
                asked_for = hosts[0] if hosts else "no host"
                return 403, f"this server answers as localhost only, not as {asked_for}: see `layerstore serve --host`"
        if _is_from_elsewhere(scope):
            return 403, "another site asked for this: its pages may lead here by a link, and no more"
        if scope["method"] not in METHODS:
            return 405, f"the store is read only here: {' and '.join(METHODS)} are all that is answered"
        # As Datasette finds its routes: by the path as it was sent.
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        if path in TOOLS:
            return (
                403,
                f"{path} is a tool of Datasette's that is off here: no user can sign in or try something out",
            )
        return None


_host = re.compile(r"(\[[0-9a-f]*:[0-9a-f:.]*\]|[0-9a-z._-]+)(?::[0-9]{1,5})?", re.IGNORECASE).fullmatch


def _name(host: str) -> str:
    """Return a Host header without its port, and an address without brackets; nothing if it is none."""
    match = _host(host)
    return "" if match is None else match[1].strip("[]").lower()


def _headers(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted]


def _is_from_elsewhere(scope: Scope) -> bool:
    """Tell whether a page of another site, or of another port of this machine, asked, but for a link that leads here.

    Source: www.w3.org/TR/fetch-metadata; a browser that sends none of these headers is not known by it.
    """
    sites = _headers(scope, b"sec-fetch-site")
    if all(site in ("same-origin", "none") for site in sites):
        return False
    return _headers(scope, b"sec-fetch-mode") != ["navigate"] or _headers(scope, b"sec-fetch-dest") != ["document"]
