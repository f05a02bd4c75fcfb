"""A daemon that speaks as much gRPC as tests need, on a Unix socket: containerd's calls, or whatever is wrong.

Real daemons are asked in `tests/engines`; this one also says what no real one would.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from layerstore.formats.grpc import NOT_FOUND, OK, OUT_OF_RANGE, field, fields

Answer = tuple[Iterable[bytes], int]
"""Messages, and gRPC's status."""


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@contextmanager
def listening(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serve each connection to a socket in turn."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def run() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def answering(handle: Callable[[str, dict[str, str], bytes], Answer]) -> Callable[[socket.socket], None]:
    """Return what serves a connection: `handle` gets path, headers and message of a call, and returns the answer."""

    def serve(connection: socket.socket) -> None:
        http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        connection.sendall(http.data_to_send())
        calls: dict[int, tuple[dict[str, str], bytearray]] = {}
        waiting: list[tuple[int, bytes, bool, int]] = []
        while data := connection.recv(1 << 16):
            for event in http.receive_data(data):
                if isinstance(event, RequestReceived):
                    calls[event.stream_id] = ({str(k): str(v) for k, v in event.headers}, bytearray())
                elif isinstance(event, DataReceived):
                    calls[event.stream_id][1].extend(event.data or b"")
                    http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, StreamEnded):
                    headers, message = calls.pop(event.stream_id)
                    messages, status = handle(headers[":path"], headers, bytes(message[5:]))
                    http.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    waiting.append((event.stream_id, b"".join(map(framed, messages)), True, status))
            waiting = [left for one in waiting if (left := _send(http, *one)) is not None]
            connection.sendall(http.data_to_send())

    return serve


def _send(http: H2Connection, stream: int, data: bytes, more: bool, status: int) -> tuple[int, bytes, bool, int] | None:
    """Send as much as the client has room for; return what is left."""
    while data and (room := min(http.local_flow_control_window(stream), http.max_outbound_frame_size)):
        http.send_data(stream, data[:room])
        data = data[room:]
    if data:
        return stream, data, more, status
    http.send_headers(stream, [("grpc-status", str(status)), ("grpc-message", "no%20such%20thing")], end_stream=True)
    return None


class Containerd:
    """The content, images and namespaces of a daemon, in memory.

    Attributes:
        blobs: digest to labels and content.
        images: name to digest.
        updates: digest, key and value of all labels that were set.
    """

    def __init__(self, blobs: dict[str, tuple[dict[str, str], bytes]], images: dict[str, str]) -> None:
        self.blobs, self.images = blobs, images
        self.updates: list[tuple[str, str, str]] = []
        self.before_update: Callable[[str], None] = lambda digest: None

    def handle(self, path: str, headers: dict[str, str], message: bytes) -> Answer:
        if path.endswith("Namespaces/List"):
            return [b"".join(field(1, field(1, name)) for name in ("k8s.io", "moby"))], OK
        if headers.get("containerd-namespace") != "moby":
            return [b""], OK
        if path.endswith("Images/List"):
            images = (field(1, field(1, name) + field(3, field(2, of))) for name, of in self.images.items())
            return [b"".join(images)], OK
        return self._content(path.rpartition("/")[2], dict(fields(message)))

    def _content(self, method: str, request: dict[int, Any]) -> Answer:
        if method == "List":
            infos = [field(1, self._info(digest)) for digest in self.blobs]
            return [b"".join(infos[start : start + 100]) for start in range(0, len(infos), 100)], OK
        if method == "Update":
            return self._update(dict(fields(request[1])), dict(fields(request[2])))
        digest = request[1].decode()
        if method == "Info":
            self.before_update(digest)
        if digest not in self.blobs:
            return [], NOT_FOUND
        if method == "Info":
            return [field(1, self._info(digest))], OK
        assert method == "Read"
        content = self.blobs[digest][1]
        return ([], OUT_OF_RANGE) if request[3] > len(content) else ([field(2, content[: request[3]])], OK)

    def _info(self, digest: str) -> bytes:
        labels = b"".join(field(5, field(1, key) + field(2, value)) for key, value in self.blobs[digest][0].items())
        return field(1, digest) + field(2, 3) + field(4, field(1, 7) + field(2, 9)) + labels

    def _update(self, info: dict[int, bytes], mask: dict[int, bytes]) -> Answer:
        label = dict(fields(info[5]))
        digest, key, value = info[1].decode(), label[1].decode(), label[2].decode()
        assert mask[1].decode() == f"labels.{key}"
        assert len(key) + len(value) <= 4096
        self.blobs[digest][0][key] = value
        self.updates.append((digest, key, value))
        return [field(1, self._info(digest))], OK
