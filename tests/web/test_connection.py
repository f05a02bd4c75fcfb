"""Who sends or reads too slowly is let go, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from uvicorn.server import ServerState

from layerstore.web import guard
from layerstore.web.guard import Receive, Scope, Send
from tests.support.counting import Counted


@pytest.fixture(autouse=True)
def each_is_counted(counted: Counted) -> None:
    counted("headers")


HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = HALF + b"\r\n"
BODY = HALF + b"Content-Length: 1000\r\n\r\nx"


async def small(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        await asyncio.sleep(0)  # Uvicorn's `send` returns at once where the connection has ended


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk(app: object, peer: Peer) -> None:
    """Let somebody talk to a server, which must end the connection, and have nothing left to do."""

    async def run() -> None:
        config = uvicorn.Config(app, http=guard.Connection, lifespan="off", log_config=None)  # type: ignore[arg-type]
        state = ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: guard.Connection(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await peer(reader, writer)
        while state.connections:
            await asyncio.sleep(0.01)
        writer.close()
        server.close()
        for task in state.tasks:
            task.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))


async def ended(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REQUEST_S", 0.3)
    monkeypatch.setattr(guard, "ANSWER_S", 0.6)


@pytest.mark.parametrize("sent", [b"", HALF, WHOLE + HALF, BODY], ids=["nothing", "half", "a second half", "a body"])
def test_a_request_that_does_not_come_whole_ends_the_connection(sent: bytes):
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert (b"200 OK" in await ended(reader)) == (sent[: len(WHOLE)] == WHOLE or sent == BODY)

    talk(small, peer)


@pytest.mark.parametrize("begin", [HALF, BODY], ids=["header", "body"])
def test_a_request_that_comes_byte_by_byte_ends_the_connection(begin: bytes):
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        try:
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass

    talk(small, peer)


@pytest.mark.parametrize("app", [large, never], ids=["not read", "not made"])
def test_an_answer_that_is_not_taken_or_not_made_ends_the_connection(app: object):
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE)

    talk(app, peer)


def test_an_idle_connection_is_kept_for_the_next_request():
    """The control: longer than a request may take to come."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(WHOLE)
            assert b"200 OK" in await reader.readuntil(b"ok")
            await asyncio.sleep(0.5)
        writer.close()

    talk(small, peer)
