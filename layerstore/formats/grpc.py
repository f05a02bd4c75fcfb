"""Calls to a daemon by gRPC, over its Unix socket, and the messages of them: as little as containerd needs.

Messages are encoded by hand, by `h2`'s frames: `grpcio` is 19 MB of binary, needs generated code, and is no faster
here. Everything that comes from the daemon is bounded: messages, their number, and how long to wait.
Source: grpc.io: PROTOCOL-HTTP2.md; protobuf.dev: Encoding.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote

from layerstore.errors import TransferError
from layerstore.paths import why_refused

if TYPE_CHECKING:
    from h2.events import Event

OK: Final = 0
NOT_FOUND: Final = 5
OUT_OF_RANGE: Final = 11

MAX_MESSAGE: Final = 16 << 20
"""Bytes of one message. containerd sends and takes no larger one."""
MAX_MESSAGES: Final = 1_000_000
"""Messages of one answer. A list of blobs has one for each hundred."""
MAX_BYTES: Final = 1 << 30
"""Bytes of one answer. A blob takes 300 to 4,500 in a list."""
TIMEOUT_S: Final = 30.0
"""How long the daemon may be silent."""
LONGEST_S: Final = 600.0
"""How long one answer may take."""

_Value = TypeVar("_Value", bytes, int)
_PREFIX: Final = 5
_WINDOW: Final = 1 << 20
_READ: Final = 1 << 18
_LONGEST_VARINT: Final = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class CallError(Exception):
    """The daemon refused a call. It does not leave `layerstore.formats`.

    Attributes:
        status: gRPC's number for why.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class MessageError(Exception):
    """What came is no message, or not the one that was due. It does not leave `layerstore.formats`."""


class Channel:
    """A connection to a daemon, for one call at a time.

    Args:
        path: of the socket.

    Raises:
        TransferError: no daemon answers there, or the package `h2` is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            from h2.config import H2Configuration
            from h2.connection import H2Connection
        except ImportError as error:
            what = "asking a running containerd needs the package h2: `pip install 'layerstore[containerd]'`"
            raise TransferError(what, path) from error
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(path)
            self._http.initiate_connection()
            self._http.increment_flow_control_window(_WINDOW)
            self._send()
        except OSError as error:
            self.close()
            refused = isinstance(error, ConnectionRefusedError)  # also by a file that is no socket
            why = "no daemon listens there: give the socket of a running one" if refused else why_refused(error)
            raise TransferError(f"cannot be asked: {why}", path) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; what is under way breaks off."""
        self._socket.close()

    def call(self, method: str, request: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """Make a call that is answered by one message. Raises as `stream`."""
        answers = list(self.stream(method, request, headers))
        if len(answers) != 1:
            raise self.broken(f"{len(answers)} messages where one was due")
        return answers[0]

    def stream(self, method: str, request: bytes, headers: Iterable[tuple[str, str]] = ()) -> Iterator[bytes]:
        """Make a call, and yield the messages that answer it.

        Args:
            method: `/package.Service/Method`.
            request: the message, of at most 16 KiB.
            headers: further headers.

        Raises:
            CallError: the daemon refuses the call.
            TransferError: the daemon is silent, ends, or sends what gRPC does not allow or is beyond a bound.
        """
        number = self._http.get_next_available_stream_id()
        start = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", method)]
        start += [("content-type", "application/grpc"), ("te", "trailers"), *headers]
        answer = _Answer(self)
        until = time.monotonic() + LONGEST_S
        with self._mapped():
            self._http.send_headers(number, start)
            self._http.send_data(number, b"\0" + len(request).to_bytes(4, "big") + request, end_stream=True)
            self._send()
            while not answer.ended:
                if time.monotonic() > until:
                    raise TimeoutError
                data = self._socket.recv(_READ)
                if not data:
                    raise TransferError("the daemon closed the connection: try again", self.path)
                for event in self._http.receive_data(data):
                    answer.take(event)
                    if getattr(event, "flow_controlled_length", 0):
                        self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)  # type: ignore[attr-defined]
                self._send()
                yield from answer.messages()
        answer.check()

    def broken(self, why: str) -> TransferError:
        """Return the error for an answer that cannot be."""
        return TransferError(f"the answer of the daemon cannot be read: {why}: is it containerd's socket?", self.path)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn what the socket and `h2` raise into errors that name the socket."""
        from h2.exceptions import H2Error

        try:
            yield
        except TimeoutError as error:
            raise TransferError("the daemon does not answer in time: try again", self.path) from error
        except OSError as error:
            raise TransferError(f"the connection broke off: {why_refused(error)}", self.path) from error
        except H2Error as error:
            raise self.broken(str(error) or type(error).__name__) from error

    def _send(self) -> None:
        self._socket.sendall(self._http.data_to_send())


class _Answer:
    """What has come of an answer. There is one call at a time, so whatever comes is of this one."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting = bytearray()
        self._count = self._bytes = 0
        self._headers: dict[str, str] = {}
        self.ended = False

    def take(self, event: Event) -> None:
        """Note one thing that came."""
        from h2 import events

        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            self._headers |= {str(name): str(value) for name, value in event.headers or ()}
            if self._headers.get(":status") != "200":
                raise self._channel.broken(f"HTTP status {self._headers.get(':status')}")
        elif isinstance(event, events.DataReceived):
            self._waiting += event.data or b""
            self._bytes += len(event.data or b"")
            if self._bytes > MAX_BYTES:
                raise self._channel.broken(f"it is over {MAX_BYTES >> 20} MiB")
        elif isinstance(event, events.StreamReset | events.ConnectionTerminated):
            raise self._channel.broken("it was broken off")
        elif isinstance(event, events.StreamEnded):
            self.ended = True

    def messages(self) -> Iterator[bytes]:
        """Yield, once, the messages that are complete."""
        while len(self._waiting) >= _PREFIX:
            end = _PREFIX + int.from_bytes(self._waiting[1:_PREFIX], "big")
            if self._waiting[0] or end - _PREFIX > MAX_MESSAGE or self._count >= MAX_MESSAGES:
                raise self._channel.broken(
                    f"a message that is compressed, over {MAX_MESSAGE >> 20} MiB, or one too many"
                )
            if len(self._waiting) < end:
                return
            self._count += 1
            yield bytes(self._waiting[_PREFIX:end])
            del self._waiting[:end]

    def check(self) -> None:
        """Raise if the call failed, or its last message is cut off."""
        status = self._headers.get("grpc-status", "")
        if not status.isascii() or not status.isdigit() or len(status) > 3:
            raise self._channel.broken("it has no status")
        if int(status) != OK:
            raise CallError(int(status), unquote(self._headers.get("grpc-message", ""))[:1000])
        if self._waiting:
            raise self._channel.broken("its last message is cut off")


