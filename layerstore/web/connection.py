"""A connection of a browser, which ends when whoever is at the other end sends or reads too slowly."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S: Final = 10.0
"""A request has come whole after so many seconds."""
ANSWER_S: Final = 60.0
"""An answer has been made and taken after so many seconds."""


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
