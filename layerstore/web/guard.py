"""What stands before every page: who may ask, how slowly, that asking is all they can do, what a browser may load."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_S: Final = 10.0
"""A request has come whole after so many seconds."""
ANSWER_S: Final = 60.0
"""An answer has been made and taken after so many seconds."""
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

is_csv: Final[ContextVar[bool]] = ContextVar("is_csv", default=False)
"""Whether the request that is being answered is for a CSV file."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address; of names, `localhost` alone is known to be so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            is_csv.set(scope["path"].endswith(".csv"))
            await self._app(scope, receive, answer)
            return
        status, reason = refusal
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 405:
            headers.append((b"allow", ", ".join(METHODS).encode()))
        await answer({"type": "http.response.start", "status": status, "headers": headers})
        await answer({"type": "http.response.body", "body": f"{reason}\n".encode()})

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
        if "\\" in path:  # Datasette would lead to it without `/` at its end, and a browser from `/\\host` to that host
            return 400, "a path has no backslash here"
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


class Connection(H11Protocol):
    """Uvicorn's, which waits for ever for the rest of a request, and for who does not read its answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seconds: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn's
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request; until it begins, Uvicorn's limit for idle connections holds."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        super().connection_lost(exc)
        self._set(None)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._set(ANSWER_S)
        elif self.cycle is not None and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._set(None)
        else:
            self._set(REQUEST_S)

    def _set(self, seconds: float | None) -> None:
        if seconds == self._seconds:
            return
        self._seconds = seconds
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)