class Message:
    """The fields of a message. Of one that should be there once and comes twice, the last one counts.

    Raises:
        MessageError: it is no message; or, from a method, a field is of another type.
    """

    def __init__(self, encoded: bytes = b"") -> None:
        self._fields = list(fields(encoded))

    def messages(self, number: int) -> Iterator[Message]:
        """Yield the messages in a field that may come any number of times."""
        return map(Message, self._values(number, bytes))

    def data(self, number: int) -> bytes:
        """Return the bytes in a field; none if it is absent."""
        return (self._values(number, bytes) or [b""])[-1]

    def text(self, number: int) -> str:
        """Return the text in a field; empty if it is absent."""
        try:
            return self.data(number).decode()
        except UnicodeDecodeError as error:
            raise MessageError(str(error)) from error

    def integer(self, number: int) -> int:
        """Return the number in a field, of 64 bits with a sign; 0 if it is absent."""
        value = (self._values(number, int) or [0])[-1] & (1 << 64) - 1
        return value - (1 << 64) * (value >> 63)

    def _values(self, number: int, kind: type[_Value]) -> list[_Value]:
        found = [value for own, value in self._fields if own == number]
        if not all(isinstance(value, kind) for value in found):
            raise MessageError(f"its field {number} is of another type")
        return found


def field(number: int, value: bytes | str | int) -> bytes:
    """Encode one field of a message; a number must not be negative."""
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    encoded = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(encoded)) + encoded


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of a message's fields: an `int` or `bytes`. Raises MessageError where it is none."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _read_varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _read_varint(message, at)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            size, at = _read_varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise MessageError(f"a field of the unknown type {wire}")
        if size > end - at:
            raise MessageError("a field is cut off")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise MessageError("a number is cut off")
